"""The cache on disk: clean latents of every stage and text embeddings, in shards that appear complete or not at all.

``cache.json`` says what the cache is for, ``empty.safetensors`` holds the empty prompt (``text``), and
``shard-00000.safetensors`` ... hold ``<item>/stage<index>`` ``(C, T, H, W)`` and ``<item>/text`` ``(tokens, width)``.
A shard's header lists its items and what was skipped. Which sources a shard covers follows from its number alone, so an
interrupted cache goes on with the shards that are missing: no item is lost, none comes twice.
"""

from __future__ import annotations

import json
import os
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

FORMAT = 1
INFO = "cache.json"
EMPTY = "empty.safetensors"
SHARD = "shard-{:05d}.safetensors"
OPEN_FILES = 64
"""Of a Wan 2.1 latent."""


@dataclass(frozen=True)
class CacheInfo:
    """What a cache is for.

    definition: "pixels" encodes the smaller video of every stage (PyramidalWan's definition 2, the default), "latents"
    averages the latents of the full size (definition 1), "prompts" holds text alone. text_length: tokens that a prompt is
    padded to with zeros.
    sources: a fingerprint of the list of sources; count: their number; provenance: free text by name.
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
        return -(-self.count // self.per_shard)

    @property
    def latent(self) -> LatentShape:
        return LatentShape.of_video(self.frames, self.height, self.width)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self), "spec": json.loads(self.spec.to_json())}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> CacheInfo:
        values = json.loads(text)
        if (version := values.pop("format", None)) != FORMAT:
            raise ValueError(f"the cache has format {version!r}, this version reads format {FORMAT}")
        return cls(**{**values, "spec": PyramidSpec.from_json(json.dumps(values["spec"]))})


@dataclass(frozen=True)
class CachedItem:
    """One video: its latents in running order (coarse to fine; none for a prompt alone), its text embedding without padding,
    and where it is from."""

    name: str
    caption: str
    latents: Sequence[Tensor]
    text: Tensor


@dataclass(frozen=True)
class Skipped:
    """A source that gave no item, and why."""

    name: str
    reason: str


def write_info(folder: Path, info: CacheInfo, empty: Tensor) -> None:
    """Starts a cache, or checks that the one in the folder is the same; ValueError says what differs."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / INFO
    if path.exists():
        before = CacheInfo.from_json(path.read_text(encoding="utf-8"))
        if before != info:
            names = [name for name in asdict(info) if getattr(before, name) != getattr(info, name)]
            shown = "; ".join(f"{name} was {getattr(before, name)!r}, is {getattr(info, name)!r}" for name in names)
            raise ValueError(f"{folder} holds another cache: {shown}. Choose another folder, or remove that one")
        return
    _save({"text": empty}, folder / EMPTY, {})
    _replace(path, info.to_json().encode())


def write_shard(folder: Path, number: int, items: Sequence[CachedItem], skipped: Sequence[Skipped]) -> None:
    """Items are numbered from 0 within their shard."""
    tensors = {f"{place}/text": item.text for place, item in enumerate(items)}
    for place, item in enumerate(items):
        tensors |= {f"{place}/stage{index}": latent for index, latent in enumerate(item.latents)}
    header = {
        "items": json.dumps([{"name": item.name, "caption": item.caption} for item in items]),
        "skipped": json.dumps([asdict(one) for one in skipped]),
    }
    _save(tensors, folder / SHARD.format(number), header)


def missing_shards(folder: Path, info: CacheInfo) -> list[int]:
    """Numbers of the shards that are not there, or are not readable."""
    return [number for number in range(info.shards) if _header(folder / SHARD.format(number)) is None]


def skipped_sources(folder: Path, info: CacheInfo) -> list[Skipped]:
    headers = (_header(folder / SHARD.format(number)) for number in range(info.shards))
    return [Skipped(**one) for header in headers if header for one in json.loads(header["skipped"])]


class Cache:
    """A cache to read from. Items are in the order of their sources; a cache that is not complete is refused.

    stages: only the finest so many, for a run whose pyramid has fewer: a plain run reads the full size of any cache.
    """

    def __init__(self, folder: str | Path, *, stages: int | None = None) -> None:
        self.folder = Path(folder)
        if not (self.folder / INFO).is_file():
            raise ValueError(f"{self.folder} is no cache, it has no {INFO}; 'python -m pyramid.training cache' makes one")
        self.info = CacheInfo.from_json((self.folder / INFO).read_text(encoding="utf-8"))
        if missing := missing_shards(self.folder, self.info):
            raise ValueError(
                f"the cache in {self.folder} is not complete: {len(missing)} of {self.info.shards} shards are missing. "
                "Give the same cache command again; it goes on where it stopped"
            )
        self.stages = min(stages or self.info.spec.number_of_stages, self.info.spec.number_of_stages)
        self._left_out = self.info.spec.number_of_stages - self.stages
        self._places = [
            (number, place, entry)
            for number in range(self.info.shards)
            for place, entry in enumerate(json.loads((_header(self.folder / SHARD.format(number)) or {})["items"]))
        ]
        self._open: OrderedDict[int, safe_open] = OrderedDict()
        with safe_open(self.folder / EMPTY, framework="pt") as file:
            self.empty = self._padded(file.get_tensor("text"))

    def __len__(self) -> int:
        return len(self._places)

    def name(self, item: int) -> str:
        return self._places[item][2]["name"]

    @property
    def has_videos(self) -> bool:
        return self.info.definition != "prompts"

    def size(self, stage: int) -> tuple[int, int, int, int]:
        """``(C, T, H, W)`` of the latents of a stage in running order."""
        shape = self.info.spec.shapes(self.info.latent)[stage + self._left_out]
        return CHANNELS, shape.frames, shape.height, shape.width

    def caption(self, item: int) -> str:
        return self._places[item][2]["caption"]

    def latent(self, item: int, stage: int) -> Tensor:
        """``(C, T, H, W)``, float32; stages in running order, the first one that is read is 0."""
        return self._tensor(item, f"stage{stage + self._left_out}").float()

    def text(self, item: int) -> Tensor:
        """``(text_length, width)``, float32."""
        return self._padded(self._tensor(item, "text"))

    def _tensor(self, item: int, name: str) -> Tensor:
        number, place, _ = self._places[item]
        if number not in self._open:
            self._open[number] = safe_open(self.folder / SHARD.format(number), framework="pt")
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number].get_tensor(f"{place}/{name}")

    def _padded(self, text: Tensor) -> Tensor:
        padded = torch.zeros(self.info.text_length, text.shape[1])
        padded[: len(text)] = text[: self.info.text_length]
        return padded

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": OrderedDict()}  # open files do not travel to worker processes


def _header(path: Path) -> dict[str, str] | None:
    """A shard's metadata; None if the file is not there or not whole."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata()
    except (FileNotFoundError, SafetensorError):
        return None


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(own, partial, metadata=metadata)  # which refuses tensors that share memory, as clips share their prompt's
    os.replace(partial, path)


def _replace(path: Path, contents: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(contents)
    os.replace(partial, path)
