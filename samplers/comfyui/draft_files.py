"""Save and load drafts, the outputs of runs that ended with an earlier stage, with what is needed to finish them.

ComfyUI's 'SaveLatent' keeps the tensor alone, so that a draft could no longer be told from a small video. Tensors have the
names of the LATENT's and the tag's fields; the rest of the tag is JSON in the metadata.
"""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from ...pyramid.latent_shape import LatentShape
from ...pyramid.stage_names import stage_name
from ...pyramid.stages import PyramidSpec
from .latent_tag import CLEAN, END, START, TAG_KEY, StageTag, tag_of, tagged
from .user_files import UserFiles

DRAFT_FILES = UserFiles("drafts", "Pyramidal Save Draft")
METADATA_KEY = "pyramidal_wan_draft"
FORMAT = 1
LATENT_TENSORS = ("samples", "noise_mask")
TAG_TENSORS = ("given", "clean")


def save_draft(latent: dict, name: str) -> str:
    """Write ``output/drafts/<name>.safetensors`` atomically.

    Args:
        latent: The output of a run that ended with an earlier stage.
        name: Name of the file, without its extension.

    Returns:
        A text with the path of the file and the place of the draft in its run.

    Raises:
        ValueError: The name is unusable, or the LATENT is not a draft.
    """
    tag = tag_of(latent)
    if tag is None:
        raise ValueError(
            "this LATENT is not the output of an earlier stage; use 'SaveLatent' for a finished video, or set end_stage to "
            "low in the sampler for a draft"
        )
    tensors = {key: latent[key] for key in LATENT_TENSORS if latent.get(key) is not None}
    tensors |= {key: vars(tag)[key] for key in TAG_TENSORS if vars(tag)[key] is not None}
    values = {
        "format": FORMAT,
        "spec": json.loads(tag.spec.to_json()),
        "stage": tag.stage,
        "size": list(tag.size),
        "state": tag.state,
        "batch_index": _batch_index(latent),
    }
    path = DRAFT_FILES.write(name, tensors, {METADATA_KEY: json.dumps(values)})
    text = f"saved as {path}: {_description(tag)}"
    lost = sorted(latent.keys() - {*LATENT_TENSORS, TAG_KEY, "batch_index"})
    return f"{text}; not saved: {', '.join(lost)}" if lost else text


def load_draft(name: str) -> tuple[dict, str]:
    """Return the LATENT in a file, and a text about its place in its run.

    Args:
        name: One of ``DRAFT_FILES.names()``.

    Raises:
        ValueError: The file does not exist or holds no valid draft.
    """
    tensors, metadata = DRAFT_FILES.read(name)
    values = _values(metadata, name)
    try:
        spec = PyramidSpec.from_json(json.dumps(values["spec"]))
        size = LatentShape(*map(int, values["size"]))
        fields: dict[str, Any] = {key: tensors.get(key) for key in TAG_TENSORS}
        tag = StageTag(spec, int(values["stage"]), size, values["state"], **fields)
        _check(tag, tensors["samples"])
        latent: dict[str, Any] = {key: tensors[key] for key in LATENT_TENSORS if key in tensors}
        if values["batch_index"] is not None:
            latent["batch_index"] = [int(index) for index in values["batch_index"]]
    except KeyError as error:
        raise ValueError(f"'{name}' is damaged: it has no {error}; save the draft again") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"'{name}' is damaged: {error}; save the draft again") from None
    return tagged(latent, tag), _description(tag)


def _values(metadata: dict[str, str], name: str) -> dict[str, Any]:
    """Return the JSON in a file's metadata."""
    try:
        values = json.loads(metadata[METADATA_KEY])
        version = values["format"]
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"'{name}' is not a draft; expected a file from 'Pyramidal Save Draft'") from None
    if version != FORMAT:
        raise ValueError(f"unsupported draft format {version!r} in '{name}'; this version reads format {FORMAT}")
    return values


def _check(tag: StageTag, samples: Tensor) -> None:
    """Raise ValueError unless the tag describes a stage of its pyramid and the samples have the size of that stage."""
    count = tag.spec.number_of_stages
    if not 0 <= tag.stage < count:
        raise ValueError(f"stage {tag.stage} is not one of {count}")
    if tag.state not in (START, END, CLEAN):
        raise ValueError(f"unknown state {tag.state!r}")
    shape = tag.spec.shapes(tag.size)[tag.stage]
    if samples.ndim != 5 or tuple(samples.shape[2:]) != tuple(shape):
        expected, got = ("x".join(map(str, sides)) for sides in (shape, samples.shape))
        raise ValueError(f"its stage has {expected} latents, but the samples have shape {got}")


def _batch_index(latent: dict) -> list[int] | None:
    index = latent.get("batch_index")
    return None if index is None else [int(value) for value in index]


def _description(tag: StageTag) -> str:
    name = stage_name(tag.stage, tag.spec.number_of_stages)
    return f"stage '{name}' of {tag.spec.number_of_stages}"
