"""Results of the templates in the last runs of the tests: one line of JSON each, appended, the latest counts."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "output" / "templates.jsonl"

RUNS, WITHOUT, MISSING = "runs", "runs without the pyramid", "nodes missing"
UNCHANGED = "runs as without the node"
ONLINE = "uses an online service"


@dataclass(frozen=True)
class Result:
    """A template in one version of ComfyUI.

    Attributes:
        comfyui: ComfyUI's version.
        template: Name of the template.
        state: One of `RUNS`, `UNCHANGED`, `WITHOUT`, `MISSING` and `ONLINE`.
        detail: The missing nodes, those of the service, or why nothing changes.
    """

    comfyui: str
    template: str
    state: str
    detail: str = ""


def without_nodes(comfyui: str, template: str, missing: Iterable[str], online: Collection[str]) -> Result:
    """Return the result of a template with nodes that the tested ComfyUI does not have.

    Args:
        comfyui: ComfyUI's version.
        template: Name of the template.
        missing: The nodes.
        online: Nodes of online services, which ComfyUI has but is tested without.
    """
    groups: dict[bool, list[str]] = {True: [], False: []}
    for kind in missing:
        groups[kind in online].append(f"`{kind}`")
    services, others = (", ".join(groups[is_online]) for is_online in (True, False))
    if not services:
        return Result(comfyui, template, MISSING, others)
    return Result(comfyui, template, ONLINE, f"{services}; {MISSING}: {others}" if others else services)


def record(result: Result, path: Path = RESULTS) -> None:
    """Append a result to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def read(path: Path = RESULTS) -> list[Result]:
    """Return the latest result of each template in each version."""
    lines = path.read_text(encoding="utf-8").splitlines()
    results = [Result(**json.loads(line)) for line in lines]
    return list({(result.comfyui, result.template): result for result in results}.values())


def table(results: Iterable[Result]) -> str:
    """Return the results as a Markdown table: a row for each template, a column for each version."""
    cells = {(result.template, result.comfyui): _cell(result) for result in results}
    versions = sorted({version for _, version in cells}, key=_number)
    lines = ["| template | " + " | ".join(versions) + " |", "|---" * (len(versions) + 1) + "|"]
    for name in sorted({name for name, _ in cells}):
        lines.append(f"| `{name}` | " + " | ".join(cells.get((name, version), "not run") for version in versions) + " |")
    return "\n".join(lines)


def _cell(result: Result) -> str:
    if result.state == RUNS:
        return "**runs**"
    return f"{result.state}: {result.detail}" if result.detail else result.state


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
