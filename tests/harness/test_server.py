"""The real ComfyUI over HTTP with the pack in it, and the errors if it does not start."""

import asyncio
import sys

import av
import pytest
import torch
from PIL import Image

from demo.contact_sheet import contact_sheet
from demo.run import PROMPT, SAMPLINGS, Result, Sampling, VideoSize, cost_table, report, sampling_graph
from harness.client import failure
from harness.server import ComfyUIServer, GraphError, ServerError, command
from harness.workspace import Workspace, default_workspace, prepare, write_prompt
from tiny_wan.world.grammar import parse
from tiny_wan.world.scenes import render, scene_for
from tiny_wan.world.videos import save_video


@pytest.fixture
def broken(tmp_path):
    """Return a function that makes a workspace whose ComfyUI is the given program."""

    def make(program):
        (tmp_path / "main.py").write_text(program)
        return Workspace(tmp_path, tmp_path, tmp_path)

    return make


async def start(workspace, **options):
    async with ComfyUIServer(workspace, **options):
        pass


def test_a_crash_at_the_start_shows_the_end_of_the_log(broken):
    workspace = broken("for line in range(100): print(line)\nraise SystemExit('no torch here')")
    with pytest.raises(ServerError, match=r"(?s)ended with exit status 1.*\n  99\n  no torch here") as error:
        asyncio.run(start(workspace))
    assert "  50\n" not in str(error.value)


def test_a_server_that_never_answers_is_stopped(broken):
    workspace = broken("import time\nprint('thinking', flush=True)\ntime.sleep(60)")
    server = ComfyUIServer(workspace, start_timeout=2)
    with pytest.raises(ServerError, match=r"did not answer within 2 s.*\n  thinking"):
        asyncio.run(server.__aenter__())
    assert server.process.returncode is not None


def test_cancelling_the_start_stops_the_server(broken):
    server = ComfyUIServer(broken("import time\ntime.sleep(60)"))

    async def cancelled():
        task = asyncio.create_task(server.__aenter__())
        await asyncio.sleep(0.5)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert server.process.returncode is not None


def test_the_command_line_stays_inside_the_workspace(tmp_path):
    line = command(Workspace(tmp_path / "c", tmp_path / "b", tmp_path / "o"), port=5, database="sqlite:///:memory:")
    assert line[:2] == [sys.executable, str(tmp_path / "c" / "main.py")]
    assert line[line.index("--base-directory") + 1] == str(tmp_path / "b")
    assert line[line.index("--output-directory") + 1] == str(tmp_path / "o")


def test_a_missing_comfyui_is_an_error_with_the_solution(monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="set COMFYUI_DIR to a checkout"):
        default_workspace()


def test_a_graph_runs_and_invalid_graphs_are_rejected(tmp_path):
    workspace = Workspace(default_workspace().comfyui, tmp_path / "base", tmp_path / "output")
    prepare(workspace)
    sampling = Sampling("test", "test", "pyramidal-wan", "2-2-1", 1.0)
    prompt = write_prompt(workspace, PROMPT)
    graph = sampling_graph(sampling, prompt, VideoSize(width=64, height=64, frames=17), seeds=2)
    missing = graph | {"pyramid": {"class_type": "NoSuchNode", "inputs": {}}}
    wrong = graph | {"pyramid": {"class_type": "PyramidalWanPreset", "inputs": {"preset": "no-such"}}}
    seen = []

    async def scenario():
        async with ComfyUIServer(workspace) as server:
            with pytest.raises(GraphError, match="NoSuchNode'? (does not exist|not found)"):
                await server.run(missing)
            with pytest.raises(GraphError, match="unknown preset 'no-such'|Value not in list"):
                await server.run(wrong)
            outputs = await server.run(graph, seen.append)
        return server, outputs

    server, outputs = asyncio.run(scenario())
    assert server.process.returncode is not None
    (saved,) = outputs["save_first"]["images"]
    assert measure(workspace.output / saved["subfolder"] / saved["filename"]) == (64, 64, 17)
    (saved,) = outputs["save_all"]["images"]
    assert measure(workspace.output / saved["subfolder"] / saved["filename"]) == (64, 64, 2 * 17)
    steps = [progress for progress in seen if progress.node == "samples" and progress.steps]
    assert steps[-1].step == steps[-1].steps > 0


def measure(path):
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        return stream.width, stream.height, sum(1 for _ in video.decode(stream))


def test_the_report_reads_the_videos_and_compares_costs(tmp_path):
    """Every attribute of rendered clips is read, also after video compression."""
    caption = parse(PROMPT)
    scenes = [scene_for(caption, seed=seed) for seed in range(2)]
    clips = render(scenes, frames=17, height=128, width=128)
    save_video(tmp_path / "first.mp4", clips[0])
    save_video(tmp_path / "every.mp4", torch.cat(list(clips), dim=1))
    results = [Result(sampling, tmp_path / "first.mp4", tmp_path / "every.mp4", 1.0) for sampling in SAMPLINGS]
    table, strips = report(results, caption)
    plain, pyramid = table.splitlines()[1:3]
    assert "ring, red, left, centre, striped, blue" in plain and plain.split()[3:5] == ["100%", "100%"]
    assert "25%" in pyramid
    sheet = Image.open(contact_sheet(strips, tmp_path / "sheet.png", title=PROMPT))
    assert sheet.width > 900 and sheet.height > 300


def test_the_cost_table_agrees_with_the_paper():
    rows = [line.split() for line in cost_table().splitlines()[1:]]
    assert [(row[0], row[2]) for row in rows] == [("0-0-50", "25184"), ("20-20-10", "5642"), ("2-2-1", "282")]


def test_a_vae_that_an_older_comfyui_cannot_load_is_one_sentence():
    mismatches = "Error(s) in loading state_dict for WanVAE:\n" + "\tsize mismatch for encoder.conv1.weight: ...\n" * 100
    words = (
        "VAELoader failed: this ComfyUI loads VAEs of the released widths only, and the file has others; use a newer ComfyUI"
    )
    assert failure("VAELoader", mismatches) == words
    assert failure("KSampler", "x") == "KSampler failed: x"
