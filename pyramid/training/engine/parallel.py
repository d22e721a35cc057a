"""Several processes: a copy of the network in each with averaged gradients, or its weights in shards (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ..config.settings import System

BUCKET = 2**25
"""Numbers that travel together in one reduction (128 MB)."""


def start(system: System) -> Accelerator:
    """Joins the other processes, if ``accelerate launch`` or ``torchrun`` started any."""
    precision = "bf16" if system.precision == "bf16" else "no"
    return Accelerator(mixed_precision=precision, cpu=system.device == "cpu", step_scheduler_with_optimizer=False)


def place(network: nn.Module, accelerator: Accelerator, system: System) -> None:
    """Moves a network to the device; with FSDP2 every process keeps a share of each block's weights."""
    if system.parallel == "fsdp2":
        if not dist.is_initialized():
            raise ValueError("parallel 'fsdp2' needs several processes: start with 'accelerate launch' or 'torchrun'")
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        network.to(accelerator.device)
        for block in network.transformer.blocks:  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue]
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        # a frozen network keeps what is outside of its blocks whole after a forward pass: the gradient of a block's features
        # comes back through it without FSDP2's notice. What an optimiser holds must be in shards again.
        trained = any(weight.requires_grad for weight in network.parameters())
        fully_shard(network, mesh=mesh, reshard_after_forward=trained)
    else:
        network.to(accelerator.device)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """The mean of every gradient over all processes; one that a process does not have counts as zero. Shards are averaged
    already. Once per optimiser step, after the last backward pass, so accumulation and unused weights need no care."""
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


def full(value: Tensor) -> Tensor:
    """A whole tensor on the CPU, of a shard or of itself. With shards every process must call it."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu()


def mean_over_processes(values: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    """Scalars for the log."""
    if accelerator.num_processes == 1 or not values:
        return values
    together = accelerator.reduce(torch.tensor(list(values.values()), device=accelerator.device), reduction="mean")
    return dict(zip(values, together.tolist(), strict=True))  # pyright: ignore[reportAttributeAccessIssue]


def any_process(flag: bool, accelerator: Accelerator) -> bool:
    """True on all processes if it is on one."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), reduction="sum").item() > 0)  # pyright: ignore
