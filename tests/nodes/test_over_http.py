"""Every node in a running ComfyUI over its HTTP API, text to video and image to video, with tiny models."""

import asyncio
from collections import Counter

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from harness.server import ComfyUIServer, GraphError
from harness.workspace import Workspace, default_workspace, prepare
from pyramid.stages import PyramidSpec
from pyramidalwan.nodes import NODES
from tools.graphs.tiny import PATCHES, write_patches

WIDTH = HEIGHT = 128
FRAMES = 17
STAGES = ("low", "mid", "high")


class Wiring:
    """A graph in API format, built by calls: ``add("Node", name=value)`` gives a reference to output 0."""

    def __init__(self):
        self.graph = {}

    def add(self, kind, **inputs):
        name = str(len(self.graph) + 1)
        inputs = {key: list(value) if isinstance(value, tuple) else value for key, value in inputs.items()}
        self.graph[name] = {"class_type": kind, "inputs": inputs}
        return name, 0

    def save(self, samples, name):
        self.add("SaveLatent", samples=samples, filename_prefix=name)


def out(reference, index):
    return reference[0], index


def prompts(graph, vae=None, image=False):
    """Return (positive, negative, latent) for text or for an image."""
    positive = graph.add("PyramidalWanLoadConditioning", filename="tiny_random_prompt.safetensors")
    negative = graph.add("PyramidalWanLoadConditioning", filename="tiny_random_negative_prompt.safetensors")
    if not image:
        return positive, negative, graph.add("PyramidalWanEmptyLatent", width=WIDTH, height=HEIGHT, frames=FRAMES)
    start = graph.add("EmptyImage", width=WIDTH, height=HEIGHT, batch_size=1, color=0x3366CC)
    both = graph.add(
        "WanImageToVideo", positive=positive, negative=negative, vae=vae, width=WIDTH, height=HEIGHT, length=FRAMES,
        batch_size=1, start_image=start,
    )  # fmt: skip
    return both, out(both, 1), out(both, 2)


def sampler_inputs(model, positive, negative, latent, spec):
    return dict(
        model=model, positive=positive, negative=negative, latent=latent, pyramid=spec, seed=5, quality="custom",
        steps="2-2-1", cfg="2", sampler_name="pyramid_few_step",
    )  # fmt: skip


def three_forms(graph, model, positive, negative, latent):
    """Add the sampler node, the advanced node and the hand-wired graph, and save the result of each."""
    spec = graph.add("PyramidalWanPreset", preset="pyramidal-wan")
    schedule = graph.add("PyramidalWanSchedule", pyramid=spec, steps="2-2-1")
    few = graph.add("PyramidalWanFewStepSampler")
    noise = graph.add("RandomNoise", noise_seed=5)
    one = graph.add("PyramidalWanSampler", **sampler_inputs(model, positive, negative, latent, spec))
    graph.save(one, "one")
    guider = graph.add("CFGGuider", model=model, positive=positive, negative=negative, cfg=2.0)
    advanced = graph.add(
        "PyramidalWanSamplerAdvanced", noise=noise, guider=guider, sampler=few, sigmas=schedule, latent=latent, pyramid=spec
    )
    graph.save(advanced, "advanced")
    at = graph.add("PyramidalWanStageStart", noise=noise, latent=latent, pyramid=spec)
    for stage in STAGES:
        bound = graph.add("PyramidalWanStageModel", model=model, pyramid=spec, stage=stage)
        guider = graph.add("CFGGuider", model=bound, positive=positive, negative=negative, cfg=2.0)
        sigmas = graph.add("PyramidalWanStageSigmas", sigmas=schedule, pyramid=spec, stage=stage)
        done = graph.add("SamplerCustomAdvanced", noise=out(at, 1), guider=guider, sampler=few, sigmas=sigmas, latent_image=at)
        if stage != "high":
            at = graph.add("PyramidalWanStageTransition", latent=done, noise=noise, pyramid=spec, stage=stage)
    graph.save(done, "stock")
    return spec, schedule, one, guider


def everything_else(graph, model, positive, negative, latent, spec, one, vae):
    trained = graph.add("PyramidalWanFromFile", file="loras/tiny.safetensors")
    lora = graph.add("PyramidalWanStageLoRA", model=model, lora_name="tiny.safetensors", strength=0.5, stages="low,high")
    with_lora = graph.add(
        "PyramidalWanSampler",
        model=lora,
        positive=positive,
        negative=negative,
        latent=latent,
        pyramid=trained,
        quality="custom",
        steps="2-2-1",
        cfg="1",
    )
    graph.save(with_lora, "lora")
    patched = graph.add("PyramidalWanPatches", model=model, file=f"diffusion_models/{PATCHES}")
    conds = {"positive": positive, "negative": negative}
    few = {"quality": "custom", "steps": "2-2-1", "cfg": "1", "sampler_name": "pyramid_few_step"}
    graph.save(graph.add("PyramidalWanSampler", model=patched, latent=latent, **conds, **few), "patches")
    pictures = graph.add("VAEDecode", samples=out(with_lora, 2), vae=vae)  # the drafts: a list of three sizes
    graph.add("SaveImage", images=pictures, filename_prefix="draft")
    lift = graph.add("PyramidalWanLiftFromVAE", vae=vae, method="pixels")
    pyramidal = graph.add("PyramidalWanModel", model=model, lift=lift)
    any_sampler = graph.add(
        "KSampler", model=pyramidal, seed=5, steps=2, cfg=2.0, sampler_name="euler", scheduler="simple", positive=positive,
        negative=negative, latent_image=latent, denoise=1.0,
    )  # fmt: skip
    graph.save(any_sampler, "any_sampler")
    noise = graph.add("RandomNoise", noise_seed=6)
    again = graph.add("PyramidalWanRenoise", latent=out(one, 1), noise=noise, pyramid=spec, stage="high", level=0.4)
    graph.save(again, "renoised")
    compiled = graph.add("PyramidalWanCompile", model=model)  # not sampled: C++ would compile for minutes
    cost = graph.add("PyramidalWanCostEstimate", latent=latent, steps="20-20-10", cfg="5", pyramid=spec, model=compiled)
    graph.add("SaveImage", images=out(cost, 1), filename_prefix="cost")
    two = graph.add("PyramidalWanCustom")  # the defaults: those of training-free
    calibrated = graph.add("PyramidalWanCalibrate", latent=one, threshold=0.1, pyramid=two)
    graph.add("SaveImage", images=out(calibrated, 1), filename_prefix="bands")
    graph.add("PyramidalWanSaveConditioning", conditioning=positive, filename="again")
    low = graph.add("PyramidalWanSampler", **sampler_inputs(model, positive, negative, latent, spec), end_stage="low")
    graph.add("PyramidalWanSaveDraft", latent=low, filename="fox")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("http")
    workspace = Workspace(default_workspace().comfyui, folder / "base", folder / "output")
    prepare(workspace)
    loras = workspace.base / "models" / "loras"
    loras.mkdir(parents=True, exist_ok=True)
    module = "diffusion_model.blocks.0.self_attn.q"
    tensors = {f"{module}.lora_up.weight": torch.ones(128, 2), f"{module}.lora_down.weight": torch.ones(2, 128)}
    save_file(tensors, loras / "tiny.safetensors", PyramidSpec().to_metadata())
    write_patches(workspace.base / "models" / "diffusion_models" / PATCHES)
    return workspace


def text_graph():
    graph = Wiring()
    model = graph.add("UNETLoader", unet_name="tiny_random_wan_t2v.safetensors", weight_dtype="default")
    vae = graph.add("VAELoader", vae_name="tiny_random_wan_vae.safetensors")
    positive, negative, latent = prompts(graph)
    spec, _, one, _ = three_forms(graph, model, positive, negative, latent)
    everything_else(graph, model, positive, negative, latent, spec, one, vae)
    return graph.graph


def draft_graph():
    """Return a graph that finishes the draft that the text graph saves."""
    graph = Wiring()
    model = graph.add("UNETLoader", unet_name="tiny_random_wan_t2v.safetensors", weight_dtype="default")
    positive, negative, _ = prompts(graph)
    draft = graph.add("PyramidalWanLoadDraft", filename="fox.safetensors [output]")
    spec = graph.add("PyramidalWanPreset", preset="pyramidal-wan")
    graph.save(graph.add("PyramidalWanSampler", **sampler_inputs(model, positive, negative, draft, spec)), "finished")
    return graph.graph


def image_graph():
    graph = Wiring()
    model = graph.add("UNETLoader", unet_name="tiny_random_wan_i2v.safetensors", weight_dtype="default")
    vae = graph.add("VAELoader", vae_name="tiny_random_wan_vae.safetensors")
    three_forms(graph, model, *prompts(graph, vae, image=True))
    return graph.graph


def small_graph():
    """Return a graph with only the sampler node, and the name of that node."""
    graph = Wiring()
    model = graph.add("UNETLoader", unet_name="tiny_random_wan_t2v.safetensors", weight_dtype="default")
    positive, negative, latent = prompts(graph)
    spec = graph.add("PyramidalWanPreset", preset="pyramidal-wan")
    one = graph.add(
        "PyramidalWanSampler", model=model, positive=positive, negative=negative, latent=latent, pyramid=spec, quality="custom",
        steps="2-2-1",
    )  # fmt: skip
    graph.save(one, "small")
    return graph.graph, one[0]


def saved(workspace, name):
    newest = max(workspace.output.glob(f"{name}_*.latent"), key=lambda path: path.stat().st_mtime_ns)
    return load_file(newest)["latent_tensor"]


def check_three_forms(workspace):
    one = saved(workspace, "one")
    assert one.shape == (1, 16, 5, 16, 16) and one.abs().max() > 0.1
    for other in ("advanced", "stock"):
        assert (saved(workspace, other) - one).abs().max() / one.abs().max() < 1e-5, other


def test_all_nodes_text_and_image(workspace):
    graphs = {"text": text_graph(), "draft": draft_graph(), "image": image_graph()}
    used = {node["class_type"] for graph in graphs.values() for node in graph.values()}
    assert {node.__name__ for node in NODES} <= used

    async def run():
        async with ComfyUIServer(workspace) as server:
            object_info = await server.get("/object_info")
            assert {node.__name__ for node in NODES} <= set(object_info)
            widgets = object_info["PyramidalWanSampler"]["input"]["required"]
            assert widgets["grid"][1]["advanced"] is True and widgets["seed"][1]["control_after_generate"] is True
            for name, graph in graphs.items():
                await server.run(graph)
                check_three_forms(workspace)
                if name == "draft":
                    assert torch.equal(saved(workspace, "finished"), saved(workspace, "one"))
            small, sampler = small_graph()
            for change, words in (
                ({"steps": "2-x-1"}, "numbers joined by '-'"),
                ({"cfg": "much"}, "cfg must be one number"),
                ({"steps": "2-2"}, "2 numbers, but the pyramid has 3 stages"),
                ({"sampler_name": "lcm"}, "sampler 'lcm' adds noise"),
            ):
                inputs = {**small[sampler]["inputs"], **change}
                with pytest.raises(GraphError, match=words):
                    await server.run({**small, sampler: {**small[sampler], "inputs": inputs}})
        return server

    server = asyncio.run(run())
    assert saved(workspace, "lora").shape == (1, 16, 5, 16, 16)
    assert saved(workspace, "any_sampler").shape == saved(workspace, "patches").shape == (1, 16, 5, 16, 16)
    drafts = [Image.open(path).size for path in workspace.output.glob("draft_*.png")]
    assert Counter(drafts) == {(32, 32): 5, (64, 64): 9, (128, 128): 17}
    assert list(workspace.output.glob("cost_*.png")) and list(workspace.output.glob("bands_*.png"))
    assert (workspace.output / "conditioning" / "again.safetensors").is_file()
    log = server.log.read_text(errors="replace")
    assert "Cannot import" not in log and "memory leak" not in log
