"""Configuration of a distillation run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from ...forms import FLOW, Form
from ...noise_levels import shift_sigma
from ...schedules import parse_steps, stage_levels
from ...stages import PyramidSpec
from .run_config import MAX_STEPS, RunConfig, TrainSection, check_steps
from .settings import Adapter, ModelSize, Name, Optimizer, Share, StageSteps, Validation
from .toml_config import Section


@dataclass(frozen=True)
class RecipeTraits:
    """The choices that a distillation recipe's name stands for.

    Attributes:
        adversarial: Train against a discriminator instead of by distribution matching.
        plain_path: Noise predictions along the ordinary flow at the stage's size, for a plain teacher; otherwise along the
            stage's own path, for a pyramidal one.
        full_gradient: Carry the matching gradient back through the pyramidal path (DMD-PT), instead of using it as it is
            (DMD-PT*). The two agree on a plain path.
        baseline: The plain model at full size, without a pyramid.
        patches: The student reads latents of full size in patches of several sizes; the teacher is plain Wan at full size.
    """

    adversarial: bool = False
    plain_path: bool = False
    full_gradient: bool = False
    baseline: bool = False
    patches: bool = False


RECIPES = {
    "dmd": RecipeTraits(plain_path=True, baseline=True),
    "dmd-ot": RecipeTraits(plain_path=True),
    "dmd-pt": RecipeTraits(full_gradient=True),
    "dmd-pt-star": RecipeTraits(),
    "dmd-ppf": RecipeTraits(plain_path=True, patches=True),
    "adv": RecipeTraits(adversarial=True, plain_path=True, baseline=True),
    "adv-od": RecipeTraits(adversarial=True, plain_path=True),
    "adv-pd": RecipeTraits(adversarial=True),
}
PATCHES = " or ".join(f"'{name}'" for name, traits in RECIPES.items() if traits.patches)
BASELINES = " or ".join(f"'{name}'" for name, traits in RECIPES.items() if traits.baseline)


class Networks(Section):
    """The networks that distillation starts from."""

    student: Name = Field(description="the few-step model starts from this: the pyramidal one (plain for recipe 'dmd')")
    teacher: Name = Field(
        description="real score, and where the critic starts: pyramidal for dmd-pt, plain for dmd, dmd-ot, dmd-ppf"
    )
    size: ModelSize = Field(default="1.3B", description="1.3B or 14B: for the estimates of --dry-run before the files exist")
    gradient_checkpointing: bool = Field(default=True, description="recompute activations: a third more time, less memory")


class DistillTrain(TrainSection):
    """Length of the run and size of its batches."""

    steps: PositiveInt = Field(
        default=4000, le=MAX_STEPS, description="iterations, each of which updates the critic (guess: 3 to 5 thousand)"
    )
    critic_updates: PositiveInt = Field(
        default=5, le=1000, description="critic updates for each update of the student (DMD2: 5; Neodragon: 2)"
    )
    inputs: Literal["data", "simulated"] = Field(
        default="data",
        description="the student's inputs: data noised to its levels (PW), or its own run from noise (DMD2's backward "
        "simulation), which lets dmd recipes train on prompts alone",
    )


class DistillLosses(Section):
    """Weights and noise levels of the losses; the student's matching gradient has weight 1."""

    teach: NonNegativeFloat = Field(default=0.01, le=1e6, description="weight of L_teach, the pull to the data (PW)")
    teach_kind: Literal["cauchy", "mse"] = Field(default="cauchy", description="form of L_teach (guess: Neodragon's)")
    cfg: NonNegativeFloat = Field(default=5.0, le=100.0, description="of the teacher (guess)")
    lowest: Share = Field(default=0.02, description="lowest level that predictions are noised to (DMD2)")
    highest: Share = Field(
        default=0.98,
        description="highest level that predictions are noised to (DMD2): a sigma for plain teachers; for pyramidal ones a "
        "local time of each stage, where 0.6 at full size is sigma 0.36",
    )
    blurred: Literal["auto", "dropped", "low band"] = Field(
        default="auto",
        description="what blurs a prediction that is noised along its stage's path (dmd-pt, dmd-pt-star, adv-pd): a map to the "
        "coarser stage fitted on the cache, as the teacher was trained (dropped), or its low band (PW); auto: dropped if the "
        "cache has definition 'pixels'",
    )
    shift: PositiveFloat = Field(
        default=5.0,
        le=1000.0,
        description="flow shift of the levels that dmd, dmd-ot and dmd-ppf noise predictions to (Self-Forcing: 5; CausVid: 8)",
    )

    def second_rho(self, numbers: Tensor, *, shift: float = 1.0) -> Tensor:
        """Map uniform numbers in [0, 1) to levels from ``lowest`` to ``highest``; a shift above 1 prefers high ones."""
        return self.lowest + shift_sigma(numbers, shift) * (self.highest - self.lowest)


def _check_taps(taps: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(taps)) < len(taps):
        raise ValueError("each block may be used once")
    return taps


class Discriminator(Section):
    """For the adversarial recipes: heads on features of the frozen teacher."""

    adversarial: NonNegativeFloat = Field(default=1.0, le=1e6, description="weight of the student's hinge loss (PW)")
    reconstruction: NonNegativeFloat = Field(
        default=2.0, le=1e6, description="weight of the pull to the data, pseudo-Huber (PW)"
    )
    taps: Annotated[tuple[NonNegativeInt, ...], AfterValidator(_check_taps)] = Field(
        default=(7, 15, 22, 29), min_length=1, max_length=64, description="transformer blocks whose outputs are used (guess)"
    )
    width: PositiveInt = Field(
        default=256, le=8192, multiple_of=4, description="channels inside the heads, a multiple of 4 (guess)"
    )


class DistillConfig(RunConfig):
    """One distillation run."""

    recipe: Literal["dmd", "dmd-ot", "dmd-pt", "dmd-pt-star", "dmd-ppf", "adv", "adv-od", "adv-pd"] = Field(
        default="dmd-pt-star",
        description="dmd, adv: plain student; -ot, -od: plain teacher or features; -pt, -pt-star, -pd: pyramidal ones; "
        "dmd-ppf: student of a pyramid of patches, plain teacher at full size",
    )
    schedule: StageSteps = Field(default="2-2-1", description="the student's steps, low to high resolution")
    grid: Literal["uniform", "shift"] = Field(
        default="uniform", description="spacing of a stage's steps: uniform in its sigma (guess), or uniform before the shift"
    )
    shift: PositiveFloat = Field(default=5.0, le=1000.0, description="flow shift of grid 'shift' (Wan)")
    networks: Networks
    train: DistillTrain = DistillTrain()
    losses: DistillLosses = DistillLosses()
    student: Optimizer = Optimizer(learning_rate=2e-6, warm_up=0, betas=(0.0, 0.999), ema=0.99)
    critic: Optimizer = Optimizer(learning_rate=2e-6, warm_up=0, betas=(0.0, 0.999), ema=0.0)
    discriminator: Discriminator = Discriminator()
    adapter: Adapter = Adapter()
    validation: Validation = Validation(steps="2-2-1", cfg=1.0)

    @property
    def traits(self) -> RecipeTraits:
        """Return the choices that ``recipe`` stands for."""
        return RECIPES[self.recipe]

    @property
    def base_checkpoint(self) -> str:
        """Return the transformer that the student starts from."""
        return self.networks.student

    @property
    def checkpoints_by_setting(self) -> dict[str, str]:
        """Return the transformers by setting."""
        return {"networks.student": self.networks.student, "networks.teacher": self.networks.teacher}

    @property
    def base_size(self) -> str:
        """Return ``networks.size``."""
        return self.networks.size

    @property
    def exported_network(self) -> str:
        """Return the name of the student."""
        return "student"

    @property
    def exported_optimizer(self) -> Optimizer:
        """Return the student's optimiser."""
        return self.student

    @property
    def gradient_checkpointing(self) -> bool:
        """Return ``networks.gradient_checkpointing``."""
        return self.networks.gradient_checkpointing

    @property
    def simulates_inputs(self) -> bool:
        """Return whether the student's inputs come from its own run from noise."""
        return self.train.inputs == "simulated"

    @property
    def needs_videos(self) -> bool:
        """Return False if the student's inputs are simulated and no discriminator compares them with data."""
        return self.traits.adversarial or not self.simulates_inputs

    @property
    def blurs(self) -> bool:
        """Return whether predictions are noised along paths from a blurred signal."""
        spec = self.pyramid.spec()
        return not self.traits.plain_path and spec.field == "pyramidal" and spec.number_of_stages > 1

    @property
    def draws_twice(self) -> bool:
        """Return True: the student's predictions are noised again."""
        return True

    @property
    def aligns_noise(self) -> bool:
        """Return False: the student's inputs follow the path that its sampler visits."""
        return False

    @property
    def dropped_prompts(self) -> float:
        """Return 0: a student runs without cfg."""
        return 0.0

    @property
    def form(self) -> Form:
        """Return the flow form, the only one that distillation supports."""
        return FLOW

    @property
    def student_levels(self) -> list[tuple[float, ...]]:
        """Return the natural levels that the student's steps start from, for each stage in running order."""
        return trained_levels(self.pyramid.spec(), self.schedule, grid=self.grid, shift=self.shift)

    @property
    def student_updates(self) -> int:
        """Return the number of optimiser steps of the student in the whole run."""
        return -(-self.train.steps // self.train.critic_updates)

    @model_validator(mode="after")
    def _check_combinations(self) -> DistillConfig:
        check_steps("schedule", self.schedule, self.pyramid.spec().number_of_stages)
        preset = self.pyramid.preset
        if self.traits.baseline and preset != "plain":
            raise ValueError(f"recipe '{self.recipe}' requires pyramid.preset 'plain'; got '{preset}'")
        if preset == "plain" and not self.traits.baseline:
            raise ValueError(f"pyramid.preset 'plain' requires recipe {BASELINES}; got '{self.recipe}'")
        if self.traits.patches != (self.pyramid.spec().coarse == "patches"):
            raise ValueError(
                f"a pyramid of patches (pyramid.preset 'ppf') and recipe {PATCHES} require each other; got pyramid.preset "
                f"'{preset}' and recipe '{self.recipe}'"
            )
        name, pull = (
            ("discriminator.reconstruction", self.discriminator.reconstruction)
            if self.traits.adversarial
            else ("losses.teach", self.losses.teach)
        )
        if self.simulates_inputs and pull:
            raise ValueError(f"train.inputs 'simulated' predicts from no data, so {name} must be 0; got {pull:g}")
        if self.losses.blurred == "dropped" and not self.blurs:
            raise ValueError(
                "losses.blurred 'dropped' requires a recipe that noises predictions along a pyramid's path, such as "
                f"'dmd-pt-star'; got '{self.recipe}' and pyramid.preset '{preset}'"
            )
        if self.losses.lowest >= self.losses.highest:
            raise ValueError(f"losses.lowest {self.losses.lowest} must be smaller than losses.highest {self.losses.highest}")
        return self


def trained_levels(spec: PyramidSpec, schedule: str, *, grid: str = "uniform", shift: float = 1.0) -> list[tuple[float, ...]]:
    """Return the natural levels that each stage's steps start from; by default rho = 1, 1 - 1/K, ... for K steps (a guess)."""
    steps = parse_steps(schedule, spec.number_of_stages)
    return [levels[:-1] for levels in stage_levels(spec, steps, grid=grid, shift=shift)]
