"""The benchmark itself: rows, stored results, intervals, the page, and a real batch in ComfyUI."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.quality import results, sampling, tables
from benchmarks.quality.results import Results, captions, fingerprint, measure
from benchmarks.quality.rows import GROUPS, PLAIN, ROWS, Reference
from pyramid.latent_shape import LatentShape
from tiny_wan.world.grammar import ATTRIBUTES
from tiny_wan.world.scenes import render, scene_for


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    return tmp_path


def clips(count, *, seed=0):
    prompts = captions()[:count]
    return render(
        [scene_for(caption, seed=seed + row) for row, caption in enumerate(prompts)], frames=17, height=128, width=128
    )


def results_with(name, right):
    """Return results with these readings and random features."""
    count = len(right)
    row = Results(name, "x")
    rng = np.random.default_rng(0)
    measured = {"right": right, "detail": np.ones((count, 2)), "motion": np.ones(count)}
    row.add({**measured, "features": rng.normal(size=(count, 45))}, seconds=1.0)
    return row


BY_NAME = {row.name: row for row in ROWS}


def tiny_cost(name):
    return tables.cost(BY_NAME[name], tables.TINY_SHAPE, tables.TINY)


def test_row_names_are_unique_and_costs_follow_the_formula():
    assert len(BY_NAME) == len(ROWS)
    assert tiny_cost("plain-50") == pytest.approx(5 * tiny_cost("plain-10"))
    shape, dimensions = tables.PAPER_SHAPE, tables.WAN_DIMENSIONS["1.3B"]
    share = tables.cost(BY_NAME["finetuned"], shape, dimensions) / tables.cost(BY_NAME[PLAIN], shape, dimensions)
    assert share == pytest.approx(2821 / 12592, rel=1e-3)
    quarter = tables.forward_tflops(5 * 6 * 6, tables.TINY) / tables.forward_tflops(5 * 8 * 8, tables.TINY)
    assert tiny_cost("jenga") == pytest.approx(tiny_cost("plain-10") / 10 * (9 * quarter + 9))


def test_rows_are_compared_with_plain_ones_of_at_least_their_cost():
    for group in GROUPS:
        for row, plain in group.equal_cost.items():
            assert tiny_cost(row) <= tiny_cost(plain) and BY_NAME[plain].spec.number_of_stages == 1


def test_rows_of_longer_videos_have_the_weights_and_settings_of_the_usual_ones_and_cost_more():
    (group,) = [group for group in GROUPS if group.title.startswith("Longer")]
    for row in group.rows:
        usual = BY_NAME[row.name.removesuffix("-33")]
        assert usual.latent == tables.TINY_SHAPE and row.latent == (9, 16, 16) and row.clips == 32
        assert (row.steps, row.spec, row.weights, row.cfg) == (usual.steps, usual.spec, usual.weights, usual.cfg)
        assert fingerprint_settings(row) - fingerprint_settings(usual) == {("frames", 33)}
        assert 9 / 5 < tables.cost(row, row.latent, tables.TINY) / tiny_cost(usual.name) < (9 / 5) ** 2
    assert tables.paper_shape(group.rows[0]) == (41, 56, 104) and tables.paper_shape(BY_NAME[PLAIN]) == tables.PAPER_SHAPE
    assert [row.spec.downsample_axes for row in group.rows] == [(), ("THW", "THW"), ("T", "T")]


def fingerprint_settings(row):
    return {item for item in results._changed(row).items() if item[0] not in results.NOT_SAMPLED and item[0] != "spec"}


def test_longer_videos_are_compared_with_rendered_ones_of_their_length(folder):
    data = {frames: sampling.run_data(4, Reference(frames=frames)) for frames in (17, 33)}
    assert sorted(path.name for path in folder.glob("*.json")) == ["data-33.json", "data.json"]
    assert data[33]["right"].mean() > 0.97
    assert data[33]["motion"] == pytest.approx(data[17]["motion"], rel=0.2)
    motion = measure(sampling.rendered(captions(4), 0, 33), captions(4))["motion"]
    assert data[33]["motion"] == pytest.approx(motion, abs=1e-4) and data[17]["motion"] != pytest.approx(motion, abs=1e-4)
    (group,) = [group for group in GROUPS if group.title.startswith("Longer")]
    data[33].values["seconds"] = 1.0
    by_name = {"plain-50-33": data[33], "finetuned-33": data[33]}
    text = tables.section(tables.page([group], by_name, {Reference(frames=33): data[33]}), group.title)
    lines = [line for line in text.splitlines() if line.startswith("| plain, 50") and "%" in line]
    assert len(lines) == 1 and " | 100.0% | 100.0% | 1.00 | 1.00 | 1.00 | " in lines[0]
    assert text.endswith(group.note) and text.count("not run") == 2 + 6


def test_prompts_are_balanced_and_repeated_for_several_seeds():
    prompts = captions()
    assert len(prompts) == results.PROMPTS * results.SEEDS >= 256
    assert all(len(set(prompts[start : start + results.SEEDS])) == 1 for start in range(0, len(prompts), results.SEEDS))
    assert captions(64) == prompts[:64]
    for name in ATTRIBUTES:
        counts = np.unique([getattr(caption, name) for caption in prompts], return_counts=True)[1]
        assert max(counts) - min(counts) <= results.SEEDS


def test_rendered_clips_are_read_correctly_and_equal_themselves(folder):
    data = Results("data", "rendered")
    data.add(measure(clips(8), captions()[:8]))
    assert data["right"].mean() > 0.97
    sharp, coarser, moves, distance, spread = map(float, tables.qualities(data, data))
    assert (sharp, coarser, moves, spread) == (1.0, 1.0, 1.0, 1.0) and abs(distance) < 0.1


def test_a_row_resumes_and_starts_again_with_other_weights(folder):
    first = Results("row", "weights")
    first.add(measure(clips(4), captions()[:4]), seconds=2.0)
    again = Results("row", "weights")
    assert len(again) == 4 and again.seconds == 0.5
    again.add(measure(clips(4), captions()[4:8]), seconds=2.0)
    assert len(Results("row", "weights")) == 8
    assert len(Results("row", "others")) == 0


def test_a_fingerprint_is_of_what_changes_the_clips(folder):
    row = BY_NAME["auto-4-2"]
    before = fingerprint(row)
    assert fingerprint(dataclasses.replace(row, name="other", label="other", config="other", clips=8)) == before
    others = ({"steps": "5-2"}, {"lift": "none"}, {"drop": False}, {"spec": dataclasses.replace(row.spec, boundaries=(0.7,))})
    assert len({before, *(fingerprint(dataclasses.replace(row, **other)) for other in others)}) == 1 + len(others)
    on_world = fingerprint(BY_NAME["linear-4-2"])
    results.lift_folder(row).mkdir(parents=True)
    maps = {"HW.lift.rest": torch.ones(2)}
    save_file(maps, results.lift_folder(row) / "x.safetensors")
    fitted = fingerprint(row)
    assert fitted != before and fingerprint(BY_NAME["linear-4-2"]) == on_world
    save_file(maps | {"HW 3/4.lift.rest": torch.ones(2)}, results.lift_folder(row) / "x.safetensors")
    assert fingerprint(row) == fitted  # a map of other axes has been added
    save_file({"HW.lift.rest": torch.zeros(2)}, results.lift_folder(row) / "x.safetensors")
    assert fingerprint(row) != fitted


def test_only_the_first_clips_of_a_row_can_be_read(folder):
    results_with("a", np.eye(8, 6, dtype=int))
    part = Results("a", "x").first(4)
    assert (
        len(part) == 4
        and len(Results("a", "x")) == 8
        and part["right"].tolist() == np.eye(4, 6).tolist()
        and part.seconds == 1 / 8
    )


def test_intervals_are_of_paired_differences(folder):
    plain = results_with("a", np.ones((64, 6), dtype=int))
    worse = np.ones((64, 6), dtype=int)
    worse[:16, 0] = 0
    other = results_with("b", worse)
    interval = tables.difference(other, plain, ATTRIBUTES[0])
    assert interval.value == -25 and -38 < interval.low < -15 and -15 < interval.high < -12
    assert tables.difference(other, plain, ATTRIBUTES[1]).low == 0
    held = tables.holds(other, plain, margin=5)
    assert not held[ATTRIBUTES[0]] and held[ATTRIBUTES[1]]


def measured_groups(*names, number=256):
    """Return the results of these rows, and the groups whose first row is among them."""
    by_name = {name: results_with(name, np.ones((number, 6), dtype=int)) for name in names}
    return by_name, [group for group in GROUPS if group.rows[0].name in by_name]


def test_the_page_marks_rows_that_were_not_run(folder):
    by_name, groups = measured_groups(PLAIN)
    text = tables.page(groups, by_name, {Reference(): by_name[PLAIN]})
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    missing = sum(2 * (len(group.rows) - 1) + len(group.equal_cost) for group in groups)
    assert sum("not run" in line for line in lines) == missing
    assert text.count("| plain, 50 steps | 50 | 100.0 | all |") == len(groups)
    assert text.count("n = 256: 64 prompts, 4 seeds each.") == len(groups)
    without = tables.page(groups, {"plain-4": by_name[PLAIN]}, {Reference(): by_name[PLAIN]})
    assert without.count(tables.NOT_RUN) == len(groups) and "| " not in without


def test_a_group_without_new_results_keeps_its_tables(folder):
    by_name, _ = measured_groups(PLAIN, "plain-4")
    stock, finetuned = (next(group for group in GROUPS if group.title.startswith(title)) for title in ("Stock", "Fine"))
    before = f"### {finetuned.title}\n\nold tables\n\n### {stock.title}\n\nold tables\n\n<!-- end of x -->"
    text = tables.page([stock, finetuned], by_name, {Reference(): by_name[PLAIN]}, before=before)
    assert tables.section(text, finetuned.title) == "old tables"
    assert tables.section(text, stock.title).startswith("n = 256") and "old" not in tables.section(text, stock.title)


def test_rows_whose_weights_are_gone_keep_their_results(folder):
    """Also in columns that the page so far had left out; not those of another number of clips."""
    group = next(group for group in GROUPS if group.title.startswith("Fine"))
    gone, here = group.rows[1], group.rows[2]
    by_name, _ = measured_groups(PLAIN, gone.name, number=64)
    before = tables.page([group], by_name, {Reference(): by_name[PLAIN]})
    worse = np.ones((64, 6), dtype=int)
    worse[:16, ATTRIBUTES.index("motion")] = 0
    by_name = {PLAIN: by_name[PLAIN], here.name: results_with(here.name, worse)}
    text = tables.page([group], by_name, {Reference(): by_name[PLAIN]}, before=before)
    first, second = (line for line in text.splitlines() if line.startswith(f"| {gone.label} | {gone.steps} |"))
    assert first == f"| {gone.label} | {gone.steps} | 100.0 | 100.0 | all |"
    assert second in before.splitlines() and "\nRows that were measured earlier and not again: 1." in text
    assert tables.page([group], by_name, {Reference(): by_name[PLAIN]}, before=text) == text
    fewer = {name: part.first(32) for name, part in by_name.items()}
    others = tables.page([group], fewer, {Reference(): by_name[PLAIN]}, before=before)
    assert [sum("not run" in line for line in part.splitlines()) for part in (text, others)] == [
        2 * (len(group.rows) - count) for count in (3, 2)
    ]


def test_comparisons_at_equal_cost_are_kept_where_a_row_is_not_measured_again(folder):
    group = next(group for group in GROUPS if group.equal_cost)
    by_name, _ = measured_groups(PLAIN, "linear-8-6", "plain-10")
    before = tables.page([group], by_name, {Reference(): by_name[PLAIN]})
    (line,) = (
        line for line in before.splitlines() if "| 8-6 |" in line and "| plain, 10 steps |" in line and "against" in line
    )
    by_name = {PLAIN: by_name[PLAIN], "plain-10": results_with("plain-10", np.zeros((256, 6), dtype=int))}
    text = tables.page([group], by_name, {Reference(): by_name[PLAIN]}, before=before)
    assert line in text.splitlines()
    assert line not in tables.page([group], by_name, {Reference(): by_name[PLAIN]}).splitlines()


def test_a_group_is_compared_on_the_clips_that_all_of_its_rows_have(folder):
    by_name, groups = measured_groups(PLAIN)
    by_name["plain-4"] = results_with("plain-4", np.ones((64, 6), dtype=int))
    text = tables.page(groups, by_name, {Reference(): by_name[PLAIN]})
    assert [tables.section(text, group.title)[:8] for group in groups[:2]] == ["n = 64: ", "n = 256:"]


def test_rows_are_compared_with_plain_ones_at_their_cost(folder):
    by_name, groups = measured_groups(PLAIN, "plain-4", number=64)
    right = np.ones((64, 6), dtype=int)
    right[:16, 0] = 0
    by_name["auto-4-2"] = results_with("auto-4-2", right)
    lines = list(tables.comparison_table(groups[0], by_name, by_name[PLAIN]))
    assert sum("not run" in line for line in lines) == len(groups[0].equal_cost) - 1
    line = next(line for line in lines if "a fitted lift | 4-2" in line)
    assert "| 4-2 | 5.7% | plain, 4 steps | 8.0% | -25.0 (-3" in line and "| 1.00 against 1.00 |" in line


def test_columns_that_are_right_in_every_row_are_left_out(folder):
    worse = np.ones((256, 6), dtype=int)
    worse[:8, ATTRIBUTES.index("pattern")] = 0
    by_row = {PLAIN: results_with(PLAIN, np.ones((256, 6), dtype=int)), "plain-4": results_with("plain-4", worse)}
    lines = list(tables.accuracy_table(GROUPS[0], by_row))
    assert lines[0] == "| row | steps | pattern | all six | within 2 points |"
    assert lines[-1].strip() == "Left out because every row has 100.0: shape, colour, motion, place, ground."
    assert lines[2] == "| plain, 50 steps | 50 | 100.0 | 100.0 | all |" and "| 96.9 (" in "\n".join(lines)


def test_no_two_rows_of_a_table_have_the_same_name():
    """Rows whose weights are no longer there are kept on the page by their name and steps."""
    for group in GROUPS:
        names = [(row.label, row.steps) for row in group.rows]
        assert len(set(names)) == len(names), group.title


def test_the_published_page_has_the_rows_and_costs_that_the_code_has():
    page = (results.ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert "\n".join(tables.INTRODUCTION) in page
    assert tables.section(page, "Finetuned for three stages") != tables.NOT_RUN
    for group in GROUPS:
        plain = tables.cost(group.rows[0], group.rows[0].latent, tables.tiny(group.rows[0]))
        section = tables.section(page, group.title).partition("\nAt no more than")[0].partition("\nRead from the")[0]
        if section == tables.NOT_RUN:
            continue
        lines = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| row |")]
        assert [line.split(" | ")[0] for line in lines] == 2 * [f"| {row.label}" for row in group.rows]
        for row, line in zip(group.rows, lines[len(group.rows) :], strict=True):
            operations = tables.cost(row, row.latent, tables.tiny(row))
            assert line.startswith(f"| {row.label} | {row.steps} | {operations:.3f} | {operations / plain:.1%} | "), row.name


@pytest.mark.skipif(not all(path.is_file() for path in results.weights(ROWS[0])), reason="no trained weights")
def test_a_short_run_in_comfyui_has_the_colours_of_its_prompts(folder):
    """Four steps at full size are enough for the colours of the tiny model."""
    row, prompts = BY_NAME["plain-4"], captions()[::4][:4]
    sampler = sampling.ComfyUISampler(row)
    conditioning = sampler.conditioning(prompts, 0)
    latents = sampler.sample(conditioning, seed=1)
    assert latents.shape == (4, 16, 5, 16, 16) and torch.equal(latents, sampler.sample(conditioning, seed=1))
    right = np.array(measure(sampler.decode(latents), prompts)["right"])
    assert right[:, ATTRIBUTES.index("colour")].mean() >= 0.75 and right[:, ATTRIBUTES.index("ground")].mean() >= 0.75
    assert fingerprint(row) != fingerprint(ROWS[0])


@pytest.mark.skipif(not all(path.is_file() for path in results.weights(ROWS[0])), reason="no trained weights")
def test_longer_videos_are_sampled_and_decoded_at_their_length(folder):
    row, seen = dataclasses.replace(BY_NAME["finetuned-33"], steps="1-1-1", cfg="1"), []
    sampler = sampling.ComfyUISampler(row)
    network = sampler.model.model.diffusion_model
    hook = network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2]))
    prompts = captions(1)
    latents = sampler.sample(sampler.conditioning(prompts, 0), seed=1)
    hook.remove()
    assert seen == [3, 5, 9] and latents.shape == (1, 16, 9, 16, 16)
    assert sampler.decode(latents).shape == (1, 3, 33, 128, 128) == sampling.rendered(prompts, 0, 33).shape


@pytest.mark.skipif(not all(path.is_file() for path in results.weights(ROWS[0])), reason="no trained weights")
def test_a_row_can_start_at_full_size_before_its_low_stage(folder):
    row = dataclasses.replace(BY_NAME["full-size-u-2-20-10"], steps="3-2", cfg="1", model=ROWS[0].model, lift="none")
    sampler, sides = sampling.ComfyUISampler(row), []
    hook = sampler.model.model.diffusion_model.register_forward_pre_hook(lambda _, inputs: sides.append(inputs[0].shape[-1]))
    prompts = captions(1)
    conditioning = sampler.conditioning(prompts, 0)
    latents = sampler.sample(conditioning, seed=1)
    hook.remove()
    assert sides == [16, 16, 8, 16, 16] and latents.shape == (1, 16, 5, 16, 16)
    assert measure(sampler.decode(latents), prompts)["right"][0][ATTRIBUTES.index("colour")] == 1
    full, low = (tables.forward_tflops(tables.tokens(LatentShape(*shape)), tables.TINY) for shape in (row.latent, (5, 8, 8)))
    assert tables.cost(row, row.latent, tables.TINY) == pytest.approx(4 * full + low)


@pytest.mark.skipif(not all(path.is_file() for path in results.weights(ROWS[0])), reason="no trained weights")
def test_videos_of_half_size_are_enlarged_before_they_are_measured(folder):
    row = dataclasses.replace(BY_NAME["full-size-half-size-plain-50"], steps="4", model=ROWS[0].model)
    prompts = captions()[::4][:4]
    sampler = sampling.ComfyUISampler(row)
    latents = sampler.sample(sampler.conditioning(prompts, 0), seed=1)
    videos = sampler.decode(latents)
    assert latents.shape == (4, 16, 5, 8, 8) and videos.shape == (4, 3, 17, 128, 128)
    right = np.array(measure(videos, prompts)["right"])
    assert right[:, ATTRIBUTES.index("colour")].mean() >= 0.75
    assert 4 < tiny_cost(PLAIN) / tables.cost(BY_NAME["full-size-half-size-plain-50"], row.latent, tables.TINY) < 5
