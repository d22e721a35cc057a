"""The sections of a run: each measures its numbers and the plain runs that they are compared with."""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.in_process import pack_module
from pyramid.flops import forward_tflops, tokens

from .recorder import Recorder, Run, total
from .results import Row
from .sampling import plain, pyramid, two_experts
from .setting import Setting, preset

ROUNDS = 3
STAGES = ("low", "mid", "high")
PAPER = {"low": 7.62, "mid": 33.76, "high": 631.77}
"""Milliseconds of a forward pass that the paper publishes."""
OTHER_METHODS = {
    "tpdiff": ("TPDiff", "half the frames in each lower stage"),
    "ppf": ("PPF", "larger patches in each lower stage"),
}
"""Presets of other methods: the names, and what is smaller in their lower stages."""
LORA_RANK = 32


@dataclass(frozen=True)
class Section:
    """A part of the run that can be repeated by itself.

    Attributes:
        name: Its name.
        measure: Returns its rows.
        seconds: Estimate of its time on an H100, without what sections before it have loaded.
    """

    name: str
    measure: Callable[[Setting], Iterator[Row]]
    seconds: int


def forwards(setting: Setting) -> Iterator[Row]:
    """Measure the forward passes of the stages, and the matrix product that bounds them."""
    recorder = Recorder(setting.device)
    rate = matrix_rate(setting)
    yield Row("matrix product", rate, "TFLOPS", note="bfloat16, the rate of the roofline below")
    work = pyramid(setting, recorder.watched(setting.model), "6-6-4")
    runs = recorder.rounds({"run": work}, 1)["run"]
    yield from _stage_rows(setting, runs[-1], rate, "as it is", limits={"high": 1.5})
    yield Row("run 6-6-4", total(runs) / sum(runs[-1].forwards), "x", 1.01, "the sum of its bare forwards")
    yield from _other_methods(setting, recorder)
    full = recorder.run(plain(setting, recorder.watched(setting.model), 3))
    yield Row("plain, forward", full.median(0), "ms", note="ComfyUI's KSampler")


def _other_methods(setting: Setting, recorder: Recorder) -> Iterator[Row]:
    """Measure the forward passes of the pyramids of other methods, as far as this version of the pack has them."""
    for name, (title, note) in OTHER_METHODS.items():
        if name not in pack_module("pyramid.stages").PRESETS:
            continue
        model = with_patches(setting.model) if name == "ppf" else setting.model
        run = recorder.run(pyramid(setting, recorder.watched(model), "3-3-3", name=name))
        for index, stage in enumerate(STAGES):  # by place: patches leave the latent at its size
            yield Row(f"{title}, forward {stage}", statistics.median(run.forwards[3 * index :][1:3]), "ms", note=note)


def with_patches(model: Any) -> Any:
    """Return a MODEL with layers that read its latents in the larger patches of PPF."""
    patches, attach = pack_module("pyramid.patches"), pack_module("samplers.comfyui.stage_patches").attach_patches
    spec, wan = preset("ppf"), patches.wan_layers(model.model.diffusion_model.state_dict())
    tensors = patches.to_tensors([patches.lifted(wan, cell) for cell in patches.coarse_cells(spec)])
    return attach(model, pack_module("samplers.comfyui.patch_files").patch_set(tensors, spec.to_metadata(), "PPF"))[0]


def compiled(setting: Setting) -> Iterator[Row]:
    """Measure the forward passes with 'Pyramidal Compile', and the time that its first run takes."""
    recorder = Recorder(setting.device)
    stage_compile = pack_module("samplers.comfyui.stage_compile")
    texts: list[str] = []
    # C++ compiles for minutes on a CPU, so the tiny run traces the graphs only
    backend = "eager" if setting.tiny else stage_compile.INDUCTOR
    model = stage_compile.compile_stages(setting.model, texts.append, backend=backend)
    if model is setting.model:
        yield Row("Pyramidal Compile", None, "ms", note=texts[-1])
        return
    work = pyramid(setting, recorder.watched(model), "6-6-4")
    first = recorder.run(work)
    run = recorder.rounds({"run": work}, 1)["run"][0]
    yield from _stage_rows(setting, run, matrix_rate(setting), "compiled", limits={"high": 1.5}, most={"low": 3.0, "mid": 20.0})
    yield Row("first run, compiled", first.total / 1000, "s", note=texts[-1])
    fresh = recorder.run(pyramid(setting, recorder.watched(model), "6-6-4", seed=1))
    yield Row("run 6-6-4 with a new seed, compiled", fresh.total / run.total, "x", 1.05, "the run before")
    gc.collect()


def _stage_rows(
    setting: Setting, run: Run, rate: float, how: str, *, limits: dict[str, float], most: dict[str, float] | None = None
) -> Iterator[Row]:
    """Yield time and roofline of the forward pass of every stage."""
    shapes = preset("pyramidal-wan").shapes(setting.size.latent)
    for index, stage in enumerate(STAGES):
        spent = run.median(index)
        published = "" if setting.tiny else f"{PAPER[stage]} ms in the paper"
        yield Row(f"forward {stage}, {how}", spent, "ms", (most or {}).get(stage), published)
        bound = 1000 * forward_tflops(tokens(shapes[index]), setting.dimensions) / rate
        yield Row(
            f"forward {stage}, {how}", spent / bound, "x", limits.get(stage), "roofline: its operations at the matrix rate"
        )


def matrix_rate(setting: Setting) -> float:
    """Return the TFLOPS of a large matrix product in bfloat16."""
    side = 256 if setting.tiny else 8192
    recorder = Recorder(setting.device)
    left, right = (torch.randn(side, side, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    times = recorder.rounds({"product": lambda: [left @ right for _ in range(10)]}, ROUNDS)["product"]
    return 10 * 2 * side**3 / (total(times) / 1000) / 1e12


def schedules(setting: Setting) -> Iterator[Row]:
    """Compare schedules with plain runs, in time and memory."""
    recorder = Recorder(setting.device)
    model = recorder.watched(setting.model)
    runs = recorder.rounds(
        {
            "2-2-1": pyramid(setting, model, "2-2-1"),
            "4-4-2": pyramid(setting, model, "4-4-2"),
            "0-0-1": plain(setting, model, 1),
            "0-0-2": plain(setting, model, 2),
            "0-0-5": plain(setting, model, 5),
        },
        ROUNDS,
    )
    times = {name: total(made) for name, made in runs.items()}
    yield Row("2-2-1", times["2-2-1"], "ms")
    yield Row("2-2-1", times["2-2-1"] / times["0-0-1"], "x", 1.08, "0-0-1, plain")
    yield Row("2-2-1", times["2-2-1"] / times["0-0-2"], "x", 0.55, "0-0-2, plain")
    share = 5 * times["4-4-2"] / (10 * times["0-0-5"])
    yield Row("20-20-10", share, "x", 0.235, "0-0-50, plain; extrapolated from 4-4-2 and 0-0-5")
    bare = statistics.median(run.total / sum(run.forwards) for run in runs["4-4-2"])
    yield Row("run 4-4-2", bare, "x", 1.01, "the sum of its bare forwards")
    for name in ("2-2-1", "4-4-2"):
        yield _memory_row(name, runs[name], runs["0-0-2"], "0-0-2, plain")


def _memory_row(name: str, runs: list[Run], against: list[Run], note: str, *, extra: int = 0) -> Row:
    """Return the peak memory of runs as a ratio; ``extra`` bytes are allowed."""
    peaks = [run.peak for run in (runs[-1], against[-1])]
    if peaks[0] is None or peaks[1] is None:
        return Row(f"peak memory of {name}", None, "x", 1.0, f"{note}; a CPU does not count it")
    limit = (peaks[1] + extra) / peaks[1]
    return Row(f"peak memory of {name}", peaks[0] / peaks[1], "x", round(limit, 3) + 0.001, note)


def stage_lora(setting: Setting) -> Iterator[Row]:
    """Measure what a stage LoRA adds to the switch between stages where ComfyUI merges weights."""
    recorder = Recorder(setting.device)
    lora, size = random_lora(setting)
    with_lora, _ = pack_module("samplers.comfyui.stage_lora").add_stage_lora(setting.model, lora)
    runs = recorder.rounds(
        {
            "without": pyramid(setting, recorder.watched(setting.model), "2-2-1"),
            "with": pyramid(setting, recorder.watched(with_lora), "2-2-1"),
        },
        ROUNDS,
    )
    moved = weights_moved(setting, with_lora) - weights_moved(setting, setting.model)
    pause = {name: statistics.median(max(run.pauses) for run in made) for name, made in runs.items()}
    yield Row(
        "stage switch with a stage LoRA", pause["with"], "ms", note=f"rank {LORA_RANK} in low and high; the longer switch"
    )
    added = pause["with"] - pause["without"]
    yield Row("stage switch, added by the LoRA", added, "ms", 5.0, "the switch without it, where ComfyUI merges weights")
    yield Row("weights moved by a stage LoRA", max(0, moved), "", 0.0, "the weights that ComfyUI moves in a run without it")
    yield _memory_row("2-2-1 with a stage LoRA", runs["with"], runs["without"], "2-2-1 without it", extra=2 * size)


def streaming(setting: Setting) -> Iterator[Row]:
    """Measure the switch of a stage LoRA where ComfyUI streams weights, which another process lets it do."""
    if getattr(setting.model, "is_dynamic", bool)():
        yield from stage_lora(setting)
        return
    if setting.device.type != "cuda":
        yield Row("streamed weights", None, "ms", 5.0, "ComfyUI streams weights on NVIDIA cards only")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "streamed.json"
        command = [sys.executable, "-m", "benchmarks.card", "--stream", "--only", "streamed weights", "--results", str(path)]
        command += ["--tiny"] * setting.tiny + (["--checkpoint", str(setting.checkpoint)] if setting.checkpoint else [])
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            yield Row("streamed weights", None, "ms", 5.0, done.stderr.strip().rpartition("\n")[2])
            return
        for row in json.loads(path.read_text(encoding="utf-8"))["sections"]["streamed weights"]["rows"]:
            yield Row(**{**row, "measure": f"{row['measure']}, streamed weights"})


def random_lora(setting: Setting) -> tuple[Any, int]:
    """Return a StageLora for the low and high stage with all linear layers of the blocks, and its bytes."""
    from safetensors.torch import save_file

    files, stage_loras = pack_module("samplers.comfyui.lora_file"), pack_module("samplers.comfyui.stage_lora")
    network, tensors = setting.model.model.diffusion_model, {}
    for name, layer in network.blocks.named_modules():
        if isinstance(layer, torch.nn.Linear):
            up, down = torch.randn(layer.out_features, LORA_RANK), torch.randn(LORA_RANK, layer.in_features)
            tensors[f"diffusion_model.blocks.{name}.lora_up.weight"] = (up / 100).bfloat16()
            tensors[f"diffusion_model.blocks.{name}.lora_down.weight"] = (down / 100).bfloat16()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.safetensors"
        save_file(tensors, path)
        file = files.load_lora_file(path, path.name)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    return stage_loras.StageLora(file, 1.0, "low,high"), size


def weights_moved(setting: Setting, model: Any) -> int:
    """Return how many weights are in another place after a run."""
    network = setting.model.model
    addresses = {name: weight.data_ptr() for name, weight in network.named_parameters()}
    pyramid(setting, model, "2-2-1")()
    return sum(weight.data_ptr() != addresses[name] for name, weight in network.named_parameters())


def lifts(setting: Setting) -> Iterator[Row]:
    """Measure the lifts against the stage that they precede."""
    import folder_paths

    recorder, node = Recorder(setting.device), pack_module("nodes.lift").PyramidalWanLiftFromVAE
    vae = setting.vae()
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.folder_names_and_paths["pyramidal_lifts"] = ([folder], {".safetensors"})
        began = time.perf_counter()
        fitted = node.execute(vae, "auto", pyramid=preset("training-free")).args[0]
        made = {"fitted": fitted, "pixels": node.execute(vae, "pixels").args[0]}
        fitting = time.perf_counter() - began
        without = node.execute(vae, "none").args[0]
        model = recorder.watched(setting.model)
        runs = {
            name: recorder.rounds({name: pyramid(setting, model, "2-2", name="training-free", lift=lift)}, 1)[name][0]
            for name, lift in {"none": without, **made}.items()
        }
    yield Row("fitting a lift", fitting, "s", note="once per VAE, for one scale")
    stage = runs["none"].median(1) * 2
    for name in made:
        added = runs[name].pauses[0] - runs["none"].pauses[0]
        yield Row(f"lift, {name}", added / stage, "x", note="the two steps of the stage that it precedes")


def experts(setting: Setting) -> Iterator[Row]:
    """Compare the two experts of Wan 2.2 14B with and without 'Pyramidal Model' on the noisy one."""
    recorder = Recorder(setting.device)
    high, low = (recorder.watched(setting.expert(seed)) for seed in (1, 2))
    (pyramidal,) = pack_module("nodes.model").PyramidalWanModel.execute(high, preset("wan2.2-t2v")).args
    works = {"template": two_experts(setting, high, low), "pyramid": two_experts(setting, pyramidal, low)}
    runs = recorder.rounds(works, 1)
    note = "the template as it is, 2+2 steps, cfg 1" + ("" if setting.tiny else ", fp8")
    yield Row("two experts with Pyramidal Model", total(runs["pyramid"]) / total(runs["template"]), "x", 0.6, note)
    yield _memory_row("two experts with Pyramidal Model", runs["pyramid"], runs["template"], "the template as it is")


def training(setting: Setting) -> Iterator[Row]:
    """Compare a pyramidal training step with a plain one of as many samples."""
    from .training import step_times

    pyramidal, full = step_times(setting)
    yield Row("pyramidal training step", pyramidal, "s", note="one sample per stage, without L_dist")
    yield Row("pyramidal training step", pyramidal / full, "x", 0.45, "a step on as many samples at full size")


SECTIONS = (
    Section("forwards", forwards, 45),
    Section("schedules", schedules, 40),
    Section("stage LoRA", stage_lora, 25),
    Section("two experts", experts, 80),
    Section("compiled", compiled, 110),
    Section("training", training, 60),
    Section("lifts", lifts, 60),
    Section("streamed weights", streaming, 30),
)
