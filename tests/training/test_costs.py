"""Costs of training: published forward passes and counted parameters."""

import pytest
from diffusers import WanTransformer3DModel

from pyramid.flops import WAN_DIMENSIONS, WanDimensions
from pyramid.latent_shape import LatentShape
from pyramid.stages import PRESETS
from pyramid.training.config.settings import Adapter
from pyramid.training.estimate import costs
from pyramid.training.models import adapters

FULL = LatentShape(21, 56, 104)
TINY = WanDimensions(dim=256, ffn_dim=320, layers=3)


def tiny():
    return WanTransformer3DModel(num_attention_heads=2, ffn_dim=320, num_layers=3)


def test_a_step_costs_the_sum_of_the_published_forward_passes():
    work = costs.Work(trained=[1, 1, 1], frozen=[0, 1, 1], lora=False, checkpointing=True)
    steps = costs.step_costs(PRESETS["pyramidal-wan"], FULL, WAN_DIMENSIONS["1.3B"], work, samples=2)
    assert [step.tokens for step in steps] == [546, 4004, 30576]
    expected = [2 * 4 * 1.63, 2 * 5 * 13.50, 2 * 5 * 251.84]
    assert [step.tflops for step in steps] == pytest.approx(expected, rel=3e-3)
    assert costs.plain_tflops(steps, WAN_DIMENSIONS["1.3B"], work.trained_passes(0)) == pytest.approx(6 * 4 * 251.84, rel=1e-3)


@pytest.mark.parametrize(
    "lora, checkpointing, passes", [(False, False, 3), (False, True, 4), (True, False, 2), (True, True, 3)]
)
def test_a_backward_pass_costs_as_many_forward_passes_as_the_convention_says(lora, checkpointing, passes):
    assert costs.Work([1], [0], lora, checkpointing).passes(0) == passes


def test_parameters_are_counted_exactly():
    assert costs.parameters(TINY) == sum(weight.numel() for weight in tiny().parameters())
    assert costs.parameters(WAN_DIMENSIONS["1.3B"]) == pytest.approx(1.419e9, rel=1e-3)
    assert costs.parameters(WAN_DIMENSIONS["14B"]) == pytest.approx(14.29e9, rel=1e-3)


@pytest.mark.parametrize("targets", [Adapter().targets, ("to_q",), ("to_out.0", "ffn.net.2")])
def test_lora_parameters_are_counted_exactly(targets):
    network = tiny()
    adapters.prepare(network, Adapter(kind="lora", rank=5, targets=targets), 3, seed=0)
    trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    assert trained == costs.lora_parameters(TINY, 5, targets)
