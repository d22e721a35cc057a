"""LoRAs per stage, and the pyramid that a file was trained for."""

from __future__ import annotations

from comfy_api.latest import io

from ..pyramid.stage_names import stages_problem
from ..samplers.comfyui.model_files import lora_from_list, lora_names, spec_file_names, spec_from_file
from ..samplers.comfyui.stage_lora import StageLora, add_stage_lora
from .schema import Pyramid, schema, tell


class PyramidalWanStageLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanStageLoRA",
            display_name="Pyramidal Stage LoRA",
            description="Loads a LoRA that acts in some stages only; chain several. Style LoRAs for all stages may as well "
            "come from the ordinary loader. A LoRA trained for a pyramid brings that pyramid along: leave the sampler's "
            "pyramid input open. Step-distilled LoRAs for plain Wan go with the training-free pyramid: cfg 1, grid "
            "'distilled', shift 5, steps such as 2-2.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["lora", "lora per stage", "lightning", "distilled lora", "pyramid"],
            inputs=[
                io.Model.Input("model", tooltip="A Wan model."),
                io.Combo.Input("lora_name", options=lora_names(), tooltip="A file in models/loras."),
                io.Float.Input(
                    "strength", default=1.0, min=-100.0, max=100.0, step=0.01, round=0.001,
                    tooltip="How strongly it acts; 0 changes nothing, not even the pyramid.",
                ),
                io.String.Input(
                    "stages",
                    default="all",
                    tooltip="In which stages: all, low, mid, high, several such as 'mid,high', or numbers from 0 for the "
                    "lowest, such as '0,1'. Only stages that run count: with steps 0-20-10 the one with 20 steps is low.",
                ),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="The model with the LoRA.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, stages):
        return stages_problem(stages) or True

    @classmethod
    def execute(cls, model, lora_name, strength, stages) -> io.NodeOutput:
        made, report = add_stage_lora(model, StageLora(lora_from_list(lora_name), strength, stages))
        tell(cls, report)
        return io.NodeOutput(made)


class PyramidalWanSpecFromFile(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PyramidalWanSpecFromFile",
            display_name="Pyramid from File",
            description="Reads the pyramid that a checkpoint or LoRA was trained for out of the file, so that no boundary is "
            "typed twice.",
            search_aliases=["pyramid", "spec", "metadata"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=spec_file_names(),
                    tooltip="A safetensors file in models/diffusion_models, models/loras or models/checkpoints.",
                ),
            ],
            outputs=[Pyramid.Output("pyramid", display_name="pyramid", tooltip="For every pyramidal node.")],
        )

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        return io.NodeOutput(spec_from_file(file))
