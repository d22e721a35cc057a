"""The rows of the tables: settings of the sampler node, and weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pyramid.latent_shape import LatentShape
from pyramid.noise_levels import shift_sigma
from pyramid.sizes import VideoSize
from pyramid.stage_names import stage_name
from pyramid.stages import PRESETS, PyramidSpec
from pyramid.training.config.distill import DistillConfig
from pyramid.training.config.finetune import FinetuneConfig
from pyramid.training.config.toml_config import load_config
from tiny_wan.worlds import LEAVES, SHAPES

ROOT = Path(__file__).resolve().parents[2]
MODEL = "tiny_wan/weights/tiny_wan_t2v.safetensors"
FULL_SIZE_MODEL = "tiny_wan/weights/tiny_wan_t2v_full_size.safetensors"
"""The result of tiny_wan/recipes/train_t2v_full_size.py, which has never seen a small video."""

IMAGE_MODEL = "tiny_wan/weights/tiny_wan_i2v.safetensors"
VAE = "tiny_wan/weights/tiny_wan_vae.safetensors"
LEAVES_MODEL = "tiny_wan/weights/tiny_wan_t2v_leaves.safetensors"
VAES = {SHAPES.name: VAE, LEAVES.name: "tiny_wan/weights/tiny_wan_vae_leaves.safetensors"}
FINETUNED = "tiny_wan/weights/tiny_wan_t2v_20-20-10.safetensors"
"""The result of runs/tiny/20-20-10.toml, in fp16."""

FRAMES, SIDE = 17, 128
"""The videos that all weights were trained on: frames, and pixels of width and height."""

LONGER_FRAMES, LONGER_CLIPS = 33, 32

TWO = PyramidSpec((0.8,), ("HW",), field="natural", timestep_source="sigma", first_frame="shared")
"""Stock weights in two stages, the first at half width and height."""

THREE_QUARTERS = replace(TWO, downsample_axes=("HW 3/4",))
"""Stock weights as the nodes sample 832x480: the first stage at three quarters of width and height."""

ALL_AXES = replace(TWO, downsample_axes=("THW",))
"""Stock weights in two stages, the first at half width, height and frame rate."""

THREE = replace(TWO, boundaries=(0.896, 0.602), downsample_axes=("HW", "HW"))


@dataclass(frozen=True)
class Reference:
    """Rendered clips with which rows are compared.

    Attributes:
        world: Name of the world.
        frames: Frames of the videos.
        decoded: Whether they are encoded and decoded by the world's VAE.
    """

    world: str = SHAPES.name
    frames: int = FRAMES
    decoded: bool = False

    @property
    def name(self) -> str:
        """The name of its results."""
        world = [] if self.world == SHAPES.name else [self.world]
        frames = [] if self.frames == FRAMES else [str(self.frames)]
        return "-".join(["data", *world, *frames, *(["decoded"] if self.decoded else [])])


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
        plain_lora: A LoRA file that ComfyUI's own loader adds to the model, from the root of the checkout.
        sampler: ComfyUI's name of the sampler.
        grid: Grid of the noise levels.
        shift: Flow shift of the grid.
        lift: Method of the lift, as of the node 'Pyramidal Lift from VAE'.
        drop: Whether the lift also brings conditioning down; otherwise latents are averaged.
        rival: Another method instead of the sampler node, one of ``rivals.RIVALS``.
        clips: Number of clips.
        config: Configuration that trained the weights.
        frames: Frames of the videos.
        side: Width and height at which the videos are sampled, in pixels; smaller ones are enlarged before they are measured.
        full_size_first: Number of the first stage's steps that the model runs at full size before the pyramid takes over its
            latent with leftover noise (full size, low, full size again).
        world: Name of the world of the prompts.
    """

    name: str
    label: str
    steps: str
    spec: PyramidSpec
    cfg: str = "4"
    model: str = MODEL
    loras: Mapping[str, str] = field(default_factory=dict, hash=False)
    plain_lora: str = ""
    sampler: str = "euler"
    grid: str = "auto"
    shift: float = 5.0
    lift: str = "none"
    drop: bool = True
    rival: str = ""
    clips: int = 256
    config: str = ""
    frames: int = FRAMES
    side: int = SIDE
    full_size_first: int = 0
    world: str = SHAPES.name

    @property
    def vae(self) -> str:
        """The file of the VAE, from the root of the checkout."""
        return VAES[self.world]

    @property
    def reference(self) -> Reference:
        """The rendered clips with which the row is compared; the VAE loses much of the fine detail of leaves."""
        return Reference(self.world, self.frames, decoded=self.world == LEAVES.name)

    @property
    def latent(self) -> LatentShape:
        """The size of the latents."""
        return VideoSize(self.side, self.side, self.frames).latent

    @property
    def weights(self) -> tuple[str, ...]:
        """The files that determine the clips."""
        return (self.model, *self.loras.values(), *filter(None, [self.plain_lora]), self.vae)


def _plain(steps: int) -> Row:
    return Row(f"plain-{steps}", f"plain, {steps} steps" if steps > 1 else "plain, 1 step", str(steps), PRESETS["plain"])


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

BASE = _plain(50)
FITTED, ON_WORLD, THROUGH_PIXELS, WITHOUT = "auto", "linear", "pixels", "none"
LIFTS = {
    FITTED: "a fitted lift", ON_WORLD: "a lift fitted on clips of this world",
    THROUGH_PIXELS: "a lift through the pixels", WITHOUT: "no lift",
}  # fmt: skip


def _lifted(lift: str, steps: str) -> Row:
    """Return a training-free row with this method of the node for lifts, which changes its size at the boundary."""
    return Row(f"{lift}-{steps}", f"training-free, {LIFTS[lift]}", steps, TWO, grid="shift", lift=lift)


def _at_three_quarters(steps: str) -> Row:
    """Return a training-free row whose small stage has three quarters of the width and height."""
    label = f"training-free at three quarters, {LIFTS[ON_WORLD]}"
    return Row(f"three-quarters-{steps}", label, steps, THREE_QUARTERS, grid="shift", lift=ON_WORLD)


EARLY_AT_THREE_QUARTERS = replace(
    _at_three_quarters("20-10"), name="three-quarters-0.9", label=f"at three quarters, {LIFTS[ON_WORLD]}, boundary 0.9",
    spec=replace(THREE_QUARTERS, boundaries=(0.9,)),
)  # fmt: skip


def _with_boundary(lift: str, boundary: float) -> Row:
    spec = replace(TWO, boundaries=(boundary,))
    return Row(f"{lift}-{boundary}", f"{LIFTS[lift]}, boundary {boundary:g}", "20-10", spec, grid="shift", lift=lift)


STOCK = (
    *(_plain(steps) for steps in (10, 6, 5, 4, 3)),
    *(_lifted(FITTED, steps) for steps in ("20-10", "8-6", "8-3", "4-2")),
    *(_lifted(ON_WORLD, steps) for steps in ("20-10", "8-6", "8-3", "4-2")),
    _lifted(THROUGH_PIXELS, "20-10"),
    _lifted(WITHOUT, "20-10"),
)
EQUAL_COST = {
    f"{lift}-{steps}": plain
    for lift in (ON_WORLD, FITTED)
    for steps, plain in (("20-10", PLAIN), ("8-6", "plain-10"), ("8-3", "plain-6"), ("4-2", "plain-4"))
}
SAME_STEPS = (
    _lifted(ON_WORLD, "20-10"), _at_three_quarters("20-10"), _plain(4), _lifted(ON_WORLD, "2-2"), _at_three_quarters("2-2"),
)  # fmt: skip
SAME_STEPS_AS = {
    row.name: "plain-30" if row.steps == "20-10" else "plain-4" for row in SAME_STEPS if row.spec != PRESETS["plain"]
}
BOUNDARIES = (
    *(_with_boundary(FITTED, boundary) for boundary in (0.602, 0.9)),
    _with_boundary(ON_WORLD, 0.9),
    Row("auto-three", "a fitted lift, three stages H x W", "20-20-10", THREE, grid="shift", lift=FITTED),
    Row("auto-thw", "a fitted lift, two stages T x H x W", "20-10", ALL_AXES, grid="shift", lift=FITTED),
)
CUT_POWER = 0.64
"""Mean square of the DCT coefficients of clean latents at the highest frequency of the low stage, 4 cycles, in the scale of the
model: SPEED's power law, 3.43 w^-1.21, fitted to 32 rendered clips."""


def speed_boundary(power: float, tolerance: float = 0.01) -> float:
    """Return SPEED's boundary (arXiv 2605.18736) as a natural level.

    The low stage ends where noise masks its highest frequency, at sigma = 1 / (1 + sqrt(d / (P (1 + P - d)))).

    Args:
        power: P, mean square of the coefficients at that frequency.
        tolerance: d, the smallest of the values that SPEED recommends.
    """
    sigma = 1 / (1 + math.sqrt(tolerance / (power * (1 + power - tolerance))))
    return shift_sigma(sigma, 2.0)


RIVALS = (
    Row(
        "speed", "SPEED (noisy latent, DCT, its boundary)", "20-10",
        replace(TWO, resize="dct", boundaries=(speed_boundary(CUT_POWER),)), grid="shift",
    ),
    Row("selflift", "SelfLift-zero", "20-10", TWO, shift=8.0, rival="selflift"),
    Row("jenga", "ProRes of Jenga, as in LightX2V", "9-9", TWO, shift=8.0, rival="jenga"),
)  # fmt: skip


def _knows_full_size_only(row: Row) -> Row:
    """Return the row with weights that have never seen a small video."""
    return replace(row, name=f"full-size-{row.name}", model=FULL_SIZE_MODEL, clips=64)


def _at_half_size(row: Row) -> Row:
    """Return the plain row at half width and height."""
    return replace(row, name=f"half-size-{row.name}", label=f"{row.label}, at half width and height", side=SIDE // 2)


def _full_size_first(steps: int, row: Row) -> Row:
    """Return a training-free row whose first steps run at full size."""
    label = f"{row.label}, {steps} of the low steps at full size first"
    return replace(row, name=f"u-{steps}-{row.name.removeprefix(f'{ON_WORLD}-')}", label=label, full_size_first=steps)


PLAIN_FULL_SIZE = _knows_full_size_only(BASE)
FULL_SIZE_ONLY = tuple(
    _knows_full_size_only(row)
    for row in (
        _plain(30), *(_plain(steps) for steps in (10, 6, 4)),
        _at_half_size(BASE),
        _lifted(ON_WORLD, "20-10"), _lifted(FITTED, "20-10"), _lifted(THROUGH_PIXELS, "20-10"), _lifted(WITHOUT, "20-10"),
        *(_with_boundary(ON_WORLD, boundary) for boundary in (0.9, 0.95)),
        _at_three_quarters("20-10"),
        EARLY_AT_THREE_QUARTERS,
        *(_full_size_first(steps, _lifted(ON_WORLD, "20-10")) for steps in (2, 5)),
        _full_size_first(5, _at_three_quarters("20-10")),
    )
)  # fmt: skip
"""Ratios, boundaries, hand-overs and U runs with weights that have never seen a small video."""


def _scanned(name: str, label: str, steps: str = "8-3", boundary: float = 0.8, **settings: Any) -> Row:
    """Return a row of the scan: a fitted lift, few steps, the boundary given."""
    spec = replace(TWO, boundaries=(boundary,))
    return Row(f"scan-{name}", label, steps, spec, grid="shift", lift=FITTED, clips=64, **settings)


DIVIDED = tuple(
    _scanned(f"{steps}-{boundary}", f"boundary {boundary:g}", steps, boundary)
    for boundary in (0.602, 0.7, 0.8, 0.9, 0.95)
    for steps in ("3-4", "8-3", "13-2")
)
"""Divisions of the cost of five plain steps."""

DIVIDED_LARGER = tuple(
    _scanned(f"{steps}-{boundary}", f"boundary {boundary:g}", steps, boundary)
    for boundary in (0.8, 0.9)
    for steps in ("4-13", "8-12")
)
"""Divisions of the cost of 20-10."""

SCAN = (
    *DIVIDED,
    *(_scanned(f"cfg-{cfg}", f"boundary 0.8, cfg {cfg}", cfg=cfg) for cfg in ("6-4", "4-6", "4-2")),
    *(_scanned(f"shift-{shift:g}", f"boundary 0.8, shift {shift:g}", shift=shift) for shift in (3.0, 8.0)),
)


def _from_image(name: str, label: str, steps: str, spec: PyramidSpec = TWO, **settings: Any) -> Row:
    """Return a row of the image-to-video model, which is given the first frame of a rendered clip."""
    return Row(f"i2v-{name}", label, steps, spec, model=IMAGE_MODEL, clips=64, **settings)


PLAIN_FROM_IMAGE = _from_image("plain-50", "plain, 50 steps", "50", PRESETS["plain"])
FROM_IMAGE = (
    *(_from_image(f"plain-{steps}", f"plain, {steps} steps", steps, PRESETS["plain"]) for steps in ("10", "4")),
    *(
        row
        for steps in ("20-10", "8-6", "4-2")
        for row in (
            _from_image(f"auto-{steps}", "training-free, a fitted lift", steps, lift=FITTED),
            _from_image(f"averaged-{steps}", "the same, the image averaged instead of dropped", steps, lift=FITTED, drop=False),
            _from_image(f"none-{steps}", "training-free, no lift", steps),
        )
    ),
)
FOUR_STEP_LORA = "runs/tiny/0-0-4_dmd_lora.toml"


def _four_steps(name: str, label: str, steps: str, spec: PyramidSpec, sampler: str = "lcm", lift: str = "none") -> Row:
    """Return a row of stock weights with a four-step LoRA, as artists run them: without cfg, at the levels of shift 5."""
    lora = _exported(load_config(DistillConfig, ROOT / FOUR_STEP_LORA).out)
    return Row(
        f"lora-{name}", label, steps, spec, "1", plain_lora=lora, sampler=sampler, lift=lift, clips=128, config=FOUR_STEP_LORA
    )  # fmt: skip


WITH_FOUR_STEP_LORA = _four_steps("plain-4", "plain with the LoRA", "4", PRESETS["plain"])
FOUR_STEPS = (
    *(
        _four_steps(f"linear-{steps}", f"training-free, {LIFTS[ON_WORLD]}", steps, TWO, lift=ON_WORLD)
        for steps in ("2-2", "3-1")
    ),
    _four_steps("auto-2-2", f"training-free, {LIFTS[FITTED]}", "2-2", TWO, lift=FITTED),
    _four_steps("none-2-2", f"training-free, {LIFTS[WITHOUT]}", "2-2", TWO),
    _four_steps("plain-4-euler", "plain with the LoRA, euler", "4", PRESETS["plain"], "euler"),
    _four_steps("linear-2-2-euler", f"training-free, {LIFTS[ON_WORLD]}, euler", "2-2", TWO, "euler", ON_WORLD),
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
    _finetuned("ppf", "larger patches at full size, 600 steps of 4 clips"),
    _finetuned("ppf_early", "the same, the last stage from 0.9 instead of 0.8"),
    _finetuned("tpdiff", "TPDiff: frame rates alone, 600 steps of 4 clips"),
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
    *(_student(f"0-0-{steps}_adv", "plain, by adv") for steps in (4, 2, 1)),
    _student("2-2-1_dmd-ot", "by dmd-ot"),
    _student("2-2-1_dmd-ppf", "larger patches at full size, by dmd-ppf"),
    _student("2-2-1_dmd-ppf_simulated", "by dmd-ppf, from the student's own run"),
    _student("2-2-1_dmd-ppf_early", "the same, the last stage from 0.9 instead of 0.8"),
    _student("2-2-1_dmd-pt", "by dmd-pt"),
    _student("2-2-1_dmd-pt-star", "by dmd-pt-star"),
    _student("2-2-1_dmd-pt-star_lora", "by dmd-pt-star, a LoRA of rank 32 instead of all weights"),
    _student("2-2-1_dmd-pt-star_no_teach", "by dmd-pt-star without L_teach"),
    _student("2-2-1_adv-od", "by adv-od"),
    _student("2-2-1_adv-od_low_levels", "by adv-od, predictions noised to 0.36 instead of 0.6"),
    _student("2-2-1_adv-od_no_discriminator", "by adv-od, the pull to the data alone"),
    _student("2-2-1_adv-od_pyramidal_features", "by adv-od, on features of the pyramidal model"),
    _student("2-2-1_adv-od_no_reconstruction", "by adv-od, without the pull to the data"),
    _student("2-2-1_adv-od_simulated", "by adv-od, from the student's own run"),
    _student("2-2-1_adv-pd", "by adv-pd"),
    _student("2-2-1_adv-pd_plain_features", "by adv-pd, on features of the plain model"),
)
LONGER = tuple(
    replace(row, name=f"{row.name}-{LONGER_FRAMES}", frames=LONGER_FRAMES, clips=LONGER_CLIPS)
    for row in (BASE, BEST, next(row for row in ABLATIONS if row.name == "tpdiff"))
)


def _of_leaves(row: Row) -> Row:
    """Return the same row on the dead leaves, at a guidance scale that leaves the energies about those of the data."""
    return replace(row, name=f"leaves-{row.name}", cfg="2", model=LEAVES_MODEL, world=LEAVES.name, clips=64)


PLAIN_LEAVES = _of_leaves(BASE)
OF_LEAVES = tuple(
    _of_leaves(row)
    for row in (
        *(_plain(steps) for steps in (10, 6, 4)),
        *(_lifted(lift, steps) for lift in (FITTED, ON_WORLD) for steps in ("20-10", "8-6", "8-3", "4-2")),
        *(_lifted(WITHOUT, steps) for steps in ("20-10", "4-2")),
    )
)
BOUNDARIES_OF_LEAVES = tuple(
    _of_leaves(row)
    for row in (
        _plain(20), _plain(14), _plain(5),
        *(_with_boundary(FITTED, boundary) for boundary in (0.9, 0.95)),
        _at_three_quarters("20-10"), EARLY_AT_THREE_QUARTERS,
        *DIVIDED_LARGER,
        *(row for row in DIVIDED if row.steps != "13-2" and row.spec.boundaries in ((0.8,), (0.9,))),
    )
)  # fmt: skip
EQUAL_COST_OF_LEAVES = {f"leaves-{row}": f"leaves-{plain}" for row, plain in EQUAL_COST.items()}


@dataclass(frozen=True)
class Group:
    """The rows of one table.

    Attributes:
        title: Heading.
        rows: The rows; the first is the one with which the others are compared.
        margin: Points by which a row may be worse than the first, at the pessimistic end of the confidence
            interval.
        equal_cost: Training-free rows by name, and the plain ones of at least the same cost that they are compared with.
        note: Text below the tables.
    """

    title: str
    rows: tuple[Row, ...]
    margin: float
    equal_cost: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


GROUPS = (
    Group("Stock weights: training-free against plain steps", (BASE, *STOCK), 2.0, EQUAL_COST),
    Group(
        "Dead leaves, stock weights: training-free against plain steps",
        (PLAIN_LEAVES, *OF_LEAVES),
        2.0,
        EQUAL_COST_OF_LEAVES,
        note="The world of `tiny_wan/leaves/` has the statistics of natural images, which its VAE blurs. Detail, motion, "
        "distance, diversity, energies and patches are therefore relative to rendered clips that were encoded and "
        "decoded; the first row of the last table is of the same clips before that. Octave 1 is what block means of 2x2 "
        "pixels remove, octave 2 what those of 4x4 remove besides, and so on. Patches: Fréchet distance of random "
        "projections of patches of 4 frames, the mean of the four octaves, in units of the reference's variance "
        "(`tiny_wan/world/octaves.py`); in parentheses is the 95 % bootstrap interval of the difference from the first "
        "row. Camera: movement along the prompt's direction, relative to the reference. The guidance scale is 2 instead of 4, "
        "at which contrast is too high.",
    ),
    Group("Dead leaves, stock weights: other boundaries", (PLAIN_LEAVES, *BOUNDARIES_OF_LEAVES), 2.0),
    Group("Stock weights: as many steps, with and without a small stage", (_plain(30), *SAME_STEPS), 2.0, SAME_STEPS_AS),
    Group(
        "Weights that have never seen a small video",
        (PLAIN_FULL_SIZE, *FULL_SIZE_ONLY),
        2.0,
        note="Videos of half width and height are enlarged before they are measured, so their detail is that of the enlarged "
        "video.",
    ),
    Group("Stock weights: other boundaries and stages", (BASE, *BOUNDARIES), 2.0),
    Group("Stock weights: how to divide the cost of five steps", (BASE, *SCAN), 2.0),
    Group("Stock weights: how to divide the cost of 20-10", (BASE, replace(_plain(14), clips=64), *DIVIDED_LARGER), 2.0),
    Group("Stock weights: other methods", (BASE, *RIVALS), 2.0),
    Group("Stock weights with a four-step LoRA", (WITH_FOUR_STEP_LORA, *FOUR_STEPS), 2.0),
    Group("Image to video, stock weights", (PLAIN_FROM_IMAGE, *FROM_IMAGE), 5.0),
    Group("Finetuned for three stages", (BASE, BEST, *ABLATIONS), 5.0),
    Group("Distilled to a few steps", (BASE, BEST, UNTRAINED, *STUDENTS), 6.0),
    Group(
        "Longer videos than in training",
        LONGER,
        10.0,
        note=f"{LONGER_FRAMES} frames from weights that were trained on {FRAMES}; the shares for 1.3B are at 161 x 448 x 832. "
        f"Clips of the tiny world show one movement whatever their length, so motion is 1 at half the speed per frame that was "
        "trained, and about 2 at that speed.",
    ),
)
ROWS = tuple(dict.fromkeys(row for group in GROUPS for row in group.rows))
