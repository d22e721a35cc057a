"""Help pages and translations follow the nodes: nothing missing, nothing stale, and quoted sentences are still said."""

import json
import re
from pathlib import Path

import pytest
from said import SAID, quotes

from pyramidalwan.nodes import NODES

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


def from_schema(schema):
    """What the English locale must say of a node."""
    outputs = enumerate(schema.outputs)
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {given.id: {"name": given.id, "tooltip": given.tooltip} for given in schema.inputs},
        "outputs": {
            str(place): {"name": output.display_name, **({"tooltip": output.tooltip} if output.tooltip else {})}
            for place, output in outputs
        },
    }


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
    wanted = [given.id for given in schema.inputs] + [output.display_name for output in schema.outputs]
    assert not [name for name in wanted if f"`{name}`" not in text]
    shown = [entry["name"] for part in ("inputs", "outputs") for entry in translated[part].values()]
    assert not [name for name in shown if name.lower() not in text.lower()], "as the front end shows them"
    title = text.splitlines()[0]
    assert translated["display_name"] in title and schema.display_name in title


@every_language
@every_node
def test_a_help_page_is_short_and_has_a_graph(node_id, language):
    text = page(node_id, language)
    assert 30 <= len(text.splitlines()) <= 70 and "──" in text and text.count("```") % 2 == 0
    assert "/work" not in text


@every_language
@every_node
def test_a_help_page_quotes_what_is_said(node_id, language):
    assert not [quote for quote in quotes(page(node_id, language)) if quote not in SAID]


@every_node
def test_both_languages_quote_the_same_sentences(node_id):
    english, chinese = (quotes(page(node_id, language)) for language in LANGUAGES)
    assert english == chinese


def test_texts_call_nodes_by_their_titles():
    """Ours and the host's, which artists find by them."""
    import nodes

    titles = {schema.display_name for schema in SCHEMAS.values()} | set(nodes.NODE_DISPLAY_NAME_MAPPINGS.values())
    called = set(re.findall(r"'([A-Z][\w ()-]+)'", SAID))
    assert "Pyramidal Stage Transition" in called and called <= titles


def test_there_is_no_other_page():
    found = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*") if path.is_file()}
    assert found == {f"{node_id}/{language}.md" for node_id in SCHEMAS for language in LANGUAGES}


def test_the_english_locale_is_the_schema():
    """After a change of a node's texts: correct locales/en/nodeDefs.json, and the translation of the same entry."""
    assert locale("en") == {node_id: from_schema(schema) for node_id, schema in SCHEMAS.items()}


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
    """Values such as 20-20-10 or 832x448 stand in both languages."""
    english, chinese = dict(leaves(locale("en")[node_id])), dict(leaves(locale("zh")[node_id]))
    values = re.compile(r"\d+(?:[-x.]\d+)+")
    for path, text in english.items():
        assert sorted(values.findall(text)) == sorted(values.findall(chinese[path])), path


@every_language
def test_the_front_end_reads_no_text_as_a_template(language):
    """Its translator gives these characters a meaning of their own."""
    for path, text in leaves(locale(language)):
        assert not re.search(r"[{}@|]", text), path
