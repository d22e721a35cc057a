"""ComfyUI's own templates for open Wan weights run the pyramid: tiny models, small sizes, everything else as shipped.

Each template is queued as it is, with 'Pyramidal Model' and the preset 'plain', and with 'Pyramidal Model' as it comes.
"""

import re

import pytest
import torch

from harness.server import GraphError
from harness.templates import PYRAMID_NODE, tiny_graph, wan_templates, with_pyramid, with_saved_latents
from harness.templates.results import MISSING, REFUSED, RUNS, WITHOUT, Result, record

TEMPLATES = wan_templates()

REFUSED_WITH = {"video_causal_forcing_i2v": r"WAN21_CausalAR\) samples frame by frame"}
"""Templates that the pyramid cannot run, and what the node says then."""


@pytest.fixture(params=TEMPLATES, ids=[template.name for template in TEMPLATES])
def template(request, comfyui):
    """A template whose nodes the running ComfyUI has."""
    missing = request.param.missing_nodes(comfyui.node_info)
    if missing:
        nodes = ", ".join(f"`{kind}`" for kind in missing)
        record(Result(comfyui.version, request.param.name, MISSING, nodes))
        pytest.skip(f"ComfyUI {comfyui.version} has no {', '.join(missing)}")
    return request.param


def test_template(template, comfyui):
    graph = tiny_graph(template, comfyui.node_info)
    if PYRAMID_NODE not in comfyui.node_info:
        check_latents(run_whole(comfyui, graph, template.name))
        record(Result(comfyui.version, template.name, WITHOUT))
        return
    expected, _ = comfyui.run(with_saved_latents(graph, f"expected/{template.name}", only=True))
    check_latents(expected)
    plain = with_pyramid(graph, preset="plain")
    assert_identical(comfyui.run(with_saved_latents(plain, f"plain/{template.name}", only=True))[0], expected)
    check_with_pyramid(comfyui, graph, template.name, expected)


def check_with_pyramid(comfyui, graph, name, expected):
    try:
        latents = run_whole(comfyui, with_pyramid(graph), name)
    except GraphError as error:
        if name not in REFUSED_WITH or not re.search(REFUSED_WITH[name], str(error)):
            raise
        record(Result(comfyui.version, name, REFUSED, str(error).split("failed: ")[-1]))
        return
    check_latents(latents)
    assert shapes(latents) == shapes(expected)
    assert any(not torch.equal(latents[sampler], expected[sampler]) for sampler in expected), "nothing differs"
    record(Result(comfyui.version, name, RUNS))


def run_whole(comfyui, graph, name):
    """Run the graph with all its outputs; returns the latents."""
    latents, outputs = comfyui.run(with_saved_latents(graph, f"whole/{name}"))
    assert any(found.get("images") for found in outputs.values()), "no video or image was saved"
    return latents


def check_latents(latents):
    assert latents, "nothing was sampled"
    for sampler, latent in latents.items():
        assert torch.isfinite(latent).all(), f"{sampler} is not finite"
        assert latent.std() > 0, f"{sampler} is constant"


def assert_identical(found, expected):
    assert shapes(found) == shapes(expected)
    for sampler, latent in expected.items():
        assert torch.equal(found[sampler], latent), f"{sampler} differs by up to {(found[sampler] - latent).abs().max()}"


def shapes(latents):
    return {sampler: tuple(latent.shape) for sampler, latent in latents.items()}
