"""ComfyUI's own templates for open Wan weights run the pyramid: tiny models, small sizes, everything else as shipped.

Each template is queued as it is, with 'Pyramidal Model' and the preset 'plain', and with 'Pyramidal Model' as it comes; those
with two experts also with the node on the high-noise expert only.
"""

import pytest
import torch

from harness.templates import (
    PYRAMID_NODE,
    high_noise_models,
    online_nodes,
    tiny_graph,
    wan_templates,
    with_pyramid,
    with_saved_latents,
)
from harness.templates.graph import of_class
from harness.templates.prepared import SAMPLERS
from harness.templates.results import RUNS, UNCHANGED, WITHOUT, Result, record, without_nodes

TEMPLATES = wan_templates()

FULL_SIZE = {"video_causal_forcing_i2v": "the model samples frame by frame"}
"""Templates that run as without the node, and why."""


@pytest.fixture(params=TEMPLATES, ids=[template.name for template in TEMPLATES])
def template(request, comfyui):
    """A template whose nodes the running ComfyUI has."""
    missing = request.param.missing_nodes(comfyui.node_info)
    if missing:
        online = online_nodes(comfyui.server.workspace.comfyui)
        record(without_nodes(comfyui.version, request.param.name, missing, online))
        pytest.skip(f"ComfyUI {comfyui.version} has no {', '.join(missing)}")
    return request.param


def test_template(template, comfyui):
    graph = tiny_graph(template, comfyui.node_info)
    if PYRAMID_NODE not in comfyui.node_info:
        check_latents(run_whole(comfyui, graph, template.name).latents)
        record(Result(comfyui.version, template.name, WITHOUT))
        return
    expected = run_latents(comfyui, graph, f"expected/{template.name}").latents
    check_latents(expected)
    plain = run_latents(comfyui, with_pyramid(graph, preset="plain"), f"plain/{template.name}")
    assert_identical(plain.latents, expected)
    if template.name not in FULL_SIZE:  # a causal sampler counts the steps of every part of the video
        check_progress(plain, graph)
    check_high_noise_expert(comfyui, graph, template.name, expected)
    check_with_pyramid(comfyui, graph, template.name, expected)


def check_high_noise_expert(comfyui, graph, name, expected):
    """Run a template with two experts as the guide says: the node on the expert that starts, the other as it was."""
    models = high_noise_models(graph)
    if models:
        run = run_latents(comfyui, with_pyramid(graph, models=models), f"high/{name}")
        check_pyramidal(run, graph, expected)


def check_with_pyramid(comfyui, graph, name, expected):
    run = run_whole(comfyui, with_pyramid(graph), name)
    if name in FULL_SIZE:
        assert_identical(run.latents, expected)
        record(Result(comfyui.version, name, UNCHANGED, FULL_SIZE[name]))
        return
    check_pyramidal(run, graph, expected)
    record(Result(comfyui.version, name, RUNS))


def run_latents(comfyui, graph, prefix):
    """Run only what is sampled."""
    return comfyui.run(with_saved_latents(graph, prefix, only=True))


def run_whole(comfyui, graph, name):
    """Run the graph with all its outputs."""
    run = comfyui.run(with_saved_latents(graph, f"whole/{name}"))
    assert any(output.get("images") for output in run.outputs.values()), "no video or image was saved"
    return run


def check_pyramidal(run, graph, expected):
    """Check that the latents have the size that they have without the node, and that it did something."""
    check_latents(run.latents)
    assert shapes(run.latents) == shapes(expected)
    assert any(not torch.equal(run.latents[saved], expected[saved]) for saved in expected), "nothing differs"
    check_progress(run, graph)


def check_progress(run, graph):
    """Check that each sampler that ran has one progress bar, which grows and ends full."""
    samplers = [name for name, _ in of_class(graph, *SAMPLERS) if name in run.progress]
    assert samplers, "no sampler ran"
    for name in samplers:
        reports = run.progress[name]
        steps = [report.step for report in reports]
        assert len({report.steps for report in reports}) == 1, f"{name} has several bars, or none: {reports}"
        assert steps == sorted(set(steps)), f"the bar of {name} stops or goes back: {steps}"
        assert steps[-1] == reports[-1].steps, f"the bar of {name} ends at {reports[-1]}"


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
