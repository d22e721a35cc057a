"""A headless ComfyUI in a process of its own: start it, queue graphs over HTTP, wait for them, stop it.

    async with ComfyUIServer(workspace) as server:
        outputs = await server.run(graph)

Used by the demo and by the tests that go through HTTP; `make serve` takes its command line from here.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from .workspace import Workspace

Graph = dict[str, dict[str, Any]]
"""Node id to ``{"class_type": ..., "inputs": {...}}``: ComfyUI's API format."""

LOG_LINES = 25
STOP_SECONDS = 10


class ServerError(RuntimeError):
    """ComfyUI did not start, or died."""


class GraphError(RuntimeError):
    """ComfyUI rejected a graph, or one of its nodes failed."""


@dataclass(frozen=True)
class Progress:
    """Progress of a running graph.

    Attributes:
        node: Id of the node that runs.
        step: Steps of that node that are done; 0 until it reports them.
        steps: Steps of that node in all; 0 until it reports them.
    """

    node: str
    step: int = 0
    steps: int = 0


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
        self._client = uuid.uuid4().hex

    async def __aenter__(self) -> ComfyUIServer:
        line = command(self.workspace, port=self.port, database="sqlite:///:memory:", arguments=self._arguments)
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *line, cwd=self.workspace.comfyui, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._http = aiohttp.ClientSession(self.url)
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
        """Queue a graph, wait until it is done, and return the outputs of its output nodes by node id.

        Args:
            graph: The graph in API format; widgets that it leaves out take their defaults, as they do in the front end.
            on_progress: Called for every node that starts and every step that it reports.
            timeout: Seconds.

        Raises:
            GraphError: ComfyUI rejected the graph, a node failed, or the time ran out.
            ServerError: ComfyUI died.
        """
        try:
            return await asyncio.wait_for(self._run(graph, on_progress), timeout)
        except asyncio.TimeoutError:
            raise GraphError(f"the graph was not done within {timeout:.0f} s; the log is {self.log}") from None
        except aiohttp.ClientError:
            raise self._failure("closed the connection") from None

    async def get(self, path: str) -> Any:
        """Return the JSON with which a route answers."""
        async with self._http.get(path) as response:
            response.raise_for_status()
            return await response.json()

    async def _wait_until_up(self) -> None:
        while True:
            if self.process.returncode is not None:
                raise self._failure(f"ended with exit status {self.process.returncode}")
            try:
                await self.get("/system_stats")
                return
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)

    async def _run(self, graph: Graph, on_progress: Callable[[Progress], None]) -> dict[str, dict]:
        async with self._http.ws_connect("/ws", params={"clientId": self._client}, max_msg_size=0) as events:
            prompt = await self._queue(await self._with_defaults(graph))
            async for message in events:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue  # a preview image
                event = json.loads(message.data)
                kind, data = event["type"], event["data"]
                if data.get("prompt_id") != prompt:
                    continue
                if kind == "execution_error":
                    raise GraphError(f"{data['node_type']} failed: {data['exception_message'].strip()}")
                if kind == "executing" and data["node"] is None:
                    return (await self.get(f"/history/{prompt}"))[prompt]["outputs"]
                if kind == "executing":
                    on_progress(Progress(data["node"]))
                if kind == "progress":
                    on_progress(Progress(data["node"], data["value"], data["max"]))
        raise self._failure("closed the connection")

    async def _with_defaults(self, graph: Graph) -> Graph:
        filled = {}
        for name, node in graph.items():
            known = await self.get(f"/object_info/{node['class_type']}")
            inputs = known.get(node["class_type"], {}).get("input", {}).get("required", {})
            filled[name] = {**node, "inputs": {**_defaults(inputs), **node["inputs"]}}
        return filled

    async def _queue(self, graph: Graph) -> str:
        async with self._http.post("/prompt", json={"prompt": graph, "client_id": self._client}) as response:
            answer = await response.json()
        if "prompt_id" not in answer or answer.get("node_errors"):
            raise GraphError(f"ComfyUI rejected the graph: {_reasons(answer)}; the log is {self.log}")
        return answer["prompt_id"]

    async def _stop(self) -> None:
        await self._http.close()
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


def _defaults(inputs: dict[str, list]) -> dict[str, Any]:
    """Return the defaults of those inputs that are widgets and have one."""
    options = {name: spec[1] for name, spec in inputs.items() if len(spec) > 1}
    return {name: widget["default"] for name, widget in options.items() if "default" in widget}


def _reasons(answer: dict) -> str:
    errors = [answer["error"]] if answer.get("error") else []
    reasons = [f"{error['message']} {error['details']}".strip() for error in errors]
    for node in answer.get("node_errors", {}).values():
        reasons += [f"{node['class_type']}: {error['message']}: {error['details']}" for error in node["errors"]]
    return "; ".join(reasons)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
