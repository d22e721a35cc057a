"""A client of a running ComfyUI: queue graphs over HTTP, wait for them, and fetch the files that they save.

async with ComfyUIClient("http://127.0.0.1:8188") as client:
    outputs = await client.run(graph)
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

Graph = dict[str, dict[str, Any]]
"""Node id to ``{"class_type": ..., "inputs": {...}}``: ComfyUI's API format."""


class ServerError(RuntimeError):
    """ComfyUI did not start, or died."""


class GraphError(RuntimeError):
    """ComfyUI rejected a graph, or one of its nodes failed."""


def failure(kind: str, message: str) -> str:
    """Return the failure of a node in words; one sentence for a VAE that older versions cannot load."""
    if kind == "VAELoader" and "size mismatch" in message:
        message = "this ComfyUI loads VAEs of the released widths only, and the file has others; use a newer ComfyUI"
    return f"{kind} failed: {message}"


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


class ComfyUIClient:
    """The HTTP interface of a running ComfyUI, which is open inside ``async with``."""

    def __init__(self, url: str) -> None:
        """Take the address, such as ``http://127.0.0.1:8188``."""
        self.url = url.rstrip("/")
        self._client = uuid.uuid4().hex

    async def __aenter__(self) -> ComfyUIClient:
        self._http = aiohttp.ClientSession(self.url)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

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
            raise GraphError(f"the graph was not done within {timeout:.0f} s") from None
        except aiohttp.ClientError:
            raise ServerError("closed the connection") from None

    async def get(self, path: str) -> Any:
        """Return the JSON with which a route answers."""
        async with self._http.get(path) as response:
            response.raise_for_status()
            return await response.json()

    async def file(self, saved: Mapping[str, str]) -> bytes:
        """Return a file that a graph has saved, which an output names by filename, subfolder and type."""
        query = {name: saved[name] for name in ("filename", "subfolder", "type")}
        try:
            async with self._http.get("/view", params=query) as response:
                response.raise_for_status()
                return await response.read()
        except aiohttp.ClientError as error:
            raise ServerError(f"does not send {saved['filename']} ({error})") from None

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
                    raise GraphError(failure(data["node_type"], data["exception_message"].strip()))
                if kind == "executing" and data["node"] is None:
                    return (await self.get(f"/history/{prompt}"))[prompt]["outputs"]
                if kind == "executing":
                    on_progress(Progress(data["node"]))
                if kind == "progress":
                    on_progress(Progress(data["node"], data["value"], data["max"]))
        raise ServerError("closed the connection")

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
            raise GraphError(f"ComfyUI rejected the graph: {_reasons(answer)}")
        return answer["prompt_id"]


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
