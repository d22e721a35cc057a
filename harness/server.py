"""A headless ComfyUI in a process of its own: start it, queue graphs over HTTP, wait for them, stop it.

    async with ComfyUIServer(workspace) as server:
        outputs = await server.run(graph)

Used by the demo and by the tests that go through HTTP; `make serve` takes its command line from here.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any

import aiohttp

from .client import ComfyUIClient, Graph, GraphError, Progress, ServerError
from .workspace import Workspace

LOG_LINES = 25
STOP_SECONDS = 10


def command(workspace: Workspace, *, port: int, database: str, arguments: tuple[str, ...] = ()) -> list[str]:
    """Return the command line of a ComfyUI that reads and writes nothing outside the workspace."""
    folders = ["--base-directory", str(workspace.base), "--output-directory", str(workspace.output)]
    address = ["--port", str(port), "--database-url", database]
    return [
        sys.executable, str(workspace.comfyui / "main.py"), *folders, *address,
        "--disable-auto-launch", "--disable-api-nodes", *arguments,
    ]  # fmt: skip


class ComfyUIServer:
    """A headless ComfyUI on the CPU, which runs inside ``async with``. Its log is in the workspace's base folder."""

    def __init__(self, workspace: Workspace, *, arguments: tuple[str, ...] = (), start_timeout: float = 180):
        self.workspace = workspace
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = workspace.base / "comfyui.log"
        self._arguments = ("--cpu", *arguments)
        self._start_timeout = start_timeout
        self.client = ComfyUIClient(self.url)

    async def __aenter__(self) -> ComfyUIServer:
        line = command(self.workspace, port=self.port, database="sqlite:///:memory:", arguments=self._arguments)
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *line, cwd=self.workspace.comfyui, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        await self.client.__aenter__()
        try:
            await asyncio.wait_for(self._wait_until_up(), self._start_timeout)
        except BaseException as error:
            await self._stop()
            if isinstance(error, asyncio.TimeoutError):
                raise self._failure(f"did not answer within {self._start_timeout:.0f} s") from None
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def run(
        self, graph: Graph, on_progress: Callable[[Progress], None] = lambda progress: None, *, timeout: float = 600
    ) -> dict[str, dict]:
        """Queue a graph, wait until it is done, and return its outputs; see ``ComfyUIClient.run``.

        Raises:
            GraphError: ComfyUI rejected the graph, a node failed, or the time ran out.
            ServerError: ComfyUI died.
        """
        try:
            return await self.client.run(graph, on_progress, timeout=timeout)
        except GraphError as error:
            raise GraphError(f"{error}; the log is {self.log}") from None
        except ServerError as error:
            raise self._failure(str(error)) from None

    async def get(self, path: str) -> Any:
        """Return the JSON with which a route answers."""
        return await self.client.get(path)

    async def _wait_until_up(self) -> None:
        while True:
            if self.process.returncode is not None:
                raise self._failure(f"ended with exit status {self.process.returncode}")
            try:
                await self.get("/system_stats")
                return
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)

    async def _stop(self) -> None:
        await self.client.__aexit__()
        if self.process.returncode is None:
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except asyncio.TimeoutError:
            self.process.kill()
            await self.process.wait()

    def _failure(self, what: str) -> ServerError:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return ServerError("\n".join([f"ComfyUI {what}. The end of {self.log}:", *(f"  {line}" for line in lines)]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
