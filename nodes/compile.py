"""Compiled stages."""

from __future__ import annotations

from comfy_api.latest import io

from ..samplers.comfyui.stage_compile import compile_stages
from .schema import checked, schema, text_reporter


class PyramidalWanCompile(io.ComfyNode):
    """A MODEL that is compiled for each stage of a pyramid."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanCompile",
            display_name="Pyramidal Compile",
            description="Compiles the model for each stage of a pyramid with torch.compile. The first run of a size takes "
            "minutes longer; all later ones are faster, most of all in the small stages.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["torch.compile", "TorchCompileModel", "inductor", "cuda graphs", "speed up"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="A Wan model, before 'Pyramidal Model', 'Pyramidal Stage Model' or the sampler."
                ),
            ],
            outputs=[
                io.Model.Output(
                    "compiled_model",
                    display_name="model",
                    tooltip="The model that compiles its stages, or the model itself where torch.compile is not available.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, model) -> io.NodeOutput:
        """Return the model that compiles its stages."""
        return io.NodeOutput(compile_stages(model, text_reporter(cls)))
