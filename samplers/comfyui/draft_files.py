"""Save and load drafts, the outputs of runs that ended with an earlier stage, with what is needed to finish them.

ComfyUI's 'SaveLatent' keeps the tensor alone, so a draft could not be distinguished from a small video. Tensors have the
names of the LATENT's and the tag's fields; the rest of the tag is JSON in the metadata.
"""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from ...pyramid.latent_shape import LatentShape
from ...pyramid.stage_names import stage_name
from ...pyramid.stages import PyramidSpec
from ...pyramid.untrusted import first_line, read_json_object, shown
from .finite import NUMBERS, is_finite, tensor_problem
from .latent_tag import CLEAN, END, START, TAG_KEY, StageTag, tag_of, tagged
from .node_inputs import check_batch_index
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
        ValueError: The name is unusable, or the LATENT is not a draft that could be loaded again; no file is changed.
    """
    tag = tag_of(latent)
    if tag is None:
        raise ValueError(
            "this LATENT is not the output of an earlier stage; use 'SaveLatent' for a finished video, or set end_stage to "
            "low in the sampler for a draft"
        )
    tensors = {key: _in_floating_point(latent[key]) for key in LATENT_TENSORS if latent.get(key) is not None}
    tensors |= {key: vars(tag)[key] for key in TAG_TENSORS if vars(tag)[key] is not None}
    values = {
        "format": FORMAT,
        "spec": json.loads(tag.spec.to_json()),
        "stage": tag.stage,
        "size": list(tag.size),
        "state": tag.state,
        "batch_index": _batch_index(latent),
    }
    description = json.dumps(values)
    try:
        _draft(tensors, read_json_object(description, "the description of its stage"))
    except ValueError as error:
        raise ValueError(f"this draft cannot be saved: {first_line(error)}; sample it again") from None
    path = DRAFT_FILES.write(name, tensors, {METADATA_KEY: description})
    text = f"saved as {path}: {_description(tag)}"
    lost = sorted(map(str, latent.keys() - {*LATENT_TENSORS, TAG_KEY, "batch_index"}))
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
        latent, tag = _draft(tensors, values)
    except KeyError as error:
        raise ValueError(f"'{name}' is damaged: it has no {error}; save the draft again") from None
    except ValueError as error:
        raise ValueError(f"'{name}' is damaged: {first_line(error)}; save the draft again") from None
    return tagged(latent, tag), _description(tag)


def _draft(tensors: dict[str, Tensor], values: dict[str, Any]) -> tuple[dict, StageTag]:
    """Return the LATENT and the tag that the tensors and the description of a file make.

    Raises:
        KeyError: Something is missing.
        ValueError: Something is wrong; the message is a reason, without the name of the file.
    """
    spec, size = PyramidSpec.from_values(values["spec"]), LatentShape(*_whole_numbers("size", values["size"], 3))
    (stage,) = _whole_numbers("stage", [values["stage"]], 1)
    fields: dict[str, Any] = {key: tensors.get(key) for key in TAG_TENSORS}
    tag = StageTag(spec, stage, size, values["state"], **fields)
    _check(tag, tensors["samples"])
    _check_tensors(tag, tensors)
    latent: dict[str, Any] = {key: tensors[key] for key in LATENT_TENSORS if key in tensors}
    check_batch_index(values["batch_index"], len(tensors["samples"]), "it")
    if values["batch_index"] is not None:
        latent["batch_index"] = values["batch_index"]
    return latent, tag


def _in_floating_point(tensor: Tensor) -> Tensor:
    """Return a tensor of floating point numbers: masks may also be of booleans or whole numbers."""
    return tensor if tensor.is_floating_point() else tensor.float()


def _whole_numbers(what: str, values: object, count: int) -> list[int]:
    """Return whole numbers of a file that are at least 0."""
    if isinstance(values, list) and len(values) == count:
        if all(isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 for value in values):
            return values
    raise ValueError(f"its {what} is {shown(values[0] if count == 1 and isinstance(values, list) else values)}")


def _values(metadata: dict[str, str], name: str) -> dict[str, Any]:
    """Return the JSON in a file's metadata."""
    try:
        values = read_json_object(metadata[METADATA_KEY], "the description of its stage")
        version = values["format"]
    except KeyError:
        raise ValueError(f"'{name}' is not a draft; expected a file from 'Pyramidal Save Draft'") from None
    except ValueError as error:
        raise ValueError(f"'{name}' is damaged: {first_line(error)}; save the draft again") from None
    if version != FORMAT:
        raise ValueError(f"unsupported draft format {shown(version)} in '{name}'; this version reads format {FORMAT}")
    return values


def _check(tag: StageTag, samples: Tensor) -> None:
    """Raise ValueError unless the tag describes a stage of its pyramid and the samples have the size of that stage."""
    count = tag.spec.number_of_stages
    if not 0 <= tag.stage < count:
        raise ValueError(f"stage {tag.stage} is not one of {count}")
    if tag.state not in (START, END, CLEAN):
        raise ValueError(f"unknown state {shown(tag.state)}")
    shape = tag.spec.shapes(tag.size)[tag.stage]
    if samples.ndim != 5 or tuple(samples.shape[2:]) != tuple(shape):
        expected, got = ("x".join(map(str, sides)) for sides in (shape, samples.shape))
        raise ValueError(f"its stage has {expected} latents, but the samples have shape {got}")


def _check_tensors(tag: StageTag, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError unless the tensors hold numbers and those beside the samples have their size, or the video's."""
    for key in (*LATENT_TENSORS, *TAG_TENSORS):
        tensor = tensors.get(key)
        if tensor is not None and not (
            tensor.dtype in NUMBERS and tensor_problem(tensor) is None and tensor.numel() and is_finite(tensor)
        ):
            raise ValueError(f"its tensor '{key}' is empty, or holds NaN, infinity or values that are not numbers")
    samples, mask = tensors["samples"], tensors.get("noise_mask")
    sizes = {"given": (*samples.shape[:2], *tag.size), "clean": tuple(samples.shape)}
    for key, size in sizes.items():
        if key in tensors and tuple(tensors[key].shape) != size:
            expected, got = ("x".join(map(str, sides)) for sides in (size, tensors[key].shape))
            raise ValueError(f"its tensor '{key}' has shape {got}; expected {expected}")
    if mask is not None and not 2 <= mask.ndim <= samples.ndim:
        raise ValueError(f"its noise mask has {mask.ndim} dimensions; expected 2 to {samples.ndim}")


def _batch_index(latent: dict) -> list[int] | None:
    index = latent.get("batch_index")
    return None if index is None else [int(value) for value in index]


def _description(tag: StageTag) -> str:
    name = stage_name(tag.stage, tag.spec.number_of_stages)
    return f"stage '{name}' of {tag.spec.number_of_stages}"
