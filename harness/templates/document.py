"""Turn a workflow as the front end saves it into ComfyUI's API format.

The front end does this in the browser before it queues a graph: it inlines subgraphs, drops muted nodes, routes around
bypassed ones and around reroutes and primitives, and gives widget values their names. `api_format` does the same without
a browser, for documents of format 0.4 with subgraphs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .graph import Graph
from .widgets import NodeInfo, widget_values

SUBGRAPH_INPUTS, SUBGRAPH_OUTPUTS = -10, -20
MUTED, BYPASSED = 2, 4
NOTES = {"Note", "MarkdownNote"}
ANY_TYPE = "*"


@dataclass(frozen=True)
class Value:
    """A literal that an input receives instead of a link."""

    value: Any


@dataclass(frozen=True)
class Link:
    """Output `slot` of the node with the flattened id `node`."""

    node: str
    slot: int


Source = Value | Link | None


@dataclass
class Scope:
    """One level of the document: the top graph, or one use of a subgraph.

    Attributes:
        nodes: The nodes of this level by id.
        links: Link id to (origin id, origin slot).
        outputs: The link ids that leave a subgraph, by output slot.
        prefix: Path of subgraph instances, as in `12:34:`.
        parent: The scope around this one, None at the top.
        instance: The node in `parent` that stands for this scope.
        definition: The definition of the subgraph, empty at the top.
    """

    nodes: dict[int, dict]
    links: dict[int, tuple[int, int]]
    outputs: dict[int, int] = field(default_factory=dict)
    prefix: str = ""
    parent: Scope | None = None
    instance: dict = field(default_factory=dict)
    definition: dict = field(default_factory=dict)


def api_format(document: dict, node_info: NodeInfo) -> Graph:
    """Return the graph that the front end would queue for this document.

    Args:
        document: A workflow of format 0.4.
        node_info: ComfyUI's answer to `/object_info`.
    """
    return _Flattening(document, node_info).graph()


def node_kinds(document: dict) -> set[str]:
    """Return the class names of all nodes that would be queued, whether or not the installed ComfyUI has them."""
    return {node["class_type"] for node in _Flattening(document, {}).graph().values()}


class _Flattening:
    """The document with its subgraph definitions, while it is being flattened."""

    def __init__(self, document: dict, node_info: NodeInfo):
        self._definitions = {item["id"]: item for item in document.get("definitions", {}).get("subgraphs", [])}
        self._node_info = node_info
        self._scopes: dict[tuple[str, int], Scope] = {}
        links = {link[0]: (link[1], link[2]) for link in document["links"]}
        self._top = Scope({node["id"]: node for node in document["nodes"]}, links)

    def graph(self) -> Graph:
        graph: Graph = {}
        self._add(self._top, graph)
        return graph

    def _add(self, scope: Scope, graph: Graph) -> None:
        for node in scope.nodes.values():
            if node.get("mode", 0) in (MUTED, BYPASSED) or node["type"] in NOTES | {"Reroute", "PrimitiveNode"}:
                continue
            if node["type"] in self._definitions:
                self._add(self._inside(scope, node), graph)
                continue
            title = node.get("title") or node["type"]
            graph[f"{scope.prefix}{node['id']}"] = {
                "class_type": node["type"],
                "inputs": self._inputs(scope, node),
                "_meta": {"title": title},
            }

    def _inputs(self, scope: Scope, node: dict) -> dict[str, Any]:
        inputs = widget_values(node, self._node_info.get(node["type"]))
        for socket in node.get("inputs", []):
            if socket.get("link") is None:
                continue
            source = self._source(scope, socket["link"])
            if isinstance(source, Link):
                inputs[socket["name"]] = [source.node, source.slot]
            elif isinstance(source, Value):
                inputs[socket["name"]] = source.value
        return inputs

    def _source(self, scope: Scope, link: int) -> Source:
        """Follow a link back to the node or the literal that feeds it."""
        origin, slot = scope.links[link]
        if origin == SUBGRAPH_INPUTS:
            return self._outside(scope, slot)
        node = scope.nodes[origin]
        mode = node.get("mode", 0)
        if mode == MUTED:
            return None
        if mode == BYPASSED:
            return self._around(scope, node, slot)
        if node["type"] == "Reroute":
            return self._linked(scope, node["inputs"][0])
        if node["type"] == "PrimitiveNode":
            return Value(node["widgets_values"][0])
        if node["type"] in self._definitions:
            inside = self._inside(scope, node)
            return self._source(inside, inside.outputs[slot]) if slot in inside.outputs else None
        return Link(f"{scope.prefix}{node['id']}", slot)

    def _linked(self, scope: Scope, socket: dict) -> Source:
        return None if socket.get("link") is None else self._source(scope, socket["link"])

    def _around(self, scope: Scope, node: dict, slot: int) -> Source:
        """Resolve through a bypassed node: forward the same-type input, preferring the same slot."""
        kind = node["outputs"][slot]["type"]
        sockets = node.get("inputs", [])
        same = sockets[slot : slot + 1] + sockets
        match = next((socket for socket in same if _compatible(socket["type"], kind)), None)
        return None if match is None else self._linked(scope, match)

    def _outside(self, scope: Scope, slot: int) -> Source:
        """Find what a subgraph's input receives: the link outside, else the value on the instance, else nothing.

        Nothing means that the widget inside keeps its own value.
        """
        assert scope.parent is not None
        name = scope.definition["inputs"][slot]["name"]
        socket = next((socket for socket in scope.instance.get("inputs", []) if socket["name"] == name), None)
        if socket is not None and socket.get("link") is not None:
            return self._source(scope.parent, socket["link"])
        return self._promoted(scope, slot)

    def _promoted(self, scope: Scope, slot: int) -> Source:
        """Return the value of a widget that was promoted to a subgraph input.

        Newer documents keep it on the instance, one value for each promoted input; others keep it on the node inside.
        """
        promoted = [index for index, item in enumerate(scope.definition["inputs"]) if self._promoted_widget(scope, item)]
        values = scope.instance.get("widgets_values") or []
        if slot not in promoted:
            return None
        if promoted.index(slot) < len(values):
            return Value(values[promoted.index(slot)])
        widget = self._promoted_widget(scope, scope.definition["inputs"][slot])
        assert widget is not None
        return self._own_value(scope, *widget)

    def _promoted_widget(self, scope: Scope, item: dict) -> tuple[dict, str] | None:
        """Return the node inside and the name of its widget that a subgraph input stands for."""
        for link in scope.definition["links"]:
            if link["id"] not in (item.get("linkIds") or []) or link["target_id"] not in scope.nodes:
                continue
            node = scope.nodes[link["target_id"]]
            socket = node["inputs"][link["target_slot"]]
            if socket.get("widget"):
                return node, socket["name"]
        return None

    def _own_value(self, scope: Scope, node: dict, name: str) -> Source:
        if node["type"] in self._definitions:
            inside = self._inside(scope, node)
            names = [item["name"] for item in inside.definition["inputs"]]
            return self._promoted(inside, names.index(name))
        values = widget_values(node, self._node_info.get(node["type"]))
        return Value(values[name]) if name in values else None

    def _inside(self, scope: Scope, node: dict) -> Scope:
        key = (scope.prefix, node["id"])
        if key not in self._scopes:
            definition = self._definitions[node["type"]]
            links = {link["id"]: (link["origin_id"], link["origin_slot"]) for link in definition["links"]}
            leaving = [link for link in definition["links"] if link["target_id"] == SUBGRAPH_OUTPUTS]
            self._scopes[key] = Scope(
                {item["id"]: item for item in definition["nodes"]},
                links,
                {link["target_slot"]: link["id"] for link in leaving},
                f"{scope.prefix}{node['id']}:",
                scope,
                node,
                definition,
            )
        return self._scopes[key]


def _compatible(first: str, second: str) -> bool:
    return first == second or ANY_TYPE in (first, second)
