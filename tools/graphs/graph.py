"""A graph described once: nodes by calls, in columns of groups.

graph = Graph("name")
graph.group("Model", column=0)
model = graph.add("UNETLoader", unet_name="wan.safetensors", weight_dtype="default")
graph.group("Sample", column=1)
graph.add("KSampler", model=model, latent_image=pyramid["latent"])
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .schemas import NOTE, NodeSchema, node_schema

ON, MUTED = 0, 2


@dataclass(frozen=True)
class Output:
    """An output of a node, by its position."""

    node: Node
    slot: int


@dataclass(eq=False)
class Node:
    """A node of a graph.

    Attributes:
        id: Its number, from 1.
        kind: Its class name in ComfyUI.
        values: Values of widgets by name.
        links: Links of inputs by name.
        title: Its title, if not that of the class.
        models: Files that a loader offers to download.
        size: Width and height, if not the usual ones.
        color: Colours of title and body.
        mode: `ON` or `MUTED`.
    """

    id: int
    kind: str
    values: dict[str, Any]
    links: dict[str, Output]
    title: str | None = None
    models: tuple[dict[str, str], ...] = ()
    size: tuple[int, int] | None = None
    color: tuple[str, str] | None = None
    mode: int = ON

    @property
    def schema(self) -> NodeSchema:
        """Inputs and outputs of its class."""
        return node_schema(self.kind)

    def __getitem__(self, name: str) -> Output:
        """Return the output of that name."""
        return Output(self, [given for given, _ in self.schema.outputs].index(name))


@dataclass
class Group:
    """Nodes with a common title, in one column or in several columns side by side.

    Attributes:
        title: Its title.
        column: Its first column.
        mode: `ON`, or `MUTED` for all of its nodes.
        drop: Pixels between the group and the one above it, in addition to the usual ones.
        columns: The nodes of each of its columns, top to bottom.
        span: Columns that a node of the first column is as wide as.
    """

    title: str
    column: int
    mode: int = ON
    drop: int = 0
    columns: list[list[Node]] = field(default_factory=lambda: [[]])
    span: int = 1

    @property
    def nodes(self) -> list[Node]:
        """All of its nodes."""
        return [node for column in self.columns for node in column]

    def remove(self, gone: set[Node]) -> None:
        """Take these nodes out."""
        self.columns = [[node for node in column if node not in gone] for column in self.columns]


class Graph:
    """Nodes in running order: a node can be linked only to earlier ones."""

    def __init__(self, name: str):
        self.name = name
        self.nodes: list[Node] = []
        self.groups: list[Group] = []

    def group(self, title: str, *, column: int, mode: int = ON, drop: int = 0, span: int = 1) -> None:
        """Open a group, to which all following nodes are added, one below the other; ``Group`` explains the arguments."""
        self.groups.append(Group(title, column, mode, drop, span=span))

    def next_column(self) -> None:
        """Add the following nodes of the open group to the column on the right."""
        self.groups[-1].columns.append([])

    def add(
        self, kind: str, *, title: str | None = None, models: tuple[dict[str, str], ...] = (),
        size: tuple[int, int] | None = None, color: tuple[str, str] | None = None, **inputs: Any,
    ) -> Node:  # fmt: skip
        """Add a node to the open group and return it.

        Inputs are values, nodes (their first output) or outputs; widgets that are left out have their defaults.
        """
        given = {name: Output(value, 0) if isinstance(value, Node) else value for name, value in inputs.items()}
        links = {name: value for name, value in given.items() if isinstance(value, Output)}
        values = {name: value for name, value in given.items() if name not in links}
        group = self.groups[-1]
        node = Node(
            1 + max((node.id for node in self.nodes), default=0), kind, values, links, title, models, size, color, group.mode
        )
        _check_and_fill(node)
        self.nodes.append(node)
        group.columns[-1].append(node)
        return node

    def note(self, text: str, *, title: str, size: tuple[int, int]) -> None:
        """Add a note in Markdown."""
        self.add(NOTE, title=title, size=size, color=("#432", "#653"), text=text)


def _check_and_fill(node: Node) -> None:
    known = {given.name: given for given in node.schema.inputs}
    unknown = (node.values.keys() | node.links.keys()) - known.keys()
    if unknown:
        raise ValueError(f"{node.kind} has no input {', '.join(sorted(unknown))}; expected {', '.join(known)}")
    for name, given in known.items():
        if given.is_widget and name not in node.values:
            if "default" in given.options:
                node.values[name] = given.options["default"]
            elif given.options.get("options"):
                node.values[name] = given.options["options"][0]
            elif name not in node.links:
                raise ValueError(f"{node.kind} requires a value for {name}")
        if not given.is_widget and not given.optional and name not in node.links:
            raise ValueError(f"{node.kind} requires a link to {name}")


def api(graph: Graph) -> dict[str, dict]:
    """Return the graph in the API format, which ComfyUI queues: without notes, with muted nodes."""
    prompt = {}
    for node in graph.nodes:
        if node.kind != NOTE:
            links = {name: [str(output.node.id), output.slot] for name, output in node.links.items()}
            meta = {"title": node.title or node.kind}
            prompt[str(node.id)] = {"class_type": node.kind, "inputs": {**node.values, **links}, "_meta": meta}
    return prompt
