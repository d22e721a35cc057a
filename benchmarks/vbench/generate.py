"""Make a suite's videos with any graph through running ComfyUIs, several at a time, resumable."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.client import ComfyUIClient, Graph, GraphError, ServerError
from pyramid.training.engine.atomic import atomic_file

from .suites import Video

PROMPT = "{prompt}"
SEEDS = ("seed", "noise_seed")
ENDINGS = (".mp4", ".gif")
ATTEMPTS = 2
RECORD = "seeds.jsonl"


def filled(graph: Graph, prompt: str, seed: int) -> Graph:
    """Return a graph with a prompt in place of ``{prompt}`` and a seed in every seed widget.

    Raises:
        ValueError: The graph has no place for one of them.
    """
    made, prompts, seeds = {}, 0, 0
    for name, node in graph.items():
        inputs = {}
        for key, value in node["inputs"].items():
            if isinstance(value, str) and PROMPT in value:
                value, prompts = value.replace(PROMPT, prompt), prompts + 1
            elif key in SEEDS and isinstance(value, int):
                value, seeds = seed, seeds + 1
            inputs[key] = value
        made[name] = {**node, "inputs": inputs}
    if not prompts:
        raise ValueError(f"no input of the graph contains {PROMPT}; write it as the text of the positive prompt")
    if not seeds:
        raise ValueError(f"no node of the graph has a widget {' or '.join(SEEDS)}; the videos of a prompt would be equal")
    return made


def seed_of(video: Video, base: int) -> int:
    """Return the seed of a video, the same in every run: 32 bits of a digest."""
    digest = hashlib.sha256(f"{base}/{video.index}/{video.prompt}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def missing(videos: Sequence[Video], folder: Path) -> list[Video]:
    """Return the videos that a folder does not have."""
    present = {path.stem for path in folder.glob("*") if path.suffix in ENDINGS}
    return [video for video in videos if video.name not in present]


@dataclass(frozen=True)
class Production:
    """Hold the settings that the videos of a suite are made with.

    Attributes:
        graph: A graph in API format that saves one video, see ``filled``.
        folder: Where the files go, with the names that the suite looks for, and ``seeds.jsonl``.
        base_seed: Other values give other seeds.
        texts: The text that is sampled in place of a prompt, where a suite allows rewritten prompts.
        timeout: Seconds for one video.
    """

    graph: Graph
    folder: Path
    base_seed: int = 0
    texts: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 3600

    async def make(self, client: ComfyUIClient, video: Video) -> None:
        """Sample a video, save it, and record its seed."""
        seed = seed_of(video, self.base_seed)
        text = self.texts.get(video.prompt, video.prompt)
        outputs = await client.run(filled(self.graph, text, seed), timeout=self.timeout)
        saved = saved_video(outputs)
        content = await client.file(saved)
        with atomic_file(self.folder / f"{video.name}{Path(saved['filename']).suffix}") as partial:
            partial.write_bytes(content)
        with (self.folder / RECORD).open("a", encoding="utf-8") as record:
            record.write(json.dumps({"name": video.name, "seed": seed, "text": text, "server": client.url}) + "\n")


async def generate(videos: Sequence[Video], production: Production, servers: Sequence[str]) -> list[str]:
    """Make the videos that are missing, and return what went wrong; a video that failed on one server is tried on any again.

    Args:
        videos: The videos of a suite.
        production: How they are made, and where they go.
        servers: Addresses of running ComfyUIs.
    """
    production.folder.mkdir(parents=True, exist_ok=True)
    queue: asyncio.Queue[tuple[Video, int]] = asyncio.Queue()
    for video in missing(videos, production.folder):
        queue.put_nowait((video, 1))
    problems: list[str] = []

    async def work(url: str) -> None:
        async with ComfyUIClient(url) as client:
            while not queue.empty():
                video, attempt = queue.get_nowait()
                try:
                    await production.make(client, video)
                except ServerError as error:
                    queue.put_nowait((video, attempt))
                    problems.append(f"{url} {error}")
                    return
                except GraphError as error:
                    if attempt < ATTEMPTS:
                        queue.put_nowait((video, attempt + 1))
                    else:
                        problems.append(f"{video.name}: {error}")

    await asyncio.gather(*map(work, servers))
    return problems


def saved_video(outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the one video among the outputs of a graph.

    Raises:
        GraphError: There is none, or there are several.
    """
    files = [
        entry
        for output in outputs.values()
        for entries in output.values()
        if isinstance(entries, list)
        for entry in entries
        if isinstance(entry, dict) and str(entry.get("filename", "")).endswith(ENDINGS) and entry.get("type") == "output"
    ]
    if len(files) != 1:
        raise GraphError(f"the graph saved {len(files)} videos ({' or '.join(ENDINGS)}); expected one node that saves one")
    return files[0]
