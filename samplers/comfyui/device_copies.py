"""Small tensors that follow the data they act on to its device and dtype."""

from __future__ import annotations

import torch
from torch import Tensor


class OnDevice:
    """A small tensor with a copy for every device and dtype that asks for one: several devices may run at once.

    A compiled layer makes no copies: what it depends on must be the same at every call.
    """

    def __init__(self, tensor: Tensor) -> None:
        """Keep the tensor where it is."""
        self.tensor = tensor
        self.copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def __call__(self, like: Tensor) -> Tensor:
        """Return the tensor on the device and in the dtype of ``like``."""
        kept = self.copies.get((like.device, like.dtype))
        if kept is not None:
            return kept
        if torch.compiler.is_compiling():
            return self.tensor.to(device=like.device, dtype=like.dtype)
        self.copy_to(like.device, like.dtype)
        return self.copies[like.device, like.dtype]

    def copy_to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Keep a copy on a device in a dtype."""
        self.copies[device, dtype] = self.tensor.to(device=device, dtype=dtype)
