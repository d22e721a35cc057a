"""Help pages and translations agree with the nodes: complete, current, and quoting messages that exist."""

import json
import re
from pathlib import Path

import pytest
from messages import MESSAGES, quotes

from pyramidalwan.nodes import NODES
from pyramidalwan.pyramid.stages import PRESETS
from tools import build_locales, draw_wiring
from tools.graphs import schemas

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "web" / "docs"
LANGUAGES = ("en", "zh")
SCHEMAS = {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in NODES}
CODE = re.compile(r"```.*?```", re.DOTALL)
every_node = pytest.mark.parametrize("node_id", SCHEMAS)
every_language = pytest.mark.parametrize("language", LANGUAGES)


def page(node_id, language):
    return (DOCS / node_id / f"{language}.md").read_text(encoding="utf-8")


def locale(language):
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path, value


@every_language
@every_node
def test_a_help_page_names_every_input_and_output(node_id, language):
    text = CODE.sub("", page(node_id, language))
    schema, translated = SCHEMAS[node_id], locale(language)[node_id]
    names = [given.id for given in schema.inputs] + [output.display_name for output in schema.outputs]
    assert not [name for name in names if f"`{name}`" not in text]
    shown = [entry["name"] for part in ("inputs", "outputs") for entry in translated[part].values()]
    assert not [name for name in shown if name.lower() not in text.lower()], "names as the front end shows them"
    title = text.splitlines()[0]
    assert translated["display_name"] in title and schema.display_name in title


@every_language
@every_node
def test_a_help_page_is_short_and_has_a_picture_instead_of_a_diagram_that_the_panel_cuts_off(node_id, language):
    text = page(node_id, language)
    assert 22 <= len(text.splitlines()) <= 70 and "──" not in text and text.count("```") % 2 == 0
    assert text.count(f"]({node_id}/{language}.svg)\n") == 1
    assert "/work" not in text


def test_the_pictures_are_what_the_script_draws():
    """After a change of a graph or a title: .venv/bin/python -m tools.draw_wiring"""
    pictures = draw_wiring.rendered()
    assert {path: path.read_text(encoding="utf-8") for path in DOCS.glob("*/*.svg")} == pictures


@every_language
@every_node
def test_a_help_page_quotes_messages_of_the_code(node_id, language):
    assert not [quote for quote in quotes(page(node_id, language)) if quote not in MESSAGES]


@every_node
def test_both_languages_quote_the_same_messages(node_id):
    english, chinese = (quotes(page(node_id, language)) for language in LANGUAGES)
    assert english == chinese


def test_texts_call_nodes_by_their_titles():
    """Titles in quotes are those of nodes of this pack, or titles or ids of ComfyUI's, whose titles change between versions."""
    import nodes

    comfyui = set(schemas._comfyui_nodes()) | set(nodes.NODE_DISPLAY_NAME_MAPPINGS.values())
    titles = {schema.display_name for schema in SCHEMAS.values()} | comfyui
    quoted = set(re.findall(r"'([A-Z][\w ()-]+)'", MESSAGES))
    assert "Pyramidal Stage Transition" in quoted and quoted <= titles


def test_there_is_a_page_per_node_and_language_and_no_other():
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*") if path.is_file()}
    assert pages == {f"{node_id}/{language}.{kind}" for node_id in SCHEMAS for language in LANGUAGES for kind in ("md", "svg")}


@every_language
def test_the_table_of_presets_has_their_values(language):
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page("PyramidalWanPreset", language).splitlines()]
    table = {row[0].strip("`"): row[2:] for row in rows if len(row) == 5}
    for name, spec in PRESETS.items():
        boundaries = ", ".join(f"{boundary:.6g}" for boundary in spec.boundaries) or "none"
        assert table[name] == [str(spec.number_of_stages), boundaries, ", ".join(spec.downsample_axes) or "none"]


def test_the_english_locale_is_generated_from_the_schemas():
    """After a change of a node's texts run 'python -m tools.build_locales' and translate the changed entries."""
    assert build_locales.ENGLISH.read_text(encoding="utf-8") == build_locales.rendered()


@every_node
def test_the_chinese_locale_translates_every_text(node_id):
    english, chinese = dict(leaves(locale("en")[node_id])), dict(leaves(locale("zh")[node_id]))
    assert english.keys() == chinese.keys() and list(locale("zh")) == list(locale("en"))
    for path, text in chinese.items():
        assert text.strip(), path
        if path[-1] in ("display_name", "description", "tooltip"):
            assert text != english[path] and re.search("[\u4e00-\u9fff]", text), path


@every_node
def test_numbers_survive_the_translation(node_id):
    """Values such as 20-20-10 or 832x448 are the same in both languages."""
    english, chinese = dict(leaves(locale("en")[node_id])), dict(leaves(locale("zh")[node_id]))
    values = re.compile(r"\d+(?:[-x.]\d+)+")
    for path, text in english.items():
        assert sorted(values.findall(text)) == sorted(values.findall(chinese[path])), path


@every_language
def test_no_text_contains_characters_of_message_templates(language):
    """The front end's translator interprets these characters."""
    for path, text in leaves(locale(language)):
        assert not re.search(r"[{}@|]", text), path
