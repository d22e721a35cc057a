"""One ComfyUI over HTTP for all templates of a worker, with the stand-in nodes and the small files."""

import asyncio
from dataclasses import dataclass

import pytest
from safetensors.torch import load_file

from harness.server import ComfyUIServer
from harness.templates import write_networks, write_small_files
from harness.workspace import Workspace, default_workspace, prepare


@dataclass(frozen=True)
class RunningComfyUI:
    """A server, its loop, the definitions of its nodes and its version."""

    server: ComfyUIServer
    loop: asyncio.AbstractEventLoop
    node_info: dict
    version: str

    def run(self, graph):
        """Queue a graph; returns the saved latents by the id of the sampler, and all outputs."""
        write_networks(self.server.workspace, graph)
        outputs = self.loop.run_until_complete(self.server.run(graph))
        files = {name: found["latents"][0] for name, found in outputs.items() if "latents" in found}
        folder = self.server.workspace.output
        latents = {
            name: load_file(folder / file["subfolder"] / file["filename"])["latent_tensor"] for name, file in files.items()
        }
        return latents, outputs


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
