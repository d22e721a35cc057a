"""Export checkpoints as files for ComfyUI: Wan's key names, with the pyramid, the recipe and its provenance in the header."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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
from .engine.locks import locked
from .files import check_output, write_tensors
from .models import adapters
from .models.networks import WanVelocity, files_at, open_network

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
        ValueError: The precision is unknown or too small, the run has other settings, the checkpoint does not exist or is
            damaged, or the file would replace something else than an earlier export.
    """
    if precision not in DTYPES:
        raise ValueError(f"unknown precision '{precision}'; expected {', '.join(DTYPES)}")
    folder = Path(config.out)
    checkpoints = Checkpoints(folder, keep=config.keep.checkpoints)
    check_unchanged(config, folder)
    step = _intact_step(checkpoints, step, folder)
    path = Path(path) if path else folder / EXPORT / f"{folder.name}-step{step}.safetensors"
    files = {stage: path.with_name(f"{path.stem}-{stage}{path.suffix}") if stage else path for stage in _stages(config)}
    for file in files.values():
        check_output(file, _inputs(config))
    with _alone(folder / EXPORT, files.values()):
        weights = _weights(config, trained_network(config, checkpoints, step))
        stored = {stage: _cast(each, precision) for stage, each in weights.items()}
        for stage, file in files.items():
            header = {**_header(config, step), STAGE_KEY: stage} if stage else _header(config, step)
            write_tensors(stored[stage], file, header)
    return list(files.values())


def _stages(config: RunConfig) -> list[str]:
    """Return the names of the stages that have a file each, in running order; one empty name for a single file."""
    if config.adapter.kind == "full" or config.adapter.scope == "shared":
        return [""]
    stages = config.pyramid.spec().number_of_stages
    return [stage_name(stage, stages) for stage in range(stages)]


def _weights(config: RunConfig, network: WanVelocity) -> dict[str, dict[str, Tensor]]:
    """Return the weights of each exported file by the name of its stage."""
    patches = {name: value for name, value in network.state_dict().items() if name.startswith(PATCHES)}
    if config.adapter.kind == "full":
        return {"": {**_all_weights(network), **patches}}
    if config.adapter.scope == "shared":
        return {"": {**lora_weights(network, config.adapter, adapters.SHARED), **patches}}
    weights = {}
    for stage, name in enumerate(_stages(config)):
        stage_patches = {key: value for key, value in patches.items() if key.startswith(f"{PATCHES}{stage}.")}
        lora = lora_weights(network, config.adapter, adapters.adapter_name(config.adapter, stage))
        weights[name] = {**lora, **stage_patches}
    return weights


def _inputs(config: RunConfig) -> dict[str, list[Path]]:
    """Return the files that a run reads or keeps, by what they are."""
    folder, cache = Path(config.out), Path(config.data.cache)
    inputs = {f"{name} of this run": files_at(path) for name, path in config.checkpoints_by_setting.items()}
    kept = [file for file in folder.rglob("*") if folder / EXPORT not in file.parents]
    return {**inputs, "a file of the cache": list(cache.glob("*")), "a file of this run": kept}


@contextmanager
def _alone(folder: Path, files: Iterable[Path]) -> Iterator[None]:
    """Lock the folder of exports if one of the files is in it, and remove what interrupted exports of them left there."""
    mine = [file for file in files if file.parent.resolve() == folder.resolve()]
    if not mine:  # elsewhere others may be writing
        yield
        return
    with locked(folder, instead="name another file with --to"):
        for file in mine:
            remove_leftovers(folder, file.name)
        yield


def _intact_step(checkpoints: Checkpoints, step: int | None, folder: Path) -> int:
    """Return the step to export.

    Raises:
        ValueError: There is no such checkpoint, or it is damaged.
    """
    unreadable = checkpoints.unreadable() if step is None else None  # it may be the best one
    step = _existing_step(checkpoints, step if unreadable is None else unreadable, folder)
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


def _cast(weights: Mapping[str, Tensor], precision: str) -> dict[str, Tensor]:
    """Return weights in a precision, on the CPU; scalars such as a LoRA's alpha stay in float32.

    Raises:
        ValueError: A weight is too large for the precision.
    """
    stored = {}
    for name, value in weights.items():
        dtype = DTYPES[precision] if value.ndim else torch.float32
        stored[name] = value.to(dtype).contiguous().cpu()
        if not stored[name].isfinite().all():
            raise ValueError(
                f"'{name}' holds {value.abs().max():.4g}, which {precision} cannot represent (at most "
                f"{torch.finfo(dtype).max:.4g}); use --precision {'fp32' if precision == 'bf16' else 'bf16'}"
            )
    return stored
