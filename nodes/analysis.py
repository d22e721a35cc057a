"""Nodes that count the cost of a run and measure boundaries on real clips."""

from __future__ import annotations

from comfy_api.latest import io

from ..plots.bands import band_chart, band_text
from ..plots.cost import cost_chart, cost_text
from ..plots.drawing import draw
from ..pyramid.stages import PRESETS, STOCK
from ..samplers.analysis import as_image, calibrate, cost_of, labels_of, times_of
from ..samplers.comfyui.flow_shift import flow_shift
from ..samplers.comfyui.latents import full_size, spec_at
from ..samplers.comfyui.timings import timings_age
from ..samplers.schedule import levels_for, steps_problem
from .sampler import CFG_TOOLTIP
from .schedule import STEPS_TOOLTIP, grid_widgets
from .schema import ANALYSIS, Pyramid, checked, schema, show_text


class PyramidalWanCostEstimate(io.ComfyNode):
    """Operation counts of a run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanCostEstimate",
            display_name="Pyramidal Cost Estimate",
            category=ANALYSIS,
            description="Counts the operations of a run before it starts, compared with 50 steps at full size, and the share "
            "of each stage; with times once a run of such a model has been timed on this machine. Nothing is sampled.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["flops", "speed", "estimate", "pyramid"],
            inputs=[
                io.Latent.Input("latent", tooltip="A latent of the full size."),
                io.String.Input(
                    "steps",
                    default="20-10",
                    tooltip=STEPS_TOOLTIP
                    + " Counted as one model call per step; heun and others with two calls cost twice as much.",
                ),
                io.String.Input("cfg", default="6", tooltip=CFG_TOOLTIP),
                *grid_widgets(),
                Pyramid.Input("pyramid", optional=True, tooltip="Optional: the pyramid; otherwise training-free."),
                io.Model.Input("model", optional=True, tooltip="Optional: the model to count for; otherwise Wan 2.1 1.3B."),
            ],
            outputs=[
                io.String.Output("text", display_name="text", tooltip="The counts, one line per stage."),
                io.Image.Output(
                    "chart", display_name="chart", tooltip="Noise level over the steps, with the cost of each stage."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, steps=None):
        """Return True, or what is wrong with a widget before anything runs."""
        return (None if steps is None else steps_problem(steps)) or True

    @classmethod
    @checked
    def execute(cls, latent, steps, cfg, grid, shift, pyramid=None, model=None) -> io.NodeOutput:
        """Return the counts as text and as a chart."""
        spec, shift = spec_at(pyramid or STOCK, latent), flow_shift(shift, model)
        costs, plain = cost_of(latent, spec, steps, cfg, model, shift=shift)
        _, levels = levels_for(spec, steps, grid, shift, full_size(latent)[0])
        labels = labels_of(latent, spec, model)
        text = cost_text(costs, plain, labels, times_of(costs, model))
        show_text(cls, text)
        return io.NodeOutput(text, as_image(draw(cost_chart(costs, levels, plain, labels))))

    @classmethod
    def fingerprint_inputs(cls, **_):
        """Return a value that changes when runs have been timed."""
        return timings_age()


class PyramidalWanCalibrate(io.ComfyNode):
    """Boundaries measured on encoded clips."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanCalibrate",
            display_name="Pyramidal Calibrate",
            category=ANALYSIS,
            description="Measures on encoded clips the noise level above which the detail that a smaller stage lacks is "
            "lost in the noise, and moves the pyramid's boundaries there.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["spectrum", "boundaries", "pyramid"],
            inputs=[
                io.Latent.Input("latent", tooltip="Encoded real clips, ideally many typical ones in a batch."),
                io.Float.Input(
                    "threshold",
                    default=0.1,
                    min=0.001,
                    max=10.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Signal-to-noise ratio below which detail counts as lost. Smaller is more careful: later stages "
                    "start at more noise.",
                ),
                Pyramid.Input(
                    "pyramid",
                    optional=True,
                    tooltip="Optional: the pyramid whose boundaries are measured; otherwise pyramidal-wan with three stages.",
                ),
            ],
            outputs=[
                Pyramid.Output("pyramid_out", display_name="pyramid", tooltip="The pyramid with measured boundaries."),
                io.Image.Output(
                    "chart", display_name="chart", tooltip="Signal-to-noise ratio of each band, and the boundaries."
                ),
                io.String.Output("text", display_name="text", tooltip="The boundaries as text."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, latent, threshold, pyramid=None) -> io.NodeOutput:
        """Return the pyramid with measured boundaries, the chart and the text."""
        spec, bands = calibrate(latent, pyramid or PRESETS["pyramidal-wan"], threshold)
        text = band_text(bands, threshold)
        show_text(cls, text)
        return io.NodeOutput(spec, as_image(draw(band_chart(bands, threshold))), text)
