"""The pages of docs/ and the README: quoted messages exist, links resolve, tables are what the script prints."""

import re
from pathlib import Path

import pytest
from messages import MESSAGES, quotes

from benchmarks import cards, written_page
from pyramid.flops import WAN_DIMENSIONS, schedule_cost, total_tflops
from pyramid.schedules import parse_steps
from pyramid.sizes import VideoSize
from pyramid.stages import PRESETS, STOCK
from tools.graphs import WORKFLOWS, title

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read(page):
    return page.read_text(encoding="utf-8")


def anchors(page):
    """Return the anchors that GitHub derives from the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_resolve_to_files_and_headings(page):
    for target in LINK.findall(re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.is_relative_to(ROOT) and file.exists(), target
            assert not anchor or anchor in anchors(file), target


def test_troubleshooting_quotes_messages_of_the_code():
    quoted = quotes(read(ROOT / "docs" / "troubleshooting.md"))
    assert len(quoted) > 30 and not [quote for quote in quoted if quote not in MESSAGES]


def test_the_artists_guide_names_every_workflow():
    assert {title(name) for name in WORKFLOWS} <= set(re.findall(r"\*\*(\d\d [^*]+)\*\*", read(ROOT / "docs" / "artists.md")))


@each_page
def test_pages_name_graphs_by_their_titles(page):
    titles = {title(name) for name in WORKFLOWS}
    assert set(re.findall(r"\*\*(\d\d [A-Z][^*]+)\*\*", read(page))) <= titles
    assert not re.findall(r"`(wan\d*_\w+)`", read(page))


def test_the_tables_are_what_the_script_prints():
    """After a change: .venv/bin/python -m benchmarks.cards --write docs/artists.md"""
    assert written_page.block(cards.SCRIPT, cards.table()) in read(ROOT / "docs" / "artists.md")


def test_the_steps_of_the_artists_guide_cost_as_much_as_the_plain_ones():
    rows = re.findall(r"^\| (\d+) plain steps \| `(\S+)` \| `(\S+)` \|$", read(ROOT / "docs" / "artists.md"), re.MULTILINE)
    assert [int(plain) for plain, *_ in rows] == [20, 10, 6, 4]
    for plain, *cells in rows:
        for steps, (width, height) in zip(cells, ((832, 480), (1280, 720)), strict=True):
            full = VideoSize(width, height, 81).latent
            costs = [
                total_tflops(schedule_cost(spec.at_size(full), full, count, WAN_DIMENSIONS["14B"]))
                for spec, count in ((STOCK, parse_steps(steps, 2)), (PRESETS["plain"], (int(plain),)))
            ]
            assert 0.93 < costs[0] / costs[1] < 1.005, (plain, steps, width)
