"""The front end while a graph runs: progress, previews, the video, and Cancel."""

import pytest

from tools.graphs import SMALLEST, WORKFLOWS, TinySize, tiny_graph, ui
from tools.graphs.graph import MUTED

FEW_STEPS = "wan_t2v_pyramid_2-2-1"
STEPS = (2, 2, 1)
SAMPLER = "PyramidalWanSampler"

WIDE = TinySize(width=128)
"""About the shape that the workflows are laid out for."""

SLOW = TinySize(width=448, height=448, frames=33)
"""Steps that take longer than messages to and from a busy page."""

SLOW_STEPS = "1-1-60"


def only(graph, kind):
    (node,) = [node for node in graph.nodes if node.kind == kind]
    return node


def of(seen, kind, node):
    return [entry for entry in seen if entry["kind"] == kind and entry["node"] == str(node.id)]


def expect_video(front_end, save, width):
    """Wait until the page has decoded and shows the video of a 'Save Video'."""
    front_end.wait_for_video(save.values["filename_prefix"], width)


def test_progress_previews_and_the_video(front_end):
    graph = tiny_graph(FEW_STEPS)
    sampler, steps = only(graph, SAMPLER), sum(STEPS)
    front_end.open(ui(graph))
    seen = front_end.run()
    front_end.check_nothing_asked()
    progress = of(seen, "progress", sampler)
    done = [entry["value"] / entry["max"] for entry in progress]
    assert done == sorted(done) and len(done) == steps and done[-1] == 1
    shown = [entry["shown"] for entry in progress]  # newer front ends draw it slightly later
    assert shown == sorted(shown) and shown[-1] > 0.3
    assert all(share <= whole + 1e-6 for share, whole in zip(shown, done, strict=True))
    states = [entry["value"] / entry["max"] for entry in of(seen, "state", sampler)]
    assert states == sorted(states) and states[-1] == 1
    previews = of(seen, "preview", sampler)
    order = [entry["kind"] for entry in seen if entry in previews or entry in progress]
    assert order == ["preview", "progress"] * steps  # one for each step of each stage
    assert all(entry["colours"] > 1 for entry in previews)
    assert front_end.page.evaluate("id => app.graph.getNodeById(id).imgs?.length", sampler.id) == 1
    expect_video(front_end, only(graph, "SaveVideo"), SMALLEST.width)


def test_cancel_stops_within_one_step_and_the_next_run_works(front_end):
    graph = tiny_graph(FEW_STEPS, SLOW)
    sampler = only(graph, SAMPLER)
    sampler.values["steps"] = SLOW_STEPS
    front_end.open(ui(graph))
    front_end.click_run()
    front_end.page.wait_for_function(
        "id => seen.some(entry => entry.kind == 'progress' && entry.node == id && entry.value >= 4)", arg=str(sampler.id)
    )
    front_end.page.get_by_role("button", name="Cancel current run").click()
    seen = front_end.wait_for("success", "error", "interrupted")
    kinds = [entry["kind"] for entry in seen]
    assert kinds[-1] == "interrupted" and "executed" not in kinds[kinds.index("progress") :]
    assert kinds[kinds.index("cancelled") :].count("progress") <= 2  # the step that runs, and one that was on its way
    front_end.open(ui(tiny_graph(FEW_STEPS)))
    assert [entry["kind"] for entry in front_end.run()].count("progress") >= sum(STEPS)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_keeps_its_layout_when_it_has_run(front_end, name):
    graph = tiny_graph(name, WIDE)
    front_end.open(ui(graph))
    seen = front_end.run()
    for node in graph.nodes:
        if node.kind in ("SaveVideo", "PreviewImage", "PreviewAny") and not node.mode:
            assert of(seen, "executed", node), node.kind
            if node.kind == "SaveVideo":
                expect_video(front_end, node, WIDE.width // (2 if node.values["filename_prefix"].endswith("_draft") else 1))
    front_end.check_nothing_asked()
    front_end.check_layout()
    front_end.screenshot(f"{name}_after_a_run")


def test_a_draft_is_finished_as_its_note_says(front_end):
    graph = tiny_graph("wan_draft_then_finish")
    draft, finish = [node for node in graph.nodes if node.kind == SAMPLER]
    only(graph, "PrimitiveInt").values["value"] = 7  # a seed of no other test, whose result the server would reuse
    front_end.open(ui(graph))
    seen = front_end.run()
    assert of(seen, "progress", draft) and not of(seen, "progress", finish)
    front_end.page.evaluate("mode => app.canvas.selectItems(app.graph.nodes.filter(node => node.mode == mode))", MUTED)
    front_end.page.locator("#graph-canvas").press("Control+m")
    seen = front_end.run()
    assert of(seen, "progress", finish) and not of(seen, "progress", draft)
    expect_video(front_end, [node for node in graph.nodes if node.kind == "SaveVideo"][1], SMALLEST.width)
