"""Saved workflows keep loading: ids, inputs and outputs of every node are compared with a snapshot.

After a deliberate addition: UPDATE_SCHEMA=1 make test, and read the difference before committing it.
"""

import inspect
import json
import os
from pathlib import Path

import pytest

from pyramidalwan.nodes import NODES

SNAPSHOT = Path(__file__).with_name("schema_snapshot.json")


def describe(node):
    schema = node.GET_SCHEMA()
    return {
        "inputs": [[i.id, i.io_type, "optional" if i.optional else "required"] for i in schema.inputs],
        "outputs": [[o.id, o.io_type, o.display_name] for o in schema.outputs],
    }


CURRENT = {node.GET_SCHEMA().node_id: describe(node) for node in NODES}


def test_the_snapshot_is_up_to_date():
    if os.environ.get("UPDATE_SCHEMA"):
        SNAPSHOT.write_text(json.dumps(CURRENT, indent=1) + "\n", encoding="utf-8")
    assert json.loads(SNAPSHOT.read_text(encoding="utf-8")) == CURRENT


@pytest.mark.parametrize("node_id", json.loads(SNAPSHOT.read_text(encoding="utf-8")) if SNAPSHOT.exists() else [])
def test_nothing_a_saved_workflow_names_has_moved(node_id):
    """Inputs and outputs of the snapshot are still there, in their order, before anything newer."""
    before = json.loads(SNAPSHOT.read_text(encoding="utf-8"))[node_id]
    for part in ("inputs", "outputs"):
        assert CURRENT[node_id][part][: len(before[part])] == before[part]


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_a_node_explains_itself(node):
    schema = node.GET_SCHEMA()
    assert schema.node_id == node.__name__ and schema.node_id.startswith("PyramidalWan")
    assert schema.category == "PyramidalWan" and schema.display_name and len(schema.description) > 40
    for given in schema.inputs:
        assert given.tooltip, given.id
        if given.io_type in ("INT", "FLOAT"):
            assert given.min is not None and given.max is not None and given.default is not None
        if given.io_type == "STRING":
            assert given.default is not None
    ids = [i.id for i in schema.inputs] + [o.id for o in schema.outputs]
    assert len(set(ids)) == len(ids)
    assert all(output.display_name for output in schema.outputs)
    parameters = list(inspect.signature(node.execute).parameters)
    assert set(parameters) == {i.id for i in schema.inputs}
    assert f'node_id="{node.__name__}"' in inspect.getsource(node), "found by static scanners"


def test_texts_are_shown_on_the_node_and_nothing_breaks_without_a_server(monkeypatch):
    import sys
    import types

    from pyramidalwan.nodes.latent import PyramidalWanEmptyLatent
    from pyramidalwan.nodes.schema import tell

    tell(PyramidalWanEmptyLatent, "nobody listens")
    shown = []
    server = types.SimpleNamespace(send_progress_text=lambda text, node_id: shown.append((node_id, text)))
    prompt_server = types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=server))
    monkeypatch.setitem(sys.modules, "server", prompt_server)
    monkeypatch.setattr(PyramidalWanEmptyLatent, "hidden", types.SimpleNamespace(unique_id="7"))
    PyramidalWanEmptyLatent.execute(832, 480, 81, 1, "nearest")
    assert shown[0][0] == "7" and shown[0][1].startswith("832x448")


def test_newer_comfyui_get_their_search_words_and_older_ones_do_not_break(monkeypatch):
    from pyramidalwan.nodes import schema as probes

    monkeypatch.setattr(probes, "_KNOWN", {"node_id", "display_name", "category", "inputs", "outputs", "description"})
    made = probes.schema(node_id="x", display_name="x", search_aliases=["y"], description="z", inputs=[], outputs=[])
    assert made.node_id == "x" and not getattr(made, "search_aliases", None)
