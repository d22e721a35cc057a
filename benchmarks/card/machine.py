"""What a measurement was made with."""

from __future__ import annotations

import importlib
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass

import torch

from harness.in_process import ROOT


@dataclass(frozen=True)
class Machine:
    """The card and the versions of everything that decides its speed.

    Attributes:
        card: Name of the card, or of the processor.
        driver: Version of its driver; "none" on a CPU.
        torch: Version of PyTorch.
        comfyui: Version of ComfyUI.
        commit: Commit of this repository, with a + if files differ from it.
        tiny: Whether the miniature model was measured, which says nothing about the card.
        checkpoint: Name of the checkpoint; "random weights" without one.
    """

    card: str
    driver: str
    torch: str
    comfyui: str
    commit: str
    tiny: bool
    checkpoint: str

    def as_dict(self) -> dict[str, object]:
        """Return the fields."""
        return asdict(self)

    def sentence(self) -> str:
        """Return the machine in words, for a table."""
        kind = "the tiny Wan, which says nothing about a card" if self.tiny else f"Wan2.1 1.3B and 14B, {self.checkpoint}"
        versions = f"driver {self.driver}, PyTorch {self.torch}, ComfyUI {self.comfyui}, commit {self.commit}"
        return f"{self.card}, {versions}; {kind}."


def this_machine(*, tiny: bool, checkpoint: str | None) -> Machine:
    """Return the machine that this process runs on; ComfyUI must be importable."""
    import comfy.model_management

    device = comfy.model_management.get_torch_device()
    on_card = device.type == "cuda"
    return Machine(
        card=torch.cuda.get_device_name(device) if on_card else f"CPU {platform.machine()}",
        driver=_output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_card else "none",
        torch=torch.__version__,
        comfyui=_comfyui_version(),
        commit=_commit(),
        tiny=tiny,
        checkpoint=checkpoint or "random weights",
    )


def _comfyui_version() -> str:
    return importlib.import_module("comfyui_version").__version__


def _commit() -> str:
    commit = _output("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+" if changed not in ("", "unknown") else commit


def _output(*command: str) -> str:
    """Return the first line that a command prints; "unknown" where it does not run, empty where it prints nothing."""
    if shutil.which(command[0]) is None:
        return "unknown"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "unknown" if done.returncode else done.stdout.partition("\n")[0].strip()
