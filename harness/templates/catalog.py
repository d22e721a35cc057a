"""ComfyUI's own workflow templates for open Wan weights, read as data.

The set-up fetches them at a pinned version, whatever version the installed ComfyUI comes with.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .document import api_format, node_kinds
from .graph import Graph
from .widgets import NodeInfo

ROOT = Path(__file__).resolve().parents[2]
WAN_FILES = re.compile(r"wan|chrono_edit|causal_forcing|humo", re.IGNORECASE)
"""Names of the diffusion models that are Wan networks."""
NODE_ID = re.compile(r'node_id="(\w+)"')


@dataclass(frozen=True)
class Template:
    """A template: its name and its file."""

    name: str
    path: Path

    @cached_property
    def document(self) -> dict:
        """The workflow as the front end saves it."""
        return json.loads(self.path.read_text(encoding="utf-8"))

    def missing_nodes(self, node_info: NodeInfo) -> list[str]:
        """Return the node classes that the template runs and the installed ComfyUI lacks."""
        return sorted(kind for kind in node_kinds(self.document) if kind not in node_info)

    def graph(self, node_info: NodeInfo) -> Graph:
        """Return the template in API format, as the front end would queue it."""
        return api_format(self.document, node_info)


def templates_folder() -> Path:
    """Return `$COMFYUI_TEMPLATES` or the folder that the set-up unpacked the pinned package into.

    Raises:
        FileNotFoundError: There are no templates.
    """
    folder = Path(os.environ.get("COMFYUI_TEMPLATES") or ROOT / ".host" / "workflow-templates")
    if not any(folder.glob("*.json")):
        raise FileNotFoundError(f"no workflow templates in {folder}: run 'make set-up', or set COMFYUI_TEMPLATES")
    return folder


def wan_templates(folder: Path | None = None) -> list[Template]:
    """Return the templates that load an open Wan diffusion model, by name.

    Args:
        folder: Folder of templates; that of the installed package by default.
    """
    templates = []
    for path in sorted((folder or templates_folder()).glob("*.json")):
        template = Template(path.stem, path)
        if "UNETLoader" not in path.read_text(encoding="utf-8"):
            continue  # most of several hundred files need not be parsed
        if isinstance(template.document, dict) and _loads_wan(template.document):
            templates.append(template)
    return templates


def online_nodes(comfyui: Path) -> set[str]:
    """Return the node classes of a ComfyUI that call online services; the harness starts it without them."""
    files = (comfyui / "comfy_api_nodes").glob("nodes_*.py")
    return {kind for file in files for kind in NODE_ID.findall(file.read_text(encoding="utf-8"))}


def _loads_wan(document: dict) -> bool:
    definitions = document.get("definitions", {}).get("subgraphs", [])
    nodes = [node for level in (document, *definitions) for node in level.get("nodes", [])]
    loaders = [node for node in nodes if node["type"] == "UNETLoader" and node.get("widgets_values")]
    return any(WAN_FILES.search(str(node["widgets_values"][0])) for node in loaders)
