"""Enable gradients, which the tests of the nodes disable."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(autouse=True)
def with_gradients(as_comfyui_runs_nodes):
    with torch.enable_grad():
        yield
