"""The pyramid as a value in the graph: a preset, or one of the user's own."""

from __future__ import annotations

from comfy_api.latest import io

from ..pyramid.axes import AUTO_SCALE, SCALES
from ..pyramid.resize import RESIZES
from ..pyramid.stages import COARSE, FIELDS, FIRST_FRAME, PRESETS, ROPE, STOCK, TIMESTEP_SOURCES, PyramidSpec
from ..pyramid.untrusted import shown
from .schema import Pyramid, checked, explaining, schema, show_text

DEFAULT = "training-free"
CHOICES = [DEFAULT, "wan2.2-t2v", "wan2.2-i2v", "pyramidal-wan", "pyramidal-flow", "tpdiff", "plain", "ppf"]
SEARCH = ["pyramid", "multi-stage", "stages", "2-2-1"]
FOR_NODES = "For every node with a pyramid input."


class PyramidalWanPreset(io.ComfyNode):
    """One of the ready-made pyramids."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanPreset",
            display_name="Pyramid",
            description="Chooses how a video is sampled coarse to fine. Use 'training-free' for stock Wan weights; the other "
            "pyramids need weights that were finetuned for them.",
            hidden=[io.Hidden.unique_id],
            search_aliases=[*SEARCH, "wan fast", "preset"],
            inputs=[
                explaining(
                    io.Combo.Input(
                        "preset",
                        options=CHOICES,
                        default=DEFAULT,
                        tooltip="training-free: stock weights, 2 stages in width and height. wan2.2-t2v, wan2.2-i2v: "
                        "the same for its two experts, changing size with the expert. pyramidal-wan: finetuned weights, "
                        "3 stages, halves time, width and height. pyramidal-flow: 3 stages, width and height. tpdiff: "
                        "3 stages, frame rate. plain: 1 stage, ordinary sampling. ppf: finetuned weights, 3 stages of full "
                        "size, larger patches.",
                    ),
                    {(name, scale): preset_text(name, scale) for name in CHOICES for scale in (AUTO_SCALE, *SCALES)},
                    also="scale",
                ),
                io.Combo.Input(
                    "scale",
                    options=[AUTO_SCALE, *SCALES],
                    default=AUTO_SCALE,
                    optional=True,
                    tooltip="Width and height of the low stage, for stock weights. auto: the smallest that keeps 480 pixels, "
                    "which Wan was trained at: two thirds for 720p, three quarters for 480p. half: fastest, for larger "
                    "videos. Finetuned pyramids keep the scales they were trained with.",
                ),
            ],
            outputs=[Pyramid.Output("pyramid", display_name="pyramid", tooltip=FOR_NODES)],
        )

    @classmethod
    @checked
    def execute(cls, preset: str, scale: str = AUTO_SCALE) -> io.NodeOutput:
        """Return the preset and show its values on the node."""
        spec = preset_spec(preset, scale)
        show_text(cls, describe(spec))
        return io.NodeOutput(spec)


class PyramidalWanCustom(io.ComfyNode):
    """A pyramid from values of the user's own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanCustom",
            display_name="Custom Pyramid",
            description="Builds a pyramid from values of your own, for experiments and for weights whose file does not name "
            "their pyramid. It starts with the values of 'training-free'.",
            search_aliases=[*SEARCH, "boundaries", "spec"],
            inputs=[*_transition_widgets(), *_weights_widgets()],
            outputs=[Pyramid.Output("pyramid", display_name="pyramid", tooltip=FOR_NODES)],
        )

    @classmethod
    @checked
    def execute(
        cls, boundaries: str, downsample_axes: str, resize: str, field: str, timestep_source: str, first_frame: str, rope: str,
        coarse: str = "latents",
    ) -> io.NodeOutput:  # fmt: skip
        """Return the pyramid that the widgets describe."""
        levels, axes = parse_boundaries(boundaries), parse_axes(downsample_axes)
        return io.NodeOutput(PyramidSpec(levels, axes, resize, field, timestep_source, first_frame, rope, coarse))


def _transition_widgets() -> list[io.Input]:
    default = STOCK
    return [
        io.String.Input(
            "boundaries",
            default=", ".join(map(str, default.boundaries)),
            tooltip="Natural noise levels at which the resolution changes, from low to high resolution, so falling: one "
            "fewer than stages, between 0 and 1, such as 0.896, 0.602. The grids auto and distilled move those of "
            "stock weights.",
        ),
        io.String.Input(
            "downsample_axes",
            default=", ".join(default.downsample_axes),
            tooltip="What each transition halves, from low to high resolution: THW (time, height, width), HW or T. As many "
            "as boundaries. HW 2/3 shrinks to two thirds instead, HW auto as far as stock Wan tolerates.",
        ),
        io.Combo.Input(
            "resize",
            options=list(RESIZES),
            default=default.resize,
            tooltip="How latents are halved and doubled in width and height. haar: averages of 2x2. dct: lower half of the "
            "spectrum. The others are wavelets and need PyWavelets. Scales such as 2/3 always use the spectrum.",
        ),
    ]


def _weights_widgets() -> list[io.Input]:
    default = STOCK
    return [
        io.Combo.Input(
            "field",
            options=list(FIELDS),
            default=default.field,
            tooltip="natural: stock weights. pyramidal: weights finetuned for a pyramid.",
        ),
        io.Combo.Input(
            "timestep_source",
            options=list(TIMESTEP_SOURCES),
            default=default.timestep_source,
            tooltip="Which noise level the model gets as its timestep; it must be the one it was trained with. sigma: stock "
            "weights. natural: PyramidalWan weights. pyramid-flow: Pyramidal Flow weights.",
        ),
        io.Combo.Input(
            "first_frame",
            options=list(FIRST_FRAME),
            default=default.first_frame,
            tooltip="At half the frame rate the first frame has no partner to average with and keeps more noise. shared: "
            "treated like the others, for stock weights. per-frame: noise levels of its own, for PyramidalWan weights.",
        ),
        io.Combo.Input(
            "rope",
            options=list(ROPE),
            default=default.rope,
            tooltip="Positions of the rotary embedding. native: 0, 1, 2 in every stage. scaled: spaced as in the full video.",
        ),
        io.Combo.Input(
            "coarse",
            options=list(COARSE),
            default=default.coarse,
            optional=True,
            tooltip="What is coarser in the early stages. latents: the video is smaller. patches: the video keeps its size and "
            "is read in larger patches, which needs weights with layers for them (ppf).",
        ),
    ]


def parse_boundaries(text: str) -> tuple[float, ...]:
    """Return the numbers of a list such as ``0.896, 0.602``.

    Raises:
        ValueError: An entry is not a number.
    """
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"boundaries must be numbers separated by commas, such as 0.896, 0.602; got {shown(text)}") from None


def parse_axes(text: str) -> tuple[str, ...]:
    """Return the entries of a list such as ``THW, HW 2/3``."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def preset_spec(preset: str, scale: str) -> PyramidSpec:
    """Return the pyramid of a preset with a scale.

    Raises:
        ValueError: One of them is unknown, or they do not fit together.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; expected {', '.join(CHOICES)}")
    if scale not in (AUTO_SCALE, *SCALES):
        raise ValueError(f"unknown scale {scale!r}; expected {', '.join((AUTO_SCALE, *SCALES))}")
    spec = PRESETS[preset]
    if spec.for_stock_weights:
        return spec.scaled(scale)
    if scale != AUTO_SCALE:
        raise ValueError(f"the weights of '{preset}' were finetuned for its scales; set scale to auto, got '{scale}'")
    return spec


def preset_text(preset: str, scale: str) -> str:
    """Return the text on the node for a choice of both widgets: the values of the pyramid, or the error."""
    try:
        return describe(preset_spec(preset, scale))
    except ValueError as error:
        return str(error)


def describe(spec: PyramidSpec) -> str:
    """Return the values of a pyramid, by the names of the widgets of 'Custom Pyramid'."""
    count = f"{spec.number_of_stages} stage" + ("s" if spec.number_of_stages > 1 else "")
    if not spec.boundaries:
        return f"{count}, ordinary sampling"
    levels = ", ".join(f"{boundary:.6g}" for boundary in spec.boundaries)
    moved = " (moved to steps)" if spec.for_stock_weights else ""
    lines = (
        count,
        f"boundaries: {levels}{moved}",
        f"downsample_axes: {', '.join(spec.downsample_axes)}",
        f"resize: {spec.resize} · field: {spec.field}",
        f"timestep_source: {spec.timestep_source}",
        f"first_frame: {spec.first_frame} · rope: {spec.rope}",
        f"coarse: {spec.coarse}",
    )
    return "\n".join(lines)
