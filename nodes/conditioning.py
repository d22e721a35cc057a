"""Nodes that save and load prompt embeddings."""

from __future__ import annotations

from comfy_api.latest import io

from ..samplers.comfyui.prompt_files import PROMPT_FILES, load_conditioning, save_conditioning
from .schema import CONDITIONING, checked, schema, show_text


class PyramidalWanSaveConditioning(io.ComfyNode):
    """Saves a prompt's embedding to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanSaveConditioning",
            display_name="Save Conditioning",
            category=CONDITIONING,
            description="Saves a prompt's embedding to a file, so the large text encoder need not be loaded again. Read it "
            "with 'Load Conditioning'.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["save prompt", "text embedding", "cache prompt"],
            is_output_node=True,
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The output of a text encoder, before other nodes change it."),
                io.String.Input(
                    "filename",
                    default="prompt",
                    tooltip="Name of the file in output/conditioning, without extension. An existing file is replaced.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def validate_inputs(cls, filename=None):
        """Return True, or what is wrong with a widget before anything runs."""
        return PROMPT_FILES.problem(filename) or True

    @classmethod
    @checked
    def execute(cls, conditioning, filename) -> io.NodeOutput:
        """Write the file and show its path on the node."""
        show_text(cls, f"saved as {save_conditioning(conditioning, filename)}")
        return io.NodeOutput()


class PyramidalWanLoadConditioning(io.ComfyNode):
    """Loads a prompt's embedding from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanLoadConditioning",
            display_name="Load Conditioning",
            category=CONDITIONING,
            description="Loads a prompt's embedding from a file in input/conditioning or output/conditioning. No text "
            "encoder is needed.",
            search_aliases=["load prompt", "text embedding", "cached prompt"],
            inputs=[
                io.Combo.Input(
                    "filename",
                    options=PROMPT_FILES.names(),
                    tooltip="A file saved by 'Save Conditioning', marked [output], or one that you put into "
                    "input/conditioning.",
                ),
            ],
            outputs=[io.Conditioning.Output("conditioning", display_name="conditioning", tooltip="The prompt.")],
        )

    @classmethod
    def validate_inputs(cls, filename=None):
        """Return True, or what is wrong with a widget before anything runs."""
        return PROMPT_FILES.problem(filename, existing=True) or True

    @classmethod
    def fingerprint_inputs(cls, filename=None):
        """Return a value that changes when the file does."""
        return PROMPT_FILES.fingerprint(filename)

    @classmethod
    @checked
    def execute(cls, filename) -> io.NodeOutput:
        """Return the CONDITIONING of the file."""
        return io.NodeOutput(load_conditioning(filename))
