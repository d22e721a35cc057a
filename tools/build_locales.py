"""Write locales/en/nodeDefs.json from the nodes' schemas; the Chinese file is translated by hand.

Run: .venv/bin/python -m tools.build_locales    (from the root of the checkout, after 'make set-up')

A test compares the file with what this writes, and the keys of the Chinese file with those of the English one.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from .build_workflows import ROOT

if TYPE_CHECKING:
    from comfy_api.latest import io

ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"


def node_texts(schema: io.Schema) -> dict[str, Any]:
    """Return the texts of one node, in the structure that ComfyUI's front end reads."""
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {given.id: {"name": given.id, "tooltip": given.tooltip} for given in schema.inputs},
        "outputs": {
            str(index): {"name": output.display_name, "tooltip": output.tooltip} for index, output in enumerate(schema.outputs)
        },
    }


def rendered() -> str:
    """Return the content of the English file; ComfyUI must be importable (``harness.in_process.use_comfyui``)."""
    from harness.in_process import PACKAGE

    __import__(f"{PACKAGE}.nodes")
    schemas = [node.GET_SCHEMA() for node in sys.modules[f"{PACKAGE}.nodes"].NODES]
    texts = {schema.node_id: node_texts(schema) for schema in schemas}
    return json.dumps(texts, ensure_ascii=False, indent=2) + "\n"


def main() -> None:
    """Write the file."""
    from harness.in_process import use_comfyui

    use_comfyui()
    ENGLISH.write_text(rendered(), encoding="utf-8")
    print(ENGLISH.relative_to(ROOT))


if __name__ == "__main__":
    main()
