"""The estimates in the training guide."""

from pathlib import Path

import pytest

from benchmarks.training_costs import SCRIPT, Machine, encode_tflops, table
from benchmarks.written_page import block

ROOT = Path(__file__).resolve().parents[2]


def test_the_guide_has_the_table_that_the_script_writes():
    assert block(SCRIPT, table()) in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_rate_follows_from_the_published_latency():
    """The paper has 251.84 TFLOPs in 631.77 ms."""
    assert Machine("H100", 2, 1.0).rate == pytest.approx(2 * 3600 * 251.84 / 0.63177, rel=1e-3)


def test_the_vae_is_counted_on_its_real_layers():
    """Its widest convolutions, 3x3x3 with 96 channels at full size over all frames, bound the total from below."""
    widest = 2 * 27 * 96 * 96 * 448 * 832 * 81 / 1e12
    assert 4 * widest < encode_tflops() < 20 * widest
