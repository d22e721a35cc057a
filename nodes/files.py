"""Nodes that read files: a LoRA per stage, the pyramid that a file was trained for, and its patches."""

from __future__ import annotations

from comfy_api.latest import io

from ..pyramid.key_names import Expert
from ..pyramid.stage_names import stages_problem
from ..pyramid.untrusted import shown
from ..samplers.comfyui.checkpoint_metadata import expert_of
from ..samplers.comfyui.model_files import (
    lora_from_list,
    lora_names,
    lora_problem,
    patches_from_file,
    spec_file_names,
    spec_from_file,
)
from ..samplers.comfyui.stage_lora import StageLora, add_stage_lora
from ..samplers.comfyui.stage_patches import attach_patches
from .schema import Pyramid, advanced, checked, schema, show_text

EXPERTS: dict[str, Expert | None] = {"auto": None, "high-noise": "high", "low-noise": "low"}


class PyramidalWanStageLoRA(io.ComfyNode):
    """A LoRA that acts in some stages only."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanStageLoRA",
            display_name="Pyramidal Stage LoRA",
            description="Loads a LoRA that acts only in the stages you name; chain several. A LoRA trained for a pyramid "
            "passes it to the sampler: leave the sampler's pyramid input open.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["lora", "lora per stage", "lightning", "distilled lora", "pyramid"],
            inputs=[
                io.Model.Input("model", tooltip="A Wan model."),
                io.Combo.Input("lora_name", options=lora_names(), tooltip="A file in models/loras."),
                io.Float.Input(
                    "strength", default=1.0, min=-100.0, max=100.0, step=0.01, round=0.001,
                    tooltip="Strength of the LoRA. 0 changes nothing, not even the pyramid.",
                ),
                io.String.Input(
                    "stages",
                    default="all",
                    tooltip="The stages it acts in: all, low, mid, high, several such as 'mid,high', or numbers from 0 for "
                    "the lowest, such as '0,1'. Only stages that run count: with steps 0-20-10 the one with 20 steps is low.",
                ),
                advanced(
                    io.Combo.Input(
                        "expert",
                        options=list(EXPERTS),
                        default="auto",
                        optional=True,
                        tooltip="Only for a file with two LoRAs, one for each of Wan 2.2's models: the one to load. auto reads "
                        "it from the name of the model's file.",
                    )
                ),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The model with the LoRA.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, lora_name=None, stages=None):
        """Return True, or what is wrong with a widget before anything runs; one that is linked comes as None."""
        problem = lora_problem(lora_name) if lora_name is not None else None
        return problem or (stages_problem(stages) if stages is not None else None) or True

    @classmethod
    @checked
    def execute(cls, model, lora_name, strength, stages, expert="auto") -> io.NodeOutput:
        """Return the model with the LoRA and show how much of the file matched."""
        if expert not in EXPERTS:
            raise ValueError(f"unknown expert {shown(expert)}; expected {', '.join(EXPERTS)}")
        file = lora_from_list(lora_name, EXPERTS[expert] or expert_of(model))
        made, report = add_stage_lora(model, StageLora(file, strength, stages))
        show_text(cls, report)
        return io.NodeOutput(made)


class PyramidalWanFromFile(io.ComfyNode):
    """The pyramid that a checkpoint or LoRA was trained for."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanFromFile",
            display_name="Pyramid from File",
            description="Reads from a checkpoint or LoRA the pyramid it was trained for. Use it for finetuned checkpoints; "
            "LoRAs loaded with 'Pyramidal Stage LoRA' do not need it.",
            search_aliases=["pyramid", "spec", "metadata"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=spec_file_names(),
                    tooltip="A safetensors file in models/diffusion_models, models/loras or models/checkpoints.",
                ),
            ],
            outputs=[Pyramid.Output("pyramid", display_name="pyramid", tooltip="For every node with a pyramid input.")],
        )

    @classmethod
    @checked
    def execute(cls, file) -> io.NodeOutput:
        """Return the pyramid in the file's metadata."""
        return io.NodeOutput(spec_from_file(file))


class PyramidalWanPatches(io.ComfyNode):
    """The layers with which the coarse stages of a pyramid of patches read latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanPatches",
            display_name="Pyramidal Patches from File",
            description="Gives a model the layers that read a noisy video in larger patches, from a checkpoint that was "
            "trained for them (ppf). Loaders leave these layers out; nothing else of the file is read here.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["ppf", "patchification", "patch size", "pyramid"],
            inputs=[
                io.Model.Input("model", tooltip="The Wan model that the file was trained as, from any loader, also quantised."),
                io.Combo.Input(
                    "file",
                    options=spec_file_names(),
                    tooltip="A safetensors file in models/diffusion_models, models/loras or models/checkpoints. It also names "
                    "its pyramid: leave the sampler's pyramid input open.",
                ),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The model with the layers.")],
        )

    @classmethod
    @checked
    def execute(cls, model, file) -> io.NodeOutput:
        """Return the model with the layers and show the sizes of their patches."""
        made, report = attach_patches(model, patches_from_file(file))
        show_text(cls, report)
        return io.NodeOutput(made)
