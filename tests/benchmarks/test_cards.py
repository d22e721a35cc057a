"""The estimates in the artists' guide."""

import math

import comfy.model_management
import pytest

from benchmarks.cards import ANCHORS, CARDS, FULL, RUNS, estimate, run_tflops, working_memory


def test_the_published_latency_of_2_2_1_agrees_with_that_of_one_full_step():
    """The paper has 714.5 ms on the same card; its small stages are slower than their operations suggest."""
    h100 = ANCHORS[0]
    seconds = run_tflops(RUNS[-1], "1.3B") / (h100.share * h100.peak)
    assert seconds == pytest.approx(0.7145, rel=0.02)


def test_shares_are_plausible_and_faster_cards_are_faster():
    assert all(0.2 < anchor.share < 0.9 for anchor in ANCHORS)
    assert [card.peak for card in CARDS] == sorted(card.peak for card in CARDS)
    assert estimate(16980, CARDS[-1]) == "24-43 s" and estimate(16980, CARDS[0]) == "16-28 min"


def test_working_memory_follows_comfyuis_own_rule(t2v_model, monkeypatch):
    from comfyui_version import __version__

    if __version__ != "0.3.75":
        pytest.skip(f"the rule is that of 0.3.75, this is {__version__}")
    monkeypatch.setattr(comfy.model_management, "pytorch_attention_flash_attention", lambda: True)
    shape = (2, 16, *FULL.latent)
    model = t2v_model.model
    bytes_each = comfy.model_management.dtype_size(model.manual_cast_dtype or model.get_dtype())
    tiny = model.memory_required(shape) / bytes_each / model.model_config.unet_config["dim"]
    assert math.isclose(working_memory(FULL.latent, "1.3B", batch=2), tiny * 2 * 1536 / 1e9, rel_tol=1e-6)
