"""Checkpoints as files that ComfyUI loads: Wan's own key names, with the pyramid, the recipe and its provenance inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load

from ..key_names import wan_name
from ..schedules import levels_to_metadata
from ..stage_names import stage_name
from ..stages import METADATA_KEY
from .config.settings import Adapter
from .engine.checkpoints import Checkpoints
from .models import adapters
from .models.networks import WanVelocity, open_transformer
from .recipes.distill import DistillConfig
from .recipes.finetune import FinetuneConfig

RECIPE_KEY = "pyramid_recipe"
PROVENANCE_KEY = "pyramid_provenance"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PREFIX = "transformer."


def export(
    config: FinetuneConfig | DistillConfig, to: str | Path | None = None, *, step: int | None = None, precision: str = "bf16"
) -> list[Path]:
    """Writes the averaged weights of a run's best checkpoint, or of ``step``; returns the files.

    A full finetuning or a shared LoRA is one file, a LoRA per stage one file for each. ValueError in plain words.
    """
    if precision not in DTYPES:
        raise ValueError(f"precision {precision!r} is none of {', '.join(DTYPES)}")
    folder = Path(config.out)
    checkpoints = Checkpoints(folder, keep=config.keep.checkpoints)
    there = checkpoints.steps()
    chosen = step if step is not None else checkpoints.best() or (there[-1] if there else None)
    if chosen not in there:
        shown = ", ".join(map(str, there)) or "none"
        raise ValueError(f"{folder} has no checkpoint of step {chosen}; there are {shown}")
    network = trained_network(config, checkpoints, chosen)
    to = Path(to) if to else folder / "export" / f"{folder.name}-step{chosen}.safetensors"
    header = _header(config, chosen)
    if config.adapter.kind == "full":
        weights = {wan_name(name.removeprefix(PREFIX)): value for name, value in network.state_dict().items()}
        return [_write(weights, to, header, DTYPES[precision])]
    files = []
    stages = config.pyramid.spec().number_of_stages
    for stage, name in {adapters.adapter_name(config.adapter, stage): stage for stage in reversed(range(stages))}.items():
        single = config.adapter.scope == "shared"
        path = to if single else to.with_name(f"{to.stem}-{stage_name(name, stages)}{to.suffix}")
        own = header if single else {**header, "pyramid_stage": stage_name(name, stages)}
        files.append(_write(lora_weights(network, config.adapter, stage), path, own, DTYPES[precision]))
    return files[::-1]


def base_of(config: FinetuneConfig | DistillConfig) -> str:
    """The file that the exported network started from, and that its LoRA belongs to."""
    return config.model.transformer if isinstance(config, FinetuneConfig) else config.networks.student


def trained_network(config: FinetuneConfig | DistillConfig, checkpoints: Checkpoints, step: int) -> WanVelocity:
    """The network with a checkpoint's averaged weights (the last ones where nothing is averaged), on the CPU."""
    network = WanVelocity(open_transformer(base_of(config)))
    adapters.prepare(network.transformer, config.adapter, config.pyramid.spec().number_of_stages, seed=config.train.seed)
    name, settings = ("network", config.optimizer) if isinstance(config, FinetuneConfig) else ("student", config.student)
    kind = "average" if settings.ema else "weights"
    wanted = {name: weight.detach() for name, weight in network.named_parameters() if weight.requires_grad}
    load({name: {kind: wanted}}, checkpoint_id=checkpoints.path(step), no_dist=True)
    return network


def lora_weights(network: WanVelocity, adapter: Adapter, name: str) -> dict[str, Tensor]:
    """One adapter in the key names that ComfyUI knows: ``diffusion_model.<module>.lora_up.weight`` and so on."""
    weights = {}
    for key, value in network.transformer.named_parameters():
        module, marker, rest = key.partition(".lora_")
        if marker and rest in (f"A.{name}.weight", f"B.{name}.weight"):
            own = f"diffusion_model.{wan_name(module)}"
            weights[f"{own}.lora_{'down' if rest[0] == 'A' else 'up'}.weight"] = value.detach()
            weights[f"{own}.alpha"] = torch.tensor(float(adapter.alpha or adapter.rank))
    return weights


def _header(config: FinetuneConfig | DistillConfig, step: int) -> dict[str, str]:
    provenance = {"base": Path(base_of(config)).name, "cache": Path(config.data.cache).name, "step": step}
    spec = config.pyramid.spec()
    student = {} if isinstance(config, FinetuneConfig) else levels_to_metadata(config.levels)
    return {
        METADATA_KEY: spec.to_json(),
        RECIPE_KEY: config.model_dump_json(),
        PROVENANCE_KEY: json.dumps(provenance),
        **student,
    }


def _write(weights: Mapping[str, Tensor], path: Path, header: dict[str, str], dtype: torch.dtype) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    stored = {name: value.to(dtype if value.ndim else torch.float32).contiguous().cpu() for name, value in weights.items()}
    save_file(stored, partial, metadata=header)
    partial.replace(path)
    return path
