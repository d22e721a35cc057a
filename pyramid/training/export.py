"""Export checkpoints as files for ComfyUI: Wan's key names, with the pyramid, the recipe and its provenance in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..forms import form_to_metadata
from ..key_names import wan_name
from ..patches import PREFIX as PATCHES
from ..schedules import levels_to_metadata
from ..stage_names import stage_name
from ..stages import METADATA_KEY
from .config.run_config import RunConfig
from .config.run_folder import check_unchanged
from .config.settings import Adapter
from .engine.atomic import remove_leftovers
from .engine.checkpoints import Checkpoints
from .files import write_tensors
from .models import adapters
from .models.networks import WanVelocity, open_network

EXPORT = "export"
"""Folder of the exported files in the folder of a run."""
RECIPE_KEY = "pyramid_recipe"
PROVENANCE_KEY = "pyramid_provenance"
STAGE_KEY = "pyramid_stage"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def export(
    config: RunConfig, path: str | Path | None = None, *, step: int | None = None, precision: str = "bf16"
) -> list[Path]:
    """Write the averaged weights of a checkpoint.

    Args:
        config: The run.
        path: File to write; default: in ``export/`` in the folder of the run. For one LoRA per stage the stage's name is
            appended to it.
        step: The checkpoint; default: the best one, or the newest if there is no best one.
        precision: "bf16", "fp16" or "fp32".

    Returns:
        One file, or one per stage in running order.

    Raises:
        ValueError: The precision is unknown, the run has other settings, or the checkpoint does not exist or is damaged.
    """
    if precision not in DTYPES:
        raise ValueError(f"unknown precision '{precision}'; expected {', '.join(DTYPES)}")
    folder = Path(config.out)
    checkpoints = Checkpoints(folder, keep=config.keep.checkpoints)
    check_unchanged(config, folder)
    step = _intact_step(checkpoints, step, folder)
    network = trained_network(config, checkpoints, step)
    path = Path(path) if path else folder / EXPORT / f"{folder.name}-step{step}.safetensors"
    header, dtype = _header(config, step), DTYPES[precision]
    patches = {name: value for name, value in network.state_dict().items() if name.startswith(PATCHES)}
    if config.adapter.kind == "full":
        return [_write({**_all_weights(network), **patches}, path, header, dtype)]
    if config.adapter.scope == "shared":
        return [_write({**lora_weights(network, config.adapter, adapters.SHARED), **patches}, path, header, dtype)]
    return _write_stages(config, network, path, header, dtype)


def _write_stages(
    config: RunConfig, network: WanVelocity, path: Path, header: dict[str, str], dtype: torch.dtype
) -> list[Path]:
    """Write one LoRA per stage, each with the layers of the stage's larger patches."""
    stages, values = config.pyramid.spec().number_of_stages, network.state_dict()
    files = []
    for stage in range(stages):
        name = stage_name(stage, stages)
        weights = lora_weights(network, config.adapter, adapters.adapter_name(config.adapter, stage))
        stage_patches = {key: value for key, value in values.items() if key.startswith(f"{PATCHES}{stage}.")}
        stage_path = path.with_name(f"{path.stem}-{name}{path.suffix}")
        files.append(_write({**weights, **stage_patches}, stage_path, {**header, STAGE_KEY: name}, dtype))
    return files


def _intact_step(checkpoints: Checkpoints, step: int | None, folder: Path) -> int:
    step = _existing_step(checkpoints, step, folder)
    if damage := checkpoints.damage(step):
        others = [str(each) for each in checkpoints.steps() if each != step]
        raise ValueError(
            f"the checkpoint of step {step} in {folder} is damaged ({damage}); expected an intact one"
            + (f", --step {' or '.join(others)}" if others else "")
        )
    return step


def _existing_step(checkpoints: Checkpoints, step: int | None, folder: Path) -> int:
    steps = checkpoints.steps()
    if not steps:
        raise ValueError(f"there is no checkpoint in {folder}")
    if step is None:
        best = checkpoints.best()
        return steps[-1] if best is None else best
    if step not in steps:
        raise ValueError(f"there is no checkpoint of step {step} in {folder}; expected {', '.join(map(str, steps))}")
    return step


def trained_network(config: RunConfig, checkpoints: Checkpoints, step: int) -> WanVelocity:
    """Return the exported network on the CPU, with a checkpoint's averaged weights, or the last ones without averaging."""
    spec = config.pyramid.spec()
    network = open_network(config.base_checkpoint, spec)
    adapters.prepare(network.transformer, config.adapter, spec.number_of_stages, seed=config.train.seed)
    weights = {name: weight.detach() for name, weight in network.named_parameters() if weight.requires_grad}
    kind = "average" if config.exported_optimizer.ema else "weights"
    checkpoints.load(step, {config.exported_network: {kind: weights}}, alone=True)
    return network


def _all_weights(network: WanVelocity) -> dict[str, Tensor]:
    """Return the transformer's weights by Wan's own names."""
    return {wan_name(name): value for name, value in network.transformer.state_dict().items()}


def lora_weights(network: WanVelocity, adapter: Adapter, name: str) -> dict[str, Tensor]:
    """Return the weights of one adapter by the key names that ComfyUI knows: ``diffusion_model.<module>.lora_up.weight`` etc.

    Args:
        network: The network with its adapters.
        adapter: Their settings.
        name: Name of the adapter, as ``adapters.adapter_name`` returns it.
    """
    directions = {f"A.{name}.weight": "lora_down", f"B.{name}.weight": "lora_up"}
    weights = {}
    for key, value in network.transformer.named_parameters():
        module, marker, rest = key.partition(".lora_")
        if marker and rest in directions:
            prefix = f"diffusion_model.{wan_name(module)}"
            weights[f"{prefix}.{directions[rest]}.weight"] = value.detach()
            weights[f"{prefix}.alpha"] = torch.tensor(float(adapter.alpha or adapter.rank))
    return weights


def _header(config: RunConfig, step: int) -> dict[str, str]:
    provenance = {"base": Path(config.base_checkpoint).name, "cache": Path(config.data.cache).name, "step": step}
    header = {
        METADATA_KEY: config.pyramid.spec().to_json(),
        **form_to_metadata(config.form),
        RECIPE_KEY: config.model_dump_json(),
        PROVENANCE_KEY: json.dumps(provenance),
    }
    return header if config.student_levels is None else {**header, **levels_to_metadata(config.student_levels)}


def _write(weights: Mapping[str, Tensor], path: Path, header: dict[str, str], dtype: torch.dtype) -> Path:
    """Write weights atomically; scalars such as a LoRA's alpha stay in float32."""
    stored = {name: value.to(dtype if value.ndim else torch.float32).contiguous().cpu() for name, value in weights.items()}
    remove_leftovers(path.parent, path.name)
    write_tensors(stored, path, header)
    return path
