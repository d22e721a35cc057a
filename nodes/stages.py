"""Nodes for a pyramidal run wired by hand around ComfyUI's own sampler nodes."""

from __future__ import annotations

from comfy_api.latest import io

from ..pyramid.stage_names import STAGE_CHOICES
from ..samplers.few_step import few_step_sampler
from ..samplers.hand_wired import stage_model, stage_renoise, stage_sigmas, stage_start, stage_transition
from .schema import BY_HAND, Lift, Pyramid, checked, schema

SEARCH = ["pyramid", "stage", "wired by hand", "custom sampling"]


def _stage_widget(what: str, default: str = "low") -> io.Input:
    return io.Combo.Input(
        "stage",
        options=list(STAGE_CHOICES),
        default=default,
        tooltip=f"{what}: low, mid, high, or its number from 0 in running order; low is the lowest one that runs.",
    )


def _size_socket() -> io.Input:
    return io.Latent.Input(
        "latent",
        optional=True,
        tooltip="The run's full-size latent, or that of its draft: gives the sizes of the stages. Not required by pyramids "
        "that only halve.",
    )


class PyramidalWanFewStepSampler(io.ComfyNode):
    """The sampler for distilled pyramidal models, as SAMPLER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanFewStepSampler",
            display_name="Pyramidal Few-Step Sampler",
            description="A SAMPLER for distilled pyramidal models: each step predicts the clean video and adds new noise "
            "along the stage's path. ComfyUI's 'lcm' does not follow that path.",
            search_aliases=[*SEARCH, "lcm", "2-2-1", "distilled"],
            inputs=[],
            outputs=[io.Sampler.Output("sampler", display_name="sampler", tooltip="For the advanced sampler or any stage.")],
        )

    @classmethod
    @checked
    def execute(cls) -> io.NodeOutput:
        """Return the SAMPLER."""
        return io.NodeOutput(few_step_sampler())


class PyramidalWanStageStart(io.ComfyNode):
    """Latent and noise of the first stage, for a run wired by hand."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanStageStart",
            display_name="Pyramidal Stage Start",
            category=BY_HAND,
            description="Starts a run wired by hand: makes the empty latent and the noise of the lowest stage for "
            "SamplerCustomAdvanced.",
            search_aliases=SEARCH,
            inputs=[
                io.Noise.Input("noise", tooltip="The run's noise; connect the same to every 'Pyramidal Stage Transition'."),
                io.Latent.Input("latent", tooltip="An empty latent of the full size."),
                Pyramid.Input("pyramid", tooltip="The pyramid."),
            ],
            outputs=[
                io.Latent.Output("latent_out", display_name="latent", tooltip="For the lowest stage's sampler."),
                io.Noise.Output("noise_out", display_name="noise", tooltip="For the lowest stage's sampler."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, noise, latent, pyramid) -> io.NodeOutput:
        """Return the first stage's latent and noise."""
        return io.NodeOutput(*stage_start(noise, latent, pyramid))


class PyramidalWanStageModel(io.ComfyNode):
    """A model bound to one stage, for a run wired by hand."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanStageModel",
            display_name="Pyramidal Stage Model",
            category=BY_HAND,
            description="Binds a model to one stage of a pyramid, for ComfyUI's guiders and samplers. It resizes the "
            "conditioning and applies the LoRAs of that stage.",
            search_aliases=SEARCH,
            inputs=[
                io.Model.Input("model", tooltip="A Wan model that is not yet bound to a stage."),
                Pyramid.Input("pyramid", tooltip="The pyramid."),
                _stage_widget("The stage the model is for"),
                Lift.Input(
                    "lift",
                    optional=True,
                    tooltip="Optional: the lift of the run, which also makes image conditioning smaller. Connect the same to "
                    "every 'Pyramidal Stage Transition'.",
                ),
                _size_socket(),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="For this stage's guider.")],
        )

    @classmethod
    @checked
    def execute(cls, model, pyramid, stage, lift=None, latent=None) -> io.NodeOutput:
        """Return the model bound to the stage."""
        return io.NodeOutput(stage_model(model, pyramid, stage, lift=lift, latent=latent))


class PyramidalWanStageSigmas(io.ComfyNode):
    """Sigmas of one stage, for a run wired by hand."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanStageSigmas",
            display_name="Pyramidal Stage Sigmas",
            category=BY_HAND,
            description="Takes one stage out of a schedule of natural noise levels and converts it to the sigmas of that "
            "stage.",
            search_aliases=SEARCH,
            inputs=[
                io.Sigmas.Input("sigmas", tooltip="Natural noise levels of the whole run, from 'Pyramidal Schedule'."),
                Pyramid.Input("pyramid", tooltip="The pyramid."),
                _stage_widget("The stage to cut out"),
                _size_socket(),
            ],
            outputs=[io.Sigmas.Output("sigmas_out", display_name="sigmas", tooltip="For this stage's sampler.")],
        )

    @classmethod
    @checked
    def execute(cls, sigmas, pyramid, stage, latent=None) -> io.NodeOutput:
        """Return the sigmas of the stage."""
        return io.NodeOutput(stage_sigmas(sigmas, pyramid, stage, latent))


class PyramidalWanStageTransition(io.ComfyNode):
    """The step between two stages, for a run wired by hand."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanStageTransition",
            display_name="Pyramidal Stage Transition",
            category=BY_HAND,
            description="Connects two stages: enlarges the latent and prepares the noise that the smaller one could not "
            "hold. Connect the sampler's 'output', not 'denoised_output'.",
            search_aliases=[*SEARCH, "upscale latent", "renoise"],
            inputs=[
                io.Latent.Input("latent", tooltip="The output of the sampler of the stage before."),
                io.Noise.Input("noise", tooltip="The run's noise, the same as at 'Pyramidal Stage Start'."),
                Pyramid.Input("pyramid", tooltip="The pyramid."),
                _stage_widget("The stage that the latent comes from"),
                io.Latent.Input(
                    "denoised",
                    optional=True,
                    tooltip="Only for a lift: the 'denoised_output' of the sampler of the stage before.",
                ),
                Lift.Input(
                    "lift",
                    optional=True,
                    tooltip="Optional: from 'Pyramidal Lift from VAE', keeps texture when the size grows. Connect it to every "
                    "'Pyramidal Stage Model', too.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent_out", display_name="latent", tooltip="For the next stage's sampler."),
                io.Noise.Output("noise_out", display_name="noise", tooltip="For the next stage's sampler."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, latent, noise, pyramid, stage, denoised=None, lift=None) -> io.NodeOutput:
        """Return the next stage's latent and noise."""
        return io.NodeOutput(*stage_transition(latent, noise, pyramid, stage, denoised=denoised, lift=lift))


class PyramidalWanRenoise(io.ComfyNode):
    """Noises a stage's clean prediction back to a level."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanRenoise",
            display_name="Pyramidal Renoise",
            category=BY_HAND,
            description="Prepares a stage's clean prediction to be noised again to a level of that stage. Use it for "
            "few-step sampling by hand, or to repeat part of a stage.",
            search_aliases=[*SEARCH, "add noise", "resample"],
            inputs=[
                io.Latent.Input("latent", tooltip="A clean prediction: the denoised output of the stage's sampler."),
                io.Noise.Input("noise", tooltip="The run's noise; the noise to add is derived from its seed."),
                Pyramid.Input("pyramid", tooltip="The pyramid."),
                _stage_widget("The stage of the latent", default="high"),
                io.Float.Input(
                    "level",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.0001,
                    tooltip="Natural noise level to return to; it must lie in the stage. The SIGMAS of the stage must start "
                    "there.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent_out", display_name="latent", tooltip="For the stage's sampler."),
                io.Noise.Output("noise_out", display_name="noise", tooltip="For the stage's sampler."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, latent, noise, pyramid, stage, level) -> io.NodeOutput:
        """Return the latent and the noise for the stage's sampler."""
        return io.NodeOutput(*stage_renoise(latent, noise, pyramid, stage, level))
