"""Valid graphs around every node of the pack, and the values that they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.in_process import pack_module
from tiny_wan.checkpoints import TEXT_DIM, t2v_state_dict, vae_state_dict

from .graph_runner import GIVE, KEEP, Graph

FRAMES, SIDE = 3, 8
"""Size of the full latent."""

GRID: dict[str, Any] = {"grid": "auto", "shift": 5.0}
RANGE: dict[str, Any] = {"start_stage": "auto", "end_stage": "auto"}


class Socket(str):
    """The name of a value that reaches an input through a link."""


def valid_inputs() -> dict[str, dict[str, Any]]:
    """Return inputs for every node with which it runs; files are missing, see ``write_files``."""
    return {node: {**_defaults(node), **inputs} for node, inputs in _inputs().items()}


def _defaults(node: str) -> dict[str, Any]:
    """Return the defaults of a node's widgets."""
    described = pack_module("nodes").__dict__[f"PyramidalWan{node}"].GET_SCHEMA().inputs
    defaults = {widget.id: vars(widget).get("default") for widget in described}
    return {name: default for name, default in defaults.items() if default is not None}


def _inputs() -> dict[str, dict[str, Any]]:
    model, latent, pyramid, lift, noise = map(Socket, ("model", "latent", "pyramid", "lift", "noise"))
    conds: dict[str, Any] = {"positive": Socket("positive"), "negative": Socket("negative")}
    optional: dict[str, Any] = {"pyramid": pyramid, "first_stage_model": model, "lift": lift}
    by_hand: dict[str, Any] = {"pyramid": pyramid, "stage": "low"}
    return {
        "Model": {"model": model, "pyramid": pyramid, "lift": lift},
        "Sampler": {
            "model": model, **conds, "latent": latent, "seed": 1, "steps": "1-1", "cfg": "2", "sampler_name": "euler",
            "denoise": 1.0, **GRID, **RANGE, **optional, "quality": "custom",
        },
        "SamplerAdvanced": {
            "noise": noise, "guider": Socket("guider"), "sampler": Socket("sampler"), "sigmas": Socket("sigmas"),
            "latent": latent, "cfg": "2", **RANGE, **optional,
        },
        "Compile": {"model": model}, "FewStepSampler": {},
        "Preset": {"preset": "training-free", "scale": "auto"},
        "Custom": {
            "boundaries": "0.8", "downsample_axes": "HW", "resize": "haar", "field": "natural", "timestep_source": "sigma",
            "first_frame": "shared", "rope": "native",
        },
        "FromFile": {"file": "loras/spec.safetensors"},
        "LiftFromVAE": {"vae": Socket("vae"), "method": "none", "clips": Socket("clips"), "pyramid": pyramid},
        "EmptyLatent": {"width": 64, "height": 64, "frames": 9, "batch_size": 1, "snap": "nearest", "pyramid": pyramid},
        "Schedule": {"pyramid": pyramid, "steps": "1-1", **GRID, "model": model, "latent": latent},
        "StageLoRA": {"model": model, "lora_name": "lora.safetensors", "strength": 1.0, "stages": "all", "expert": "auto"},
        "Patches": {"model": model, "file": "loras/patches.safetensors"},
        "StageStart": {"noise": noise, "latent": latent, "pyramid": pyramid},
        "StageModel": {"model": model, **by_hand, "lift": lift},
        "StageSigmas": {"sigmas": Socket("sigmas"), **by_hand},
        "StageTransition": {"latent": Socket("draft"), "noise": noise, **by_hand, "denoised": Socket("clean"), "lift": lift},
        "Renoise": {"latent": Socket("video"), "noise": noise, "pyramid": pyramid, "stage": "high", "level": 0.3},
        "CostEstimate": {"latent": latent, "steps": "1-1", "cfg": "6", **GRID, "pyramid": pyramid, "model": model},
        "Calibrate": {"latent": Socket("video"), "threshold": 0.1, "pyramid": pyramid},
        "SaveConditioning": {"conditioning": Socket("positive"), "filename": "prompt"},
        "LoadConditioning": {"filename": "prompt.safetensors"},
        "SaveDraft": {"latent": Socket("draft"), "filename": "draft"},
        "LoadDraft": {"filename": "draft.safetensors"},
    }  # fmt: skip


def graph_of(node: str, inputs: Mapping[str, Any]) -> Graph:
    """Return a graph with one node of the pack, of which every output is kept, and a sampler behind outputs for one."""
    graph: Graph = {"node": {"class_type": f"PyramidalWan{node}", "inputs": _linked(inputs, graph := {})}, **graph}
    outputs = pack_module("nodes").__dict__[f"PyramidalWan{node}"].GET_SCHEMA().outputs
    for slot, output in enumerate(outputs):
        graph[f"keep{slot}"] = {"class_type": KEEP, "inputs": {"key": output.id, "value": ["node", slot]}}
    return graph


def followed_by_sampler(graph: Graph, **changes: Any) -> Graph:
    """Return a graph with a sampler in which some inputs are outputs of the graph's node."""
    inputs = {**valid_inputs()["Sampler"], **changes}
    linked = {key: [value[0], value[1]] if isinstance(value, tuple) else value for key, value in _linked(inputs, graph).items()}
    graph["sampler"] = {"class_type": "PyramidalWanSampler", "inputs": linked}
    graph["sampled"] = {"class_type": KEEP, "inputs": {"key": "sampled", "value": ["sampler", 0]}}
    return graph


def _linked(inputs: Mapping[str, Any], graph: Graph) -> dict[str, Any]:
    """Return inputs with links to nodes that give the values of sockets; the nodes are added to the graph."""
    linked = {}
    for name, value in inputs.items():
        linked[name] = value
        if isinstance(value, Socket):
            graph[f"give {value}"] = {"class_type": GIVE, "inputs": {"key": str(value)}}
            linked[name] = [f"give {value}", 0]
    return linked


def values() -> dict[str, Any]:
    """Return the values of sockets by name."""
    import comfy.samplers
    import comfy.sd

    stages, options = pack_module("pyramid.stages"), pack_module("samplers.options")
    spec = stages.PRESETS["training-free"]
    model: Any = comfy.sd.load_diffusion_model_state_dict(t2v_state_dict(layers=1))
    generator = torch.Generator().manual_seed(0)
    positive, negative = ([[torch.randn(1, 7, TEXT_DIM, generator=generator), {}]] for _ in range(2))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(2.0)
    latent = {"samples": torch.zeros(1, 16, FRAMES, SIDE, SIDE)}
    schedule = pack_module("samplers.schedule")
    settings = dict(seed=1, steps="1-1", denoise=1.0, sampler_name="euler", grid="auto", shift=5.0)
    ended = options.sample_with_conds(
        model, positive, negative, latent, spec, options.StageOptions("2", end_stage="low"), **settings
    )
    return {
        "model": model, "positive": positive, "negative": negative, "latent": latent, "pyramid": spec, "guider": guider,
        "video": {"samples": torch.randn(1, 16, FRAMES, SIDE, SIDE, generator=generator)}, "draft": ended.output,
        "clean": ended.denoised,
        "noise": pack_module("samplers.noise").SeedNoise(1), "sampler": comfy.samplers.sampler_object("euler"),
        "sigmas": schedule.to_sigmas(schedule.levels_for(spec, "1-1", "auto", 5.0)[1]),
        "lift": pack_module("samplers.lift.video_lift").VideoLift("none", 16), "vae": comfy.sd.VAE(sd=vae_state_dict(dim=4)),
        "clips": torch.rand(17, 128, 128, 3, generator=generator), **_wrong_models(model, spec),
    }  # fmt: skip


def _wrong_models(model: Any, spec: Any) -> dict[str, Any]:
    import comfy.model_patcher
    import comfy.sd

    weights = t2v_state_dict(layers=1)
    weights["blocks.0.ffn.0.weight"][3, 5] = float("nan")
    return {
        "nan_model": comfy.sd.load_diffusion_model_state_dict(weights),
        "bound_model": pack_module("samplers.hand_wired").stage_model(model, spec, "low"),
        "pyramidal_model": pack_module("samplers.any_sampler").pyramidal_model(model, spec, lambda text: None),
        "other_model": comfy.model_patcher.ModelPatcher(torch.nn.Linear(2, 2), torch.device("cpu"), torch.device("cpu")),
    }


def _patches(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the layers of a pyramid of patches that fit a MODEL, and their metadata."""
    patches, stages = pack_module("pyramid.patches"), pack_module("pyramid.stages")
    spec = stages.PyramidSpec((0.8,), ("HW",), field="natural", first_frame="shared", coarse="patches")
    wan = patches.wan_layers(model.model.diffusion_model.state_dict())
    layers = [patches.lifted(wan, cell) for cell in patches.coarse_cells(spec)]
    return patches.to_tensors(layers), spec.to_metadata()


def write_files(base: Path, given: Mapping[str, Any]) -> None:
    """Write valid files of every kind into folders as ComfyUI has them, under ``base``."""
    from safetensors.torch import save_file

    use_folders(base)
    for folder in ("loras", "diffusion_models", "pyramidal_lifts", "input/drafts", "input/conditioning", "output"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    drafts, prompts = (pack_module(f"samplers.comfyui.{name}") for name in ("draft_files", "prompt_files"))
    drafts.save_draft({**given["draft"], "batch_index": [0]}, "draft")
    prompts.save_conditioning([[given["positive"][0][0], {"start_percent": 0.0, "strength": 1.0}]], "prompt")
    for kind, name in (("drafts", "draft"), ("conditioning", "prompt")):
        (base / "output" / kind / f"{name}.safetensors").replace(base / "input" / kind / f"{name}.safetensors")
        (base / "output" / kind).rmdir()
    spec, schedules = given["pyramid"], pack_module("pyramid.schedules")
    query = "diffusion_model.blocks.0.self_attn.q"
    tensors = {f"{query}.lora_up.weight": torch.ones(128, 2) / 9, f"{query}.lora_down.weight": torch.ones(2, 128) / 9}
    levels = schedules.levels_to_metadata([[1.0], [0.8]])
    save_file(
        {**tensors, f"{query}.alpha": torch.tensor(2.0)}, base / "loras" / "lora.safetensors", {**spec.to_metadata(), **levels}
    )
    save_file(tensors, base / "loras" / "spec.safetensors", spec.to_metadata())
    torch.save({**tensors, f"{query}.alpha": torch.tensor(2.0)}, base / "loras" / "lora.pt")
    tensors_of_patches, metadata = _patches(given["model"])
    save_file(tensors_of_patches, base / "loras" / "patches.safetensors", metadata)
    save_file(_other_adapters(), base / "loras" / "adapters.safetensors")
    peft = {
        f"base_model.model.blocks.0.self_attn.q.lora_{part}.weight": t for part, t in zip("BA", tensors.values(), strict=True)
    }
    save_file(peft, base / "loras" / "adapter_model.safetensors")
    config = '{"r": 2, "lora_alpha": 4, "use_rslora": false, "alpha_pattern": {"blocks.0.self_attn.q": 8}}'
    (base / "loras" / "adapter_config.json").write_text(config)
    _write_lift(base / "pyramidal_lifts" / "0123456789abcdef.safetensors")


def _other_adapters() -> dict[str, torch.Tensor]:
    """Return the tensors of a LoRA file with one adapter of every kind but the ordinary one."""
    generator = torch.Generator().manual_seed(2)
    shapes = {
        "self_attn.k": {
            "hada_w1_a": (128, 2),
            "hada_w1_b": (2, 128),
            "hada_w2_a": (128, 2),
            "hada_w2_b": (2, 128),
            "alpha": (),
        },
        "self_attn.v": {"lokr_w1": (8, 8), "lokr_w2_a": (16, 2), "lokr_w2_b": (2, 16), "alpha": ()},
        "self_attn.o": {"lora_up.weight": (128, 2), "lora_down.weight": (2, 128), "dora_scale": (128, 1), "alpha": ()},
        "cross_attn.q": {"oft_blocks": (16, 8, 8), "alpha": ()},
        "cross_attn.k": {"a1.weight": (128, 2), "a2.weight": (2, 128), "b1.weight": (128, 2), "b2.weight": (2, 128)},
        "ffn.0": {"diff": (256, 128), "diff_b": (256,)},
    }
    return {
        f"diffusion_model.blocks.0.{layer}.{part}": torch.rand(shape, generator=generator) / 99
        for layer, parts in shapes.items()
        for part, shape in parts.items()
    }


def _write_lift(path: Path) -> None:
    files, lift, fit = (pack_module(name) for name in ("samplers.lift.files", "pyramid.lift", "pyramid.neighbourhoods"))
    generator = torch.Generator().manual_seed(1)

    def fitted(small: tuple[int, int, int], large: tuple[int, int, int]) -> Any:
        ratios, kernel = fit.ratios_between(small, large), (3, 3, 3)
        first, rest = (
            torch.randn(*frames.phases, 16, frames.inputs(16) + 1, generator=generator) / 100
            for frames in fit.frame_classes(ratios, kernel)
        )
        return files.FittedMap(lift.LinearMap(ratios, kernel, first, rest), *[files.Errors(0.1, 0.2, 0.1, 1.0)] * 2)

    sizes = (3, 4, 4), (3, 8, 8)
    axes = files.FittedAxes(fitted(*sizes), fitted(*sizes[::-1]), "rendered clips", "24 rendered clips, 50 rendered frames")
    files.write_lift(path, files.LiftFile("0123456789abcdef", 16, {"HW": axes}))


def use_folders(base: Path) -> None:
    """Let ComfyUI work in folders under ``base``."""
    import folder_paths

    folder_paths.set_input_directory(str(base / "input"))
    folder_paths.set_output_directory(str(base / "output"))
    folder_paths.set_user_directory(str(base / "user"))
    for kind in ("loras", "diffusion_models", "checkpoints", "pyramidal_lifts"):
        endings = folder_paths.folder_names_and_paths[kind][1]
        folder_paths.folder_names_and_paths[kind] = ([str(base / kind)], endings)
    folder_paths.filename_list_cache.clear()
