"""Load Wan transformers from any file layout as diffusers' network, and evaluate their velocity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors import safe_open
from torch import Tensor, nn

from ...flops import HEAD_DIM, PATCH_SHAPE, WanDimensions
from ...key_names import diffusers_name
from ...latent_shape import CHANNELS, PATCH
from ...patches import PREFIX, WHOLE, Cell, PatchLayers, fold, from_tensors, unfold
from ...stages import PRESETS, PyramidSpec, Stage
from ..files import check_finite, check_regular, opening, read_json
from .patch_stages import PatchStage, stage_layers
from .rope import ScaledRope

SUPPORTED = (
    "a diffusers folder (config.json of a WanTransformer3DModel, or a folder that contains such a 'transformer'), or one "
    "unquantised .safetensors file of a Wan 2.1 or Wan 2.2 A14B text-to-video transformer with Wan's or ComfyUI's key names"
)
PREFIXES = ("model.diffusion_model.", "diffusion_model.")
"""Prefixes of the key names in ComfyUI's files."""
UNQUANTISED = "the fp16, bf16 or fp32 file of the same model"
ONLY_TEXT_TO_VIDEO = "image-to-video, control and Wan 2.2 5B models cannot be trained yet"
TRANSFORMER = "a Wan transformer"
MAX_SIZES = {"num_layers": 1000, "num_attention_heads": 1024, "attention_head_dim": 1024, "ffn_dim": 2**20, "text_dim": 2**16}
"""Largest sizes in a configuration: more than any network has, and small enough to construct."""
FIXED = {"attention_head_dim": HEAD_DIM, "patch_size": list(PATCH_SHAPE), "qk_norm": "rms_norm_across_heads",
         "cross_attn_norm": True, "eps": 1e-6, "out_channels": CHANNELS}  # fmt: skip
"""Settings that have one value in all Wan models. ComfyUI assumes them, and the weights contradict few of the others."""


class WanVelocity(nn.Module):
    """A Wan transformer as a function that returns the velocity ``d x / d sigma``.

    Attributes:
        transformer: The transformer.
        patch_stages: Layers of the coarse stages of a pyramid of patches, in running order; else none.
    """

    def __init__(self, transformer: WanTransformer3DModel, patch_stages: nn.ModuleList | None = None) -> None:
        """Wrap a transformer, and replace its positions by ``ScaledRope``."""
        super().__init__()
        config: Any = transformer.config
        self.rope = ScaledRope(config.attention_head_dim, tuple(config.patch_size))
        transformer.rope = self.rope  # pyright: ignore[reportAttributeAccessIssue]
        self.transformer = transformer
        self.patch_stages = nn.ModuleList() if patch_stages is None else patch_stages

    def forward(self, x: Tensor, conditioning: Tensor, context: Tensor, stage: Stage | None = None) -> Tensor:
        """Return the velocity, ``(B, C, T, H, W)`` in float32.

        Args:
            x: Noisy latents, ``(B, C, T, H, W)``.
            conditioning: Noise level that the network is conditioned on, ``(B,)`` in [0, 1].
            context: Text embeddings, ``(B, L, text width)``.
            stage: The stage of ``x``, which gives distances of positions and patches; None reads ``x`` as Wan does.
        """
        self.rope.scale = (1.0, 1.0, 1.0) if stage is None else stage.rope_scale
        inputs = {"timestep": 1000.0 * conditioning, "encoder_hidden_states": context, "return_dict": False}
        if stage is None or stage.cell == WHOLE:
            return self.transformer(hidden_states=x, **inputs)[0].float()
        layers = self._patch_stage(stage.cell)
        with layers.in_place_of(self.transformer):
            return unfold(self.transformer(hidden_states=fold(x, stage.cell), **inputs)[0].float(), stage.cell)

    def _patch_stage(self, cell: Cell) -> PatchStage:
        return next(stage for stage in self.patch_stages if isinstance(stage, PatchStage) and stage.cell == cell)


def open_network(path: str | Path, spec: PyramidSpec = PRESETS["plain"]) -> WanVelocity:
    """Load a transformer, with the layers of a pyramid of patches: those in its file, or made from its own.

    Args:
        path: Any of the layouts in ``SUPPORTED``.
        spec: The pyramid.

    Raises:
        ValueError: The path has none of these layouts, or has patches of other sizes.
    """
    transformer = open_transformer(path)
    stored = {} if spec.coarse == "latents" else _stored_patches(Path(path))
    return WanVelocity(transformer, stage_layers(transformer, spec, stored, str(path)))


def _stored_patches(path: Path) -> dict[Cell, PatchLayers]:
    """Return the layers of coarse stages in a single file; none for a folder."""
    if path.is_dir():
        return {}
    with opened_safetensors(path, TRANSFORMER) as file, opening(path, TRANSFORMER):
        tensors = {_bare(name): file.get_tensor(name).float() for name in file.keys() if PREFIX in name}  # noqa: SIM118
    check_finite(tensors, path)
    return from_tensors(tensors, str(path))


def open_transformer(path: str | Path) -> WanTransformer3DModel:
    """Load a transformer in float32, on the CPU, without the layers of a pyramid of patches.

    Args:
        path: Any of the layouts in ``SUPPORTED``.

    Raises:
        ValueError: The path has none of these layouts.
    """
    path = Path(path)
    if (folder := _diffusers_folder(path)) is not None:
        _check_text_to_video(_config(folder)["in_channels"], path)
        with opening(folder, TRANSFORMER):
            network, info = WanTransformer3DModel.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
                folder, torch_dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
        check_complete(info, folder)
    else:
        network = _open_single_file(_single_file(path))
    check_finite(dict(network.named_parameters()), path)
    return network


def _open_single_file(path: Path) -> WanTransformer3DModel:
    with opened_safetensors(path, TRANSFORMER) as file:
        names = _wan_names(file, path)
        dimensions = _dimensions_of_file(file, names, path)
        with torch.device("meta"):
            expected = shapes_of(WanTransformer3DModel(**dimensions).state_dict())
        by_diffusers = _diffusers_names(names, path)
        shapes = {ours: tuple(file.get_slice(name).get_shape()) for ours, name in by_diffusers.items()}
        check_shapes(shapes, expected, f"{path} is not {TRANSFORMER}")
        network = WanTransformer3DModel(**dimensions)
        with opening(path, TRANSFORMER):
            weights = {ours: file.get_tensor(name).float() for ours, name in by_diffusers.items()}
            network.load_state_dict(weights, assign=True)
    return network


def _diffusers_names(names: dict[str, str], path: Path) -> dict[str, str]:
    """Return the key name in the file for every key name of diffusers.

    Raises:
        ValueError: A weight is not one of a Wan transformer.
    """
    try:
        return {diffusers_name(wan): name for wan, name in names.items()}
    except ValueError as error:
        raise ValueError(f"{path} is not {TRANSFORMER}: {error}") from None


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_shapes(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], problem: str) -> None:
    """Compare the shapes in a file with those of a network, before the network takes memory.

    Raises:
        ValueError: A weight is missing, unknown, or has another shape; the message begins with ``problem``.
    """
    for name in {**expected, **shapes}:
        if shapes.get(name) != expected.get(name):
            is_expected = _shape(expected[name]) if name in expected else "no such weight"
            raise ValueError(f"{problem}: '{name}' is {_shape(shapes.get(name))}, expected {is_expected}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a number"


@contextmanager
def opened_safetensors(path: Path, kind: str) -> Iterator[safe_open]:
    """Open a safetensors file in a ``with`` block.

    Raises:
        ValueError: It is damaged, or is not such a file.
    """
    with opening(path, kind):
        check_regular(path)
        file = safe_open(path, framework="pt")
    with file:
        yield file


def check_complete(info: dict, folder: Path, *, unused: tuple[str, ...] = ()) -> None:
    """Check the loading report of diffusers or transformers, which initialise missing weights and drop others silently.

    Args:
        info: The loading info.
        folder: The network's folder.
        unused: Prefixes of weights that the network does not use.

    Raises:
        ValueError: Weights are missing, have other shapes, or would not be used.
    """
    for kind, text in (
        ("missing_keys", "lacks weights"),
        ("mismatched_keys", "holds weights whose shapes contradict its config.json"),
        ("unexpected_keys", "holds weights that its config.json leaves out"),
    ):
        if wrong := sorted(name for name in map(str, info.get(kind, ())) if not name.startswith(unused)):
            more = f" and {len(wrong) - 1} more" if wrong[1:] else ""
            raise ValueError(f"{folder} {text}: {wrong[0]}{more}; use an undamaged copy of this model")


def check_sizes(config: Mapping[str, Any], limits: Mapping[str, int], path: Path) -> None:
    """Check the sizes of a network before it is constructed.

    Raises:
        ValueError: A size is missing, is not a whole number, or is less than 1 or more than its limit.
    """
    for name, most in limits.items():
        if type(config.get(name)) is not int or not 1 <= config[name] <= most:
            raise ValueError(f"{path}: {name} is {config.get(name)!r:.60}; expected a whole number from 1 to {most}")


def check_fixed(config: Mapping[str, Any], fixed: Mapping[str, Any], path: Path) -> None:
    """Check settings of a network that have only one value here; a missing one counts as having it.

    Raises:
        ValueError: A setting has another value.
    """
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise ValueError(f"{path}: {name} is {config[name]!r:.60}; expected {value!r}")


def transformer_files(path: str | Path) -> list[Path]:
    """Return the files that determine a transformer, in a fixed order.

    Raises:
        ValueError: The path has none of the layouts in ``SUPPORTED``.
    """
    folder = _diffusers_folder(Path(path))
    return [_single_file(Path(path))] if folder is None else network_files(folder)


def files_at(path: str | Path) -> list[Path]:
    """Return the files of a transformer, or none if there is none at the path any more."""
    try:
        return transformer_files(path)
    except ValueError:
        return []


def network_files(folder: Path) -> list[Path]:
    """Return the configuration and the weights in the folder of a network, or the files of a tokenizer, in a fixed order."""
    suffixes = (".json", ".safetensors", ".bin", ".model", ".txt")
    return sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in suffixes)


def transformer_dimensions(path: str | Path, *, text: int = 512) -> WanDimensions:
    """Read the sizes of a transformer from its configuration or header, without loading weights.

    Args:
        path: Any of the layouts in ``SUPPORTED``.
        text: Number of text tokens.

    Raises:
        ValueError: The path has none of these layouts.
    """
    path = Path(path)
    if (folder := _diffusers_folder(path)) is not None:
        config = _config(folder)
    else:
        with opened_safetensors(_single_file(path), TRANSFORMER) as file:
            config = _dimensions_of_file(file, _wan_names(file, path), path)
    return WanDimensions(
        dim=config["num_attention_heads"] * config["attention_head_dim"],
        ffn_dim=config["ffn_dim"],
        layers=config["num_layers"],
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        text=text,
        text_dim=config["text_dim"],
    )


def is_folder_of_diffusers(path: str | Path) -> bool:
    """Return whether a path is a folder in the layout of diffusers."""
    return _diffusers_folder(Path(path)) is not None


def _diffusers_folder(path: Path) -> Path | None:
    for folder in (path, path / "transformer"):
        if (folder / "config.json").is_file() and _config(folder).get("_class_name") == "WanTransformer3DModel":
            return folder
    return None


def _config(folder: Path) -> dict:
    """Return the configuration in a diffusers folder.

    Raises:
        ValueError: It cannot be read, or a size of a Wan transformer is missing or impossible.
    """
    path = folder / "config.json"
    config = read_json(path, "the configuration of a network")
    if config.get("_class_name") == "WanTransformer3DModel":
        check_sizes(config, {**MAX_SIZES, "in_channels": 2**10, "out_channels": 2**10}, path)
        check_fixed(config, FIXED, path)
    return config


def _single_file(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"there is no transformer at {path}; expected {SUPPORTED}")
    if path.is_dir() or path.suffix != ".safetensors":
        raise ValueError(f"{path} is not a transformer; expected {SUPPORTED}")
    return path


def _bare(name: str) -> str:
    """Return a key name of a file without ComfyUI's prefixes."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _wan_names(file: safe_open, path: Path) -> dict[str, str]:
    """Return the key name in the file for every key name of Wan.

    Raises:
        ValueError: The file is not an unquantised Wan text-to-video transformer.
    """
    names = {}
    for name in file.keys():  # noqa: SIM118 - safe_open is not a dict
        bare = _bare(name)
        if not bare.startswith(PREFIX):
            names[bare] = name
    if any("scaled_fp8" in name or name.endswith((".scale_weight", ".weight_scale", ".comfy_quant")) for name in names):
        raise ValueError(f"{path} is quantised and cannot be trained; use {UNQUANTISED}")
    if "patch_embedding.weight" not in names or "head.modulation" not in names:
        raise ValueError(f"{path} is not a Wan transformer; expected {SUPPORTED}")
    if any("img_emb" in name or "k_img" in name or name.startswith(("vace", "control_adapter")) for name in names):
        raise ValueError(f"{path} has layers of an image-to-video or control model: {ONLY_TEXT_TO_VIDEO}")
    return names


def _dimensions_of_file(file: safe_open, names: dict[str, str], path: Path) -> dict:
    """Infer diffusers' configuration from the shapes of the weights.

    Raises:
        ValueError: The transformer is not an unquantised text-to-video one.
    """

    def shape(name: str, axes: int = 2) -> tuple[int, ...]:
        if name not in names:
            raise ValueError(f"{path} is not {TRANSFORMER}: '{name}' is missing")
        sides = tuple(file.get_slice(names[name]).get_shape())
        if len(sides) != axes or 0 in sides:
            raise ValueError(f"{path} is not {TRANSFORMER}: '{name}' is {_shape(sides)}, expected {axes} axes")
        return sides

    dim, in_channels, *patch = shape("patch_embedding.weight", axes=5)
    _check_text_to_video(in_channels, path)
    outputs = shape("head.head.weight")[0]
    if tuple(patch) != PATCH_SHAPE or outputs != CHANNELS * PATCH * PATCH:
        raise ValueError(
            f"{path} is not {TRANSFORMER}: its patches are {_shape(tuple(patch))} with {outputs} outputs, expected "
            f"{_shape(PATCH_SHAPE)} with {CHANNELS * PATCH * PATCH}"
        )
    shape("blocks.0.self_attn.q.weight")
    if file.get_slice(names["blocks.0.self_attn.q.weight"]).get_dtype() not in ("F32", "F16", "BF16"):
        raise ValueError(f"{path} is quantised and cannot be trained; use {UNQUANTISED}")
    return {
        "patch_size": tuple(patch),
        "num_attention_heads": max(1, dim // HEAD_DIM),
        "attention_head_dim": HEAD_DIM,
        "in_channels": in_channels,
        "out_channels": CHANNELS,
        "text_dim": shape("text_embedding.0.weight")[1],
        "freq_dim": shape("time_embedding.0.weight")[1],
        "ffn_dim": shape("blocks.0.ffn.0.weight")[0],
        "num_layers": len({name.split(".")[1] for name in names if name.startswith("blocks.")}),
    }


def _check_text_to_video(in_channels: int, path: Path) -> None:
    if in_channels != CHANNELS:
        raise ValueError(f"{path} has {in_channels} input channels; expected {CHANNELS}: {ONLY_TEXT_TO_VIDEO}")
