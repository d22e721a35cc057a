"""Nodes that save and load drafts."""

from __future__ import annotations

from comfy_api.latest import io

from ..samplers.comfyui.draft_files import DRAFT_FILES, load_draft, save_draft
from .schema import checked, schema, show_text


class PyramidalWanSaveDraft(io.ComfyNode):
    """Saves a draft to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanSaveDraft",
            display_name="Pyramidal Save Draft",
            description="Saves a draft, the latent of a run that ended with an earlier stage, so that another session can "
            "finish it. ComfyUI's 'SaveLatent' loses what a sampler needs to finish it.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["save latent", "draft", "resume", "finish later"],
            is_output_node=True,
            inputs=[
                io.Latent.Input("latent", tooltip="The 'latent' output of a pyramidal sampler with end_stage low or mid."),
                io.String.Input(
                    "filename",
                    default="draft",
                    tooltip="Name of the file in output/drafts, without extension. An existing file is replaced.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def validate_inputs(cls, filename=None):
        """Return True, or what is wrong with a widget before anything runs."""
        return DRAFT_FILES.problem(filename) or True

    @classmethod
    @checked
    def execute(cls, latent, filename) -> io.NodeOutput:
        """Write the file and show its path on the node."""
        show_text(cls, save_draft(latent, filename))
        return io.NodeOutput()


class PyramidalWanLoadDraft(io.ComfyNode):
    """Loads a draft from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanLoadDraft",
            display_name="Pyramidal Load Draft",
            description="Loads a draft that 'Pyramidal Save Draft' saved. A pyramidal sampler with the settings of the draft "
            "finishes it, with the result of an uninterrupted run.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["load latent", "draft", "resume", "finish later"],
            inputs=[
                io.Combo.Input(
                    "filename",
                    options=DRAFT_FILES.names(),
                    tooltip="A file saved by 'Pyramidal Save Draft', marked [output], or one that you put into input/drafts.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    "draft",
                    display_name="latent",
                    tooltip="The draft, for a pyramidal sampler with the same seed, steps, shift, pyramid and model.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, filename=None):
        """Return True, or what is wrong with a widget before anything runs."""
        return DRAFT_FILES.problem(filename, existing=True) or True

    @classmethod
    def fingerprint_inputs(cls, filename=None):
        """Return a value that changes when the file does."""
        return DRAFT_FILES.fingerprint(filename)

    @classmethod
    @checked
    def execute(cls, filename) -> io.NodeOutput:
        """Return the LATENT of the file and show its stage on the node."""
        latent, text = load_draft(filename)
        show_text(cls, text)
        return io.NodeOutput(latent)
