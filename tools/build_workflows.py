"""Write the workflow files of the pack, which are never edited by hand.

Run: .venv/bin/python -m tools.build_workflows    (from the root of the checkout, after 'make set-up')

The graphs are described in tools/graphs. A test compares the files with what this writes.
"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "workflows"


def rendered() -> dict[Path, str]:
    """Return the text of every file. ComfyUI must be importable: ``harness.in_process.use_comfyui``."""
    from .graphs import build_all, title, ui

    return {
        FOLDER / f"{title(graph.name)}.json": json.dumps(ui(graph), ensure_ascii=False, indent=1) + "\n"
        for graph in build_all()
    }


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
