"""The measurements of a card, end to end on the tiny Wan: all sections, resumed, and written into a page."""

import dataclasses
import json
import sys

import comfy.ldm.modules.attention
import comfy.ldm.wan.model
import pytest
import torch

from benchmarks.card import __main__ as card
from benchmarks.card.machine import Machine
from benchmarks.card.recorder import Recorder, Run
from benchmarks.card.results import Results, Row
from benchmarks.card.sections import OTHER_METHODS, SECTIONS
from benchmarks.card.setting import Setting, random_weights
from benchmarks.training_speed import CONFIG, PAPER, PLAIN
from pyramid.flops import WAN_DIMENSIONS
from pyramid.stages import PRESETS
from pyramid.training.config.finetune import FinetuneConfig
from pyramid.training.config.toml_config import load_config
from tiny_wan.checkpoints import transformer_shapes

MACHINE = Machine("a card", "1.0", "2.11", "0.30.0", "abc", True, "random weights")
SLOW = {"lifts", "training"}


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["card", "--tiny", *map(str, arguments)])
    card.main()


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- written by benchmarks/card -->\nold\n<!-- end of benchmarks/card -->\nafter\n")
    return path


def test_a_tiny_run_measures_resumes_and_writes_its_table(tmp_path, monkeypatch, capsys, page):
    """With the attention of a card: the CPU's asks for free memory, which cannot be compiled and takes a minute."""
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", comfy.ldm.modules.attention.attention_pytorch)
    path = tmp_path / "card.json"
    names = [section.name for section in SECTIONS if section.name not in SLOW]
    run(monkeypatch, "--results", path, "--only", *names[:1])
    stored = json.loads(path.read_text())
    assert (
        list(stored["sections"]) == names[:1] and stored["machine"]["tiny"] and stored["machine"]["torch"] == torch.__version__
    )
    run(monkeypatch, "--results", path, "--only", *names[1:], "--write", page)
    again = json.loads(path.read_text())
    assert set(again["sections"]) == set(names) and again["sections"][names[0]] == stored["sections"][names[0]]
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    rows = {
        (row["measure"], row["unit"], row["note"]): row for section in again["sections"].values() for row in section["rows"]
    }
    assert all(row["value"] is None or row["value"] >= 0 or row["unit"] == "ms" for row in rows.values())
    for measure in ("forward low, as it is", "2-2-1", "two experts with Pyramidal Model", "forward low, compiled"):
        assert f"| {measure} |" in text, measure
    present = [title for name, (title, _) in OTHER_METHODS.items() if name in PRESETS]
    assert "TPDiff" in present and all(f"| {title}, forward low |" in text for title in present)
    assert "Not run: training, lifts." in text and all(
        row["value"] == 0 for row in rows.values() if row["measure"] == "weights moved by a stage LoRA"
    )


@pytest.mark.parametrize("page", [CONFIG, PAPER], ids=["tiny", "1.3B"])
def test_the_plain_training_that_is_compared_has_a_valid_configuration(page):
    assert load_config(FinetuneConfig, page, PLAIN).pyramid.spec().number_of_stages == 1


def test_a_done_section_runs_only_when_it_is_named(tmp_path, monkeypatch):
    path, calls = tmp_path / "card.json", []
    fake = [card_section(name, calls) for name in ("one", "two")]
    monkeypatch.setattr("benchmarks.card.sections.SECTIONS", fake)
    results = Results(path, MACHINE)
    for only in (None, None, ["two"]):
        card.measure(Setting(True), results, only=only, budget=100)
    assert calls == ["one", "two", "two"]
    assert list(Results(path, MACHINE).rows()) == [("one", Row("one", 1.0, "x")), ("two", Row("two", 1.0, "x"))]


def card_section(name, calls, seconds=1):
    from benchmarks.card.sections import Section

    def measure(setting):
        calls.append(name)
        yield Row(name, 1.0, "x")

    return Section(name, measure, seconds)


def test_a_section_that_does_not_fit_is_left_for_the_next_run(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(
        "benchmarks.card.sections.SECTIONS", [card_section("long", calls, 200), card_section("short", calls, 1)]
    )
    results = Results(tmp_path / "card.json", MACHINE)
    card.measure(Setting(False), results, only=None, budget=100)
    assert calls == ["short"] and "long: left for the next run" in capsys.readouterr().out
    assert "Not run: long." in results.table(["long"])


def test_the_sections_fit_into_eight_minutes():
    assert sum(section.seconds for section in SECTIONS) <= 480


def test_another_machine_starts_anew(tmp_path):
    path = tmp_path / "card.json"
    Results(path, MACHINE).add("one", [Row("a", 1.0, "x")], seconds=1)
    assert "one" in Results(path, MACHINE)
    assert "one" not in Results(path, Machine("another card", "1.0", "2.11", "0.30.0", "abc", True, "random weights"))


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (Row("a", 1.041, "x", 1.08, "b"), "| a | 1.04 x | 1.08 x | yes | b |"),
        (Row("a", 12.34, "ms", 3.0), "| a | 12.3 ms | 3.00 ms | **no** |  |"),
        (Row("a", 631.77, "ms"), "| a | 632 ms |  | - |  |"),
        (Row("a", None, "x", 1.0, "why"), "| a | not measured | 1.00 x | - | why |"),
    ],
)
def test_a_row_of_the_table(row, line):
    assert row.line() == line


def test_a_tiny_run_is_not_judged_by_the_limits_of_a_card(tmp_path):
    for tiny in (True, False):
        results = Results(tmp_path / f"{tiny}.json", dataclasses.replace(MACHINE, tiny=tiny))
        results.add("one", [Row("a", 12.34, "ms", 3.0)], seconds=1)
        assert f"| a | 12.3 ms | 3.00 ms | {'-' if tiny else '**no**'} |  |" in results.table([])


def test_random_weights_keep_the_size_of_activations():
    """Wan 1.3B has 1.42 billion weights without its text encoder; here every shape is checked on a narrow one."""
    weights = dict(
        random_weights(transformer_shapes(dim=128, ffn_dim=256, layers=1), torch.device("cpu"), torch.bfloat16, seed=0)
    )
    assert weights["blocks.0.ffn.2.weight"].float().std() == pytest.approx(256**-0.5, rel=0.05)
    assert weights["blocks.0.self_attn.norm_q.weight"].float().mean() == pytest.approx(1, abs=0.05)
    dims = WAN_DIMENSIONS["1.3B"]
    shapes = transformer_shapes(dim=dims.dim, ffn_dim=dims.ffn_dim, layers=dims.layers)
    assert sum(torch.Size(shape).numel() for _, shape in shapes) == pytest.approx(1.42e9, rel=0.01)


def test_a_recorder_separates_forwards_and_pauses(t2v_model):
    from benchmarks.card.sampling import pyramid

    setting = Setting(True)
    recorder = Recorder(torch.device("cpu"))
    made = recorder.run(pyramid(setting, recorder.watched(t2v_model), "2-3-1"))
    assert len(made.forwards) == 6 and len(made.pauses) == 2 and len(set(made.sizes)) == 3
    assert sum(made.forwards) + sum(made.pauses) < made.total and made.peak is None
    assert Run(1.0, [5.0, 2.0, 3.0], [(2, 4)] * 3).median(0) == 2.5
