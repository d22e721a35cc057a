"""What an artist sees at once: true values on the nodes, honest progress, one choice of quality, errors before models load."""

import re

import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import expect

from pyramidalwan.nodes.pyramid import preset_text
from pyramidalwan.nodes.schema import as_shown
from pyramidalwan.pyramid.axes import AUTO_SCALE
from pyramidalwan.samplers.quality import QUALITIES
from tools.graphs import SMALLEST, TinySize, tiny_graph, ui

SAMPLER, PRESET = "PyramidalWanSampler", "PyramidalWanPreset"
GRAPH = "wan_t2v_training_free"
GRAPH_WITH_PRESET = "wan_t2v_pyramid_20-20-10"
NEW_DESIGN = ("Comfy.VueNodes.Enabled", True)


SOCKET = """([id, name]) => {
  const node = app.graph.getNodeById(id), {ds, canvas} = app.canvas
  const [x, y] = node.getInputPos(node.findInputSlot(name)), {left, top} = canvas.getBoundingClientRect()
  return [left + (x + 4 + ds.offset[0]) * ds.scale, top + (y + ds.offset[1]) * ds.scale]
}"""
"""The place of an input's socket on the page."""


def only(graph, kind):
    (node,) = [node for node in graph.nodes if node.kind == kind]
    return node


def in_one_line(text):
    return text.replace("\n", " ")


def graph_with(seed, size=SMALLEST, **widgets):
    """Build the tiny twin of a graph, with a seed of no other test, whose result the server would reuse."""
    graph = tiny_graph(GRAPH, size)
    only(graph, SAMPLER).values.update(widgets, seed=seed)
    return graph


def test_a_preset_shows_its_values_at_once_and_after_every_change(front_end):
    graph = tiny_graph(GRAPH_WITH_PRESET)
    preset = only(graph, PRESET)
    front_end.open(ui(graph))
    for name in ("training-free", "pyramidal-wan", "plain"):
        front_end.choose(preset.id, "preset", name)
        assert front_end.text_on(preset.id) == as_shown(preset_text(name, AUTO_SCALE))
    front_end.choose(preset.id, "preset", "training-free")
    front_end.choose(preset.id, "scale", "half")
    assert front_end.text_on(preset.id) == as_shown(preset_text("training-free", "half"))
    front_end.check_nothing_asked()


def test_a_preset_shows_its_values_in_the_new_node_design(fresh_front_end):
    graph = tiny_graph(GRAPH_WITH_PRESET)
    preset = only(graph, PRESET)
    with fresh_front_end.setting(*NEW_DESIGN, usually=False):
        fresh_front_end.open(ui(graph))
        shown = fresh_front_end.page.locator(f"[data-node-id='{preset.id}']")
        expect(shown).to_contain_text("3 stages")
        fresh_front_end.choose(preset.id, "preset", "training-free")
        expect(shown).to_contain_text("boundaries: 0.8 (moved to steps)")
        fresh_front_end.screenshot("preset_new_design")


def test_the_socket_of_the_first_expert_names_it(front_end):
    graph = tiny_graph(GRAPH)
    sampler = only(graph, SAMPLER)
    front_end.open(ui(graph))
    front_end.screenshot("sockets")
    place = front_end.page.evaluate(SOCKET, [sampler.id, "first_stage_model"])
    front_end.page.mouse.move(*place)
    front_end.page.mouse.move(place[0] + 2, place[1])
    tooltip = front_end.page.locator(".node-tooltip")
    expect(tooltip).to_contain_text("runs first: the Wan 2.2 high-noise expert")


def test_presets_of_the_two_experts_change_the_size_where_the_expert_changes(front_end):
    graph = tiny_graph(GRAPH_WITH_PRESET)
    preset = only(graph, PRESET)
    front_end.open(ui(graph))
    for name, boundary in (("wan2.2-t2v", "0.875"), ("wan2.2-i2v", "0.9")):
        front_end.choose(preset.id, "preset", name)
        assert f"boundaries: {boundary}" in front_end.text_on(preset.id)


def test_the_text_tells_the_step_and_the_time_left(front_end):
    graph = graph_with(101, TinySize(width=128), steps="3-2", cfg="1")
    sampler = only(graph, SAMPLER)
    front_end.open(ui(graph))
    seen = front_end.run()
    texts = [entry["text"] for entry in seen if entry["kind"] == "text" and entry["node"] == str(sampler.id)]
    steps = [re.match(r"(low 64x\d+|high 128x\d+) · (\d)/(\d)( · about \d+ s left)?;\n", text) for text in texts]
    counted = [(step[1].split()[0], int(step[2])) for step in steps if step]
    assert counted == [*(("low", done) for done in range(4)), *(("high", done) for done in range(3))]
    assert any(step[4] for step in steps if step)
    summary = front_end.text_on(sampler.id)
    assert summary.startswith("low 64x") and "high 128x" in summary and "custom: steps 3-2 · cfg" in summary
    assert front_end.page.evaluate("id => app.graph.getNodeById(id).properties['last run']", sampler.id) == summary
    front_end.check_layout()
    front_end.screenshot("text_after_a_run")


def test_sizes_and_settings_stay_after_the_page_is_loaded_again(fresh_front_end):
    graph = graph_with(102, steps="2-1")
    sampler = only(graph, SAMPLER)
    fresh_front_end.open(ui(graph))
    fresh_front_end.run()
    summary = fresh_front_end.text_on(sampler.id)
    fresh_front_end.page.wait_for_timeout(1500)  # the front end stores the open graph a moment after a change
    fresh_front_end.reload()
    fresh_front_end.drawn()
    assert fresh_front_end.text_on(sampler.id) == f"last run: {summary}"
    fresh_front_end.screenshot("text_after_a_reload")


def test_a_quality_sets_its_widgets_and_a_change_of_one_makes_it_custom(front_end):
    graph = tiny_graph(GRAPH)
    sampler = only(graph, SAMPLER)
    front_end.open(ui(graph))
    for quality, settings in QUALITIES.items():
        front_end.choose(sampler.id, "quality", quality)
        widgets = front_end.widgets_of(sampler.id)
        assert {name: widgets[name] for name in vars(settings)} == vars(settings) and widgets["quality"] == quality
    front_end.choose(sampler.id, "sampler_name", "heun")
    assert front_end.widgets_of(sampler.id)["quality"] == "four-step LoRA"
    front_end.choose(sampler.id, "shift", 3.0)
    widgets = front_end.widgets_of(sampler.id)
    assert (widgets["quality"], widgets["shift"], widgets["steps"]) == ("custom", 3.0, "2-2")


def test_a_graph_never_shows_other_values_than_those_of_its_quality(front_end):
    graph = graph_with(103, quality="draft", steps="7-7", cfg="2")
    sampler = only(graph, SAMPLER)
    front_end.open(ui(graph))
    widgets = front_end.widgets_of(sampler.id)
    assert (widgets["quality"], widgets["steps"], widgets["cfg"]) == ("draft", "15", "6")
    front_end.run()
    assert "draft: steps 10-5 · cfg 6 · grid auto · shift 8" in in_one_line(front_end.text_on(sampler.id))


def test_typing_steps_in_the_new_node_design_makes_the_quality_custom(fresh_front_end):
    graph = graph_with(104, quality="balanced")
    sampler = only(graph, SAMPLER)
    with fresh_front_end.setting(*NEW_DESIGN, usually=False):
        fresh_front_end.open(ui(graph))
        node = fresh_front_end.page.locator(f"[data-node-id='{sampler.id}']")
        box = node.get_by_label("steps", exact=True).or_(node.locator("input[type=text]")).first
        expect(box).to_have_value("30")
        box.fill("4, 3")
        box.press("Enter")
        fresh_front_end.drawn()
        widgets = fresh_front_end.widgets_of(sampler.id)
        assert (widgets["steps"], widgets["quality"]) == ("4, 3", "custom")
        fresh_front_end.screenshot("quality_new_design")


def test_advanced_widgets_of_a_recipe_are_shown(fresh_front_end):
    graph = graph_with(105, quality="four-step LoRA")
    sampler = only(graph, SAMPLER)
    with fresh_front_end.setting(*NEW_DESIGN, usually=False):
        fresh_front_end.open(ui(graph))
        node = fresh_front_end.page.locator(f"[data-node-id='{sampler.id}']")
        expect(node.get_by_text("shift", exact=True)).to_be_visible()
        fresh_front_end.choose(sampler.id, "quality", "balanced")
        fresh_front_end.open(ui(graph_with(106, quality="balanced")))
        expect(node.get_by_text("steps", exact=True)).to_be_visible()
        expect(node.get_by_text("shift", exact=True)).to_have_count(0)


def test_a_wrong_size_is_an_error_of_the_sampler_before_the_model_loads(fresh_front_end):
    graph = graph_with(107, steps="2-1")
    sampler = only(graph, SAMPLER)
    size = only(graph, "PyramidalWanEmptyLatent")
    size.links.pop("pyramid", None)
    sampler.links["pyramid"] = graph.add("PyramidalWanPreset", preset="pyramidal-wan")["pyramid"]
    sampler.values["steps"] = "1-1-1"
    size.values["frames"] = 21
    fresh_front_end.open(ui(graph))
    fresh_front_end.click_run()
    seen = fresh_front_end.wait_for("success", "error", "interrupted")
    assert "does not fit a pyramid of 3 stages" in seen[-1]["message"] and seen[-1]["node"] == str(sampler.id)
    assert not [entry for entry in seen if entry["kind"] == "progress" and entry["node"] == str(sampler.id)]
    sentence = fresh_front_end.page.get_by_text(re.compile("does not fit a pyramid of 3 stages")).first
    details = fresh_front_end.page.get_by_role("button", name="View details").first
    expect(sentence.or_(details).first).to_be_visible()
    if details.is_visible():
        details.click()  # newer front ends first tell which node failed
    expect(sentence).to_be_visible()
    fresh_front_end.screenshot("error_before_loading", fit=False)


def test_settings_that_cannot_be_right_are_told_on_the_node(front_end):
    graph = graph_with(108, steps="2-1", cfg="6", sampler_name="pyramid_few_step")
    sampler = only(graph, SAMPLER)
    front_end.open(ui(graph))
    front_end.run()
    assert "warning: 'pyramid_few_step' is for distilled models" in in_one_line(front_end.text_on(sampler.id))
    front_end.screenshot("warning_on_the_node")


ADD = """kinds => {
  app.graph.clear()
  return kinds.map((kind, index) => {
    const node = LiteGraph.createNode(kind)
    node.pos = [400 * (index % 6), 500 * Math.floor(index / 6)]
    app.graph.add(node)
    const {ctx} = app.canvas
    ctx.save()
    ctx.font = node.titleFontStyle
    const title = ctx.measureText(node.title).width
    ctx.restore()
    return [node.title, title, node.size[0]]
  })
}"""
ROOM = 50
"""Pixels beside a title, for the button that collapses the node."""


def test_titles_fit_their_nodes(fresh_front_end):
    from pyramidalwan.nodes import NODES

    sizes = fresh_front_end.page.evaluate(ADD, [node.__name__ for node in NODES])
    fresh_front_end.drawn()
    fresh_front_end.screenshot("every_node")
    assert not [title for title, text, width in sizes if text + ROOM > width]


def open_search(page, attempts=4):
    """Double-click the canvas; on a busy machine the two clicks can be too far apart for the front end."""
    search = page.get_by_role("dialog").locator("input")
    for _ in range(attempts):
        page.locator("#graph-canvas").dblclick(position={"x": 1700, "y": 1200})
        try:
            search.wait_for(timeout=15_000)
        except PlaywrightTimeout:
            continue
        break
    return search


@pytest.mark.parametrize("query", ["pyramid", "wan fast"])
def test_the_search_finds_the_three_nodes_to_start_with(fresh_front_end, query):
    page = fresh_front_end.page
    search = open_search(page)
    expect(search).to_be_focused()  # earlier keys would be shortcuts of the front end
    page.keyboard.type(query)
    found = page.locator("[role=option]")
    expect(found.first).to_be_visible()
    page.wait_for_timeout(500)
    titles = [text.split("\n")[0] for text in found.all_inner_texts()]
    assert {"Pyramid", "Pyramidal Model", "Pyramidal Sampler"} == set(titles[:3]), titles
    fresh_front_end.screenshot(f"search_{query.replace(' ', '_')}", fit=False)
