"""A pyramidal run wired by hand around the host's own sampler nodes."""

from __future__ import annotations

from comfy_api.latest import io

from ..pyramid.stage_names import STAGE_CHOICES
from ..samplers.few_step import few_step_sampler
from ..samplers.hand_wired import stage_model, stage_renoise, stage_sigmas, stage_start, stage_transition
from .schema import Pyramid, schema

SEARCH = ["pyramid", "stage", "exploded", "custom sampling"]


def _stage_widget(what: str, default: str = "low") -> io.Input:
    return io.Combo.Input(
        "stage",
        options=list(STAGE_CHOICES),
        default=default,
        tooltip=f"{what}: low, mid, high, or its number in running order; low and 0 are the lowest one that runs.",
    )


class PyramidalWanFewStepSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanFewStepSampler",
            display_name="Pyramidal Few-Step Sampler",
            description="A SAMPLER for distilled models: each step predicts the clean video and noises it again along the "
            "stage's path. The host's own 'lcm' does not know that path.",
            search_aliases=[*SEARCH, "lcm", "2-2-1", "distilled"],
            inputs=[],
            outputs=[io.Sampler.Output("sampler", display_name="sampler", tooltip="For the advanced sampler or any stage.")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(few_step_sampler())


class PyramidalWanStageStart(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanStageStart",
            display_name="Pyramidal Stage Start",
            description="The lowest stage's empty latent and noise, for a run wired by hand with SamplerCustomAdvanced.",
            search_aliases=SEARCH,
            inputs=[
                io.Noise.Input("noise", tooltip="The run's noise; give the same to every 'Pyramidal Stage Transition'."),
                io.Latent.Input("latent", tooltip="An empty latent of the full size."),
                Pyramid.Input("pyramid", tooltip="The pyramid."),
            ],
            outputs=[
                io.Latent.Output("latent_out", display_name="latent", tooltip="For the lowest stage's sampler."),
                io.Noise.Output("noise_out", display_name="noise", tooltip="For the lowest stage's sampler."),
            ],
        )

    @classmethod
    def execute(cls, noise, latent, pyramid) -> io.NodeOutput:
        return io.NodeOutput(*stage_start(noise, latent, pyramid))


class PyramidalWanStageModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanStageModel",
            display_name="Pyramidal Stage Model",
            description="Binds a model to one stage of a pyramid, for the host's own guiders and samplers. It resizes the "
            "conditioning itself and carries the LoRAs of that stage.",
            search_aliases=SEARCH,
            inputs=[
                io.Model.Input("model", tooltip="A Wan model, not bound to a stage yet."),
                Pyramid.Input("pyramid", tooltip="The pyramid."),
                _stage_widget("The stage the model is for"),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="For this stage's guider.")],
        )

    @classmethod
    def execute(cls, model, pyramid, stage) -> io.NodeOutput:
        return io.NodeOutput(stage_model(model, pyramid, stage))


class PyramidalWanStageSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanStageSigmas",
            display_name="Pyramidal Stage Sigmas",
            description="Cuts one stage out of a schedule of natural noise levels, as the sigmas of that stage.",
            search_aliases=SEARCH,
            inputs=[
                io.Sigmas.Input("sigmas", tooltip="Natural noise levels of the whole run, from 'Pyramidal Schedule'."),
                Pyramid.Input("pyramid", tooltip="The pyramid."),
                _stage_widget("The stage to cut out"),
            ],
            outputs=[io.Sigmas.Output("sigmas_out", display_name="sigmas", tooltip="For this stage's sampler.")],
        )

    @classmethod
    def execute(cls, sigmas, pyramid, stage) -> io.NodeOutput:
        return io.NodeOutput(stage_sigmas(sigmas, pyramid, stage))


class PyramidalWanStageTransition(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanStageTransition",
            display_name="Pyramidal Stage Transition",
            description="From the end of one stage to the start of the next: doubles the latent and draws the noise that the "
            "smaller one could not hold. Takes the 'output' of the stage's sampler, not the denoised one.",
            search_aliases=[*SEARCH, "upscale latent", "renoise"],
            inputs=[
                io.Latent.Input("latent", tooltip="The output of the stage's sampler."),
                io.Noise.Input("noise", tooltip="The run's noise, the same as at 'Pyramidal Stage Start'."),
                Pyramid.Input("pyramid", tooltip="The pyramid."),
                _stage_widget("The stage that has put the latent out"),
            ],
            outputs=[
                io.Latent.Output("latent_out", display_name="latent", tooltip="For the next stage's sampler."),
                io.Noise.Output("noise_out", display_name="noise", tooltip="For the next stage's sampler."),
            ],
        )

    @classmethod
    def execute(cls, latent, noise, pyramid, stage) -> io.NodeOutput:
        return io.NodeOutput(*stage_transition(latent, noise, pyramid, stage))


class PyramidalWanRenoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanRenoise",
            display_name="Pyramidal Renoise",
            description="Prepares a stage's denoised latent to be noised again to a level of that stage, along the stage's "
            "path: few-step sampling by hand, or another go at a stage.",
            search_aliases=[*SEARCH, "add noise", "resample"],
            inputs=[
                io.Latent.Input("latent", tooltip="A stage's denoised latent."),
                io.Noise.Input("noise", tooltip="The run's noise; a draw of its own is derived from its seed."),
                Pyramid.Input("pyramid", tooltip="The pyramid."),
                _stage_widget("The stage of the latent", default="high"),
                io.Float.Input(
                    "level",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.0001,
                    tooltip="The natural noise level to go back to; it must lie in the stage. SIGMAS for the stage must start "
                    "there.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent_out", display_name="latent", tooltip="For the stage's sampler."),
                io.Noise.Output("noise_out", display_name="noise", tooltip="For the stage's sampler."),
            ],
        )

    @classmethod
    def execute(cls, latent, noise, pyramid, stage, level) -> io.NodeOutput:
        return io.NodeOutput(*stage_renoise(latent, noise, pyramid, stage, level))
