"""One progress bar with previews over all stages of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import latent_preview
from torch import Tensor

from ..pyramid.stages import Stage

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


SamplerCallback = Callable[[int, Tensor, Tensor, int], None]
"""Called after each step with its number, the clean prediction, the sample and the number of all steps."""


class Progress:
    """The progress of a run, and the last clean prediction of each stage.

    ComfyUI's callback is made once per run, because making it may load a preview model.

    Attributes:
        clean: Last clean prediction by stage index, in the scale of the VAE.
    """

    def __init__(
        self, model: ModelPatcher, indices: Sequence[int], steps: Sequence[int], callback: SamplerCallback | None = None
    ):
        """Prepare the bar.

        Args:
            model: MODEL of the run.
            indices: Indices of the stages that run.
            steps: Number of steps of each.
            callback: Callback of the sampler that the run belongs to; None makes ComfyUI's own.
        """
        self.clean: dict[int, Tensor] = {}
        self._latest: dict[str, Tensor] = {}
        self._steps = dict(zip(indices, steps, strict=True))
        self._report = callback or latent_preview.prepare_callback(model, sum(steps), self._latest)

    def ends_in(self, stage: Stage) -> bool:
        """Return whether the stage is the last that runs."""
        return stage.index == max(self._steps)

    def callback(self, stage: Stage, enlarge: Callable[[Tensor], Tensor] | None = None) -> SamplerCallback:
        """Return the callback for the sampler of a stage; it counts steps over the whole run.

        Args:
            stage: The stage.
            enlarge: Brings clean predictions to the size that they are shown at; None shows them as they are.
        """
        offset = sum(count for index, count in self._steps.items() if index < stage.index)
        stage_steps, total = self._steps[stage.index], sum(self._steps.values())

        def step_done(step: int, denoised: Tensor, x: Tensor, _total: int) -> None:
            self._latest["x0"] = denoised
            shown = denoised if enlarge is None else enlarge(denoised)
            self._report(offset + min(step, stage_steps - 1), shown, x, total)

        return step_done

    def stage_done(self, stage: Stage, model: ModelPatcher) -> None:
        """Keep the stage's last clean prediction, scaled for the VAE."""
        if "x0" in self._latest:
            self.clean[stage.index] = model.model.process_latent_out(self._latest.pop("x0").cpu())
