"""The training steps that are compared: pyramidal, and plain on as many samples."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from pyramid.training.config.finetune import FinetuneConfig
from pyramid.training.config.toml_config import load_config
from pyramid.training.engine import parallel
from pyramid.training.recipes.finetune import Finetuning

from ..training_speed import CONFIG, PAPER, PLAIN, batches
from .recorder import Clock
from .setting import Setting


def step_times(setting: Setting) -> tuple[float, float]:
    """Return the seconds of an optimiser step with one sample per stage, and of a plain one with as many samples."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "transformer.safetensors"
        save_file(
            {name: weight.cpu() for name, weight in setting.weights(setting.dimensions, torch.bfloat16, seed=0).items()}, path
        )
        pyramidal = _seconds(setting, path, "losses.teacher=0", samples=1)
        plain = _seconds(setting, path, *PLAIN, samples=3)
    return pyramidal, plain


def _seconds(setting: Setting, path: Path, *settings: str, samples: int) -> float:
    """Return the time of the second optimiser step on random batches."""
    size = [f"video.width={setting.size.width}", f"video.height={setting.size.height}", f"video.frames={setting.size.frames}"]
    page = CONFIG if setting.tiny else PAPER
    config = load_config(FinetuneConfig, page, [f"model.transformer={path}", *size, *settings])
    clock = Clock(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    with torch.inference_mode(False), torch.enable_grad():
        recipe = Finetuning(config, parallel.start(config.system))
        parts = batches(config.pyramid.spec(), config.video.latent, samples, 4096)
        recipe.step([parts])
        began = clock.wait()
        recipe.step([parts])
        spent = clock.wait() - began
    del recipe
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return spent
