"""Write the workflow files of the pack, which are never edited by hand.

Run: .venv/bin/python -m tools.build_workflows    (from the root of the checkout, after 'make set-up')

The graphs are described in tools/graphs. A test compares the files with what this writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "workflows"


def rendered() -> dict[Path, str]:
    """Return the text of every file. ComfyUI must be importable: ``harness.in_process.use_comfyui``."""
    from .graphs import build_all, title, ui

    return {FOLDER / f"{title(graph.name)}.json": as_text(ui(graph)) for graph in build_all()}


def as_text(flow: dict[str, Any]) -> str:
    """Return a saved graph with a line for every node, link and group: small files, whose changes can be read."""
    entries = [f'"{name}": {_lines(value) if isinstance(value, list) else _compact(value)}' for name, value in flow.items()]
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _lines(items: list[Any]) -> str:
    return "[\n" + ",\n".join(map(_compact, items)) + "\n]"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def main() -> None:
    """Write the files, and remove those of graphs that no longer exist."""
    from harness.in_process import use_comfyui

    use_comfyui()
    FOLDER.mkdir(exist_ok=True)
    files = rendered()
    for stale in set(FOLDER.glob("*.json")) - files.keys():
        stale.unlink()
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
