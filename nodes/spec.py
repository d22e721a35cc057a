"""The pyramid as a value in the graph."""

from __future__ import annotations

from comfy_api.latest import io

from ..pyramid.resize import RESIZES
from ..pyramid.stages import FIELDS, FIRST_FRAME, PRESETS, ROPE, TIMESTEP_SOURCES, PyramidSpec
from .schema import Pyramid, advanced, schema

CUSTOM = "custom"


class PyramidalWanSpec(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanSpec",
            display_name="Pyramid",
            description="Which pyramid to sample through. 'training-free' is for stock Wan weights, 'pyramidal-wan' for "
            "weights that were finetuned for it. Choose 'custom' to use the other widgets.",
            search_aliases=["pyramid", "multi-stage", "wan fast", "stages", "2-2-1"],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=["training-free", "pyramidal-wan", "pyramidal-flow", "tpdiff", "plain", CUSTOM],
                    default="training-free",
                    tooltip="training-free: stock weights, 2 stages, halves width and height. pyramidal-wan: finetuned "
                    "weights, 3 stages, halves time, width and height. pyramidal-flow: 3 stages in width and height. "
                    "tpdiff: 3 stages in frame rate. plain: 1 stage, ordinary sampling. custom: the widgets below.",
                ),
                *[advanced(widget) for widget in _custom_widgets()],
            ],
            outputs=[Pyramid.Output("pyramid", display_name="pyramid", tooltip="For every pyramidal node.")],
        )

    @classmethod
    def execute(cls, preset, boundaries, downsample_axes, resize, field, timestep_source, first_frame, rope) -> io.NodeOutput:
        return io.NodeOutput(
            spec_from_widgets(preset, boundaries, downsample_axes, resize, field, timestep_source, first_frame, rope)
        )


def _custom_widgets() -> list[io.Input]:
    default = PRESETS["pyramidal-wan"]
    return [
        io.String.Input(
            "boundaries",
            default=", ".join(map(str, default.boundaries)),
            tooltip="Only for 'custom'. Natural noise levels at the transitions, from low to high resolution, so falling; "
            "one less than there are stages, between 0 and 1.",
        ),
        io.String.Input(
            "downsample_axes",
            default=", ".join(default.downsample_axes),
            tooltip="Only for 'custom'. What each transition halves, from low to high resolution: THW (time, height and "
            "width), HW or T; as many as boundaries.",
        ),
        io.Combo.Input(
            "resize",
            options=list(RESIZES),
            default=default.resize,
            tooltip="Only for 'custom'. How latents are halved and doubled in space. haar: averages of 2x2. dct: lower half "
            "of the spectrum. The others are wavelets and need PyWavelets.",
        ),
        io.Combo.Input(
            "field",
            options=list(FIELDS),
            default=default.field,
            tooltip="Only for 'custom'. pyramidal: the weights were finetuned for a pyramid. natural: stock weights.",
        ),
        io.Combo.Input(
            "timestep_source",
            options=list(TIMESTEP_SOURCES),
            default=default.timestep_source,
            tooltip="Only for 'custom'. How the model is told how noisy the video is; it must be the way it was trained. "
            "sigma: for stock weights. natural: for weights of PyramidalWan. pyramid-flow: for weights of Pyramidal Flow.",
        ),
        io.Combo.Input(
            "first_frame",
            options=list(FIRST_FRAME),
            default=default.first_frame,
            tooltip="Only for 'custom'. At half the frame rate two frames become one, but the first one stays single and so "
            "keeps more noise. shared: treated like all others, for stock weights. per-frame: with noise levels of its own, "
            "for weights of PyramidalWan.",
        ),
        io.Combo.Input(
            "rope",
            options=list(ROPE),
            default=default.rope,
            tooltip="Only for 'custom'. native: positions count 0, 1, 2 in every stage. scaled: they keep their distance in "
            "the full video.",
        ),
    ]


def spec_from_widgets(preset, boundaries, downsample_axes, resize, field, timestep_source, first_frame, rope) -> PyramidSpec:
    """The preset, or the spec that the custom widgets describe; ValueError in plain words."""
    if preset != CUSTOM:
        if preset not in PRESETS:
            raise ValueError(f"there is no preset '{preset}'; there are {', '.join([*PRESETS, CUSTOM])}")
        return PRESETS[preset]
    try:
        levels = tuple(float(part) for part in boundaries.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"boundaries are numbers separated by commas, such as 0.896, 0.602; got '{boundaries}'") from None
    axes = tuple(part.strip().upper() for part in downsample_axes.split(",") if part.strip())
    return PyramidSpec(levels, axes, resize, field, timestep_source, first_frame, rope)
