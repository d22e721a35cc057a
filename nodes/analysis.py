"""What a pyramid costs, and boundaries measured on real clips."""

from __future__ import annotations

from comfy_api.latest import io

from ..plots.bands import band_chart, band_text
from ..plots.chart import draw
from ..plots.cost import cost_chart, cost_text
from ..pyramid.stages import PRESETS
from ..samplers.analysis import as_image, calibrate, cost_of
from ..samplers.schedule import levels_for, steps_problem
from .sampler import CFG_TOOLTIP
from .schedule import STEPS_TOOLTIP, grid_widgets
from .schema import Pyramid, schema, tell


class PyramidalWanCost(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanCost",
            display_name="Pyramidal Cost",
            description="What a run costs before it is started: tokens and TFLOPs of every stage, and the share of 50 steps at "
            "full size, as text and as a picture. Nothing is sampled.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["flops", "speed", "estimate", "pyramid"],
            inputs=[
                io.Latent.Input("latent", tooltip="A latent of the full size."),
                io.String.Input(
                    "steps",
                    default="20-10",
                    tooltip=STEPS_TOOLTIP + " Each step counts as one call of the model; heun and other samplers that call it "
                    "twice cost twice as much.",
                ),
                io.String.Input("cfg", default="6", tooltip=CFG_TOOLTIP),
                *grid_widgets(),
                Pyramid.Input("pyramid", optional=True, tooltip="The pyramid; without it the training-free one."),
                io.Model.Input("model", optional=True, tooltip="The model to count for; without it Wan 2.1 1.3B."),
            ],
            outputs=[
                io.String.Output("text", display_name="text", tooltip="The count, one line per stage."),
                io.Image.Output("chart", display_name="chart", tooltip="Noise level over the steps, with each stage's cost."),
            ],
        )

    @classmethod
    def validate_inputs(cls, steps):
        return steps_problem(steps) or True

    @classmethod
    def execute(cls, latent, steps, cfg, grid, shift, pyramid=None, model=None) -> io.NodeOutput:
        spec = pyramid or PRESETS["training-free"]
        costs, plain = cost_of(latent, spec, steps, cfg, model)
        _, levels = levels_for(spec, steps, grid, shift)
        text = cost_text(costs, plain)
        tell(cls, text)
        return io.NodeOutput(text, as_image(draw(cost_chart(costs, levels, plain))))


class PyramidalWanCalibrate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanCalibrate",
            display_name="Pyramidal Calibrate",
            description="Measures on encoded clips above which noise level each stage's missing detail drowns, and proposes "
            "the boundaries of the pyramid there.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["spectrum", "boundaries", "pyramid"],
            inputs=[
                io.Latent.Input("latent", tooltip="Encoded real clips, best many and typical ones (a batch)."),
                io.Float.Input(
                    "threshold",
                    default=0.1,
                    min=0.001,
                    max=10.0,
                    step=0.01,
                    round=0.001,
                    tooltip="The ratio of signal to noise under which detail counts as drowned. Smaller is more careful: later "
                    "stages start at more noise.",
                ),
                Pyramid.Input(
                    "pyramid",
                    optional=True,
                    tooltip="The pyramid whose boundaries to measure; without it the three-stage one.",
                ),
            ],
            outputs=[
                Pyramid.Output("pyramid_out", display_name="pyramid", tooltip="The pyramid with measured boundaries."),
                io.Image.Output("chart", display_name="chart", tooltip="Signal to noise of each band, and the boundaries."),
                io.String.Output("text", display_name="text", tooltip="The boundaries as text."),
            ],
        )

    @classmethod
    def execute(cls, latent, threshold, pyramid=None) -> io.NodeOutput:
        spec, bands = calibrate(latent, pyramid or PRESETS["pyramidal-wan"], threshold)
        text = band_text(bands, threshold)
        tell(cls, text)
        return io.NodeOutput(spec, as_image(draw(band_chart(bands, threshold))), text)
