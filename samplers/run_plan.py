"""The plan of one run: the text about it, and the times of its steps, known before or measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..pyramid.flops import WanDimensions
from .comfyui.latents import pixels_per_latent
from .comfyui.network_size import dimensions_of
from .comfyui.timings import keep_timings, key_of, read_timings, seconds_per_pass
from .run_inputs import RunInputs
from .run_report import IGNORES_LATENT, PlannedStage, describe_run, note_on_sizes, plan, setting_warnings
from .start import Start
from .supported_samplers import ONE_PASS, name_of


@dataclass(frozen=True)
class RunPlan:
    """The stages of a run, the text about it and the key of its times.

    Attributes:
        running: The stages that run.
        summary: Lines about the run.
        show: Shows a text; None shows nothing.
        batch: Number of videos.
        key: Key of the model's times; None for samplers whose steps are not timed.
        dimensions: Sizes of the transformer.
    """

    running: Sequence[PlannedStage]
    summary: str
    show: Callable[[str], None] | None
    batch: int
    key: str | None
    dimensions: WanDimensions

    @classmethod
    def of(cls, run: RunInputs, start: Start, indices: Sequence[int]) -> RunPlan:
        """Return the plan of a run that starts at ``start`` and runs the stages ``indices``."""
        model, sampler = run.guider.model_patcher, name_of(run.sampler)
        steps = [len(run.levels[stage.index]) - 1 if stage.index in indices else 0 for stage in start.stages]
        dimensions = dimensions_of(model)
        cfgs = {stage.index: _cfg_of(run, stage.index) for stage in start.stages}
        stages = plan(run.spec, start.full, steps, pixels=pixels_per_latent(model), dimensions=dimensions, cfgs=cfgs)
        used = [cfgs[index] for index in indices]
        warnings = setting_warnings(model, run.spec, run.levels, sampler, used, run.models.get(0))
        if start.ignores_latent:
            warnings.append(IGNORES_LATENT)
        notes = [*run.notes, *note_on_sizes(run.spec, start.full, model)]
        summary = "\n".join([*(f"warning: {warning}" for warning in warnings), describe_run(stages), *notes])
        timed = sampler in ONE_PASS
        running = [stage for stage in stages if stage.steps]
        batch = start.noises[0].shape[0]
        return cls(running, summary, run.report, batch, key_of(dimensions, model) if timed else None, dimensions)

    @contextmanager
    def reporting(self) -> Iterator[Callable[[str], None] | None]:
        """Show the summary, then whatever the given function gets above it, and the summary again at the end."""
        if self.show is None:
            yield None
            return
        show = self.show
        show(self.summary)
        try:
            yield lambda line: show(f"{line}\n{self.summary}")
        finally:
            show(self.summary)

    def known_seconds(self, stage: PlannedStage) -> float | None:
        """Return the seconds of a step of a stage on this machine, or None."""
        if self.key is None:
            return None
        each = seconds_per_pass(self.key, stage.tokens, self.dimensions, read_timings())
        return None if each is None else each * stage.calls * self.batch

    def keep_times(self, seconds: Mapping[int, Sequence[float]]) -> None:
        """Keep the measured seconds of the steps of each stage."""
        measured = {
            stage.tokens: statistics.median(seconds[stage.index]) / stage.calls / self.batch
            for stage in self.running
            if seconds[stage.index]
        }
        if self.key is not None and measured:
            keep_timings(self.key, measured)


def _cfg_of(run: RunInputs, index: int) -> float:
    """Return the cfg of a stage; 1 for a guider that has none."""
    guider_cfg: Any = getattr(run.guider, "cfg", 1.0)
    return run.cfgs.get(index, float(guider_cfg) if isinstance(guider_cfg, (int, float)) else 1.0)
