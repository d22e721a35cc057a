"""Steps per stage as a curve of noise levels."""

from __future__ import annotations

from comfy_api.latest import io

from ..samplers.schedule import GRID_CHOICES, levels_for, steps_problem, to_sigmas
from .schema import Pyramid, advanced, schema

STEPS_TOOLTIP = (
    "Steps of each stage, from low to high resolution, joined by '-': 20-20-10 is 20 steps at the lowest, 20 at the middle "
    "and 10 at full resolution. As many numbers as the pyramid has stages. A leading 0 leaves out the lowest stage; the next "
    "one is then called low."
)


def grid_widgets() -> list[io.Input]:
    """How steps are spaced; shared by all nodes that make a schedule."""
    return [
        advanced(
            io.Combo.Input(
                "grid",
                options=list(GRID_CHOICES),
                default="auto",
                tooltip="How the steps of a stage are spaced. uniform: evenly in the noise. shift: by a flow shift, as stock "
                "Wan. auto: uniform for a pyramidal model, shift for stock weights. distilled: for step-distilled LoRAs of "
                "plain Wan; the model is told exactly the levels it was trained on, and the boundaries move to them.",
            )
        ),
        advanced(
            io.Float.Input(
                "shift",
                default=5.0,
                min=0.01,
                max=100.0,
                step=0.1,
                round=0.01,
                tooltip="The flow shift of the grids 'shift' and 'distilled'. Larger spends more steps on high noise. Wan uses "
                "3 to 8.",
            )
        ),
    ]


class PyramidalWanSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanSchedule",
            display_name="Pyramidal Schedule",
            description="Steps per stage, low to high resolution, as SIGMAS: natural noise levels from 1 to 0 through the "
            "whole pyramid, with every boundary among them. Any other scheduler's SIGMAS work, too.",
            search_aliases=["scheduler", "sigmas", "steps per stage", "20-20-10", "2-2-1"],
            inputs=[
                Pyramid.Input("pyramid", tooltip="The pyramid the steps are for."),
                io.String.Input("steps", default="20-10", tooltip=STEPS_TOOLTIP),
                *grid_widgets(),
            ],
            outputs=[
                io.Sigmas.Output("sigmas", display_name="sigmas", tooltip="Natural noise levels, falling from 1 to 0."),
                Pyramid.Output(
                    "pyramid_out",
                    display_name="pyramid",
                    tooltip="The pyramid of these SIGMAS, for the nodes that get them: the one that came in, without the "
                    "stages that leading zeros leave out, and with the boundaries that the grid distilled moves.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, steps):
        return steps_problem(steps) or True

    @classmethod
    def execute(cls, pyramid, steps, grid, shift) -> io.NodeOutput:
        spec, levels = levels_for(pyramid, steps, grid, shift)
        return io.NodeOutput(to_sigmas(levels), spec)
