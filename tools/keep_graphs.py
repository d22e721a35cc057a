"""Save graphs as this version writes them, for the tests of all later versions. Run once before every release:

.venv/bin/python -m tools.keep_graphs    (from the root of the checkout, after 'make set-up')

It writes tests/browser/saved/VERSION: every node in one graph, with values other than the defaults, and two workflows.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from .build_workflows import FOLDER, ROOT, as_text

if TYPE_CHECKING:
    from .graphs.graph import Graph, Node

SAVED = ROOT / "tests" / "browser" / "saved"
COPIED = ("wan_draft_then_finish", "wan_t2v_stage_lora")


def every_node() -> Graph:
    """Build a graph with each node of the pack at least once."""
    from .graphs import Graph

    graph = Graph("every_node")
    graph.group("Model, prompt, pyramid", column=0)
    model = graph.add("UNETLoader", unet_name="my_model.safetensors", weight_dtype="default")
    lora = graph.add("PyramidalWanStageLoRA", model=model, lora_name="my_lora.safetensors", strength=0.7, stages="low,high")
    prompt = graph.add("PyramidalWanLoadConditioning", filename="my_prompt.safetensors")
    graph.add("PyramidalWanSaveConditioning", conditioning=prompt, filename="again")
    spec = graph.add(
        "PyramidalWanCustom", boundaries="0.9, 0.6", downsample_axes="HW, THW", resize="dct", field="pyramidal",
        timestep_source="natural", first_frame="per-frame", rope="scaled", coarse="latents",
    )  # fmt: skip
    graph.add("PyramidalWanPatches", model=model, file="diffusion_models/my_model.safetensors")
    graph.add("PyramidalWanPreset", preset="tpdiff")
    vae = graph.add("VAELoader", vae_name="my_vae.safetensors")
    lift = graph.add("PyramidalWanLiftFromVAE", vae=vae, method="pixels", pyramid=spec)
    graph.add("PyramidalWanModel", model=graph.add("PyramidalWanCompile", model=lora), pyramid=spec, lift=lift)
    trained = graph.add("PyramidalWanFromFile", file="loras/my_lora.safetensors")
    graph.group("Size, schedule", column=1)
    latent = graph.add("PyramidalWanEmptyLatent", width=640, height=384, frames=49, batch_size=2, snap="smaller", pyramid=spec)
    sigmas = graph.add("PyramidalWanSchedule", pyramid=spec, steps="4-3-2", grid="uniform", shift=3.0)
    noise = graph.add("RandomNoise", noise_seed=11)
    graph.add(
        "PyramidalWanCostEstimate", latent=latent, steps="4-3-2", cfg="5-4-3", grid="shift", shift=4.0, pyramid=spec, model=lora
    )
    calibrated = graph.add("PyramidalWanCalibrate", latent=latent, threshold=0.2, pyramid=trained)
    sampling = {"latent": latent, "pyramid": calibrated["pyramid"], "middle_stage_model": model, "first_stage_model": lora}
    _samplers(graph, {"positive": prompt, "negative": prompt, "model": model}, sampling, sigmas, noise)
    _by_hand(graph, lora, spec, latent, sigmas, noise)
    return graph


def _samplers(graph: Graph, conds: dict[str, Any], sampling: dict[str, Any], sigmas: Node, noise: Node) -> None:
    stages: dict[str, Any] = {"start_stage": "mid", "end_stage": "2"}
    graph.group("Samplers", column=2)
    graph.add(
        "PyramidalWanSampler", **conds, **sampling, **stages, seed=12, quality="custom", steps="4-3-2", cfg="5-4-3",
        sampler_name="heun", denoise=0.8, grid="distilled", shift=6.0,
    )  # fmt: skip
    guider = graph.add("CFGGuider", **conds, cfg=4.0)
    few = graph.add("PyramidalWanFewStepSampler")
    graph.add(
        "PyramidalWanSamplerAdvanced", **sampling, **stages, noise=noise, guider=guider, sampler=few, sigmas=sigmas, cfg="3-2-1"
    )


def _by_hand(graph: Graph, model: Node, spec: Node, latent: Node, sigmas: Node, noise: Node) -> None:
    graph.group("By hand", column=3)
    start = graph.add("PyramidalWanStageStart", noise=noise, latent=latent, pyramid=spec)
    graph.add("PyramidalWanStageModel", model=model, pyramid=spec, stage="mid")
    graph.add("PyramidalWanStageSigmas", sigmas=sigmas, pyramid=spec, stage="1")
    graph.add("PyramidalWanSaveDraft", latent=start["latent"], filename="my_draft")
    graph.add("PyramidalWanLoadDraft", filename="my_draft.safetensors")
    between = graph.add("PyramidalWanStageTransition", latent=start["latent"], noise=noise, pyramid=spec, stage="mid")
    graph.add("PyramidalWanRenoise", latent=between["latent"], noise=noise, pyramid=spec, stage="mid", level=0.45)


def main() -> None:
    """Write the folder of this version."""
    from harness.in_process import use_comfyui

    use_comfyui()
    from .graphs import title, ui
    from .graphs.ui import pack_version

    folder = SAVED / pack_version()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "every_node.json").write_text(as_text(ui(every_node(), around=False)), encoding="utf-8")
    for name in COPIED:
        shutil.copy(FOLDER / f"{title(name)}.json", folder / f"{name}.json")
    print(folder.relative_to(ROOT))


if __name__ == "__main__":
    main()
