"""Prompt embeddings to and from files."""

from __future__ import annotations

from comfy_api.latest import io

from ..samplers.comfyui.prompt_files import fingerprint, list_conditioning, load_conditioning, name_problem, save_conditioning
from .schema import schema, tell


class PyramidalWanSaveConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanSaveConditioning",
            display_name="Save Conditioning",
            description="Writes a prompt's embedding to a file, so that the large text encoder need not be loaded again: "
            "read it with 'Load Conditioning'.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["save prompt", "text embedding", "cache prompt"],
            is_output_node=True,
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="A prompt, straight from a text encoder."),
                io.String.Input(
                    "filename",
                    default="prompt",
                    tooltip="Name of the file in output/conditioning, without ending; an existing one is replaced.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def validate_inputs(cls, filename):
        return name_problem(filename) or True

    @classmethod
    def execute(cls, conditioning, filename) -> io.NodeOutput:
        tell(cls, f"saved as {save_conditioning(conditioning, filename)}")
        return io.NodeOutput()


class PyramidalWanLoadConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanLoadConditioning",
            display_name="Load Conditioning",
            description="Reads a prompt's embedding from a file in input/conditioning or output/conditioning, without a "
            "text encoder.",
            search_aliases=["load prompt", "text embedding", "cached prompt"],
            inputs=[
                io.Combo.Input(
                    "filename",
                    options=list_conditioning(),
                    tooltip="A file that 'Save Conditioning' wrote ([output]), or one you put into input/conditioning.",
                ),
            ],
            outputs=[io.Conditioning.Output("conditioning", display_name="conditioning", tooltip="The prompt.")],
        )

    @classmethod
    def validate_inputs(cls, filename):
        return name_problem(filename, existing=True) or True

    @classmethod
    def fingerprint_inputs(cls, filename):
        return fingerprint(filename)

    @classmethod
    def execute(cls, filename) -> io.NodeOutput:
        return io.NodeOutput(load_conditioning(filename))
