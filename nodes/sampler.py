"""The sampler nodes: a whole pyramidal run in one node."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from comfy_api.latest import io

from ..pyramid.stage_names import AUTO, STAGE_CHOICES
from ..pyramid.stages import PyramidSpec
from ..samplers.comfyui.queued_graph import spec_in_graph
from ..samplers.early_checks import check_inputs, check_parts, check_widgets
from ..samplers.options import StageOptions, cfg_problem, sample_with_conds, sample_with_guider
from ..samplers.quality import CUSTOM, DEFAULT, QUALITIES, QUALITY_CHOICES
from ..samplers.schedule import steps_problem
from ..samplers.supported_samplers import sampler_names
from .schedule import STEPS_TOOLTIP, grid_widgets
from .schema import Lift, Pyramid, advanced, checked, checked_lazily, schema, setting, text_reporter

PROMPTS = ("positive", "negative")
MODELS = ("model", "guider", "middle_stage_model", "first_stage_model")

CFG_TOOLTIP = (
    "How closely to follow the prompt: one number, or one per stage from low to high resolution, such as 5-6-4. 1 ignores the "
    "negative prompt and halves the time; use it for distilled models."
)


class PyramidalWanSampler(io.ComfyNode):
    """The whole run in one node, with prompts as CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanSampler",
            display_name="Pyramidal Sampler",
            description="Samples a Wan video coarse to fine: early, noisy steps at low resolution, the last steps at full "
            "size. Without a pyramid it uses the one of your LoRAs, otherwise 'training-free'.",
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            search_aliases=["ksampler", "pyramid", "wan fast", "multi-stage", "2-2-1", "20-20-10"],
            inputs=[
                io.Model.Input(
                    "model",
                    lazy=True,
                    tooltip="A Wan 2.1 or 2.2 model, with any LoRAs and patches. Of the two Wan 2.2 14B models, the low-noise "
                    "expert.",
                ),
                io.Conditioning.Input("positive", lazy=True, tooltip="What the video should show."),
                io.Conditioning.Input("negative", lazy=True, tooltip="What it should not show; not used when cfg is 1."),
                io.Latent.Input(
                    "latent",
                    tooltip="An empty latent of the video's size, an encoded video if denoise is below 1, or the output of "
                    "a run that ended with an earlier stage.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed draws the same noise on every device.",
                ),
                _quality_widget(),
                io.String.Input("steps", default=QUALITIES[DEFAULT].steps, tooltip=STEPS_TOOLTIP),
                io.String.Input("cfg", default=QUALITIES[DEFAULT].cfg, tooltip=CFG_TOOLTIP),
                io.Combo.Input(
                    "sampler_name",
                    options=sampler_names(),
                    default="euler",
                    tooltip="Stock weights take any sampler. Finetuned pyramidal models require a deterministic one such as "
                    "euler, heun, dpmpp_2m or uni_pc; distilled ones require pyramid_few_step.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="1 makes a new video. Below 1 the latent is an encoded video: it is noised, and only this share "
                    "of the steps, the last ones, runs.",
                ),
                *grid_widgets(),
                *_stage_range_widgets(),
                *_optional_sockets(
                    tooltip="Optional: the pyramid; otherwise that of the model's stage LoRAs, or training-free."
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def validate_inputs(cls, steps=None):
        """Return True, or what is wrong with a widget before anything runs."""
        return (None if steps is None else steps_problem(steps)) or True  # ComfyUI repeats it for every input named here

    @classmethod
    @checked_lazily
    def check_lazy_status(
        cls, latent, steps, cfg, sampler_name, grid, shift, start_stage, end_stage, quality=CUSTOM, pyramid=None, lift=None,
        **inputs,
    ):  # fmt: skip
        """Check the widgets, the latent and the prompts, then name the inputs to evaluate next; models come last."""
        options = StageOptions(cfg, start_stage=start_stage, end_stage=end_stage, lift=lift)
        spec = pyramid or _spec_in_graph(cls)
        running = check_widgets(
            spec, options, steps=steps, sampler_name=sampler_name, grid=grid, shift=shift, quality=quality
        )  # fmt: skip
        if running is not None:
            check_inputs(running, latent, [inputs[name] for name in PROMPTS if inputs.get(name) is not None])
        return _not_evaluated({name: inputs.get(name) for name in PROMPTS}) or _not_evaluated(inputs)

    @classmethod
    @checked
    def execute(
        cls, model, positive, negative, latent, seed, steps, cfg, sampler_name, denoise, grid, shift, start_stage, end_stage,
        pyramid=None, middle_stage_model=None, first_stage_model=None, lift=None, quality=CUSTOM,
    ) -> io.NodeOutput:  # fmt: skip
        """Return the final latent, the last clean prediction and the drafts."""
        options = StageOptions(cfg, middle_stage_model, first_stage_model, start_stage, end_stage, lift)
        result = sample_with_conds(
            model, positive, negative, latent, pyramid, options, seed=seed, steps=steps, denoise=denoise,
            sampler_name=sampler_name, grid=grid, shift=shift, quality=quality, report=text_reporter(cls),
        )  # fmt: skip
        return io.NodeOutput(result.output, result.denoised, result.drafts)


class PyramidalWanSamplerAdvanced(io.ComfyNode):
    """The whole run in one node, with NOISE, GUIDER, SAMPLER and SIGMAS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanSamplerAdvanced",
            display_name="Pyramidal Sampler (Advanced)",
            description="The pyramidal sampler for ComfyUI's NOISE, GUIDER, SAMPLER and SIGMAS. Use it for guiders, "
            "schedulers or samplers that 'Pyramidal Sampler' does not offer.",
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            search_aliases=["samplercustomadvanced", "custom sampling", "pyramid", "guider"],
            inputs=[
                io.Noise.Input("noise", tooltip="The run's noise; all further noise is derived from its seed."),
                io.Guider.Input(
                    "guider", lazy=True, tooltip="Model and prompts. The model must not come from 'Pyramidal Stage Model'."
                ),
                io.Sampler.Input(
                    "sampler",
                    tooltip="How each stage is sampled. Distilled pyramidal models require 'Pyramidal Few-Step Sampler'.",
                ),
                io.Sigmas.Input(
                    "sigmas",
                    tooltip="Natural noise levels from 'Pyramidal Schedule' or any scheduler. If they start below 1, the "
                    "latent must be an encoded video. They may end above 0 for another sampler to continue.",
                ),
                io.Latent.Input(
                    "latent",
                    tooltip="An empty latent of the video's size, an encoded video if the SIGMAS start below 1, or the "
                    "output of a run that ended with an earlier stage.",
                ),
                io.String.Input(
                    "cfg",
                    default="",
                    tooltip="Leave empty for the cfg of the guider. " + CFG_TOOLTIP,
                ),
                *_stage_range_widgets(),
                *_optional_sockets(
                    tooltip="Optional: the pyramid; otherwise that of the model's stage LoRAs, or training-free. With "
                    "'Pyramidal Schedule', connect its pyramid output."
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def validate_inputs(cls, cfg=None):
        """Return True, or what is wrong with a widget before anything runs."""
        return (cfg_problem(cfg) if cfg and cfg.strip() else None) or True

    @classmethod
    @checked_lazily
    def check_lazy_status(cls, latent, sampler, sigmas, cfg, start_stage, end_stage, pyramid=None, lift=None, **inputs):
        """Check the widgets and the latent, then name the inputs that are not evaluated yet."""
        spec = pyramid or _spec_in_graph(cls)
        if spec is not None:
            options = StageOptions(cfg, start_stage=start_stage, end_stage=end_stage, lift=lift)
            check_parts(spec, options, sampler=sampler, sigmas=sigmas)
            check_inputs(spec, latent)
        return _not_evaluated(inputs)

    @classmethod
    @checked
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
        middle_stage_model=None,
        first_stage_model=None,
        lift=None,
    ) -> io.NodeOutput:
        """Return the final latent, the last clean prediction and the drafts."""
        options = StageOptions(cfg, middle_stage_model, first_stage_model, start_stage, end_stage, lift)
        result = sample_with_guider(noise, guider, sampler, sigmas, latent, pyramid, options, report=text_reporter(cls))
        return io.NodeOutput(result.output, result.denoised, result.drafts)


def _spec_in_graph(node: type[io.ComfyNode]) -> PyramidSpec | None:
    """Return the pyramid that the files of the queued graph imply for a sampler without one, or None."""
    dynprompt, node_id = (getattr(node.hidden, "dynprompt", None), getattr(node.hidden, "unique_id", None))
    return spec_in_graph(dynprompt, node_id, MODELS)


def _quality_widget() -> io.Input:
    widget = io.Combo.Input(
        "quality",
        options=QUALITY_CHOICES,
        default=DEFAULT,
        tooltip="Sets steps, cfg, grid and shift together. draft: 15 steps. balanced: 30 steps. detail: 50 steps. "
        "four-step LoRA: 2-2 steps, cfg 1 and shift 5, for step-distilled LoRAs of Wan. custom: the values of the widgets. "
        "Changing one of them sets quality to custom.",
    )
    return setting(widget, {quality: asdict(settings) for quality, settings in QUALITIES.items()}, otherwise=CUSTOM)


def _not_evaluated(inputs: dict[str, Any]) -> list[str]:
    """Return the connected inputs without a value yet; ComfyUI evaluates lazy ones only on request."""
    return [name for name, value in inputs.items() if value is None]


def _stage_range_widgets() -> list[io.Input]:
    choices: dict[str, Any] = {"options": [AUTO, *STAGE_CHOICES], "default": AUTO}
    return [
        advanced(
            io.Combo.Input(
                "start_stage",
                **choices,
                tooltip="The first stage to run: low, mid, high, or a number from 0. auto: the lowest, or the one after the "
                "stage whose output the latent is. Stages skipped with 0 do not count.",
            )
        ),
        advanced(
            io.Combo.Input(
                "end_stage",
                **choices,
                tooltip="The last stage to run. auto: the highest. low: stop after a draft; a second sampler with the same "
                "settings finishes it from the latent output, with the result of an uninterrupted run.",
            )
        ),
    ]


def _optional_sockets(*, tooltip: str) -> list[io.Input]:
    return [
        Pyramid.Input("pyramid", optional=True, tooltip=tooltip),
        io.Model.Input(
            "middle_stage_model",
            optional=True,
            lazy=True,
            tooltip="Optional: another model for the stages between the lowest and the highest one that run.",
        ),
        io.Model.Input(
            "first_stage_model",
            optional=True,
            lazy=True,
            tooltip="Optional: another model for the lowest stage, which runs first: the Wan 2.2 high-noise expert.",
        ),
        Lift.Input(
            "lift",
            optional=True,
            tooltip="Optional: from 'Pyramidal Lift from VAE', keeps texture when the size grows. Without it, stock weights "
            "use the lift that is kept for the model's VAE, if there is one.",
        ),
    ]


def _outputs() -> list[io.Output]:
    return [
        io.Latent.Output(
            "samples",
            display_name="latent",
            tooltip="The video, or after an early end_stage the state that a second sampler continues from.",
        ),
        io.Latent.Output("denoised", display_name="denoised", tooltip="The last step's prediction of the clean video."),
        io.Latent.Output(
            "drafts",
            display_name="drafts",
            is_output_list=True,
            tooltip="A list with the clean prediction of each stage that ran, from low to high resolution. Decode it to "
            "look at them.",
        ),
    ]
