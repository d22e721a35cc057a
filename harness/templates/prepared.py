"""Graphs that are ready to be queued: small, with their sampled latents saved, with and without the pyramid."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from .catalog import Template
from .exchange import exchange
from .graph import Graph, is_link, of_class, upstream
from .shrink import shrink
from .widgets import NodeInfo, saved_values

Output = tuple[str, int]
"""A node's id and the index of one of its outputs."""

PYRAMID_NODE, PRESET_NODE = "PyramidalWanModel", "PyramidalWanPreset"
SAMPLERS = {"KSampler": 1, "KSamplerAdvanced": 1, "SamplerCustom": 2, "SamplerCustomAdvanced": 2}
"""Latents that a sampler returns: the result, and of custom samplers the last prediction of the clean latent, too."""
MODEL_USERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "CFGGuider", "BasicGuider", "DualCFGGuider", "BasicScheduler")
"""Nodes whose model input is exchanged. A scheduler is one where it takes the same model as a sampler."""


def tiny_graph(template: Template, node_info: NodeInfo) -> Graph:
    """Return the template with tiny models and small sizes, without the nodes that no output depends on.

    Raises:
        ValueError: A diffusion model's name fits no tiny network.
    """
    graph = template.graph(node_info)
    graph = upstream(graph, [name for name, node in graph.items() if node_info.get(node["class_type"], {}).get("output_node")])
    shrink(graph)
    exchange(graph)
    return graph


def tiny_document(template: Template, node_info: NodeInfo) -> dict:
    """Return the document of a template without subgraphs, with the models and values of `tiny_graph`."""
    graph, document = tiny_graph(template, node_info), copy.deepcopy(template.document)
    for node in document["nodes"]:
        if str(node["id"]) in graph:
            tiny = graph[str(node["id"])]
            node["type"] = tiny["class_type"]
            node["widgets_values"] = saved_values(tiny["inputs"], node_info[node["type"]])
            node["properties"] = {}  # which names the models to download
            node["inputs"] = [socket for socket in node["inputs"] if socket["name"] in tiny["inputs"]]
    return document


def with_saved_latents(graph: Graph, prefix: str, *, only: bool = False) -> Graph:
    """Add 'Save Latent' after every latent that a sampler returns.

    Args:
        graph: The graph, which stays as it is.
        prefix: Start of the files' names in the output folder; the sampler's id follows.
        only: Leave out every other output, so that nothing is decoded.
    """
    saved = copy.deepcopy(graph)
    added = []
    for name, node in list(of_class(graph, *SAMPLERS)):
        for index in range(SAMPLERS[node["class_type"]]):
            added.append(f"saved {name} {index}")
            inputs = {"samples": [name, index], "filename_prefix": f"{prefix}/{name.replace(':', '.')}_{index}"}
            saved[added[-1]] = {"class_type": "SaveLatent", "inputs": inputs}
    return upstream(saved, added) if only else saved


def with_pyramid(graph: Graph, *, preset: str | None = None, models: Sequence[Output] | None = None) -> Graph:
    """Put 'Pyramidal Model' in front of the model input of samplers.

    Args:
        graph: The graph, which stays as it is.
        preset: Preset of a 'PyramidalWanPreset' node that is wired into it; without one the node has its defaults.
        models: Outputs that it follows; None stands for those of every sampler.
    """
    changed = copy.deepcopy(graph)
    inputs = {}
    if preset is not None:
        changed["pyramid"] = {"class_type": PRESET_NODE, "inputs": {"preset": preset}}
        inputs = {"pyramid": ["pyramid", 0]}
    for model in _sampled_models(graph) if models is None else models:
        name = f"pyramidal {model[0]} {model[1]}"
        changed[name] = {"class_type": PYRAMID_NODE, "inputs": {"model": list(model), **inputs}}
        for _, node in of_class(changed, *MODEL_USERS):
            if node["inputs"].get("model") == list(model):
                node["inputs"]["model"] = [name, 0]
    return changed


def high_noise_models(graph: Graph) -> list[Output]:
    """Return the outputs that the first of several samplers in a row take their model from, each once."""
    samplers = dict(of_class(graph, *SAMPLERS))
    latents = {name: node["inputs"]["latent_image"] for name, node in samplers.items()}
    before = {name: link[0] for name, link in latents.items() if is_link(link) and link[0] in samplers}
    links = [samplers[first]["inputs"].get("model") for first in before.values() if first not in before]
    return list(dict.fromkeys((link[0], link[1]) for link in links if is_link(link)))


def _sampled_models(graph: Graph) -> list[Output]:
    """Return the outputs that samplers and guiders take their model from, each once."""
    users = [node for _, node in of_class(graph, *MODEL_USERS) if node["class_type"] != "BasicScheduler"]
    links = [node["inputs"]["model"] for node in users if is_link(node["inputs"].get("model"))]
    return list(dict.fromkeys((link[0], link[1]) for link in links))
