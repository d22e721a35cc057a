"""A graph as the front end saves it: format version 0.4, flat, laid out in columns."""

from __future__ import annotations

import functools
import re
import uuid
from typing import Any

from harness.in_process import ROOT

from .graph import Graph, Group, Node
from .schemas import NOTE

FORMAT = 0.4
COMFYUI_VERSION = "0.3.75"
"""The version of ComfyUI that the files are built with; they contain the widgets of its nodes."""

TITLE_HEIGHT, GROUP_TITLE = 30, 70
GAP, GROUP_GAP, COLUMN_GAP = 40, 60, 80
MARGIN = 20
WIDTH = 340
SLOT, WIDGET = 20, 28
SIZES = {
    "CLIPTextEncode": (420, 180),
    "SaveVideo": (480, 420),
    "LoadVideo": (340, 440),
    "LoadImage": (340, 430),
    "PreviewImage": (480, 380),
    "PreviewAny": (480, 220),
}
WIDTHS = {
    **dict.fromkeys(("UNETLoader", "CLIPLoader", "VAELoader", "CLIPVisionLoader", "LoraLoaderModelOnly"), 420),
    **dict.fromkeys(("PyramidalWanCost", "PyramidalWanCalibrate"), 480),
}
"""Widths of nodes that show long names or lines."""

PREVIEW = 220
SHOWN = {
    "PyramidalWanPreset": 140,
    "PyramidalWanEmptyLatent": 90,
    "PyramidalWanStageLoRA": 50,
    "PyramidalWanModel": 120,
    "PyramidalWanCost": 100,
    "PyramidalWanCalibrate": 100,
    "PyramidalWanSampler": PREVIEW + 150,
    "PyramidalWanSamplerAdvanced": PREVIEW + 150,
    "SamplerCustomAdvanced": PREVIEW,
    "KSampler": PREVIEW,
    "KSamplerAdvanced": PREVIEW,
}
"""Height of the text or preview below the widgets while a node runs."""

VIEW = {"scale": 0.7, "offset": [100, 150]}
"""With this view most graphs fit into a window of 1920x1080, beside the side bar and below the tabs."""


@functools.lru_cache(None)
def pack_version() -> str:
    """Return the version in pyproject.toml."""
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    return version[1]


def ui(graph: Graph) -> dict[str, Any]:
    """Return a graph as the front end saves it."""
    links = _links(graph)
    places = _places(graph)
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"pyramidalwan/{graph.name}")),
        "revision": 0,
        "last_node_id": max(node.id for node in graph.nodes),
        "last_link_id": len(links),
        "nodes": [_node(node, order, places[node], links) for order, node in enumerate(graph.nodes)],
        "links": links,
        "groups": [_group(number, group, places) for number, group in enumerate(graph.groups, 1)],
        "config": {},
        "extra": {"ds": VIEW},
        "version": FORMAT,
    }


def _inputs(node: Node) -> list:
    """Return the inputs in the front end's order: sockets, then widgets."""
    return [*node.schema.sockets, *node.schema.widgets]


def _links(graph: Graph) -> list[list]:
    links: list[list] = []
    for node in graph.nodes:
        for slot, given in enumerate(_inputs(node)):
            if given.name in node.links:
                source = node.links[given.name]
                kind = source.node.schema.outputs[source.slot][1]
                links.append([len(links) + 1, source.node.id, source.slot, node.id, slot, kind])
    return links


def _node(node: Node, order: int, pos: tuple[int, int], links: list[list]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": node.id,
        "type": node.kind,
        "pos": list(pos),
        "size": list(size_of(node)),
        "flags": {},
        "order": order,
        "mode": node.mode,
        "inputs": [] if node.kind == NOTE else _saved_inputs(node, links),
        "outputs": _saved_outputs(node, links),
        "properties": _properties(node),
        "widgets_values": widget_values(node),
    }
    if node.title:
        made["title"] = node.title
    if node.color:
        made["color"], made["bgcolor"] = node.color
    return made


def _saved_inputs(node: Node, links: list[list]) -> list[dict]:
    into = {link[4]: link[0] for link in links if link[3] == node.id}
    saved = []
    for slot, given in enumerate(_inputs(node)):
        entry: dict[str, Any] = {"name": given.name, "type": given.type}
        if given.optional:
            entry["shape"] = 7
        if given.is_widget:
            entry["widget"] = {"name": given.name}
        saved.append({**entry, "link": into.get(slot)})
    return saved


def _saved_outputs(node: Node, links: list[list]) -> list[dict]:
    saved = []
    for slot, (name, kind) in enumerate(node.schema.outputs):
        out = [link[0] for link in links if link[1:3] == [node.id, slot]]
        saved.append({"name": name, "type": kind, "slot_index": slot, "links": out or None})
    return saved


def _properties(node: Node) -> dict[str, Any]:
    pack = ("pyramidalwan", pack_version()) if node.schema.ours else ("comfy-core", COMFYUI_VERSION)
    properties: dict[str, Any] = {"cnr_id": pack[0], "ver": pack[1], "Node name for S&R": node.kind}
    return {**properties, "models": list(node.models)} if node.models else properties


def widget_values(node: Node) -> list:
    """Return the values in the order of the schema, with those that the front end adds after a seed or an upload."""
    extras = {"control_after_generate": "fixed", "upload": "image"}
    values = []
    for given in node.schema.widgets:
        values.append(node.values.get(given.name))
        if given.extra_widget:
            values.append(extras[given.extra_widget])
    return values


def size_of(node: Node) -> tuple[int, int]:
    """Return width and height of a node."""
    if node.size or node.kind in SIZES:
        return node.size or SIZES[node.kind]
    schema = node.schema
    slots = max(len(schema.sockets), len(schema.outputs))
    height = 16 + SLOT * slots + WIDGET * len(widget_values(node)) + SHOWN.get(node.kind, 0)
    return WIDTHS.get(node.kind, WIDTH), height


def _places(graph: Graph) -> dict[Node, tuple[int, int]]:
    places, starts = {}, _column_starts(graph)
    ends = dict.fromkeys(starts, -GROUP_GAP)
    for group in graph.groups:
        y = ends[group.column] + GROUP_GAP + GROUP_TITLE
        for node in group.nodes:
            places[node] = (starts[group.column], y + TITLE_HEIGHT)
            y += TITLE_HEIGHT + size_of(node)[1] + GAP
        ends[group.column] = y
    return places


def _column_starts(graph: Graph) -> dict[int, int]:
    """Return the left edge of each column of groups."""
    starts, x = {}, 0
    for column in sorted({group.column for group in graph.groups}):
        nodes = [node for group in graph.groups if group.column == column for node in group.nodes]
        starts[column] = x
        x += max(size_of(node)[0] for node in nodes) + 2 * MARGIN + COLUMN_GAP
    return starts


def _group(number: int, group: Group, places: dict[Node, tuple[int, int]]) -> dict[str, Any]:
    left = min(places[node][0] for node in group.nodes)
    top = min(places[node][1] for node in group.nodes) - TITLE_HEIGHT
    right = max(places[node][0] + size_of(node)[0] for node in group.nodes)
    bottom = max(places[node][1] + size_of(node)[1] for node in group.nodes)
    bounding = [left - MARGIN, top - GROUP_TITLE + 10, right - left + 2 * MARGIN, bottom - top + GROUP_TITLE + 10]
    return {"id": number, "title": group.title, "bounding": bounding, "color": "#3f789e", "font_size": 24, "flags": {}}
