"""Compile the network for each stage of a pyramid, with ComfyUI's own compile wrapper.

A stage has one static shape, so it is compiled once, and not again for a new seed, step or run. Large stages compile their
blocks, which share their graphs. A small stage takes longer to start its operations than to compute them, so its whole network
is one graph, which a GPU replays as a CUDA graph. PyTorch checks all that a graph depends on, and compiles again where it
changes.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...pyramid.flops import WanDimensions, forward_tflops, tokens
from ...pyramid.latent_shape import LatentShape
from ...pyramid.stage_names import stage_name
from ...pyramid.stages import Stage
from ..noise import BATCH_INDEX_KEY

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

KEY = "pyramidal_wan_compile"
INDUCTOR = "inductor"
NETWORK = "diffusion_model"

SMALL_BLOCK_TFLOPS = 0.2
"""Operations of a block below which starting its kernels one by one takes longer than computing them: 0.3 ms on an H100."""

COMPILATIONS = 64
"""Graphs of the blocks' code that PyTorch keeps: three stages, with and without cfg, in several sizes; its default is 8."""

OF_THE_STEP = frozenset({"sigmas", "sample_sigmas", "uuids", "cond_or_uncond", "callbacks", "wrappers", BATCH_INDEX_KEY})
"""Transformer options that change from step to step or run to run, and which only patches and wrappers of other nodes read."""

READERS = ("patches", "patches_replace", "optimized_attention_override")
"""Transformer options with code of other nodes, which may read any option."""


@dataclass(eq=False)
class StageCompiler:
    """The compiler that a MODEL carries for its stages.

    Attributes:
        backend: Backend of ``torch.compile``.
        report: Shows a text on the node.
        seconds: Time that compiling each stage took, by its name.
        at_once: Whether small networks are compiled as a whole.
        failure: Why compiling failed; None while it has not.
    """

    backend: str | Callable[..., Any]
    report: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)
    at_once: bool = True
    failure: str | None = None

    def record_time(self, stage: str, seconds: float) -> None:
        """Note and report the time that compiling a stage took."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        each = ", ".join(f"{name} {spent:.0f} s" for name, spent in self.seconds.items())
        self.report(f"compiled: {each}; further runs of the same size start immediately")

    def record_failure(self, stage: str, error: Exception, *, at_once: bool) -> None:
        """Note, log and report that a stage cannot be compiled, at once or in blocks."""
        cause = getattr(error, "inner_exception", error)  # PyTorch's outer exception names only the backend
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        if at_once:
            self.at_once = False
            text = f"stage '{stage}' cannot be compiled as a whole, so its blocks are compiled: {reason}"
        else:
            self.failure = text = f"torch.compile failed in stage '{stage}', so the model runs uncompiled: {reason}"
        logging.warning("PyramidalWan: %s", text)
        self.report(text)


def compile_stages(
    model: ModelPatcher, report: Callable[[str], None], *, backend: str | Callable[..., Any] = INDUCTOR
) -> ModelPatcher:
    """Return a clone of a MODEL whose stages are compiled in their first run, or the MODEL itself where that is impossible.

    Args:
        model: The MODEL, not bound to a stage.
        report: Shows a text, now and after a stage was compiled.
        backend: Backend of ``torch.compile``.
    """
    reason = why_not(model.load_device, backend=backend)
    if reason is None:
        try:
            compiled = model.clone(disable_dynamic=True) if streams(model) else model.clone()
        except RuntimeError as error:
            reason = f"ComfyUI streams the weights of this MODEL and cannot load them as a whole ({error})"
        else:
            compiled.set_attachments(KEY, StageCompiler(backend, report))
            report(
                "each stage is compiled in its first run of a size, which takes a minute or more; its time is shown here then"
            )
            return compiled
    text = f"not compiled: {reason}"
    logging.warning("PyramidalWan: %s", text)
    report(text)
    return model


def why_not(device: torch.device, *, backend: str | Callable[..., Any] = INDUCTOR) -> str | None:
    """Return why ``torch.compile`` is not available for a device, as a part of a sentence; None where it is."""
    if importlib.util.find_spec("comfy_api.torch_helpers") is None:
        return "this ComfyUI has no wrapper for torch.compile; update it"
    import torch._dynamo

    dynamo: Any = torch._dynamo
    if not dynamo.is_dynamo_supported():
        return "torch.compile does not support this Python on this system"
    if not getattr(dynamo.config, "inline_inbuilt_nn_modules", False):
        return "this PyTorch compiles every block by itself; 2.5 and newer let them share one graph"
    if backend == INDUCTOR and device.type in ("cuda", "xpu") and importlib.util.find_spec("triton") is None:
        return "torch.compile requires the Python package triton (triton-windows on Windows) on this device"
    return None


def streams(model: ModelPatcher) -> bool:
    """Return whether ComfyUI streams the weights of a MODEL, which its compile node does not support either."""
    return bool(getattr(model, "is_dynamic", bool)())


def apply_stage_compiler(bound: ModelPatcher, stage: Stage, number_of_stages: int, dimensions: WanDimensions) -> None:
    """Let a stage's own clone of a MODEL run compiled if the MODEL carries a compiler; changes ``bound``."""
    if (apply_model := compiling_wrapper(bound, stage_name(stage.index, number_of_stages), dimensions)) is not None:
        from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

        bound.add_wrapper_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY, apply_model)


def compiling_wrapper(bound: ModelPatcher, name: str, dimensions: WanDimensions) -> Callable[..., Any] | None:
    """Return the wrapper of the kind ``APPLY_MODEL`` that compiles a MODEL's network; None if the MODEL carries no compiler.

    Args:
        bound: A clone of the MODEL.
        name: What is compiled, for reports.
        dimensions: Sizes of the network.
    """
    compiler = bound.get_attachment(KEY)
    if compiler is None or compiler.failure is not None:
        return None
    in_blocks = _comfyui_wrapper(bound, compiler.backend, _block_names(bound), graphs=False)
    at_once = _comfyui_wrapper(bound, compiler.backend, [NETWORK], graphs=True)
    return _CompiledStage(compiler, name, dimensions, bound.model, in_blocks, at_once).apply_model


def is_small(latents: Tensor, dimensions: WanDimensions) -> bool:
    """Return whether the blocks take longer to start than to compute for latents ``(B, C, T, H, W)``."""
    shape = LatentShape(*latents.shape[-3:])
    return len(latents) * forward_tflops(tokens(shape), dimensions) / dimensions.layers < SMALL_BLOCK_TFLOPS


def _block_names(model: ModelPatcher) -> list[str]:
    network: Any = model.get_model_object(NETWORK)
    lists = {"blocks": network.blocks, "vace_blocks": getattr(network, "vace_blocks", None)}
    present = {name: blocks for name, blocks in lists.items() if isinstance(blocks, nn.ModuleList)}
    return [f"{NETWORK}.{name}.{index}" for name, blocks in present.items() for index in range(len(blocks))]


def _comfyui_wrapper(bound: ModelPatcher, backend: Any, names: list[str], *, graphs: bool) -> Callable[..., Any]:
    """Return ComfyUI's wrapper that runs these modules compiled, and take it off the MODEL."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

    mode = "reduce-overhead" if graphs and backend == INDUCTOR else None
    set_torch_compile_wrapper(bound, backend=backend, mode=mode, dynamic=False, keys=names)
    (wrapper,) = bound.get_wrappers(WrappersMP.APPLY_MODEL, COMPILE_KEY)
    bound.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY)
    return wrapper


@dataclass(frozen=True)
class _CompiledStage:
    """A stage's compiled network.

    Attributes:
        compiler: What the MODEL carries.
        name: Name of the stage.
        dimensions: Sizes of the network.
        model: The MODEL's network in ComfyUI; those of other MODELs that are called with the same options run uncompiled.
        in_blocks: ComfyUI's wrapper that compiles the blocks.
        at_once: ComfyUI's wrapper that compiles the whole network.
    """

    compiler: StageCompiler
    name: str
    dimensions: WanDimensions
    model: Any
    in_blocks: Callable[..., Any]
    at_once: Callable[..., Any]

    def apply_model(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the network compiled: at once, in blocks where that fails, and uncompiled where both fail."""
        while self.compiler.failure is None and executor.class_obj is self.model:
            compiled, new_args, new_kwargs = self._choose(args, kwargs)
            graphs, start = _graphs(), time.perf_counter()
            try:
                with _room_for_compilations():
                    output = compiled(executor, *new_args, **new_kwargs)
            except (comfy.model_management.InterruptProcessingException, comfy.model_management.OOM_EXCEPTION):
                raise
            except Exception as error:  # a missing compiler or driver raises almost anything
                self.compiler.record_failure(self.name, error, at_once=compiled is self.at_once)
                continue
            if _graphs() > graphs:
                self.compiler.record_time(self.name, time.perf_counter() - start)
            return output
        return executor(*args, **kwargs)

    def _choose(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]:
        """Return the wrapper for a call and the arguments to call it with.

        A small network runs at once where no code of other nodes runs inside. The options of the step are left out then: each
        new value would compile it again.
        """
        position = 5 if len(args) > 5 else None  # apply_model(x, t, c_concat, c_crossattn, control, transformer_options)
        options = kwargs.get("transformer_options", {}) if position is None else args[position]
        inside = options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL)
        code_inside = any(options.get(name) for name in READERS) or any((inside or {}).values())
        if code_inside or not self.compiler.at_once or not is_small(args[0], self.dimensions):
            return self.in_blocks, args, kwargs
        rest = {name: value for name, value in options.items() if name not in OF_THE_STEP}
        if position is None:
            return self.at_once, args, {**kwargs, "transformer_options": rest}
        return self.at_once, [*args[:position], rest, *args[position + 1 :]], kwargs


def _graphs() -> int:
    """Return the number of graphs that PyTorch has compiled in this process."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def _room_for_compilations() -> Any:
    """Return a context in which PyTorch keeps enough graphs of one function."""
    import torch._dynamo

    config: Any = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    return config.patch({name: COMPILATIONS})
