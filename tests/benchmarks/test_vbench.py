"""VBench and VBench-2.0: totals as published, files as the suites name them, and videos through running ComfyUIs."""

import asyncio
import json
import shutil
import sys

import pytest

from benchmarks.vbench import __main__ as vbench
from benchmarks.vbench.generate import RECORD, Production, filled, generate, missing, saved_video, seed_of
from benchmarks.vbench.score import missing_models, score, scores_of
from benchmarks.vbench.suites import SUITES, VBENCH, VBENCH2, Video, find_info
from benchmarks.vbench.table import table
from harness.client import GraphError
from harness.server import ComfyUIServer
from harness.workspace import Workspace, default_workspace, prepare

COGVIDEOX_5B = {  # VBench's leaderboard, cited in table 8 of Show-o2 (arXiv 2506.15564) and 4 of Lumina-Video (2502.06782)
    "subject_consistency": 96.23, "background_consistency": 96.52, "temporal_flickering": 98.66, "motion_smoothness": 96.92,
    "dynamic_degree": 70.97, "aesthetic_quality": 61.98, "imaging_quality": 62.90, "object_class": 85.23,
    "multiple_objects": 62.11, "human_action": 99.40, "color": 82.81, "spatial_relationship": 66.35, "scene": 53.20,
    "appearance_style": 24.91, "temporal_style": 25.38, "overall_consistency": 27.59,
}  # fmt: skip
VIDEOCRAFTER_2 = dict(
    zip(
        COGVIDEOX_5B,
        (96.85, 98.22, 98.41, 97.73, 42.50, 63.13, 67.22, 92.55, 40.66, 95.00, 92.92, 35.86, 55.29, 25.13, 25.84, 28.23),
        strict=True,
    )
)


@pytest.mark.parametrize(
    ("row", "quality", "semantic", "total"),
    [(COGVIDEOX_5B, 82.75, 77.04, 81.61), (VIDEOCRAFTER_2, 82.20, 73.42, 80.44)],
)
def test_published_rows_follow_from_their_sub_scores(row, quality, semantic, total):
    """Within what two decimals of the sub-scores leave open."""
    made = VBENCH.totals({name: value / 100 for name, value in row.items()})
    assert made == pytest.approx({"quality": quality, "semantic": semantic, "total": total}, abs=0.01)


WAN_1_3B = {  # VBench-2.0, tables B.4 to B.6 of DreamWorld (arXiv 2603.00466)
    "Human_Identity": 64.21, "Dynamic_Spatial_Relationship": 26.57, "Complex_Landscape": 16.22, "Instance_Preservation": 80.41,
    "Multi-View_Consistency": 14.63, "Human_Clothes": 99.55, "Dynamic_Attribute": 22.34, "Complex_Plot": 10.53,
    "Mechanics": 85.71, "Human_Anatomy": 64.51, "Composition": 40.19, "Human_Interaction": 15.00, "Motion_Rationality": 37.93,
    "Material": 57.77, "Diversity": 51.65, "Motion_Order_Understanding": 7.31, "Camera_Motion": 19.75, "Thermotics": 65.27,
}  # fmt: skip
WAN_1_3B_FINETUNED = dict(
    zip(
        WAN_1_3B,
        (
            *(72.43, 28.50, 21.66, 88.24, 8.24, 90.13, 22.71, 11.77, 88.63, 68.71, 39.35, 14.66, 37.35, 60.67, 46.91, 6.42),
            *(23.14, 60.49),
        ),
        strict=True,
    )
)


@pytest.mark.parametrize(
    ("row", "parts"),
    [(WAN_1_3B, (45.92, 59.17, 16.81, 76.09, 55.85, 50.77)), (WAN_1_3B_FINETUNED, (43.13, 62.80, 18.41, 77.09, 54.51, 51.18))],
)
def test_published_rows_of_vbench2_follow_from_their_sub_scores(row, parts):
    made = VBENCH2.totals({name: value / 100 for name, value in row.items()})
    names = ("creativity", "commonsense", "controllability", "human fidelity", "physics", "total")
    assert made == pytest.approx(dict(zip(names, parts, strict=True)), abs=0.011)


def test_the_total_of_vbench2_is_the_mean_of_its_five_parts():
    scores = {name: 0.5 for name in VBENCH2.dimensions} | {"Diversity": 0.7, "Human_Identity": 0.8}
    made = VBENCH2.totals(scores)
    assert made["creativity"] == pytest.approx(60) and made["human fidelity"] == pytest.approx(60)
    assert made["total"] == pytest.approx((60 + 50 + 50 + 60 + 50) / 5) and len(made) == 6
    assert sum(dimension.group == "controllability" for dimension in VBENCH2.dimensions.values()) == 7


def test_there_is_no_total_without_all_dimensions():
    scores = {name: 0.5 for name in VBENCH.dimensions if name != "scene"}
    assert VBENCH.totals(scores)["semantic"] is None and VBENCH.totals(scores)["total"] is None
    assert VBENCH.totals(scores)["quality"] is not None


def info(path, entries):
    path.write_text(json.dumps([{"prompt_en": prompt, "dimension": [*dimensions]} for prompt, *dimensions in entries]))
    return path


def test_files_are_named_as_the_suites_look_for_them(tmp_path):
    long = "a" * 200
    first = VBENCH.videos_of(info(tmp_path / "1.json", [("a cat", "scene"), (long, "color"), ("a cat", "color")]))
    assert [video.name for video in first] == [f"{prompt}-{index}" for prompt in ("a cat", long) for index in range(5)]
    entries = [(long, "Material"), ("a man", "Material"), ("a man", "Diversity")]
    second = VBENCH2.videos_of(info(tmp_path / "2.json", entries))
    assert [video.name for video in second] == [
        *(f"{long[:180]}-{index}" for index in range(3)), *(f"a man-{index}" for index in range(20))
    ]  # fmt: skip
    with pytest.raises(ValueError, match="dimension 'Material', which is not one of VBench: subject_consistency"):
        VBENCH.videos_of(tmp_path / "2.json")


def test_a_package_that_is_not_installed_is_named_with_its_requirements():
    with pytest.raises(FileNotFoundError, match="vbench is not installed for .*requirements-vbench.txt.*--info"):
        find_info(VBENCH, sys.executable)


GRAPH = {
    "text": {"class_type": "CLIPTextEncode", "inputs": {"text": "a photo of {prompt}", "clip": ["clip", 0]}},
    "sampler": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 4}},
    "noise": {"class_type": "RandomNoise", "inputs": {"noise_seed": 1}},
    "linked": {"class_type": "KSampler", "inputs": {"seed": ["noise", 0]}},
}


def test_prompt_and_seed_reach_every_place():
    made = filled(GRAPH, "a cat", 7)
    assert made["text"]["inputs"]["text"] == "a photo of a cat" and made["sampler"]["inputs"] == {"seed": 7, "steps": 4}
    assert made["noise"]["inputs"]["noise_seed"] == 7 and made["linked"]["inputs"]["seed"] == ["noise", 0]
    assert GRAPH["sampler"]["inputs"]["seed"] == 1
    with pytest.raises(ValueError, match="no input of the graph contains {prompt}"):
        filled({"sampler": GRAPH["sampler"]}, "a cat", 7)
    with pytest.raises(ValueError, match="no node of the graph has a widget seed or noise_seed"):
        filled({"text": GRAPH["text"]}, "a cat", 7)


def test_seeds_differ_and_stay():
    videos = [Video(prompt, index, "") for prompt in ("a", "b") for index in range(5)]
    assert len({seed_of(video, base) for video in videos for base in (0, 1)}) == 20
    assert [seed_of(video, 0) for video in videos] == [seed_of(video, 0) for video in videos]
    assert seed_of(videos[0], 0) == 2848605546


def test_a_graph_must_save_one_video():
    entry = {"filename": "x_00001_.mp4", "subfolder": "", "type": "output"}
    assert saved_video({"9": {"images": [entry], "animated": [True]}, "8": {"images": [{"filename": "y.png"}]}}) == entry
    with pytest.raises(GraphError, match="the graph saved 2 videos"):
        saved_video({"9": {"images": [entry, entry]}})


def tiny_graph():
    nodes = {
        "model": ("UNETLoader", {"unet_name": "tiny_random_wan_t2v.safetensors", "weight_dtype": "default"}),
        "vae": ("VAELoader", {"vae_name": "tiny_random_wan_vae.safetensors"}),
        "positive": ("PyramidalWanLoadConditioning", {"filename": "{prompt}.safetensors"}),
        "negative": ("PyramidalWanLoadConditioning", {"filename": "tiny_random_negative_prompt.safetensors"}),
        "latent": ("PyramidalWanEmptyLatent", {"width": 64, "height": 64, "frames": 5}),
        "samples": (
            "PyramidalWanSampler",
            {
                **{name: [name, 0] for name in ("model", "positive", "negative", "latent")},
                "seed": 0,
                "steps": "1-1",
                "cfg": "1",
            },
        ),
        "frames": ("VAEDecode", {"samples": ["samples", 0], "vae": ["vae", 0]}),
        "video": ("CreateVideo", {"images": ["frames", 0], "fps": 8}),
        "save": ("SaveVideo", {"video": ["video", 0], "filename_prefix": "x", "format": "mp4", "codec": "h264"}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def test_videos_come_from_running_servers_and_interrupted_ones_resume(tmp_path):
    """One server twice and one that is not there: its work goes to the other."""
    workspace = Workspace(default_workspace().comfyui, tmp_path / "base", tmp_path / "output")
    prepare(workspace)
    prompts, folder = ("a red disc", "a blue disc"), workspace.base / "input" / "conditioning"
    for prompt in prompts:
        shutil.copy(folder / "tiny_random_prompt.safetensors", folder / f"{prompt}.safetensors")
    videos = VBENCH.videos_of(info(tmp_path / "info.json", [(prompt, "scene") for prompt in prompts]))[3:7]
    folder = tmp_path / "videos"
    production = Production(tiny_graph(), folder)

    async def run():
        async with ComfyUIServer(workspace) as server:
            dead = await generate(videos[:1], production, ["http://127.0.0.1:9"])
            assert len(dead) == 1 and "closed the connection" in dead[0] and len(missing(videos, folder)) == 4
            assert not await generate(videos[:3], production, [server.url, server.url])
            before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.mp4")}
            assert len(before) == 3 and [video.name for video in missing(videos, folder)] == [videos[3].name]
            assert not await generate(videos, production, [server.url])
            assert all((folder / name).stat().st_mtime_ns == made for name, made in before.items())

    asyncio.run(run())
    files = sorted(path.name for path in folder.glob("*.mp4"))
    assert files == sorted(f"{video.name}.mp4" for video in videos)
    assert len({(folder / name).read_bytes() for name in files}) == 4
    record = {entry["name"]: entry["seed"] for entry in map(json.loads, (folder / RECORD).read_text().splitlines())}
    assert record == {video.name: seed_of(video, 0) for video in videos}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Put a package 'vbench' with the suite's interface on the path of a Python; its metric reads the files."""
    source = tmp_path / "packages" / "vbench"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text(
        "import json, os, pathlib\n"
        "class VBench:\n"
        "    def __init__(self, device, info, output): self.output = pathlib.Path(output)\n"
        "    def evaluate(self, *, videos_path, name, dimension_list, local):\n"
        "        assert local and os.environ['HF_HUB_OFFLINE'] == '1'\n"
        "        if dimension_list == ['temporal_flickering']: raise SystemExit('the metric failed')\n"
        "        files = len(os.listdir(videos_path))\n"
        "        (self.output / f'{name}_eval_results.json').write_text(json.dumps({dimension_list[0]: [files / 100, []]}))\n"
    )
    info(source / "VBench_full_info.json", [("a cat", *VBENCH.dimensions)])
    monkeypatch.setenv("PYTHONPATH", str(source.parent))
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path / "cache"))
    return source


def test_a_dimension_without_its_models_is_left_out_and_they_are_listed(tmp_path, package, capsys):
    folder = tmp_path / "runs" / "one" / "vbench"
    (folder / "videos").mkdir(parents=True)
    for index in range(5):
        (folder / "videos" / f"a cat-{index}.mp4").touch()
    (model,) = VBENCH.dimensions["imaging_quality"].models
    (tmp_path / "cache" / model).parent.mkdir(parents=True)
    (tmp_path / "cache" / model).touch()
    vbench.main(["--folder", str(tmp_path / "runs"), "score", "one", "--suite", "vbench"])
    text = capsys.readouterr().out
    assert scores_of(folder / "results", VBENCH) == {"imaging_quality": 0.05}
    assert "imaging_quality: 0.0500" in text and "temporal_flickering: failed, the metric failed" in text
    absent = tmp_path / "cache" / "raft_model" / "models" / "raft-things.pth"
    assert f"dynamic_degree: left out, missing {absent}" in text and text.count(str(absent)) == 2
    assert "quality -, semantic -, total -" in text and "dynamic_degree" in missing_models(VBENCH)
    (folder / "results" / "temporal_flickering_eval_results.json").write_text('{"temporal_flickering": [0.9, []]}')
    lines = list(score(VBENCH, folder / "videos", folder / "results", package / "VBench_full_info.json", python="no python"))
    assert len(lines) == 14 and all("left out, missing" in line for line in lines), "the others have results"


def test_missing_videos_are_not_scored(tmp_path, package):
    with pytest.raises(SystemExit, match="5 videos of VBench are missing in .*, such as a cat-0"):
        vbench.main(["--folder", str(tmp_path / "runs"), "score", "one", "--suite", "vbench"])


def test_the_table_has_the_runs_beside_the_paper(tmp_path, capsys):
    results = tmp_path / "runs" / "ours" / "vbench" / "results"
    results.mkdir(parents=True)
    for name, value in COGVIDEOX_5B.items():
        (results / f"{name}_eval_results.json").write_text(json.dumps({name: [value / 100, []]}))
    page = tmp_path / "page.md"
    page.write_text("<!-- written by benchmarks/vbench -->\n<!-- end of benchmarks/vbench -->\n")
    vbench.main(["--folder", str(tmp_path / "runs"), "table", "ours", "--write", str(page)])
    text = page.read_text()
    assert "| ours |  | 81.61 | 77.04 | not scored |" in text and capsys.readouterr().out.strip() in text
    for published in ("| Wan2.1-1.3B, published | 50 | 82.49 |", "| PyramidalWan, published | 20-20-10 | 82.83 |"):
        assert published in text
    assert "82.86" in text and "82.72" in text
    (results / "scene_eval_results.json").unlink()
    assert "| ours |  | 15 of 16 dimensions | 15 of 16 dimensions | not scored |" in table([("ours", {"vbench": results})])


def test_every_suite_has_the_dimensions_of_its_package():
    assert {name: len(suite.dimensions) for name, suite in SUITES.items()} == {"vbench": 16, "vbench2": 18}
