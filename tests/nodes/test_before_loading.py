"""The sampler nodes find wrong sizes, masks and prompts before a model is loaded, and ask for models last."""

import asyncio
from types import SimpleNamespace

import pytest
import torch
from comfy_execution.graph import DynamicPrompt
from comfy_extras.nodes_custom_sampler import KSamplerSelect
from comfyui_graph import empty, prompt
from safetensors.torch import save_file

from harness.server import ComfyUIServer, GraphError
from harness.workspace import Workspace, default_workspace, prepare
from pyramidalwan.nodes.sampler import PyramidalWanSampler, PyramidalWanSamplerAdvanced
from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.sizes import VideoSize
from pyramidalwan.pyramid.stages import PRESETS, STOCK, PyramidSpec
from pyramidalwan.samplers.comfyui.latent_tag import CLEAN, END, StageTag, tagged
from pyramidalwan.samplers.comfyui.queued_graph import spec_in_graph

FREE, WAN = PRESETS["training-free"], PRESETS["pyramidal-wan"]
WIDGETS = dict(
    quality="custom", steps="2-2", cfg="1", sampler_name="euler", grid="auto", shift=5.0, start_stage="auto", end_stage="auto",
    seed=1, denoise=1.0,
)  # fmt: skip
WAITING = dict(model=None, positive=None, negative=None)
SMALL = {"samples": torch.zeros(1, 16, 5, 8, 8)}


def ask(latent=None, **changes):
    return PyramidalWanSampler.check_lazy_status(
        latent=latent or empty(), **{**WIDGETS, **WAITING, "pyramid": FREE, "first_stage_model": None, **changes}
    )


def test_prompts_are_evaluated_first_and_models_last(t2v_model):
    assert ask() == ["positive", "negative"]
    assert ask(positive=prompt(1)) == ["negative"]
    assert ask(positive=prompt(1), negative=prompt(2)) == ["model", "first_stage_model"]
    assert ask(positive=prompt(1), negative=prompt(2), model=t2v_model, first_stage_model=t2v_model) == []


def given(shape, **options):
    return prompt(1, concat_latent_image=torch.zeros(1, 16, *shape), concat_mask=torch.zeros(1, 4, *shape), **options)


@pytest.mark.parametrize(
    ("latent", "changes", "words"),
    [
        (empty(height=18), {}, "a video of 128x144 with 17 frames does not fit a pyramid of 2 stages"),
        (empty(frames=4), {"pyramid": WAN, "steps": "2-2-1"}, "frames 1 plus a multiple of 16"),
        ({"samples": torch.zeros(1, 16, 16)}, {}, "the LATENT has 3 dimensions, a video latent has 5"),
        (
            tagged(SMALL, StageTag(FREE, 0, LatentShape(5, 16, 16), CLEAN)),
            {},
            "'latent' output of that run instead of 'denoised'",
        ),
        (
            tagged({**SMALL, "noise_mask": torch.ones(1, 64, 64)}, StageTag(FREE, 0, LatentShape(5, 16, 16), END)),
            {},
            "the noise mask was set on the output of a stage",
        ),
        (
            empty(),
            {"positive": given((4, 16, 16))},
            "the image conditioning .* was made for a different length than the latent",
        ),
        (empty(), {"positive": prompt(1, control=object())}, "the conditioning carries a ControlNet"),
        (empty(), {"negative": prompt(1, area=(8, 8, 0, 0))}, "has an area in pixels"),
    ],
    ids=["size", "frames", "no video", "clean draft", "mask on a draft", "length of the image", "ControlNet", "area"],
)
def test_wrong_inputs_raise_while_the_models_are_not_evaluated(latent, changes, words):
    with pytest.raises(ValueError, match=words):
        ask(latent, **changes)


def test_right_inputs_pass():
    shape = (5, 16, 16)
    assert ask(positive=given(shape), negative=given(shape)) == ["model", "first_stage_model"]
    draft = tagged(SMALL, StageTag(FREE, 0, LatentShape(*shape), END))
    assert ask(draft, positive=given(shape), negative=given(shape)) == ["model", "first_stage_model"]
    picture = {"samples": torch.zeros(1, 16, 16, 16)}  # newer versions of ComfyUI make a video of one frame of it
    assert ask(picture, positive=prompt(1), negative=prompt(2)) == ["model", "first_stage_model"]
    five = {"samples": torch.zeros(1, 48, 5, 16, 16)}
    assert ask(five, positive=prompt(1), negative=prompt(2)) == ["model", "first_stage_model"]


def test_the_advanced_node_checks_the_size_too():
    euler = KSamplerSelect.execute("euler").args[0]
    with pytest.raises(ValueError, match="does not fit a pyramid of 2 stages"):
        PyramidalWanSamplerAdvanced.check_lazy_status(
            latent=empty(height=18), sampler=euler, sigmas=torch.tensor([1.0, 0.5, 0.0]), cfg="", start_stage="auto",
            end_stage="auto", pyramid=FREE, guider=None,
        )  # fmt: skip


@pytest.fixture
def loras(tmp_path, monkeypatch):
    import folder_paths

    other = PyramidSpec((0.9, 0.5))
    for name, spec in (("wan", WAN), ("other", other)):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors", spec.to_metadata())
    save_file({"x": torch.zeros(1)}, tmp_path / "style.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    endings = folder_paths.folder_names_and_paths["loras"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], endings))


def chain(*files, strength=1.0):
    """Return a queued graph whose sampler gets its model through LoRAs, and a pyramid for something else beside it."""
    graph = {"model": {"class_type": "UNETLoader", "inputs": {"unet_name": "wan.gguf"}}}
    last = "model"
    for file in files:
        inputs = {"model": [last, 0], "lora_name": f"{file}.safetensors", "strength": strength}
        graph[file] = {"class_type": "PyramidalWanStageLoRA", "inputs": inputs}
        last = file
    graph["sampler"] = {"class_type": "PyramidalWanSampler", "inputs": {"model": [last, 0], "positive": ["text", 0]}}
    graph["text"] = {"class_type": "CLIPLoader", "inputs": {"clip_name": "wan.safetensors"}}
    return DynamicPrompt(graph)


@pytest.mark.parametrize(
    ("files", "strength", "spec"),
    [
        ((), 1.0, STOCK),
        (("style",), 1.0, STOCK),
        (("damaged",), 1.0, STOCK),
        (("style", "wan"), 0.5, WAN),
        (("wan", "other"), 1.0, None),
        (("wan",), 0, None),
    ],
    ids=["stock", "style", "damaged", "trained", "contradicting", "switched off"],
)
def test_the_pyramid_is_read_from_the_files_that_the_graph_loads(loras, files, strength, spec):
    assert spec_in_graph(chain(*files, strength=strength), "sampler", ["model", "first_stage_model"]) == spec


@pytest.mark.parametrize("size", [(1280, 720), (720, 1280), (832, 480), (848, 480), (960, 544), (1920, 1088)])
def test_sizes_of_stock_weights_that_a_run_takes_are_not_refused_before_it(size):
    """A run chooses the scale of the small stage for its size; half of 720 is no whole number of patches."""

    class Queued(PyramidalWanSampler):
        hidden = SimpleNamespace(dynprompt=chain(), unique_id="sampler")

    shape = VideoSize(*size, 17).latent
    latent = {"samples": torch.zeros(1, 16, *shape)}
    assert STOCK.at_size(shape).shapes(shape)
    widgets = {**WIDGETS, **WAITING, "first_stage_model": None}
    assert Queued.check_lazy_status(latent=latent, **widgets) == ["positive", "negative"]


def test_the_pyramid_is_read_from_the_file_of_larger_patches(loras):
    graph = chain()
    graph.original_prompt["patches"] = {
        "class_type": "PyramidalWanPatches",
        "inputs": {"model": ["model", 0], "file": "loras/wan.safetensors"},
    }
    graph.original_prompt["sampler"]["inputs"]["model"] = ["patches", 0]
    assert spec_in_graph(graph, "sampler", ["model", "first_stage_model"]) == WAN


def test_without_a_graph_the_pyramid_is_not_known():
    assert spec_in_graph(None, None, ["model"]) is None


def test_no_model_is_loaded_for_a_graph_with_a_wrong_size(tmp_path):
    """Its model file cannot be loaded: whatever loads it fails with another message."""
    workspace = Workspace(default_workspace().comfyui, tmp_path / "base", tmp_path / "output")
    prepare(workspace)
    broken = workspace.base / "models" / "diffusion_models" / "broken.safetensors"
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_bytes(b"no")
    text = {"class_type": "PyramidalWanLoadConditioning", "inputs": {"filename": "tiny_random_prompt.safetensors"}}
    sampler = {"model": ["model", 0], "positive": ["text", 0], "negative": ["text", 0], "latent": ["latent", 0]}
    graph = {
        "model": {"class_type": "UNETLoader", "inputs": {"unet_name": "broken.safetensors", "weight_dtype": "default"}},
        "text": text,
        "latent": {"class_type": "EmptyHunyuanLatentVideo", "inputs": {"width": 128, "height": 136, "length": 17}},
        "sampler": {"class_type": "PyramidalWanSampler", "inputs": sampler},
        "save": {"class_type": "SaveLatent", "inputs": {"samples": ["sampler", 0], "filename_prefix": "x"}},
    }

    async def run():
        async with ComfyUIServer(workspace) as server:
            with pytest.raises(GraphError, match="a video of 128x136 with 17 frames does not fit a pyramid of 2 stages"):
                await server.run(graph)
            for width, height in ((128, 128), (1280, 720)):
                graph["latent"]["inputs"] |= {"width": width, "height": height, "length": 1}
                with pytest.raises(GraphError) as loaded:
                    await server.run(graph)
                assert "does not fit" not in str(loaded.value)

    asyncio.run(run())
