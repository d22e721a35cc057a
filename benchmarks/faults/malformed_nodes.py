"""Malformed inputs of the nodes: widgets, sockets and files, through ComfyUI's own validation and executor."""

from __future__ import annotations

import functools
import json
import logging
import random
import re
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.in_process import pack_module

from .audited_values import UNUSUAL, Audited, audited_values
from .cases import Case, Part, expect
from .damaged_files import JSON_TEXTS, damage
from .graph_runner import GIVE, Graph, GraphRunner, Outcome
from .malformed_values import JSON_VALUES, malformed_of, python_values
from .node_graphs import followed_by_sampler, graph_of, use_folders, valid_inputs, values, write_files

TESTED = ("nodes", "plots", "pyramid", "samplers", "benchmarks/faults")
"""Folders of the code under test."""

CASES = {"widget": 140, "linked widget": 60, "socket": 120, "file": 180}
MAX_MEMORY = 12 << 30
MAX_CHARACTERS = 500
LOADERS = {"drafts": "LoadDraft", "conditioning": "LoadConditioning"}
"""Nodes that load what other nodes save, by folder."""

Maker = Callable[[GraphRunner, Path, random.Random], tuple[Graph, str]]
"""Makes a malformed graph, and words for it; the folder is that of ComfyUI's files."""

WIDGETS = ("INT", "FLOAT", "STRING", "COMBO")
CHANGED_BY_NODES = ("patches", "object_patches", "wrappers", "callbacks", "injections", "attachments", "hook_patches")
NOT_A_SENTENCE = re.compile(
    r"object has no attribute|NoneType|not supported between|positional argument|unexpected keyword|index out of range|<class|"
    r"cannot be interpreted|not subscriptable|not iterable|unhashable|Traceback|<.* object at|must match the size|mat1 and|"
    r"Expected .* to|Input type|codec can't|could not convert|expected str, bytes|Errno|invalid literal|size of tensor|"
    r"(?<!weight_)dtype|shapes? cannot|Could not run|version_counter|cannot be called on|unsupported operand|to unpack|"
    r"cannot convert float|too large to convert"
)
"""Words of Python or PyTorch that say nothing to an artist."""


def cases(seed: int, folder: Path) -> Sequence[Case]:
    """Return the cases, and prepare the values and files that they share."""
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    runner, base = GraphRunner(), folder / "nodes"
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False
    with torch.inference_mode():
        given = values()
        write_files(base, given)
    runner.given.update(given)
    reference = _reference(runner)
    makers = {f"{kind} {number}": MAKERS[kind] for kind, count in CASES.items() for number in range(count)}
    makers |= {f"audited {name}": functools.partial(_audited, value) for name, value in audited_values().items()}
    return [
        Case(name, functools.partial(_check, runner, base, reference, maker, f"{seed} {name}"))
        for name, maker in makers.items()
    ]


def _check(runner: GraphRunner, shared: Path, reference: torch.Tensor, make: Maker, seed: str, folder: Path) -> None:
    """Run one malformed graph and expect one sentence and no harm."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, most))
    rng = random.Random(seed)
    base = folder / "base"
    shutil.copytree(shared, base)
    use_folders(base)
    before = _state(runner.given["model"])
    graph, words = make(runner, base, rng)
    files = _files(base)
    outcome = runner.run(graph)
    expect_sentence(outcome, words)
    for path in _files(base) - files:
        expect(path.suffix == ".safetensors" and outcome.error is None, f"{words}: left {path.name} behind")
        expect_loads(runner, base, path, words)
    expect(_state(runner.given["model"]) == before, f"{words}: the MODEL is not clean")
    use_folders(shared)
    expect(torch.equal(_reference(runner), reference), f"{words}: the next run differs")


def _reference(runner: GraphRunner) -> torch.Tensor:
    outcome = runner.run(graph_of("Sampler", valid_inputs()["Sampler"]))
    expect(outcome.error is None and not outcome.refused, f"a valid graph fails: {outcome}")
    return outcome.kept["samples"]["samples"]


def expect_sentence(outcome: Outcome, words: str) -> None:
    """Expect that a graph was refused with one sentence, or that its values are finite."""
    expect(not outcome.crashes, f"{words}: a check crashed: {'; '.join(outcome.crashes)[:300]}")
    if outcome.refused:
        ours = [text for text in outcome.refused if text.startswith("Custom validation failed")]
        for text in ours:
            _expect_readable(text, words)
    elif outcome.error is not None:
        where = re.sub(r"\s+", " ", outcome.where)[-200:]
        expect(outcome.kind == "ValueError", f"{words}: {outcome.kind}: {outcome.error[:200]!r} {where}")
        _expect_readable(outcome.error, words)
    else:
        bad = [key for key, value in outcome.kept.items() if not _finite(value)]
        expect(not bad, f"{words}: ran, and {', '.join(bad)} holds NaN or infinity")


def _expect_readable(text: str, words: str) -> None:
    expect("\n" not in text and text.isprintable(), f"{words}: not one line: {text[:200]!r}")
    expect(len(text) <= MAX_CHARACTERS, f"{words}: {len(text)} characters: {text[:200]!r}")
    expect(not NOT_A_SENTENCE.search(text), f"{words}: not a sentence for an artist: {text[:300]!r}")


def expect_loads(runner: GraphRunner, base: Path, path: Path, words: str) -> None:
    """Expect that what a node saved can be loaded."""
    folder, _, name = path.relative_to(base / "output").as_posix().partition("/")
    outcome = runner.run(graph_of(LOADERS[folder], {"filename": f"{name} [output]"}))
    problem = outcome.error or "; ".join(outcome.refused)
    expect(not problem, f"{words}: saved, but cannot be loaded: {problem}")


def _finite(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return bool(torch.isfinite(value.float()).all())
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, (list, tuple)) else True


def _state(model: Any) -> dict[str, str]:
    """Return what nodes can leave on a MODEL: patches, wrappers, callbacks, hooks and replaced methods."""
    state = {name: repr(sorted(vars(model).get(name) or {})) for name in CHANGED_BY_NODES}
    hooks = [name for name, module in model.model.named_modules() if module._forward_hooks or module._forward_pre_hooks]
    return {**state, "options": repr(model.model_options), "hooks": repr(hooks)}


def _files(base: Path) -> set[Path]:
    """Return the files that nodes can read or write; kept times of runs are none of them."""
    return {path for path in base.rglob("*") if path.is_file() and not path.is_relative_to(base / "user")}


def _audited(audited: Audited, runner: GraphRunner, base: Path, rng: random.Random) -> tuple[Graph, str]:
    node, name, make = audited
    return _given(runner, node, valid_inputs()[node], name, make(runner.given))


def _widget(runner: GraphRunner, base: Path, rng: random.Random) -> tuple[Graph, str]:
    node, inputs, name, _ = _chosen(rng, of=WIDGETS)
    value = rng.choice(JSON_VALUES)
    return graph_of(node, {**inputs, name: value}), f"{node}.{name} = {_short(value)}"


def _linked_widget(runner: GraphRunner, base: Path, rng: random.Random) -> tuple[Graph, str]:
    node, inputs, name, _ = _chosen(rng, of=WIDGETS)
    return _given(runner, node, inputs, name, rng.choice([*JSON_VALUES, *python_values()]))


def _socket(runner: GraphRunner, base: Path, rng: random.Random) -> tuple[Graph, str]:
    node, inputs, name, io_type = _chosen(rng, of=())
    if rng.random() < 0.15:
        value = rng.choice(JSON_VALUES)
        return graph_of(node, {**inputs, name: value}), f"{node}.{name} = {_short(value)}, a constant"
    malformed = rng.random() < 0.8
    value = malformed_of(io_type, runner.given, rng) if malformed else rng.choice([*JSON_VALUES, *python_values()])
    if name == "clips":
        inputs = {**inputs, "method": "linear"}
    graph, words = _given(runner, node, inputs, name, value)
    if node in ("Model", "StageModel") and io_type == "MODEL":
        followed_by_sampler(graph, model=("node", 0))
    return graph, words


def _given(runner: GraphRunner, node: str, inputs: Mapping[str, Any], name: str, value: Any) -> tuple[Graph, str]:
    runner.given["malformed"] = value
    graph = graph_of(node, {key: other for key, other in inputs.items() if key != name})
    graph["malformed"] = {"class_type": GIVE, "inputs": {"key": "malformed"}}
    graph["node"]["inputs"][name] = ["malformed", 0]
    return graph, f"{node}.{name} <- {_short(value)}"


def _chosen(rng: random.Random, *, of: tuple[str, ...]) -> tuple[str, dict[str, Any], str, str]:
    """Return a node with valid inputs, and the name and type of one of them: a widget of these types, or a socket."""
    choices = [
        (node, inputs, widget.id, widget.get_io_type())
        for node, inputs in valid_inputs().items()
        for widget in pack_module("nodes").__dict__[f"PyramidalWan{node}"].GET_SCHEMA().inputs
        if widget.id in inputs and ((widget.get_io_type() in of) if of else (widget.get_io_type() not in WIDGETS))
    ]
    return rng.choice(choices)


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"tensor {'nested' if value.is_nested else tuple(value.shape)} {value.dtype}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(item)}" for key, item in value.items())[:100] + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value[:3])) + "]"
    return ascii(value)[:60]


def _file(runner: GraphRunner, base: Path, rng: random.Random) -> tuple[Graph, str]:
    kind = rng.choice(sorted(FILES))
    path, graph = FILES[kind](base)
    if path.suffix == ".json":
        text = rng.choice([*JSON_TEXTS, *JSON_FILES[kind](path)])
        encoding = rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"])
        path.write_bytes(text.encode(encoding))
        how = f"{text[:60]} in {encoding}"
    elif path.suffix == ".pt":
        how = _unusual_tensor(path, rng)
    else:
        how = damage(path, rng)
    return graph, f"{kind}: {how}"


def _unusual_tensor(path: Path, rng: random.Random) -> str:
    """Replace one tensor of a file in PyTorch's format."""
    tensors = torch.load(path, weights_only=True)
    name, kind = rng.choice(sorted(tensors)), rng.choice(sorted(UNUSUAL))
    tensors[name] = UNUSUAL[kind](tensors[name] if tensors[name].ndim else tensors[name][None])
    torch.save(tensors, path)
    return f"tensor {name} {kind}"


def _kept_times(path: Path) -> Iterator[str]:
    """Yield kept times with other values for the model of the campaign."""
    for times in ('{"48": 1e308}', '{"48": NaN}', '{"48": -5}', '{"48": 0}', '{"0": 1}', '{"1": 1e999}', "null", "[1]"):
        yield "{" + ", ".join(f"{json.dumps(key)}: {times}" for key in json.loads(path.read_text())) + "}"


def _peft_configs(path: Path) -> Iterator[str]:
    for pattern in ("(.+)+!", ".*.*.*.*.*.*.*.*!", "[", "(", "x" * 100_000):
        yield f'{{"lora_alpha": 4, "alpha_pattern": {{"{pattern}": 2}}}}'
    for alpha in ("NaN", '"a"', "[]", "null", "1e400", "{}"):
        yield f'{{"lora_alpha": {alpha}}}'
    yield '{"alpha_pattern": [1, 2]}'
    yield '{"lora_alpha": 4, "café": 1}'


FILES: Mapping[str, Callable[[Path], tuple[Path, Graph]]] = {
    "draft": lambda base: (
        base / "input" / "drafts" / "draft.safetensors",
        followed_by_sampler(graph_of("LoadDraft", valid_inputs()["LoadDraft"]), latent=("node", 0)),
    ),
    "prompt": lambda base: (
        base / "input" / "conditioning" / "prompt.safetensors",
        followed_by_sampler(graph_of("LoadConditioning", valid_inputs()["LoadConditioning"]), positive=("node", 0)),
    ),
    "LoRA": lambda base: (
        base / "loras" / "lora.safetensors",
        followed_by_sampler(graph_of("StageLoRA", valid_inputs()["StageLoRA"]), model=("node", 0)),
    ),
    "LoRA of other kinds": lambda base: (
        base / "loras" / "adapters.safetensors",
        followed_by_sampler(
            graph_of("StageLoRA", {**valid_inputs()["StageLoRA"], "lora_name": "adapters.safetensors"}), model=("node", 0)
        ),
    ),
    "LoRA of peft": lambda base: (
        base / "loras" / "adapter_config.json",
        followed_by_sampler(
            graph_of("StageLoRA", {**valid_inputs()["StageLoRA"], "lora_name": "adapter_model.safetensors"}), model=("node", 0)
        ),
    ),
    "pyramid": lambda base: (
        base / "loras" / "spec.safetensors",
        followed_by_sampler(graph_of("FromFile", valid_inputs()["FromFile"]), pyramid=("node", 0)),
    ),
    "LoRA in PyTorch's format": lambda base: (
        base / "loras" / "lora.pt",
        followed_by_sampler(graph_of("StageLoRA", {**valid_inputs()["StageLoRA"], "lora_name": "lora.pt"}), model=("node", 0)),
    ),
    "times of runs": lambda base: (
        base / "user" / "pyramidalwan" / "timings.json",
        followed_by_sampler(graph_of("CostEstimate", valid_inputs()["CostEstimate"])),
    ),
    "patches": lambda base: (base / "loras" / "patches.safetensors", graph_of("Patches", valid_inputs()["Patches"])),
    "lift": lambda base: (
        base / "pyramidal_lifts" / "0123456789abcdef.safetensors",
        graph_of("Sampler", {key: value for key, value in valid_inputs()["Sampler"].items() if key != "lift"}),
    ),
}
"""The file of each kind, and the graph that reads it."""

JSON_FILES = {"LoRA of peft": _peft_configs, "times of runs": _kept_times}
"""Further texts for files of JSON by kind."""

MAKERS: Mapping[str, Maker] = {
    "widget": _widget,
    "linked widget": _linked_widget,
    "socket": _socket,
    "file": _file,
}

PART = Part(
    "malformed-nodes",
    "a malformed input of a node gives one sentence, leaves the MODEL clean, and the next run is bit-identical",
    cases,
    tested=TESTED,
    seconds=60.0,
)
