"""ComfyUI's own templates in the front end: what it queues for them, and one with 'Pyramidal Model' put in by hand."""

import io
import json
import re
from urllib.parse import urlencode
from urllib.request import urlopen

import av
import pytest

from harness.templates import PYRAMID_NODE, tiny_document, tiny_graph, wan_templates, with_pyramid, write_networks
from harness.templates.document import api_format
from harness.templates.graph import is_link, upstream
from tiny_wan.encoders import write_text_encoder

MORE_THAN_LINKS = {"video_wan2_2_14B_flf2v", "video_wan_vace_14B_ref2v", "wan2.1_fun_control"}
"""Templates without subgraphs that have bypassed groups, primitives, reroutes or uploads."""
TEMPLATES = [
    template
    for template in wan_templates()
    if template.document.get("definitions", {}).get("subgraphs") or template.name in MORE_THAN_LINKS
]
PLAYER = {"audioUI"}
"""What older front ends send for the player of 'Load Audio'."""
BELOW_THE_SAMPLER = (780, 560)
"""An empty place in the text-to-video template."""
STEPS = 2
"""The place of the steps among the saved values of a 'KSampler'."""
QUEUED = "async () => (await app.graphToPrompt()).output"
PUT_IN = """() => {
    const samplers = app.graph.nodes.filter(node => node.type.startsWith("KSampler") && node.mode === 0)
    for (const sampler of samplers) {
        const socket = sampler.inputs.findIndex(input => input.name === "model")
        const [source, slot] = [sampler.getInputNode(socket), sampler.getInputLink(socket).origin_slot]
        const node = LiteGraph.createNode("PyramidalWanModel")
        app.graph.add(node)
        source.connect(slot, node, node.inputs.findIndex(input => input.name === "model"))
        node.connect(0, sampler, socket)
    }
    return samplers.length
}"""
"""Puts 'Pyramidal Model' in front of every sampler, as an artist does; returns how many samplers there are."""


@pytest.fixture(scope="module")
def node_info(url):
    with urlopen(f"{url}/object_info") as answer:
        return json.load(answer)


@pytest.mark.parametrize("template", TEMPLATES, ids=[template.name for template in TEMPLATES])
def test_the_front_end_queues_the_same(template, front_end, node_info):
    missing = template.missing_nodes(node_info)
    if missing:
        pytest.skip(f"nodes missing: {', '.join(missing)}")
    front_end.open(template.document)
    queued = _that_runs(front_end.page.evaluate(QUEUED), node_info)
    graph = _that_runs(api_format(template.document, node_info), node_info)
    ours, theirs = _described(graph), _described(queued)
    assert not {name: graph[name] for name, node in ours.items() if node not in theirs.values()}
    assert not {name: queued[name] for name, node in theirs.items() if node not in ours.values()}
    assert len(ours) == len(theirs)


@pytest.mark.parametrize("name", ["video_wan2_2_14B_flf2v", "wan2.1_fun_control"])
def test_the_node_put_in_by_hand_queues_what_the_templates_are_tested_with(name, front_end, node_info):
    template = next(template for template in TEMPLATES if template.name == name)
    front_end.open(template.document)
    assert front_end.page.evaluate(PUT_IN) > 0
    queued = _that_runs(front_end.page.evaluate(QUEUED), node_info)
    graph = _that_runs(with_pyramid(api_format(template.document, node_info)), node_info)
    assert set(_described(queued).values()) == set(_described(graph).values()) and len(queued) == len(graph)


@pytest.fixture
def text_to_video(workspace, node_info):
    """The template with tiny models, sizes and steps, and the files that it names."""
    (template,) = [template for template in wan_templates() if template.name == "text_to_video_wan"]
    write_text_encoder(workspace.base / "models")
    write_networks(workspace, tiny_graph(template, node_info))
    return tiny_document(template, node_info)


def test_an_artist_puts_the_node_into_a_template_and_runs_it(text_to_video, fresh_front_end, url):
    shift, sampler, latent, save = (
        _only(text_to_video, kind) for kind in ("ModelSamplingSD3", "KSampler", "EmptyHunyuanLatentVideo", "SaveVideo")
    )
    width, height, frames, _ = latent["widgets_values"]
    fresh_front_end.open(text_to_video)
    node = fresh_front_end.add_node("Pyramidal Model", PYRAMID_NODE, *BELOW_THE_SAMPLER)
    fresh_front_end.connect(shift["id"], "MODEL", node, "model")
    fresh_front_end.connect(node, "model", sampler["id"], "model")
    seen = fresh_front_end.run()
    fresh_front_end.check_nothing_asked()
    text = " ".join(fresh_front_end.text_on(node).split())
    stages = re.search(r"low (\d+)x(\d+) · (\d+) steps?; high (\d+)x(\d+) · (\d+) steps?;", text)
    assert stages, text
    small_width, small_height, early, *full, late = map(int, stages.groups())
    assert small_width < width and small_height < height and full == [width, height]
    assert early + late == sampler["widgets_values"][STEPS]
    fresh_front_end.wait_for_video(save["widgets_values"][0], width)
    assert _size_of_video(url, seen, save["id"]) == (width, height, frames)
    fresh_front_end.screenshot("template_with_the_node")


def _only(document, kind):
    (node,) = [node for node in document["nodes"] if node["type"] == kind]
    return node


def _size_of_video(url, seen, node):
    """Return width, height and number of frames of the file that a node saved."""
    (output,) = [entry["output"] for entry in seen if entry["kind"] == "executed" and entry["node"] == str(node)]
    (saved,) = output["images"]
    with urlopen(f"{url}/view?{urlencode(saved)}") as answer, av.open(io.BytesIO(answer.read())) as video:
        sizes = [(frame.width, frame.height) for frame in video.decode(video=0)]
    assert len(set(sizes)) == 1
    return *sizes[0], len(sizes)


def _that_runs(graph, node_info):
    """Without nodes that no output depends on: older front ends send the inside of bypassed subgraphs, too."""
    return upstream(graph, [name for name, node in graph.items() if node_info[node["class_type"]]["output_node"]])


def _described(graph):
    """Each node by its class, its inputs and, in place of links, all that they come from: newer front ends number anew
    the nodes of subgraphs that have the same numbers."""
    found = {}

    def describe(name):
        if name not in found:
            inputs = {
                key: (describe(value[0]), value[1]) if is_link(value) and value[0] in graph else value
                for key, value in graph[name]["inputs"].items()
                if key not in PLAYER
            }
            found[name] = hash((graph[name]["class_type"], repr(sorted(inputs.items()))))
        return found[name]

    for name in graph:
        describe(name)
    return found
