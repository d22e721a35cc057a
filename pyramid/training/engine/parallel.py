"""Several processes: a copy of the network in each, with averaged gradients, or shards of its weights (FSDP2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ..config.settings import System

T = TypeVar("T")

BUCKET = 2**25
"""Number of gradients in one reduction (128 MB)."""

MAX_WAIT = timedelta(hours=12)
"""How long processes wait for each other: the main one alone reads networks, writes checkpoints and exports, which takes longer
than PyTorch's default of 10 minutes with 14B."""


def start(system: System) -> Accelerator:
    """Join the other processes, if ``accelerate launch`` or ``torchrun`` started any, and select the device."""
    precision = "bf16" if system.precision == "bf16" else "no"
    waits = InitProcessGroupKwargs(timeout=MAX_WAIT)
    cpu = system.device == "cpu"
    return Accelerator(mixed_precision=precision, cpu=cpu, step_scheduler_with_optimizer=False, kwargs_handlers=[waits])


def distribute(network: nn.Module, accelerator: Accelerator, system: System) -> None:
    """Move a network to the device; with FSDP2, shard the weights of its blocks over the processes.

    FSDP2 moves block by block, so no device ever holds more than its shards and one whole block.

    Raises:
        ValueError: FSDP2 in a single process.
    """
    if system.parallel == "fsdp2":
        if not dist.is_initialized():
            raise ValueError("system.parallel 'fsdp2' requires several processes: start with 'accelerate launch' or 'torchrun'")
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        for block in network.transformer.blocks:  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue]
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        # The gradient of a block's features returns through a frozen network without triggering FSDP2's hooks, so weights
        # outside of its blocks must stay gathered after the forward pass. An optimiser's weights must be sharded again.
        trained = any(weight.requires_grad for weight in network.parameters())
        fully_shard(network, mesh=mesh, reshard_after_forward=trained)
    else:
        network.to(accelerator.device)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients over all processes, in place; a missing gradient counts as zero.

    To be called once per optimiser step, after the last backward pass. Gradients of FSDP2 shards are averaged already.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    bucket: list[Tensor] = []
    for parameter in parameters:
        if isinstance(parameter, DTensor):
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        if sum(grad.numel() for grad in bucket) >= BUCKET:
            _average(bucket)
            bucket = []
    if bucket:
        _average(bucket)


def _average(gradients: list[Tensor]) -> None:
    flat = torch.cat([grad.flatten() for grad in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([grad.numel() for grad in gradients])
    for grad, part in zip(gradients, parts, strict=True):
        grad.copy_(part.view_as(grad))


def mean_over_processes(values: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    """Return the mean of each scalar over all processes."""
    if accelerator.num_processes == 1 or not values:
        return values
    together = accelerator.reduce(torch.tensor(list(values.values()), device=accelerator.device), reduction="mean")
    return dict(zip(values, together.tolist(), strict=True))  # pyright: ignore[reportAttributeAccessIssue]


def any_process(flag: bool, accelerator: Accelerator) -> bool:
    """Return whether ``flag`` is set in any process."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), reduction="sum").item() > 0)  # pyright: ignore


def on_main(call: Callable[[], T]) -> T:
    """Call a function in the main process only; return its result in every process, or raise its error there.

    Every process must call it, and waits for the main one. Errors other than those of wrong inputs and of the file system end
    the main process, and the launcher then stops the others.
    """
    if not dist.is_initialized():
        return call()
    outcome: list = [None, None]
    if dist.get_rank() == 0:
        try:
            outcome[0] = call()
        except (ValueError, OSError) as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
