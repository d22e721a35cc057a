"""Graphs in API format: links between nodes, and the walks that the other modules share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

Node = dict[str, Any]
Graph = dict[str, Node]
"""Node id to ``{"class_type": ..., "inputs": {...}, "_meta": {"title": ...}}``; a link is ``[node id, output index]``."""


def is_link(value: Any) -> bool:
    """Return whether an input's value is a link."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def title(node: Node) -> str:
    """Return the title that the artist sees."""
    return node.get("_meta", {}).get("title", node["class_type"])


def of_class(graph: Graph, *kinds: str) -> Iterator[tuple[str, Node]]:
    """Yield the nodes of these classes with their ids."""
    for name, node in graph.items():
        if node["class_type"] in kinds:
            yield name, node


def upstream(graph: Graph, names: Iterable[str]) -> Graph:
    """Return these nodes and all that they depend on, in the graph's order."""
    needed, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        waiting += [value[0] for value in graph[name]["inputs"].values() if is_link(value)]
    return {name: node for name, node in graph.items() if name in needed}


def drop_dangling(graph: Graph) -> None:
    """Remove links to nodes that the graph does not have."""
    for node in graph.values():
        gone = [name for name, value in node["inputs"].items() if is_link(value) and value[0] not in graph]
        for name in gone:
            del node["inputs"][name]
