"""A graph as the front end saves it: format version 0.4, flat, laid out in columns."""

from __future__ import annotations

import functools
import re
import uuid
from dataclasses import dataclass
from typing import Any

from harness.in_process import ROOT

from .graph import Graph, Group, Node
from .routes import INSET, Dots, lead_around
from .schemas import NOTE

FORMAT = 0.4
COMFYUI_VERSION = "0.3.75"
"""The version of ComfyUI that the files are built with; they contain the widgets of its nodes."""

TITLE_HEIGHT, GROUP_TITLE = 30, 44
GAP, GROUP_GAP, COLUMN_GAP = 30, 40, 32
MARGIN = 14
SLOT, WIDGET = 20, 28
SOCKET = 10
"""Distance of a socket from the edge of its node."""
TITLE_LETTER = 12
"""Width of a letter of a group's title."""
FOOTER = 26
"""Height of a node's last line in the new design: the name of the pack, or a button for more widgets."""
WIDTH = 310
WIDTHS = {
    **dict.fromkeys(("UNETLoader", "CLIPLoader", "VAELoader", "CLIPVisionLoader", "LoraLoaderModelOnly"), 360),
    **dict.fromkeys(("SaveVideo", "PreviewImage", "PreviewAny", "PyramidalWanCostEstimate", "PyramidalWanCalibrate"), 370),
    **dict.fromkeys(("CLIPTextEncode", "PyramidalWanLiftFromVAE", "PyramidalWanEmptyLatent"), 340),
    **dict.fromkeys(("VAEDecode", "CreateVideo"), 190),
}
"""Widths of nodes; a column is as wide as its widest node."""
HEIGHTS = {
    "CLIPTextEncode": 124,
    "SaveVideo": 340,
    "LoadVideo": 440,
    "LoadImage": 330,
    "PreviewImage": 330,
    "PreviewAny": 180,
}
"""Heights of nodes that show text, a picture or a video."""
SHORT = 130
"""Most characters of a prompt in a node of the usual height. The Chinese ones of the negative prompt are wider than others."""
LONG_TEXT = 36
"""Height for more."""
SPACE_BELOW = {"VAEDecode": 40}
"""Space for a link that continues below a node, in addition to the usual one."""

PREVIEW = 195
SHOWN = {
    "PyramidalWanPreset": 140,
    "PyramidalWanEmptyLatent": 135,
    "PyramidalWanStageLoRA": 50,
    "PyramidalWanModel": 120,
    "PyramidalWanPatches": 110,
    "PyramidalWanLiftFromVAE": 60,
    "PyramidalWanCostEstimate": 100,
    "PyramidalWanCalibrate": 100,
    "PyramidalWanSampler": PREVIEW + 150,
    "PyramidalWanSamplerAdvanced": PREVIEW + 150,
    "SamplerCustomAdvanced": PREVIEW,
    "KSampler": PREVIEW,
    "KSamplerAdvanced": PREVIEW,
}
"""Height of the text or preview below the widgets while a node runs."""

SCREEN = (1840, 940)
"""Width and height of the canvas at 100 % in a window of 1920x1080, beside the side bar and below the tabs."""
CORNER = (75, 125)
"""Where the graph begins on the screen."""


@functools.lru_cache(None)
def pack_version() -> str:
    """Return the version in pyproject.toml."""
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    return version[1]


def ui(graph: Graph, *, around: bool = True) -> dict[str, Any]:
    """Return a graph as the front end saves it, with links led around the nodes or straight."""
    links = _links(graph)
    boxes = _boxes(graph)
    groups = [_group(number, group, boxes) for number, group in enumerate(graph.groups, 1)]
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"pyramidalwan/{graph.name}")),
        "revision": 0,
        "last_node_id": max(node.id for node in graph.nodes),
        "last_link_id": len(links),
        "nodes": [_node(node, order, boxes[node], links) for order, node in enumerate(graph.nodes)],
        "links": links,
        "groups": groups,
        "config": {},
        "extra": {"ds": _view(groups), **(_dots(graph, links, boxes) if around else {})},
        "version": FORMAT,
    }


def _view(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the scale and offset that show the whole graph: 100 %, or less for a graph that is larger than the screen."""
    ends = [[group["bounding"][axis] + group["bounding"][axis + 2] for group in groups] for axis in (0, 1)]
    starts = [min(group["bounding"][axis] for group in groups) for axis in (0, 1)]
    sizes = [max(end) - start for end, start in zip(ends, starts, strict=True)]
    scale = round(min(1.0, *(room / size for room, size in zip(SCREEN, sizes, strict=True))), 2)
    return {"scale": scale, "offset": [round(corner / scale - start) for corner, start in zip(CORNER, starts, strict=True)]}


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


def _node(node: Node, order: int, box: Rectangle, links: list[list]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": node.id,
        "type": node.kind,
        "pos": [box.left, box.top + TITLE_HEIGHT],
        "size": [box.width, box.height - TITLE_HEIGHT],
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


def _size(node: Node) -> tuple[int, int]:
    """Return the width that a node requires, and its height."""
    if node.size:
        return node.size
    width, height = WIDTHS.get(node.kind, WIDTH), HEIGHTS.get(node.kind)
    if height is None:
        slots = max(len(node.schema.sockets), len(node.schema.outputs))
        height = 12 + SLOT * slots + WIDGET * len(widget_values(node)) + FOOTER * _has_footer(node) + SHOWN.get(node.kind, 0)
    return width, height + LONG_TEXT * (len(str(node.values.get("text", ""))) > SHORT)


def _has_footer(node: Node) -> bool:
    return node.schema.ours or any(given.options.get("advanced") for given in node.schema.widgets)


@dataclass(frozen=True)
class Rectangle:
    """Position and size of a node with its title, or of a column."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """Its right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """Its bottom edge."""
        return self.top + self.height

    @property
    def edges(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom."""
        return self.left, self.top, self.right, self.bottom


def _boxes(graph: Graph) -> dict[Node, Rectangle]:
    """Return where each node is, with its title."""
    boxes, columns = {}, _columns(graph)
    ends = dict.fromkeys(columns, -GROUP_GAP)
    for group in graph.groups:
        across = range(group.column, group.column + max(len(group.columns), group.span))
        top = max(ends[number] for number in across) + GROUP_GAP + group.drop
        bottom = top
        for number, nodes in enumerate(group.columns, group.column):
            left, y = columns[number][0], top + GROUP_TITLE
            width = columns[number + group.span - 1][1] - left
            for node in nodes:
                boxes[node] = Rectangle(left, y, width, TITLE_HEIGHT + _size(node)[1])
                bottom = max(bottom, boxes[node].bottom + MARGIN)
                y = boxes[node].bottom + GAP + SPACE_BELOW.get(node.kind, 0)
        ends |= dict.fromkeys(across, bottom)
    return boxes


def _columns(graph: Graph) -> dict[int, tuple[int, int]]:
    """Return the left and the right edge of the nodes of each column."""
    widths: dict[int, int] = {}
    for group in graph.groups:
        for number, nodes in enumerate(group.columns if group.span == 1 else [], group.column):
            widths[number] = max([widths.get(number, 0), *(_size(node)[0] for node in nodes)])
    edges, x = {}, MARGIN
    for number in sorted(widths):
        edges[number] = (x, x + widths[number])
        x += widths[number] + 2 * MARGIN + COLUMN_GAP
    return edges


def _dots(graph: Graph, links: list[list], boxes: dict[Node, Rectangle]) -> dict[str, list]:
    """Return the dots that lead links around nodes, as a graph saves them."""
    nodes = {node.id: node for node in graph.nodes}
    edges = [box.edges for box in boxes.values()] + [_title_box(group, boxes) for group in graph.groups]
    columns = [(left, 0, right, 0) for left, right in _columns(graph).values()]
    dots = Dots()
    for number, source, out, target, into, _ in links:
        sent, received = boxes[nodes[source]], boxes[nodes[target]]
        start = sent.right - SOCKET, _socket(sent, out)
        end = received.left + SOCKET, _socket(received, _shown_at(nodes[target], into))
        passed = [column for column in columns if sent.right <= column[0] and column[2] <= received.left]
        around = passed if sent.right <= received.left else [(received.left, 0, sent.right, 0)]
        dots.add(number, lead_around(start, end, edges, around, dots.points))
    return dots.extra


def _title_box(group: Group, boxes: dict[Node, Rectangle]) -> tuple[int, int, int, int]:
    """Return the edges of a group's title, so that no link crosses it."""
    left, top, _, _ = _group(0, group, boxes)["bounding"]
    return left - INSET // 2, top + 6, left + INSET + TITLE_LETTER * len(group.title), top + 30


def _socket(box: Rectangle, slot: float) -> float:
    return box.top + TITLE_HEIGHT + (slot + 0.7) * SLOT


def _shown_at(node: Node, into: int) -> float:
    """Return the position of an input; that of a widget is beside the widget."""
    sockets = len(node.schema.sockets)
    rows = max(sockets, len(node.schema.outputs))
    return into if into < sockets else rows + (into - sockets) * WIDGET / SLOT


def _group(number: int, group: Group, boxes: dict[Node, Rectangle]) -> dict[str, Any]:
    inside = [boxes[node] for node in group.nodes]
    left, top = min(box.left for box in inside), min(box.top for box in inside)
    right, bottom = max(box.right for box in inside), max(box.bottom for box in inside)
    bounding = [left - MARGIN, top - GROUP_TITLE, right - left + 2 * MARGIN, bottom - top + GROUP_TITLE + MARGIN]
    return {"id": number, "title": group.title, "bounding": bounding, "color": "#3f789e", "font_size": 22, "flags": {}}
