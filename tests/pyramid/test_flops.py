"""The cost model reproduces the costs that PyramidalWan publishes."""

import pytest

from pyramid.flops import WAN_DIMENSIONS, forward_tflops, schedule_cost, tokens, total_tflops
from pyramid.latent_shape import LatentShape
from pyramid.schedules import parse_steps
from pyramid.stages import PyramidSpec

FULL = LatentShape(21, 56, 104)


@pytest.mark.parametrize(
    ("steps", "published", "cfg"),
    [("0-0-50", 2 * 12592, True), ("20-20-10", 2 * 2821, True), ("0-0-4", 1007, False), ("0-0-2", 504, False),
     ("2-2-2", 534, False), ("2-2-1", 282, False), ("1-1-1", 267, False)],
)  # fmt: skip
def test_published_costs(steps, published, cfg):
    costs = schedule_cost(PyramidSpec(), FULL, parse_steps(steps, 3), WAN_DIMENSIONS["1.3B"], cfg=cfg)
    assert round(total_tflops(costs) / (2 if cfg else 1)) * (2 if cfg else 1) == published


def test_tokens_and_cost_of_a_forward_pass():
    assert [tokens(s.shape) for s in PyramidSpec().stages(FULL)] == [546, 4004, 30576]
    assert [round(forward_tflops(n, WAN_DIMENSIONS["1.3B"]), 2) for n in (30576, 4004, 546)] == [251.84, 13.50, 1.63]
    assert tokens(LatentShape(1, 15, 15)) == 64
    assert forward_tflops(30576, WAN_DIMENSIONS["14B"]) > 5 * forward_tflops(30576, WAN_DIMENSIONS["1.3B"])


def test_skipped_stages_cost_nothing():
    costs = schedule_cost(PyramidSpec(), FULL, (0, 0, 1), WAN_DIMENSIONS["1.3B"])
    assert [cost.tflops for cost in costs[:2]] == [0, 0] and costs[2].tflops == pytest.approx(251.84, abs=0.005)
