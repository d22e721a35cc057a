"""Frequent mistakes raise a one-line ValueError with the given and the allowed values before anything is sampled."""

import folder_paths
import pytest
import torch
from comfyui_graph import empty, prompt
from safetensors.torch import save_file

from pyramidalwan.nodes.analysis import PyramidalWanCalibrate, PyramidalWanCostEstimate
from pyramidalwan.nodes.files import PyramidalWanFromFile, PyramidalWanStageLoRA
from pyramidalwan.nodes.pyramid import PyramidalWanCustom
from pyramidalwan.nodes.sampler import PyramidalWanSampler, PyramidalWanSamplerAdvanced
from pyramidalwan.nodes.schedule import PyramidalWanSchedule
from pyramidalwan.nodes.stages import PyramidalWanStageModel, PyramidalWanStageStart
from pyramidalwan.pyramid.stages import PRESETS, PyramidSpec
from pyramidalwan.samplers.noise import SeedNoise

WAN, FREE = PRESETS["pyramidal-wan"], PRESETS["training-free"]
OTHER = PyramidSpec((0.9, 0.5))
WIDE = empty(frames=21, height=60, width=104)
"""832x480, 81 frames."""


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """Write LoRA files and let ComfyUI find them in models/loras."""

    def low_rank(module, size):
        return {f"{module}.lora_up.weight": torch.ones(size, 2), f"{module}.lora_down.weight": torch.ones(2, size)}

    query = "diffusion_model.blocks.0.self_attn.q"
    save_file(low_rank("lora_unet_down_blocks_0", 8), tmp_path / "sdxl.safetensors")
    save_file(low_rank(query, 512), tmp_path / "14B.safetensors")
    save_file(low_rank(query, 128), tmp_path / "trained.safetensors", OTHER.to_metadata())
    save_file(low_rank(query, 128), tmp_path / "plain.safetensors")
    endings = folder_paths.folder_names_and_paths["loras"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], endings))


def sample(model, pyramid=FREE, steps="2-2", latent=None):
    values = (5, steps, "1", "euler", 1.0, "auto", 5.0, "auto", "auto", pyramid)
    return PyramidalWanSampler.execute(model, prompt(1), prompt(2), latent or empty(), *values)


def with_lora(model, name):
    return PyramidalWanStageLoRA.execute(model, f"{name}.safetensors", 1.0, "all").args[0]


def advanced(model, pyramid, latent):
    from comfyui_graph import guider

    from pyramidalwan.samplers.supported_samplers import make_sampler

    sigmas = PyramidalWanSchedule.execute(pyramid, "2-2", "auto", 5.0).args[0]
    parts = (SeedNoise(1), guider(model), make_sampler("euler"), sigmas, latent, "", "auto", "auto", pyramid)
    return PyramidalWanSamplerAdvanced.execute(*parts)


SIZE = "832x480 with 81 frames does not fit a pyramid of 3 stages.*832x448 with 81 frames and 832x512 with 81 frames"
MISTAKES = {
    "LoRA of another model": (
        lambda m: with_lora(m, "sdxl"),
        "nothing in the LoRA 'sdxl.safetensors' fits this model: it has modules such as down_blocks_0; the model has",
    ),
    "LoRA of another size": (
        lambda m: with_lora(m, "14B"),
        "the LoRA '14B.safetensors' is for a model of another size: its .* is 512x512 in the file but 128x128 in the model",
    ),
    "pyramid against the LoRA's, sampler": (
        lambda m: sample(with_lora(m, "trained"), WAN, "2-2-1"),
        "the LoRA 'trained.safetensors' was trained for a different pyramid than the one given: boundaries .*"
        "disconnect the pyramid input",
    ),
    "pyramid against the LoRA's, advanced": (
        lambda m: advanced(with_lora(m, "trained"), FREE, empty()),
        "the LoRA 'trained.safetensors' was trained for a different pyramid than the one given",
    ),
    "pyramid against the LoRA's, by hand": (
        lambda m: PyramidalWanStageModel.execute(with_lora(m, "trained"), WAN, "low"),
        "the LoRA 'trained.safetensors' was trained for a different pyramid than the one given",
    ),
    "steps that do not fit the LoRA's pyramid": (
        lambda m: sample(with_lora(m, "trained"), None, "20-10"),
        "steps '20-10' has 2 numbers, but the pyramid has 3 stages .*for example",
    ),
    "an ordinary file asked for its pyramid": (
        lambda m: PyramidalWanFromFile.execute("loras/plain.safetensors"),
        "'loras/plain.safetensors': the file's metadata has no 'pyramid_spec', so its pyramid is unknown",
    ),
    "two steps for three stages, sampler": (lambda m: sample(m, WAN, "2-2"), "2 numbers, but the pyramid has 3 stages"),
    "three steps for two stages, sampler": (lambda m: sample(m, FREE, "2-2-1"), "3 numbers, but the pyramid has 2 stages"),
    "three steps without a pyramid": (lambda m: sample(m, None, "20-20-10"), "3 numbers, but the pyramid has 2 stages"),
    "steps, schedule": (lambda m: PyramidalWanSchedule.execute(WAN, "20-2", "auto", 5.0), "2 numbers, but the pyramid has 3"),
    "steps, cost": (
        lambda m: PyramidalWanCostEstimate.execute(empty(), "20-20-10", "6", "auto", 5.0, FREE),
        "3 numbers, but the pyramid has 2 stages",
    ),
    "size, sampler": (lambda m: sample(m, WAN, "2-2-1", WIDE), SIZE),
    "size, cost": (lambda m: PyramidalWanCostEstimate.execute(WIDE, "2-2-1", "6", "auto", 5.0, WAN), SIZE),
    "size, by hand": (lambda m: PyramidalWanStageStart.execute(SeedNoise(1), WIDE, WAN), SIZE),
    "size, calibration": (
        lambda m: PyramidalWanCalibrate.execute({"samples": torch.ones(1, 16, 21, 60, 104)}, 0.1, WAN),
        SIZE,
    ),
    "size, advanced": (
        lambda m: advanced(m, FREE, empty(height=18)),
        "144 with 17 frames does not fit a pyramid of 2 stages.*multiples of 32",
    ),
    "boundaries out of order": (
        lambda m: PyramidalWanCustom.execute("0.5, 0.9", "HW, HW", "haar", "pyramidal", "natural", "shared", "native"),
        "boundaries must fall from stage to stage, got 0.5, 0.9; in running order that is 0.9, 0.5",
    ),
}


@pytest.mark.parametrize(("do", "words"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_raises_one_line_before_sampling(t2v_model, loras, do, words, monkeypatch):
    monkeypatch.setattr(type(t2v_model.model), "apply_model", lambda *_, **__: pytest.fail("sampled first"))
    with pytest.raises(ValueError, match=words) as caught:
        do(t2v_model)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400 and not text.endswith(".")
