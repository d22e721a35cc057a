"""The schedule node, and the widgets of every node that makes a schedule."""

from __future__ import annotations

from comfy_api.latest import io

from ..samplers.comfyui.flow_shift import flow_shift
from ..samplers.schedule import GRID_CHOICES, schedule_for, steps_problem, to_sigmas
from .schema import Pyramid, advanced, checked, schema

STEPS_TOOLTIP = (
    "Steps per stage, from low to high resolution: 20-20-10 is 20 at the lowest, 20 at the middle and 10 at full resolution. "
    "A single number is for the whole run and is split: with shift 8, 30 is 20-10. A leading 0 skips the lowest stage; the "
    "next one is then called low."
)


def grid_widgets() -> list[io.Input]:
    """Return the widgets that choose how steps are spaced."""
    return [
        advanced(
            io.Combo.Input(
                "grid",
                options=list(GRID_CHOICES),
                default="auto",
                tooltip="How steps are spaced. auto: uniform for pyramidal models; for stock weights the levels of an ordinary "
                "run, and the boundaries move to them. uniform: evenly in the noise. shift: by a flow shift in each stage. "
                "distilled: timesteps of a step-distilled LoRA for plain Wan, also in the low stages.",
            )
        ),
        advanced(
            io.Float.Input(
                "shift",
                default=0.0,
                min=0.0,
                max=100.0,
                step=0.1,
                round=0.01,
                tooltip="Flow shift. 0: that of the model, which ModelSamplingSD3 sets, otherwise 8. Larger: more steps at "
                "high noise; Wan uses 3 to 8. The grid uniform does not use it.",
            )
        ),
    ]


class PyramidalWanSchedule(io.ComfyNode):
    """Steps per stage as SIGMAS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanSchedule",
            display_name="Pyramidal Schedule",
            description="Turns steps per stage into SIGMAS: natural noise levels that fall from 1 to 0 and include every "
            "boundary. Use it with 'Pyramidal Sampler (Advanced)' and in graphs wired by hand.",
            search_aliases=["scheduler", "sigmas", "steps per stage", "20-20-10", "2-2-1"],
            inputs=[
                Pyramid.Input("pyramid", tooltip="The pyramid the steps are for."),
                io.String.Input("steps", default="20-10", tooltip=STEPS_TOOLTIP),
                *grid_widgets(),
                io.Model.Input("model", optional=True, tooltip="Optional: the model whose flow shift is used if shift is 0."),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Only for the grid distilled and a pyramid whose scale is not half: the run's full-size latent.",
                ),
            ],
            outputs=[
                io.Sigmas.Output("sigmas", display_name="sigmas", tooltip="Natural noise levels, falling from 1 to 0."),
                Pyramid.Output(
                    "pyramid_out",
                    display_name="pyramid",
                    tooltip="The pyramid of these SIGMAS; connect this one from here on. It lacks stages skipped with 0 and "
                    "has the boundaries that the grid moves.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, steps=None):
        """Return True, or what is wrong with a widget before anything runs."""
        return (None if steps is None else steps_problem(steps)) or True

    @classmethod
    @checked
    def execute(cls, pyramid, steps, grid, shift, model=None, latent=None) -> io.NodeOutput:
        """Return the SIGMAS and the pyramid they are for."""
        spec, levels = schedule_for(pyramid, steps, grid, flow_shift(shift, model), latent)
        return io.NodeOutput(to_sigmas(levels), spec)
