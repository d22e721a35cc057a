"""The pyramid for any sampler."""

from __future__ import annotations

from comfy_api.latest import io

from ..samplers.any_sampler import pyramidal_model
from .schema import Lift, Pyramid, checked, schema, text_reporter


class PyramidalWanModel(io.ComfyNode):
    """A MODEL that runs the pyramid in whatever sampler uses it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanModel",
            display_name="Pyramidal Model",
            description="Goes between a Wan model (after its LoRAs) and any sampler: whatever samples the model then runs its "
            "early, noisy steps at low resolution. With Wan 2.2 14B, put it on the high-noise expert.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["pyramid", "wan fast", "speed up", "multi-resolution", "any sampler", "ksampler"],
            inputs=[
                io.Model.Input("model", tooltip="A Wan model, with its LoRAs and other model nodes."),
                Pyramid.Input(
                    "pyramid",
                    optional=True,
                    tooltip="Without it: the pyramid of the weights or their LoRAs, otherwise 'training-free'.",
                ),
                Lift.Input(
                    "lift",
                    optional=True,
                    tooltip="From 'Pyramidal Lift from VAE': keeps texture when the size grows. Without it, stock weights use "
                    "the lift that is kept for the model's VAE, if there is one.",
                ),
            ],
            outputs=[io.Model.Output("pyramidal_model", display_name="model", tooltip="The model for any sampler.")],
        )

    @classmethod
    @checked
    def execute(cls, model, pyramid=None, lift=None) -> io.NodeOutput:
        """Return the model for any sampler."""
        return io.NodeOutput(pyramidal_model(model, pyramid, text_reporter(cls), lift))
