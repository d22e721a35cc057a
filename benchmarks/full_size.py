"""Load a full-size random Wan2.1 1.3B in bfloat16 in ComfyUI, and run the low stage once with the sampler node.

Every part then has real dimensions; the picture is noise. Requires about 10 GB of memory, and some minutes on a CPU.

Run: .venv/bin/python -m benchmarks.full_size [--stage low]
"""

from __future__ import annotations

import argparse
import time

import torch

from harness.in_process import pack_module, use_comfyui
from pyramid.flops import WAN_DIMENSIONS, schedule_cost
from pyramid.sizes import VideoSize
from pyramid.stages import PRESETS
from tiny_wan.checkpoints import t2v_state_dict

SIZE = VideoSize(width=832, height=448, frames=81)


def main() -> None:
    """Run the stages and print shape, time and statistics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", default="low", choices=("low", "mid", "high"), help="the last stage to run")
    stage = parser.parse_args().stage
    cpu = not torch.cuda.is_available()
    use_comfyui(cpu=cpu)
    dims = WAN_DIMENSIONS["1.3B"]
    weights = t2v_state_dict(dim=dims.dim, ffn_dim=dims.ffn_dim, layers=dims.layers)
    weights = {name: weights[name].to(torch.bfloat16) for name in list(weights)}
    print(f"{sum(w.numel() for w in weights.values()) / 1e9:.3f} billion weights in {len(weights)} tensors")
    with torch.inference_mode():
        seconds, samples = run(weights, stage)
    cost = schedule_cost(PRESETS["pyramidal-wan"], SIZE.latent, (1, 1, 1), dims)[0]
    numbers = f"deviation {samples.std():.3f}, {samples.isnan().sum()} NaN"
    print(f"{stage} stage: {tuple(samples.shape)} in {seconds:.1f} s, {numbers}")
    print(f"the low stage is {cost.tokens} tokens and {cost.forward_tflops:.2f} TFLOPs a forward")


def run(weights: dict[str, torch.Tensor], stage: str) -> tuple[float, torch.Tensor]:
    """Sample one step of every stage up to `stage`, and return the seconds and the latent."""
    import comfy.sd

    latents, sampler = pack_module("nodes.latent"), pack_module("nodes.sampler")
    model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": torch.bfloat16})
    assert model is not None, "ComfyUI does not recognise the weights"
    width = model.model.model_config.unet_config["dim"]
    print(f"ComfyUI loaded {type(model.model).__name__} of width {width} in {model.model_dtype()}")
    latent = latents.PyramidalWanEmptyLatent.execute(SIZE.width, SIZE.height, SIZE.frames, 1, "nearest").args[0]
    prompt = [[torch.randn(1, 512, 4096), {}]]
    start = time.perf_counter()
    output = sampler.PyramidalWanSampler.execute(
        model, prompt, prompt, latent, 0, "1-1-1", "1", "euler", 1.0, "auto", 5.0, "auto", stage, PRESETS["pyramidal-wan"]
    )
    return time.perf_counter() - start, output.args[0]["samples"].float()


if __name__ == "__main__":
    main()
