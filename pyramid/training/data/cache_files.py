"""The cache on disk: clean latents of every stage and text embeddings, in shards that are written atomically.

``cache.json`` describes the cache, ``empty.safetensors`` holds the embedding of the empty prompt (``text``), and
``shard-00000.safetensors`` ... hold ``<item>/stage<index>`` ``(C, T, H, W)`` and ``<item>/text`` ``(tokens, width)``.
A shard's header lists its items and the sources that were skipped. A shard's number determines its sources, so an
interrupted run resumes by writing the missing shards: no item is lost or duplicated.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...latent_shape import CHANNELS, LatentShape
from ...stages import PyramidSpec
from ..engine.atomic import atomic_file, write_text

FORMAT = 1
INFO = "cache.json"
EMPTY = "empty.safetensors"
SHARD = "shard-{:05d}.safetensors"
OPEN_FILES = 64
"""Maximum number of shards that one process keeps open."""


@dataclass(frozen=True)
class CacheInfo:
    """Description of a cache.

    Attributes:
        spec: The pyramid.
        width: Width of the videos at full size, in pixels.
        height: Height of the videos at full size, in pixels.
        frames: Pixel frames of the videos at full size.
        definition: "pixels": coarse stages are encoded from downsampled videos (PyramidalWan's definition 2, the default);
            "latents": they are downsampled latents of the full size (definition 1); "prompts": text only.
        text_length: Number of tokens to which embeddings are padded with zeros.
        count: Number of sources.
        per_shard: Sources per shard.
        sources: Fingerprint of the list of sources.
        provenance: Free text by name.
    """

    spec: PyramidSpec
    width: int
    height: int
    frames: int
    definition: str
    text_length: int
    count: int
    per_shard: int
    sources: str
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def shards(self) -> int:
        """Return the number of shards."""
        return -(-self.count // self.per_shard)

    @property
    def latent(self) -> LatentShape:
        """Return the size of the latents at full size."""
        return LatentShape.of_video(self.frames, self.height, self.width)

    def to_json(self) -> str:
        """Return the contents of ``cache.json``."""
        return json.dumps({"format": FORMAT, **asdict(self), "spec": json.loads(self.spec.to_json())}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> CacheInfo:
        """Read the contents of ``cache.json``.

        Raises:
            ValueError: The cache has another format.
        """
        values = json.loads(text)
        if (version := values.pop("format", None)) != FORMAT:
            raise ValueError(f"unknown cache format {version!r}; this version reads format {FORMAT}")
        return cls(**{**values, "spec": PyramidSpec.from_json(json.dumps(values["spec"]))})


@dataclass(frozen=True)
class CachedItem:
    """One clip or prompt.

    Attributes:
        name: Where it comes from.
        caption: The prompt.
        latents: Clean latents of the stages in running order, each ``(C, T, H, W)``; empty for a prompt without a video.
        text: Text embedding without padding, ``(tokens, width)``.
    """

    name: str
    caption: str
    latents: Sequence[Tensor]
    text: Tensor


@dataclass(frozen=True)
class Skipped:
    """A source without items, and the reason."""

    name: str
    reason: str


def write_info(folder: Path, info: CacheInfo, empty: Tensor) -> None:
    """Start a cache, or check that the folder holds the same one.

    Args:
        folder: Folder of the cache; it is created if necessary.
        info: Description of the cache.
        empty: Embedding of the empty prompt, ``(tokens, width)``.

    Raises:
        ValueError: The folder holds a different cache.
    """
    path = folder / INFO
    if path.exists():
        before = CacheInfo.from_json(path.read_text(encoding="utf-8"))
        if before != info:
            names = [name for name in asdict(info) if getattr(before, name) != getattr(info, name)]
            shown = "; ".join(f"{name} was {getattr(before, name)!r}, is now {getattr(info, name)!r}" for name in names)
            raise ValueError(f"{folder} holds a different cache: {shown}. Choose another 'out', or remove the folder")
        return
    _save({"text": empty}, folder / EMPTY, {})
    write_text(path, info.to_json())


def write_shard(folder: Path, number: int, items: Sequence[CachedItem], skipped: Sequence[Skipped]) -> None:
    """Write a shard. Its items are numbered from 0."""
    tensors = {f"{index}/text": item.text for index, item in enumerate(items)}
    for index, item in enumerate(items):
        tensors |= {f"{index}/stage{stage}": latent for stage, latent in enumerate(item.latents)}
    header = {
        "items": json.dumps([{"name": item.name, "caption": item.caption} for item in items]),
        "skipped": json.dumps([asdict(one) for one in skipped]),
    }
    _save(tensors, folder / SHARD.format(number), header)


def missing_shards(folder: Path, info: CacheInfo) -> list[int]:
    """Return the numbers of the shards that do not exist or cannot be read."""
    return [number for number in range(info.shards) if _header(folder / SHARD.format(number)) is None]


def skipped_sources(folder: Path, info: CacheInfo) -> list[Skipped]:
    """Return the skipped sources of all shards, in order."""
    headers = (_header(folder / SHARD.format(number)) for number in range(info.shards))
    return [Skipped(**one) for header in headers if header for one in json.loads(header["skipped"])]


class Cache:
    """A complete cache, opened for reading. Items are in the order of their sources."""

    def __init__(self, folder: str | Path, *, stages: int | None = None) -> None:
        """Open a cache.

        Args:
            folder: Folder of the cache.
            stages: Number of stages to read, the finest ones, for a run whose pyramid has fewer stages than the cache; a run
                at full size only can read any cache. None reads all.

        Raises:
            ValueError: The folder is not a cache, or the cache is incomplete.
        """
        self.folder = Path(folder)
        if not (self.folder / INFO).is_file():
            raise ValueError(
                f"{self.folder} is not a cache: it has no {INFO}. Create a cache with 'python -m pyramid.training cache'"
            )
        self.info = CacheInfo.from_json((self.folder / INFO).read_text(encoding="utf-8"))
        headers = [_header(self.folder / SHARD.format(number)) for number in range(self.info.shards)]
        if missing := headers.count(None):
            raise ValueError(
                f"the cache in {self.folder} is incomplete: {missing} of {self.info.shards} shards are missing. "
                "Run the same cache command again to write them"
            )
        self.stages = min(stages or self.info.spec.number_of_stages, self.info.spec.number_of_stages)
        self._omitted_stages = self.info.spec.number_of_stages - self.stages
        self._items = [
            (shard, index, item)
            for shard, header in enumerate(headers)
            for index, item in enumerate(json.loads(header["items"]) if header else [])
        ]
        self._open: OrderedDict[int, safe_open] = OrderedDict()
        with safe_open(self.folder / EMPTY, framework="pt") as file:
            self.empty = self._padded(file.get_tensor("text"))

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._items)

    @property
    def has_videos(self) -> bool:
        """Return whether items have latents."""
        return self.info.definition != "prompts"

    def size(self, stage: int) -> tuple[int, int, int, int]:
        """Return the size ``(C, T, H, W)`` of the latents of a stage, in running order."""
        shape = self.info.spec.shapes(self.info.latent)[stage + self._omitted_stages]
        return CHANNELS, shape.frames, shape.height, shape.width

    def name(self, item: int) -> str:
        """Return where an item comes from."""
        return self._items[item][2]["name"]

    def caption(self, item: int) -> str:
        """Return the prompt of an item."""
        return self._items[item][2]["caption"]

    def latent(self, item: int, stage: int) -> Tensor:
        """Return a clean latent, ``(C, T, H, W)`` in float32; stage 0 is the coarsest one that is read."""
        return self._tensor(item, f"stage{stage + self._omitted_stages}").float()

    def text(self, item: int) -> Tensor:
        """Return a text embedding padded with zeros, ``(text_length, width)`` in float32."""
        return self._padded(self._tensor(item, "text"))

    def _tensor(self, item: int, name: str) -> Tensor:
        shard, index, _ = self._items[item]
        if shard not in self._open:
            self._open[shard] = safe_open(self.folder / SHARD.format(shard), framework="pt")
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard].get_tensor(f"{index}/{name}")

    def _padded(self, text: Tensor) -> Tensor:
        padded = torch.zeros(self.info.text_length, text.shape[1])
        padded[: len(text)] = text[: self.info.text_length]
        return padded

    def __getstate__(self) -> dict:
        """Return the state to pickle for worker processes, without the open files."""
        return {**self.__dict__, "_open": OrderedDict()}


def _header(path: Path) -> dict[str, str] | None:
    """Return a shard's metadata, or None if the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata()
    except (FileNotFoundError, SafetensorError):
        return None


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    # the clips of one video share its embedding, and safetensors rejects tensors that share memory
    separate = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    with atomic_file(path) as partial:
        save_file(separate, partial, metadata=metadata)
