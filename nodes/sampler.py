"""Sampling through a pyramid in one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..pyramid.stage_names import AUTO, STAGE_CHOICES
from ..samplers.options import StageOptions, cfg_problem, check_parts, check_widgets, sample_with_conds, sample_with_guider
from ..samplers.schedule import steps_problem
from ..samplers.supported_samplers import sampler_names
from .schedule import STEPS_TOOLTIP, grid_widgets
from .schema import Pyramid, advanced, schema

CFG_TOOLTIP = (
    "How closely to follow the prompt: one number, or one for each stage from low to high resolution, such as 5-6-4. 1 leaves "
    "the negative prompt out and halves the time; distilled models want 1."
)


class PyramidalWanSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanSampler",
            display_name="Pyramidal Sampler",
            description="Samples a Wan video through a pyramid: noisy steps at low resolution and frame rate, only the "
            "cleanest ones at full size. Without a pyramid it takes the one that the model's stage LoRAs were trained for, or "
            "the training-free one for stock weights. Step-distilled LoRAs made for plain Wan work with the "
            "training-free pyramid: cfg 1, grid 'distilled' with the LoRA's shift (5 for most), and steps that add up to the "
            "LoRA's, such as 2-2 for a four-step one.",
            search_aliases=["ksampler", "pyramid", "wan fast", "multi-stage", "2-2-1", "20-20-10"],
            inputs=[
                io.Model.Input("model", lazy=True, tooltip="A Wan 2.1 or 2.2 (14B) model, with any LoRAs and patches."),
                io.Conditioning.Input("positive", lazy=True, tooltip="What the video should show."),
                io.Conditioning.Input("negative", lazy=True, tooltip="What it should not show; unused when cfg is 1."),
                io.Latent.Input(
                    "latent",
                    tooltip="The video's size ('Pyramidal Empty Latent' makes one that fits), an encoded video to start from "
                    "when denoise is below 1, or the output of a run that ended with an earlier stage.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed draws the same noise on every device.",
                ),
                io.String.Input("steps", default="20-10", tooltip=STEPS_TOOLTIP),
                io.String.Input("cfg", default="6", tooltip=CFG_TOOLTIP),
                io.Combo.Input(
                    "sampler_name",
                    options=sampler_names(),
                    default="euler",
                    tooltip="How each stage is sampled. Pyramidal models want a deterministic one (euler, heun, dpmpp_2m, "
                    "uni_pc); distilled ones pyramid_few_step. Stock weights take any.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="1 makes a new video. Below 1 an encoded video is changed: only this share of the steps "
                    "is run, the last ones, "
                    "from the video noised to where they start.",
                ),
                *grid_widgets(),
                *_stage_range_widgets(),
                *_optional_sockets("The pyramid; without it the one of the model's stage LoRAs, or the training-free one."),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def validate_inputs(cls, steps):
        return steps_problem(steps) or True  # the host repeats the answer for every input named here

    @classmethod
    def check_lazy_status(cls, steps, cfg, sampler_name, grid, shift, start_stage, end_stage, pyramid=None, **inputs):
        options = StageOptions(cfg, start_stage=start_stage, end_stage=end_stage)
        check_widgets(pyramid, options, steps=steps, sampler_name=sampler_name, grid=grid, shift=shift)
        return _waiting(inputs)

    @classmethod
    def execute(
        cls, model, positive, negative, latent, seed, steps, cfg, sampler_name, denoise, grid, shift, start_stage, end_stage,
        pyramid=None, model_mid=None, model_low=None,
    ) -> io.NodeOutput:  # fmt: skip
        result = sample_with_conds(
            model, positive, negative, latent, pyramid, StageOptions(cfg, model_mid, model_low, start_stage, end_stage),
            seed=seed, steps=steps, denoise=denoise, sampler_name=sampler_name, grid=grid, shift=shift,
        )  # fmt: skip
        return io.NodeOutput(result.output, result.denoised, result.drafts)


class PyramidalWanSamplerAdvanced(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanSamplerAdvanced",
            display_name="Pyramidal Sampler (Advanced)",
            description="The pyramidal sampler around the host's own parts: any noise, guider and sampler, and SIGMAS that are "
            "natural noise levels through the whole pyramid, from 'Pyramidal Schedule' or any scheduler. Sigmas that start "
            "below 1 change an encoded video.",
            search_aliases=["samplercustomadvanced", "custom sampling", "pyramid", "guider"],
            inputs=[
                io.Noise.Input("noise", tooltip="The run's noise; every further draw is derived from its seed."),
                io.Guider.Input("guider", lazy=True, tooltip="Model and prompts. The model must not be bound to a stage."),
                io.Sampler.Input(
                    "sampler",
                    tooltip="How each stage is sampled; 'Pyramidal Few-Step Sampler' is for distilled models.",
                ),
                io.Sigmas.Input("sigmas", tooltip="Natural noise levels falling to 0; cut at the pyramid's boundaries."),
                io.Latent.Input(
                    "latent",
                    tooltip="The video's size, an encoded video where the SIGMAS start below 1, or the output of a run that "
                    "ended with an earlier stage.",
                ),
                io.String.Input(
                    "cfg",
                    default="",
                    tooltip="Leave empty for the guider's own, or one number for each stage. " + CFG_TOOLTIP,
                ),
                *_stage_range_widgets(),
                *_optional_sockets(
                    "The pyramid; without it the one of the model's stage LoRAs, or the training-free one. The pyramid output "
                    "of 'Pyramidal Schedule' belongs here when its grid is distilled or its steps begin with 0."
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def validate_inputs(cls, cfg):
        return (cfg_problem(cfg) if cfg.strip() else None) or True

    @classmethod
    def check_lazy_status(cls, sampler, sigmas, cfg, start_stage, end_stage, pyramid=None, **inputs):
        if pyramid is not None:
            options = StageOptions(cfg, start_stage=start_stage, end_stage=end_stage)
            check_parts(pyramid, options, sampler=sampler, sigmas=sigmas)
        return _waiting(inputs)

    @classmethod
    def execute(
        cls,
        noise,
        guider,
        sampler,
        sigmas,
        latent,
        cfg,
        start_stage,
        end_stage,
        pyramid=None,
        model_mid=None,
        model_low=None,
    ) -> io.NodeOutput:
        options = StageOptions(cfg, model_mid, model_low, start_stage, end_stage)
        result = sample_with_guider(noise, guider, sampler, sigmas, latent, pyramid, options)
        return io.NodeOutput(result.output, result.denoised, result.drafts)


def _waiting(inputs: dict[str, Any]) -> list[str]:
    """Connected inputs that are not there yet: the host makes lazy ones only when they are asked for."""
    return [name for name, value in inputs.items() if value is None]


def _stage_range_widgets() -> list[io.Input]:
    choices: dict[str, Any] = {"options": [AUTO, *STAGE_CHOICES], "default": AUTO}
    return [
        advanced(
            io.Combo.Input(
                "start_stage",
                **choices,
                tooltip="The first stage to run: low, mid, high, or a number from 0. auto: the lowest, or the one after the "
                "stage whose output the latent is. Stages that steps leave out with 0 do not count.",
            )
        ),
        advanced(
            io.Combo.Input(
                "end_stage",
                **choices,
                tooltip="The last stage to run. auto: the highest. End with 'low' to look at a draft, then give its latent to "
                "a second sampler with the same settings to finish it: the result is that of an uninterrupted run.",
            )
        ),
    ]


def _optional_sockets(pyramid: str) -> list[io.Input]:
    return [
        Pyramid.Input("pyramid", optional=True, tooltip=pyramid),
        io.Model.Input(
            "model_mid",
            optional=True,
            lazy=True,
            tooltip="Another model for the stages between the lowest and the highest one that run, if wanted.",
        ),
        io.Model.Input(
            "model_low",
            optional=True,
            lazy=True,
            tooltip="Another model for the lowest stage that runs, if wanted, such as a larger one.",
        ),
    ]


def _outputs() -> list[io.Output]:
    return [
        io.Latent.Output("samples", display_name="latent", tooltip="The video; or what the last stage that ran ended with."),
        io.Latent.Output("denoised", display_name="denoised", tooltip="The last step's prediction of the clean video."),
        io.Latent.Output(
            "drafts",
            display_name="drafts",
            is_output_list=True,
            tooltip="The clean prediction of every stage that ran, low to high resolution, as a list: decode it to look.",
        ),
    ]
