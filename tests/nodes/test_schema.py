"""Saved workflows keep loading: ids, inputs and outputs of every node match a snapshot.

After a deliberate addition run UPDATE_SCHEMA=1 make test and review the difference before committing it.
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


CATEGORIES = {
    **dict.fromkeys(
        ("PyramidalWanStageStart", "PyramidalWanStageModel", "PyramidalWanStageSigmas", "PyramidalWanStageTransition"),
        "PyramidalWan/wired by hand",
    ),
    "PyramidalWanRenoise": "PyramidalWan/wired by hand",
    "PyramidalWanCostEstimate": "PyramidalWan/analysis",
    "PyramidalWanCalibrate": "PyramidalWan/analysis",
    "PyramidalWanSaveConditioning": "PyramidalWan/conditioning",
    "PyramidalWanLoadConditioning": "PyramidalWan/conditioning",
}
"""Nodes outside the main category."""

CURRENT = {node.GET_SCHEMA().node_id: describe(node) for node in NODES}


def test_the_snapshot_is_up_to_date():
    if os.environ.get("UPDATE_SCHEMA"):
        SNAPSHOT.write_text(json.dumps(CURRENT, indent=1) + "\n", encoding="utf-8")
    assert json.loads(SNAPSHOT.read_text(encoding="utf-8")) == CURRENT


@pytest.mark.parametrize("node_id", json.loads(SNAPSHOT.read_text(encoding="utf-8")) if SNAPSHOT.exists() else [])
def test_inputs_and_outputs_of_the_snapshot_keep_their_positions(node_id):
    """New inputs and outputs are only allowed after those of the snapshot."""
    before = json.loads(SNAPSHOT.read_text(encoding="utf-8"))[node_id]
    for part in ("inputs", "outputs"):
        assert CURRENT[node_id][part][: len(before[part])] == before[part]


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_a_node_has_a_title_a_description_tooltips_and_limits(node):
    schema = node.GET_SCHEMA()
    assert schema.node_id == node.__name__ and schema.node_id.startswith("PyramidalWan")
    assert schema.category == CATEGORIES.get(node.__name__, "PyramidalWan")
    assert schema.display_name and 40 < len(schema.description) < 260
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


def test_a_text_is_sent_to_the_front_end_and_dropped_without_a_server(monkeypatch):
    import sys
    import types

    from pyramidalwan.nodes.latent import PyramidalWanEmptyLatent
    from pyramidalwan.nodes.schema import show_text

    show_text(PyramidalWanEmptyLatent, "dropped")
    shown = []
    server = types.SimpleNamespace(send_progress_text=lambda text, node_id: shown.append((node_id, text)))
    prompt_server = types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=server))
    monkeypatch.setitem(sys.modules, "server", prompt_server)
    monkeypatch.setattr(PyramidalWanEmptyLatent, "hidden", types.SimpleNamespace(unique_id="7"))
    PyramidalWanEmptyLatent.execute(832, 480, 81, 1, "nearest")
    assert shown[0][0] == "7" and shown[0][1].startswith("832x480")


MINIMAL = {"node_id": "x", "display_name": "x", "description": "z", "inputs": [], "outputs": [], "search_aliases": ["y"]}


def test_search_aliases_are_left_out_where_comfyui_does_not_know_them(monkeypatch):
    from pyramidalwan.nodes import schema as probes

    monkeypatch.setattr(probes, "_SUPPORTED", set())
    made = probes.schema(**MINIMAL)
    assert made.node_id == "x" and not getattr(made, "search_aliases", None)


def test_a_misspelt_schema_field_raises():
    from pyramidalwan.nodes.schema import schema

    assert schema(**MINIMAL).description == "z"
    with pytest.raises(TypeError, match="descripton"):
        schema(**MINIMAL, descripton="lost")
