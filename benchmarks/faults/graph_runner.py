"""Graphs in API format, validated and executed in this process by ComfyUI itself.

Two nodes are added: one that hands any Python object to an input, as nodes of other packs with an output of any type do, and
one that keeps what it is given.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.in_process import pack_module, use_comfyui

Graph = dict[str, dict[str, Any]]
"""Node id to ``{"class_type": ..., "inputs": {...}}``: ComfyUI's API format."""

GIVE, KEEP = "FaultsGive", "FaultsKeep"


class AnyType(str):
    """A type of a socket that fits every other one, as many packs define it."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


ANY = AnyType("*")


@dataclass(frozen=True)
class Outcome:
    """The result of queueing a graph.

    Attributes:
        refused: What ComfyUI says about the graph before it runs; empty if the graph was accepted.
        crashes: The refusals that are exceptions of a node's own checks.
        error: The message of the exception that ended the run; None if it ran.
        kind: The name of the exception's class.
        where: The last lines of its traceback.
        kept: What reached the node that keeps values, by the key of the value.
    """

    refused: tuple[str, ...] = ()
    crashes: tuple[str, ...] = ()
    error: str | None = None
    kind: str = ""
    where: str = ""
    kept: Mapping[str, Any] = field(default_factory=dict)


class GraphRunner:
    """ComfyUI's validation and executor with the pack's nodes, in this process."""

    def __init__(self) -> None:
        use_comfyui()
        import execution
        import server

        import nodes as comfyui_nodes

        self._execution = execution
        self.given: dict[str, Any] = {}
        self._kept: dict[str, Any] = {}
        self._loop = asyncio.new_event_loop()
        self._server: Any = server.PromptServer(self._loop)
        self._server.client_id = None
        self._known: dict[str, type] = vars(comfyui_nodes)["NODE_CLASS_MAPPINGS"]
        self._known.update({node.GET_SCHEMA().node_id: node for node in pack_module("nodes").NODES})
        self._nodes = {GIVE: _giving_node(self.given), KEEP: _keeping_node(self._kept)}

    def run(self, graph: Graph) -> Outcome:
        """Validate and run a graph, as if it had been posted."""
        self._known.update(self._nodes)  # another runner may have had its own
        return self._loop.run_until_complete(self._run(copy.deepcopy(graph)))

    async def _run(self, graph: Graph) -> Outcome:
        accepted, error, outputs, node_errors = await self._execution.validate_prompt("faults", graph, None)
        if not accepted or node_errors:
            reasons = [reason for node in node_errors.values() for reason in node["errors"]] or [error]
            crashes = [reason for reason in reasons if reason["type"].startswith("exception_during")]
            return Outcome(tuple(map(_text, reasons)), tuple(map(_text, crashes)))
        self._kept.clear()
        executor = self._execution.PromptExecutor(self._server, **_cache_options(self._execution))
        await executor.execute_async(graph, "faults", {}, outputs)
        for event, data in executor.status_messages:
            if event == "execution_error":
                message, kind = data["exception_message"].rstrip("\n"), data["exception_type"].rpartition(".")[2]
                return Outcome(error=message, kind=kind, where="".join(data["traceback"][-2:]))
        return Outcome(kept=dict(self._kept))


def _cache_options(execution: Any) -> dict[str, Any]:
    """Return arguments of the executor that keep nothing from one graph to the next."""
    return {"cache_type": execution.CacheType.NONE, "cache_args": {"ram": 0, "ram_inactive": 0, "lru": 0}}


def _text(reason: Mapping[str, Any]) -> str:
    return f"{reason['message']}: {reason['details']}"


def _giving_node(values: dict[str, Any]) -> type:
    class Give:
        RETURN_TYPES, FUNCTION, CATEGORY = (ANY,), "give", "faults"

        @classmethod
        def INPUT_TYPES(cls) -> dict:
            return {"required": {"key": ("STRING", {})}}

        def give(self, key: str) -> tuple:
            return (values[key],)

    return Give


def _keeping_node(values: dict[str, Any]) -> type:
    class Keep:
        RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "keep", "faults", True

        @classmethod
        def INPUT_TYPES(cls) -> dict:
            return {"required": {"key": ("STRING", {}), "value": (ANY, {})}}

        def keep(self, key: str, value: Any) -> dict:
            values[key] = value
            return {}

    return Keep
