"""`harness.templates` turns ComfyUI's own templates into what the real front end queues for them."""

import json
from urllib.request import urlopen

import pytest

from harness.templates import wan_templates, with_pyramid
from harness.templates.document import api_format
from harness.templates.graph import is_link, upstream

MORE_THAN_LINKS = {"video_wan2_2_14B_flf2v", "video_wan_vace_14B_ref2v", "wan2.1_fun_control"}
"""Templates without subgraphs that have bypassed groups, primitives, reroutes or uploads."""
TEMPLATES = [
    template
    for template in wan_templates()
    if template.document.get("definitions", {}).get("subgraphs") or template.name in MORE_THAN_LINKS
]
PLAYER = {"audioUI"}
"""What older front ends send for the player of 'Load Audio'."""
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
