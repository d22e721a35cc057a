"""One ComfyUI over HTTP for all templates of a worker, with the stand-in nodes and the small files."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file

from harness.client import Progress
from harness.server import ComfyUIServer
from harness.templates import write_networks, write_small_files
from harness.workspace import Workspace, default_workspace, prepare


@dataclass(frozen=True)
class FinishedRun:
    """What a graph left behind.

    Attributes:
        latents: The saved latents by the id of their 'Save Latent'.
        outputs: The outputs of all output nodes by id.
        progress: The steps that each node reported, by id; nodes whose earlier results were used again are not in it.
    """

    latents: dict[str, torch.Tensor]
    outputs: dict[str, dict]
    progress: dict[str, list[Progress]]


@dataclass(frozen=True)
class RunningComfyUI:
    """A server, its loop, the definitions of its nodes and its version."""

    server: ComfyUIServer
    loop: asyncio.AbstractEventLoop
    node_info: dict
    version: str

    def run(self, graph) -> FinishedRun:
        """Queue a graph and wait until it is done."""
        write_networks(self.server.workspace, graph)
        progress = defaultdict(list)

        def on_progress(report: Progress) -> None:
            reports = progress[report.node]
            if report.steps:
                reports.append(report)

        outputs = self.loop.run_until_complete(self.server.run(graph, on_progress))
        files = {name: output["latents"][0] for name, output in outputs.items() if "latents" in output}
        folder = self.server.workspace.output
        latents = {
            name: load_file(folder / file["subfolder"] / file["filename"])["latent_tensor"] for name, file in files.items()
        }
        return FinishedRun(latents, outputs, dict(progress))


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory):
    base = tmp_path_factory.mktemp("templates")
    workspace = Workspace(default_workspace().comfyui, base, base / "output")
    prepare(workspace)
    write_small_files(workspace)
    loop = asyncio.new_event_loop()
    server = ComfyUIServer(workspace)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")  # tiny models on a busy machine: threads would wait for one another
        loop.run_until_complete(server.__aenter__())
    try:
        node_info = loop.run_until_complete(server.get("/object_info"))
        stats = loop.run_until_complete(server.get("/system_stats"))
        yield RunningComfyUI(server, loop, node_info, stats["system"]["comfyui_version"])
    finally:
        loop.run_until_complete(server.__aexit__())
        loop.close()
