"""Compiled stages: one compilation per stage and shape, the video of the uncompiled model, and a model that gives way."""

import re

import comfy.ldm.modules.attention
import comfy.ldm.wan.model
import comfy.samplers
import comfy.sd
import pytest
import torch
import torch._dynamo
from comfyui_graph import empty, guider, prompt
from safetensors.torch import save_file

from pyramidalwan.nodes.compile import PyramidalWanCompile
from pyramidalwan.nodes.model import PyramidalWanModel
from pyramidalwan.nodes.sampler import PyramidalWanSampler
from pyramidalwan.pyramid.flops import WAN_DIMENSIONS
from pyramidalwan.pyramid.latent_shape import LatentShape
from pyramidalwan.pyramid.patches import coarse_cells, lifted, to_tensors, wan_layers
from pyramidalwan.pyramid.schedules import stage_levels
from pyramidalwan.pyramid.stages import PRESETS
from pyramidalwan.samplers.comfyui import stage_compile
from pyramidalwan.samplers.comfyui.lora_file import load_lora_file
from pyramidalwan.samplers.comfyui.patch_files import patch_set
from pyramidalwan.samplers.comfyui.stage_compile import compile_stages, is_small
from pyramidalwan.samplers.comfyui.stage_lora import StageLora, add_stage_lora
from pyramidalwan.samplers.comfyui.stage_patches import attach_patches
from pyramidalwan.samplers.noise import SeedNoise
from pyramidalwan.samplers.run import PyramidRun
from pyramidalwan.samplers.supported_samplers import make_sampler
from tiny_wan.checkpoints import t2v_state_dict

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_compiler(monkeypatch):
    """Start without compiled code, with the attention of a GPU: the CPU's asks for free memory, which cannot be compiled."""
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", comfy.ldm.modules.attention.attention_pytorch)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def graphs():
    """Return a backend that runs graphs as they are, and the list in which it counts them."""
    compiled = []

    def backend(module, example_inputs):
        compiled.append(module)
        return module.forward

    return backend, compiled


def sample(model, seed=5, cfg="1", steps="2-2", preset="training-free"):
    values = (seed, steps, cfg, "euler", 1.0, "auto", 5.0, "auto", "auto", PRESETS[preset])
    return PyramidalWanSampler.execute(model, prompt(1), prompt(2), empty(), *values).args[0]["samples"]


def lora_file(path, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for block in range(2):
        for layer, out in (("self_attn.q", 128), ("ffn.0", 256)):
            name = f"diffusion_model.blocks.{block}.{layer}"
            tensors[f"{name}.lora_up.weight"] = torch.randn(out, 4, generator=generator) * 0.3
            tensors[f"{name}.lora_down.weight"] = torch.randn(4, 128, generator=generator) * 0.1
    save_file(tensors, path)
    return load_lora_file(path, path.name)


def with_patches(model, spec=PRESETS["ppf"]):
    tensors = to_tensors([lifted(wan_layers(t2v_state_dict()), cell) for cell in coarse_cells(spec)])
    return attach_patches(model, patch_set(tensors, spec.to_metadata(), "ppf.safetensors"))[0]


@pytest.mark.parametrize("preset", ["training-free", "ppf"])
def test_a_second_model_of_a_guider_keeps_its_own_network(t2v_model, graphs, preset):
    """ComfyUI calls both networks with the wrappers of the first, which would put the first one's blocks into the second."""
    custom_sampler = pytest.importorskip("comfy_extras.nodes_custom_sampler")
    if not hasattr(custom_sampler, "Guider_DualModel"):
        pytest.skip("this ComfyUI has no guider with two models")
    negative = comfy.sd.load_diffusion_model_state_dict({name: 1.1 * value for name, value in t2v_state_dict().items()})
    both = [with_patches(model) if preset == "ppf" else model for model in (t2v_model, negative)]

    def run(first):
        guider = custom_sampler.Guider_DualModel(first, both[1])
        guider.set_conds(prompt(1), prompt(2))
        guider.set_cfg(3.0)
        levels = stage_levels(PRESETS[preset], [2] * PRESETS[preset].number_of_stages)
        run = PyramidRun(guider, SeedNoise(5), make_sampler("euler"), levels, PRESETS[preset])
        return run.sample(empty()).output["samples"]

    compiled = run(compile_stages(both[0], lambda text: None, backend=graphs[0]))
    torch.testing.assert_close(compiled, run(both[0]), atol=1e-4, rtol=1e-4)
    assert graphs[1]


def test_a_small_stage_is_one_graph_and_no_later_run_compiles(t2v_model, graphs):
    """All stages of the tiny Wan are small. Seeds, steps and stage switches find the graphs of the first run."""
    backend, compiled = graphs
    model = compile_stages(t2v_model, lambda text: None, backend=backend)
    torch.testing.assert_close(sample(model), sample(t2v_model), atol=1e-5, rtol=1e-5)
    assert len(compiled) == 2
    again = {"seed": 6, "steps": "3-1"}
    torch.testing.assert_close(sample(model, **again), sample(t2v_model, **again), atol=1e-5, rtol=1e-5)
    assert len(compiled) == 2
    sample(model, cfg="3")
    assert len(compiled) == 4, "cfg runs two prompts at once, which is another shape"
    sample(model, seed=7, cfg="3")
    assert len(compiled) == 4


def test_blocks_of_a_large_stage_share_their_graphs(t2v_model, graphs, monkeypatch):
    """The first block differs in the strides of its input, all others share a graph."""
    monkeypatch.setattr(stage_compile, "SMALL_BLOCK_TFLOPS", 0.0)
    backend, compiled = graphs
    model = compile_stages(t2v_model, lambda text: None, backend=backend)
    torch.testing.assert_close(sample(model), sample(t2v_model), atol=1e-5, rtol=1e-5)
    assert 2 <= len(compiled) <= 4
    count = len(compiled)
    sample(model, seed=6)
    assert len(compiled) == count


@pytest.mark.parametrize("small", [True, False])
def test_stage_loras_compile_once(t2v_model, graphs, tmp_path, monkeypatch, small):
    monkeypatch.setattr(stage_compile, "SMALL_BLOCK_TFLOPS", 1.0 if small else 0.0)
    backend, compiled = graphs
    with_lora, _ = add_stage_lora(t2v_model, StageLora(lora_file(tmp_path / "x.safetensors"), 1.0, "low"))
    model = compile_stages(with_lora, lambda text: None, backend=backend)
    expected = sample(with_lora)
    torch.testing.assert_close(sample(model), expected, atol=1e-5, rtol=1e-5)
    assert (expected - sample(t2v_model)).abs().max() > 0.05
    count = len(compiled)
    assert count <= (2 if small else 4)
    sample(model, seed=6)
    assert len(compiled) == count


def test_patches_of_other_nodes_see_every_step(t2v_model, graphs):
    """Their code reads the options of the step, so it runs outside the graphs: a graph would keep the first step's."""
    backend, compiled = graphs
    seen = []

    def patch(args, extra):
        seen.append(float(args["transformer_options"]["sigmas"][0]))
        return extra["original_block"](args)

    patched = t2v_model.clone()
    patched.set_model_patch_replace(patch, "dit", "double_block", 0)
    expected = sample(patched)
    plain, seen[:] = list(seen), []
    torch.testing.assert_close(
        sample(compile_stages(patched, lambda text: None, backend=backend)), expected, atol=1e-5, rtol=1e-5
    )
    assert seen == plain and len(set(plain)) == 4 and compiled


def test_it_compiles_behind_pyramidal_model(t2v_model, graphs):

    backend, compiled = graphs

    def run(model):
        (pyramidal,) = PyramidalWanModel.execute(model, PRESETS["training-free"]).args
        sampler = comfy.samplers.sampler_object("euler")
        noise = torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(0))
        return guider(pyramidal).sample(noise, torch.zeros_like(noise), sampler, torch.linspace(1, 0, 6))

    torch.testing.assert_close(
        run(compile_stages(t2v_model, lambda text: None, backend=backend)), run(t2v_model), atol=1e-5, rtol=1e-5
    )
    assert len(compiled) == 2


@pytest.mark.parametrize("behind", ["the sampler node", "Pyramidal Model"])
def test_stages_that_read_larger_patches_are_compiled_in_blocks(t2v_model, graphs, behind):
    """Their embedding and head stand in for the network's at every call, which stays outside what is compiled."""
    (backend, compiled), spec, model = graphs, PRESETS["ppf"], with_patches(t2v_model)
    compiling = compile_stages(model, lambda text: None, backend=backend)

    def run(model):
        if behind == "the sampler node":
            return sample(model, steps="1-1-1", preset="ppf")
        (pyramidal,) = PyramidalWanModel.execute(model, spec).args
        noise = torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(0))
        levels = torch.tensor([1.0, 0.9, 0.5, 0.0])
        return guider(pyramidal).sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), levels)

    expected = run(model)
    torch.testing.assert_close(run(compiling), expected, atol=1e-5, rtol=1e-5)
    count = len(compiled)
    assert 3 < count <= 6, "the blocks of a stage share their graphs, except for the first one"
    torch.testing.assert_close(run(compiling), expected, atol=1e-5, rtol=1e-5)
    assert len(compiled) == count


def test_it_tells_how_long_each_stage_took(t2v_model, graphs):
    texts = []
    model = compile_stages(t2v_model, texts.append, backend=graphs[0])
    assert texts == [
        "each stage is compiled in its first run of a size, which takes a minute or more; its time is shown here then"
    ]
    sample(model)
    assert len(texts) == 3 and re.fullmatch(r"compiled: low \d+ s, high \d+ s; further runs .* start immediately", texts[-1])
    sample(model, seed=6)
    assert len(texts) == 3


def test_a_backend_that_fails_leaves_the_video_and_says_why(t2v_model, caplog):
    def backend(module, example_inputs):
        raise RuntimeError("no C++ compiler found\nat all")

    texts = []
    model = compile_stages(t2v_model, texts.append, backend=backend)
    torch.testing.assert_close(sample(model), sample(t2v_model), atol=0, rtol=0)
    whole, blocks = texts[1:]
    assert whole.startswith("stage 'low' cannot be compiled as a whole, so its blocks are compiled:")
    assert blocks.startswith("torch.compile failed in stage 'low', so the model runs uncompiled:") and "no C++" in blocks
    assert "\n" not in blocks and blocks in caplog.text


def test_a_network_that_fails_as_a_whole_is_compiled_in_blocks(t2v_model, graphs):
    """CUDA graphs require more than compiled blocks."""
    backend, compiled = graphs

    def only_blocks(module, example_inputs):
        if sum(node.target is torch.nn.functional.scaled_dot_product_attention for node in module.graph.nodes) > 2:
            raise RuntimeError("no graphs here")
        return backend(module, example_inputs)

    model = compile_stages(t2v_model, lambda text: None, backend=only_blocks)
    torch.testing.assert_close(sample(model), sample(t2v_model), atol=1e-5, rtol=1e-5)
    count = len(compiled)
    assert 2 <= count <= 4
    sample(model, seed=6)
    assert len(compiled) == count


def test_a_device_without_a_compiler_gives_the_model_back(t2v_model, monkeypatch):
    monkeypatch.setattr(stage_compile.importlib.util, "find_spec", lambda name: None if name == "triton" else object())
    assert "triton" in (stage_compile.why_not(torch.device("cuda")) or "") and stage_compile.why_not(CPU) is None
    monkeypatch.setattr(torch._dynamo, "is_dynamo_supported", lambda: False)
    texts = []
    assert compile_stages(t2v_model, texts.append) is t2v_model
    assert texts[0].startswith("not compiled: torch.compile") and "does not support" in texts[0]


def test_the_node_leaves_its_input_as_it_was(t2v_model):
    before = dict(t2v_model.attachments), dict(t2v_model.wrappers)
    (compiled,) = PyramidalWanCompile.execute(t2v_model).args
    assert compiled is not t2v_model and compiled.get_attachment(stage_compile.KEY).backend == "inductor"
    assert (dict(t2v_model.attachments), dict(t2v_model.wrappers)) == before


@pytest.mark.parametrize(("size", "small"), [("1.3B", (True, False, False)), ("14B", (False, False, False))])
def test_the_stage_of_546_tokens_is_small(size, small):
    """At 81 x 448 x 832 the low stage of 1.3B is bound by the start of its kernels, no other stage of a released model is."""
    shapes = PRESETS["pyramidal-wan"].shapes(LatentShape(21, 56, 104))
    assert tuple(is_small(torch.empty(1, 16, *shape), WAN_DIMENSIONS[size]) for shape in shapes) == small
