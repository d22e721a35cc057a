"""The front end before anything runs: templates, saved graphs, help pages."""

import json
import re

import pytest
from front_end import SAVED, WORKFLOWS
from PIL import Image
from playwright.sync_api import expect

from harness.workspace import ROOT
from pyramidalwan.nodes import NODES
from tools.draw_wiring import WIDTH
from tools.graphs import title
from tools.graphs.ui import pack_version

SHIPPED = sorted(WORKFLOWS.glob("*.json"))
KEPT = sorted(SAVED.glob("*/*.json"))


def check_as_saved(front_end, flow):
    """Check that every node is known, has the links and values of the file, and still accepts the values."""
    nodes = front_end.nodes()
    assert {key: node["type"] for key, node in nodes.items()} == {node["id"]: node["type"] for node in flow["nodes"]}
    assert not [node["type"] for node in nodes.values() if not node["known"]]
    for saved in flow["nodes"]:
        node = nodes[saved["id"]]
        dotted, values = zip(*node["widgets"], strict=True) if node["widgets"] else ((), ())
        names = [name.rpartition(".")[2] for name in dotted]  # 'format.codec' in newer versions of ComfyUI
        count = len(saved["widgets_values"])
        assert list(values[:count]) == saved["widgets_values"], saved["type"]
        named = [given["name"] for given in saved["inputs"] if "widget" in given]
        assert [name for name in names[:count] if name in named] == named, saved["type"]
        assert not node["refused"], saved["type"]
        links = {given["name"]: given["link"] for given in saved["inputs"] if given["link"] is not None}
        assert {name: link for name, link in node["inputs"] if link is not None} == links, saved["type"]
    assert sorted(link[:4] for link in front_end.links()) == sorted(link[:4] for link in flow["links"])


def open_file(front_end, path):
    flow = json.loads(path.read_text(encoding="utf-8"))
    front_end.open(flow)
    check_as_saved(front_end, flow)
    front_end.check_nothing_asked()
    return flow


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_workflow_opens_as_it_is_in_the_file(front_end, path):
    open_file(front_end, path)
    front_end.check_layout()
    front_end.screenshot(path.stem)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_graphs_of_every_release_open(front_end, path):
    flow = open_file(front_end, path)
    assert len(front_end.nodes()) == len(flow["nodes"])


def test_the_graphs_of_this_version_are_saved():
    folder = SAVED / pack_version()
    assert folder.is_dir(), "run 'python -m tools.keep_graphs' before a release"
    flows = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    kept = {node["type"] for flow in flows for node in flow["nodes"]}
    assert {node.__name__ for node in NODES} <= kept


def test_all_workflows_open_in_the_new_node_design(fresh_front_end):
    with fresh_front_end.setting("Comfy.VueNodes.Enabled", True, usually=False):
        for path in SHIPPED:
            flow = open_file(fresh_front_end, path)
            expect(fresh_front_end.page.locator("[data-node-id]")).to_have_count(len(flow["nodes"]))
            fresh_front_end.check_layout()
            fresh_front_end.screenshot(f"{path.stem}_new_design")


def test_the_template_browser_shows_every_workflow(fresh_front_end):
    page = fresh_front_end.page
    page.get_by_role("button", name="Templates").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("PyramidalWan", exact=True).first.click()
    for path in SHIPPED:
        card = page.get_by_test_id(f"template-workflow-{path.stem}")
        card.scroll_into_view_if_needed()
        picture = path.with_suffix(".jpg")
        shown = card.locator(f"img[src^='blob:'], img[src*='{picture.name}']")
        expect(shown).to_have_js_property("naturalWidth", Image.open(picture).width)
        expect(card.get_by_role("heading")).to_have_text(path.stem)
    cards = page.locator("[data-testid^=template-workflow-]")
    expect(cards).to_have_count(len(SHIPPED))
    expect(cards.get_by_role("heading")).to_have_text([path.stem for path in SHIPPED])
    fresh_front_end.screenshot("templates", fit=False)
    page.get_by_test_id(f"template-workflow-{SHIPPED[0].stem}").click()
    expect(dialog).to_have_count(0)
    fresh_front_end.drawn()
    check_as_saved(fresh_front_end, json.loads(SHIPPED[0].read_text(encoding="utf-8")))


@pytest.mark.parametrize("locale", ["en", "zh"])
def test_the_help_button_shows_our_page(fresh_front_end, locale):
    text = (ROOT / "web" / "docs" / "PyramidalWanSampler" / f"{locale}.md").read_text(encoding="utf-8")
    headings = re.findall("^#+ (.+)$", text, re.MULTILINE)
    page = fresh_front_end.page
    with fresh_front_end.setting("Comfy.Locale", locale, usually="en"):
        fresh_front_end.reload()
        open_file(fresh_front_end, WORKFLOWS / f"{title('wan_t2v_training_free')}.json")
        fresh_front_end.select("PyramidalWanSampler")
        page.get_by_test_id("info-button").click()
        expect(page.locator(".node-help-content").locator("h1, h2, h3")).to_have_text(headings)
        expect(page.locator(".node-help-content img")).to_have_js_property("naturalWidth", WIDTH)
        fresh_front_end.screenshot(f"help_{locale}", fit=False)
