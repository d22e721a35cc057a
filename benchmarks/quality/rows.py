"""The rows of the tables: settings of the sampler node, and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pyramid.stage_names import stage_name
from pyramid.stages import PRESETS, PyramidSpec
from pyramid.training.config.distill import DistillConfig
from pyramid.training.config.finetune import FinetuneConfig
from pyramid.training.config.toml_config import load_config

ROOT = Path(__file__).resolve().parents[2]
MODEL = "tiny_wan/weights/tiny_wan_t2v.safetensors"
VAE = "tiny_wan/weights/tiny_wan_vae.safetensors"
FINETUNED = "tiny_wan/weights/tiny_wan_t2v_20-20-10.safetensors"
"""The result of runs/tiny/20-20-10.toml, in fp16."""

TWO = PRESETS["training-free"]
LATE = replace(TWO, boundaries=(0.602,))
"""The boundary of SwD's trained stages (arXiv 2503.16397)."""

THREE = replace(TWO, boundaries=(0.896, 0.602), downsample_axes=("HW", "HW"))
THREE_IN_TIME = replace(THREE, downsample_axes=("THW", "THW"))


@dataclass(frozen=True)
class Row:
    """A row: settings of the sampler node, and weights.

    Attributes:
        name: Its name on the command line.
        label: Its name in the tables.
        steps: Steps per stage, from low to high resolution.
        spec: The pyramid.
        cfg: Guidance scale.
        model: File of the weights, from the root of the checkout.
        loras: LoRA files by stages, from the root of the checkout.
        sampler: ComfyUI's name of the sampler.
        grid: Grid of the noise levels.
        shift: Flow shift of the grid.
        lift: Method of the lift, as of the node 'Pyramidal Lift'.
        config: Configuration that trained the weights.
    """

    name: str
    label: str
    steps: str
    spec: PyramidSpec
    cfg: str = "4"
    model: str = MODEL
    loras: Mapping[str, str] = field(default_factory=dict, hash=False)
    sampler: str = "euler"
    grid: str = "auto"
    shift: float = 5.0
    lift: str = "none"
    config: str = ""

    @property
    def weights(self) -> tuple[str, ...]:
        """The files that determine the clips."""
        return (self.model, *self.loras.values(), VAE)


def _plain(steps: int) -> Row:
    return Row(f"plain-{steps}", f"plain, {steps} steps" if steps > 1 else "plain, 1 step", str(steps), PRESETS["plain"])


def _at_boundary(name: str, label: str, spec: PyramidSpec, steps: str = "20-10") -> Row:
    """Return a training-free row that keeps the pyramid's boundaries; the grid "auto" moves them to steps."""
    return Row(name, label, steps, spec, grid="shift")


def _exported(out: str, ending: str = "") -> str:
    """Return the newest file that a run exported, or the name that it would have."""
    folder = ROOT / out / "export"
    files = sorted(folder.glob(f"*-step*{ending}.safetensors"), key=lambda path: path.stat().st_mtime)
    return str(files[-1].relative_to(ROOT)) if files else f"{out}/export/{Path(out).name}{ending}.safetensors"


def _finetuned(name: str, label: str) -> Row:
    """Return the row of a finetuning configuration in runs/tiny, sampled with 20-20-10."""
    path = f"runs/tiny/{name}.toml"
    config = load_config(FinetuneConfig, ROOT / path)
    spec = config.pyramid.spec()
    stages = [stage_name(index, spec.number_of_stages) for index in range(spec.number_of_stages)]
    if config.adapter.kind == "full":
        return Row(name, label, "20-20-10", spec, model=_exported(config.out), config=path)
    if config.adapter.scope == "shared":
        loras = {"all": _exported(config.out)}
    else:
        loras = {stage: _exported(config.out, f"-{stage}") for stage in stages}
    return Row(name, label, "20-20-10", spec, loras=loras, config=path)


def _student(name: str, label: str) -> Row:
    """Return the row of a student, sampled as it was trained: with its own levels, without cfg, a LoRA on its base model."""
    config, path = load_config(DistillConfig, ROOT / "runs" / "tiny" / f"{name}.toml"), f"runs/tiny/{name}.toml"
    file = _exported(config.out)
    lora = config.adapter.kind == "lora"
    model, loras = (config.networks.student, {"all": file}) if lora else (file, {})
    spec = config.pyramid.spec()
    return Row(name, label, config.schedule, spec, "1", model, loras, sampler=FEW_STEP, config=path)


FEW_STEP = "pyramid_few_step"
PLAIN = "plain-50"
"""The row with which all others are compared."""

BASE = _plain(50)
STOCK = (
    *(_plain(steps) for steps in (25, 4, 2, 1)),
    _at_boundary("two-early", "training-free, two stages H x W (the preset)", TWO),
    _at_boundary("two-earlier", "the same, boundary 0.9 instead of 0.8", replace(TWO, boundaries=(0.9,))),
    _at_boundary("two-calibrated", "the same, boundary 0.696, as calibrated", replace(TWO, boundaries=(0.696,))),
    _at_boundary("two-20-10", "the same, boundary 0.602", LATE),
    _at_boundary("two-35-15", "boundary 0.602, more steps", LATE, "35-15"),
    _at_boundary("two-15-35", "boundary 0.602, most steps at full size", LATE, "15-35"),
    _at_boundary(
        "two-natural", "boundary 0.602, conditioned on natural instead of sigma", replace(LATE, timestep_source="natural")
    ),
    _at_boundary("three-20-20-10", "training-free, three stages H x W", THREE, "20-20-10"),
    _at_boundary("three-time-20-20-10", "training-free, three stages T x H x W", THREE_IN_TIME, "20-20-10"),
)
LIFTED = (
    *(
        Row(f"{lift}-{steps}", label, steps, TWO, lift=lift)
        for steps in ("20-10", "8-6", "4-2")
        for lift, label in (("auto", "a fitted lift"), ("none", "no lift"))
    ),
    Row("auto-20-10-early", "a fitted lift, boundary 0.8", "20-10", TWO, lift="auto", grid="shift"),
    Row("pixels-20-10", "a lift through the pixels", "20-10", TWO, lift="pixels"),
)
BEST = Row(
    "finetuned", "**finetuned**, as the paper does it", "20-20-10", PRESETS["pyramidal-wan"], model=FINETUNED,
    config="runs/tiny/20-20-10.toml",
)  # fmt: skip
ABLATIONS = (
    _finetuned("no_teacher", "without L_dist"),
    _finetuned("definition1", "definition 1: latents averaged, not encoded"),
    _finetuned("timestep_source_sigma", "conditioned on sigma instead of natural"),
    _finetuned("timestep_source_pyramid_flow", "conditioned as in Pyramidal Flow"),
    _finetuned("first_frame_shared", "frame 0 with the levels of all frames"),
    _finetuned("dct", "DCT instead of Haar"),
    _finetuned("db2", "wavelet db2 instead of Haar"),
    _finetuned("rope_scaled", "positions scaled to full size"),
    _finetuned("lora_shared", "one LoRA of rank 32 instead of all weights"),
    _finetuned("lora_per_stage", "a LoRA of rank 32 per stage"),
)
UNTRAINED = Row(
    "untrained-2-2-1", "finetuned, not distilled", "2-2-1", PRESETS["pyramidal-wan"], "1", FINETUNED, sampler=FEW_STEP,
    config="runs/tiny/20-20-10.toml",
)  # fmt: skip
STUDENTS = (
    _student("0-0-4_dmd", "plain, by dmd"),
    _student("0-0-2_dmd", "plain, by dmd"),
    _student("0-0-1_dmd", "plain, by dmd"),
    _student("2-2-1_dmd-ot", "by dmd-ot"),
    _student("2-2-1_dmd-pt", "by dmd-pt"),
    _student("2-2-1_dmd-pt-star", "by dmd-pt-star"),
    _student("2-2-1_dmd-pt-star_lora", "by dmd-pt-star, a LoRA of rank 32 instead of all weights"),
    _student("2-2-1_dmd-pt-star_no_teach", "by dmd-pt-star without L_teach"),
    _student("2-2-1_adv-od", "by adv-od"),
    _student("2-2-1_adv-pd", "by adv-pd"),
)


@dataclass(frozen=True)
class Group:
    """The rows of one table.

    Attributes:
        title: Heading.
        rows: The rows.
        margin: Points by which a row may be worse than plain, 50 steps, at the pessimistic end of the confidence
            interval.
    """

    title: str
    rows: tuple[Row, ...]
    margin: float


GROUPS = (
    Group("Stock weights", (BASE, *STOCK), 5.0),
    Group("Stock weights with a lift", (BASE, *LIFTED), 5.0),
    Group("Finetuned for three stages", (BASE, BEST, *ABLATIONS), 5.0),
    Group("Distilled to a few steps", (BASE, BEST, UNTRAINED, *STUDENTS), 6.0),
)
ROWS = tuple(dict.fromkeys(row for group in GROUPS for row in group.rows))
