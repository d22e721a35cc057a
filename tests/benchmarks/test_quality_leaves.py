"""The rows of the dead leaves: settings, measurements and the table of statistics."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.quality import leaves, results, sampling, statistics_table, tables
from benchmarks.quality.results import Results, captions, fingerprint
from benchmarks.quality.rows import EQUAL_COST, GROUPS, PLAIN, ROWS, Reference
from tiny_wan.leaves.reading import PALE_ABOVE, place, tint
from tiny_wan.leaves.scenes import PLACES, TINTS
from tiny_wan.worlds import LEAVES, SHAPES

BY_NAME = {row.name: row for row in ROWS}
GROUP, BOUNDARIES = (group for group in GROUPS if group.rows[0].world == LEAVES.name)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def measured():
    """Return measurements of 24 rendered clips, and of the same clips averaged over 2x2 pixels."""
    prompts = captions(24, LEAVES)
    video = sampling.rendered(prompts, 0, 5, LEAVES)
    blurred = torch.nn.functional.avg_pool3d(video, (1, 2, 2)).repeat_interleave(2, 3).repeat_interleave(2, 4)
    scales = leaves.Scales.of(video, prompts)
    return [leaves.measure(clips, prompts, scales) for clips in (video, blurred)]


def results_of(measurements, name):
    row = Results(name, "x", LEAVES)
    row.add(measurements, seconds=1.0)
    return row


def test_rows_have_the_settings_of_those_of_the_shapes_and_other_weights():
    assert [row.name for row in GROUP.rows[:4]] == [f"leaves-plain-{steps}" for steps in (50, 10, 6, 4)]
    rows = {row: BY_NAME.get(row.name.removeprefix("leaves-")) for row in (*GROUP.rows, *BOUNDARIES.rows)}
    alone = {"leaves-none-4-2", "leaves-plain-20", "leaves-auto-0.95", "leaves-three-quarters-0.9"}
    assert {row.name for row, usual in rows.items() if usual is None} == alone
    for row, usual in ((row, usual) for row, usual in rows.items() if usual is not None):
        assert (row.steps, row.spec, row.lift, row.cfg) == (usual.steps, usual.spec, usual.lift, "2")
        assert not set(row.weights) & set(usual.weights)
        assert results.lift_folder(row) != results.lift_folder(usual)
    assert len(GROUP.equal_cost) == len(EQUAL_COST) and BY_NAME[PLAIN].world == SHAPES.name
    assert tables.tiny(GROUP.rows[0]).text == 4 and tables.tiny(BY_NAME[PLAIN]) == tables.TINY


def test_rows_of_the_shapes_keep_their_fingerprints():
    """The world counts only where it is not the first one."""
    assert "world" not in results._changed(BY_NAME[PLAIN]) and results._changed(GROUP.rows[0])["world"] == "leaves"
    assert fingerprint(BY_NAME[PLAIN]) != fingerprint(
        dataclasses.replace(BY_NAME[PLAIN], world="leaves", model=BY_NAME[PLAIN].model)
    )


def test_references_have_the_names_of_their_results():
    names = [Reference().name, Reference(frames=33).name, BY_NAME["leaves-plain-4"].reference.name, Reference("leaves").name]
    assert names == ["data", "data-33", "data-leaves-decoded", "data-leaves"]


def test_rendered_clips_are_measured_and_stored_with_their_scales(folder):
    data = sampling.run_data(4, Reference("leaves"))
    assert sorted(path.name for path in folder.iterdir()) == ["data-leaves.json", "scales-rendered.safetensors"]
    assert data["right"].shape == (4, 4) and data["right"].mean() > 0.9
    assert data["patches"].shape == (4, 4, 152) and data["camera"].shape == (4, 3)
    again = Results("data-leaves", "rendered", LEAVES)
    assert len(again) == 4 and again.first(2)["octaves"].shape == (2, 4)


def test_the_statistics_of_a_row_are_relative_to_the_reference(folder, measured):
    data, blurred = (results_of(part, name) for part, name in zip(measured, ("a", "b"), strict=True))
    by_name = {"leaves-plain-50": data, "leaves-plain-4": blurred}
    lines = list(statistics_table.statistics_table(GROUP.rows, by_name, data, data))
    assert lines[3] == "| plain, 50 steps | 50 | 1.00 | 1.00 | 1.00 | 1.00 | 0.000 | 1.00 |"
    cells = next(line for line in lines if line.startswith("| plain, 4 steps")).strip("| ").split(" | ")
    assert cells[2:6] == ["0.00", "1.00", "1.00", "1.00"] and float(cells[7]) == pytest.approx(1.0, abs=0.1)
    assert cells[6].startswith("0.250 (+0.2")
    assert sum("not run" in line for line in lines) == len(GROUP.rows) - 2


def test_statistics_are_kept_where_a_row_is_not_measured_again(folder, measured):
    data, blurred = (results_of(part, name) for part, name in zip(measured, ("a", "b"), strict=True))
    references = {GROUP.rows[0].reference: data, Reference("leaves"): data}
    before = tables.page([GROUP], {"leaves-plain-50": data, "leaves-plain-4": blurred}, references)
    kept = [line for line in before.splitlines() if line.startswith("| plain, 4 steps") and "not run" not in line]
    again = {"leaves-plain-50": data, "leaves-plain-6": blurred}
    text = tables.page([GROUP], again, references, before=before)
    assert len(kept) == 3 and set(kept) <= set(text.splitlines())
    assert not set(kept) & set(tables.page([GROUP], again, references).splitlines())


def test_the_interval_of_a_distance_is_of_paired_clips(measured):
    moments, blurred = (np.array(part["patches"]) for part in measured)
    interval = statistics_table.distance_interval(blurred, moments, moments)
    assert 0.24 < interval.low < interval.high < 0.26 and interval.value == pytest.approx(0.25, abs=0.01)
    unpaired = statistics_table.distance_interval(np.roll(blurred, 4, axis=0), moments, moments)
    assert unpaired.high - unpaired.low > 2 * (interval.high - interval.low)


def test_the_section_has_all_tables(folder, measured):
    data = results_of(measured[0], "a")
    references = {GROUP.rows[0].reference: data, Reference("leaves"): data}
    text = tables.section(tables.page([GROUP], {"leaves-plain-50": data, "leaves-plain-4": data}, references), GROUP.title)
    assert "all four" in text and f"| {statistics_table.RENDERED} | | 1.00" in text and text.endswith(GROUP.note)
    assert "\nRead from the reference: palette 100.0, scale " in text
    assert text.startswith("n = 24: 6 prompts, 4 seeds each.")


@pytest.mark.skipif(not all(path.is_file() for path in results.weights(GROUP.rows[3])), reason="no trained weights")
def test_a_short_run_in_comfyui_has_the_palette_and_the_layout_of_its_prompts():
    """Four steps are enough for what is coarse."""
    prompts = captions(16, LEAVES)[::4]
    sampler = sampling.ComfyUISampler(BY_NAME["leaves-plain-4"])
    latents = sampler.sample(sampler.conditioning(prompts, 0), seed=1)
    image = sampler.decode(latents).add(1).div(2)
    pale = image.amin(dim=1) > PALE_ABOVE
    tints, places = (
        torch.tensor([table[word] for word in words])
        for table, words in (
            (TINTS, [caption.palette for caption in prompts]),
            (PLACES, [caption.layout for caption in prompts]),
        )
    )
    assert (tint(image, pale) - tints).norm(dim=1).max() < 0.08
    assert (place(pale) - places).norm(dim=1).max() < 0.12
