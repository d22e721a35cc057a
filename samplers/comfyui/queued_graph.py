"""What the queued graph says about a model before it is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import folder_paths
import safetensors

from ...pyramid.stages import METADATA_KEY, STOCK, PyramidSpec
from .model_files import SPEC_FOLDERS


def spec_in_graph(dynprompt: Any, node_id: str | None, names: Sequence[str]) -> PyramidSpec | None:
    """Return the pyramid that a node will use if none is connected, from the files that its inputs load.

    Args:
        dynprompt: The queued graph as ComfyUI passes it to a node; None outside of a server.
        node_id: The node.
        names: Inputs that lead to models.

    Returns:
        The pyramid in the metadata of the files, that of stock weights if none has one, or None where that cannot be known
        before the models are loaded.
    """
    if dynprompt is None or node_id is None:
        return None
    inputs = list(_upstream(dynprompt, node_id, names))
    specs = [spec for value in _values(inputs) if isinstance(value, str) and (spec := _spec_of(value)) is not None]
    if not specs:
        return STOCK
    switched_off = any(given.get("strength") == 0 for given in inputs)
    return specs[0] if not switched_off and all(spec == specs[0] for spec in specs) else None


def _upstream(dynprompt: Any, node_id: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the inputs of every node that the named inputs of a node depend on."""
    seen: set[str] = set()
    given = dynprompt.get_node(node_id)["inputs"]
    waiting = [given[name][0] for name in names if _is_link(given.get(name))]
    while waiting:
        source = waiting.pop()
        if source in seen:
            continue
        seen.add(source)
        inputs = dynprompt.get_node(source)["inputs"]
        yield inputs
        waiting += [value[0] for value in inputs.values() if _is_link(value)]


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _values(inputs: Sequence[dict[str, Any]]) -> Iterator[Any]:
    for given in inputs:
        yield from given.values()


def _spec_of(name: str) -> PyramidSpec | None:
    """Return the pyramid in the header of a file ``name`` or ``folder/name`` of the model folders; None for any other text."""
    if not name.endswith(".safetensors"):
        return None
    folder, _, rest = name.partition("/")
    candidates = [(folder, rest)] if folder in SPEC_FOLDERS else [(each, name) for each in SPEC_FOLDERS]
    for path in filter(None, (folder_paths.get_full_path(*candidate) for candidate in candidates)):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
            if METADATA_KEY in metadata:
                return PyramidSpec.from_metadata(metadata)
        except Exception:  # safetensors errors have no common base class; whoever loads the file reports them
            return None
    return None
