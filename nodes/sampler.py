"""Sampling through a pyramid."""

from __future__ import annotations

from comfy_api.latest import io

from ..samplers.allowed import sampler_names
from ..samplers.one_node import sample_with_conds
from ..samplers.schedule import steps_problem
from .schedule import STEPS_TOOLTIP, grid_widgets
from .schema import Pyramid, schema


class PyramidalWanSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanSampler",
            display_name="Pyramidal Sampler",
            description="Samples a Wan video through a pyramid: noisy steps at low resolution and frame rate, only the "
            "cleanest ones at full size. Without a pyramid it takes the training-free one, which is for stock weights.",
            search_aliases=["ksampler", "pyramid", "wan fast", "multi-stage", "2-2-1", "20-20-10"],
            inputs=[
                io.Model.Input("model", tooltip="A Wan 2.1 or 2.2 (14B) model, with any LoRAs and patches."),
                io.Conditioning.Input("positive", tooltip="What the video should show."),
                io.Conditioning.Input("negative", tooltip="What it should not show; unused when cfg is 1."),
                io.Latent.Input("latent", tooltip="The video's size: 'Pyramidal Empty Latent' makes one that fits."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed makes the same video on every device.",
                ),
                io.String.Input("steps", default="20-10", tooltip=STEPS_TOOLTIP),
                io.String.Input(
                    "cfg",
                    default="6",
                    tooltip="How closely to follow the prompt: one number, or one for each stage from low to high resolution, "
                    "such as 5-6-4. 1 leaves the negative prompt out and halves the time; distilled models want 1.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=sampler_names(),
                    default="euler",
                    tooltip="How each stage is sampled. Pyramidal models want a deterministic one (euler, heun, dpmpp_2m, "
                    "uni_pc); distilled ones pyramid_few_step. Stock weights take any.",
                ),
                *grid_widgets(),
                Pyramid.Input(
                    "pyramid",
                    optional=True,
                    tooltip="The pyramid; without it the training-free one: 2 stages, for stock weights.",
                ),
            ],
            outputs=[
                io.Latent.Output("samples", display_name="latent", tooltip="The video."),
                io.Latent.Output("denoised", display_name="denoised", tooltip="The last step's prediction of it."),
            ],
        )

    @classmethod
    def validate_inputs(cls, steps):
        return steps_problem(steps) or True

    @classmethod
    def execute(
        cls, model, positive, negative, latent, seed, steps, cfg, sampler_name, grid, shift, pyramid=None
    ) -> io.NodeOutput:
        result = sample_with_conds(
            model, positive, negative, latent, pyramid,
            seed=seed, steps=steps, cfg=cfg, sampler_name=sampler_name, grid=grid, shift=shift,
        )  # fmt: skip
        return io.NodeOutput(result.output, result.denoised)
