"""The cache on disk: clean latents of every stage and text embeddings, in shards that are written atomically.

``cache.json`` describes the cache, ``empty.safetensors`` holds the embedding of the empty prompt (``text``), and
``shard-00000.safetensors`` ... hold ``<item>/stage<index>`` ``(C, T, H, W)`` and ``<item>/text`` ``(tokens, width)``.
A file's header lists the checksums of its tensors, and that of a shard its items and the sources that were skipped. A shard's
number determines its sources, so an interrupted run resumes by writing the missing shards: no item is lost or duplicated.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...latent_shape import CHANNELS, VAE_SPACE, VAE_TIME, LatentShape
from ...stages import PyramidSpec
from ..engine.atomic import write_text
from ..engine.digests import tensor_checksum
from ..files import check_regular, parse_json, read_json, write_tensors

FORMAT = 2
DEFINITIONS = ("pixels", "latents", "prompts")
INFO = "cache.json"
EMPTY = "empty.safetensors"
SHARD = "shard-{:05d}.safetensors"
SOURCES = "sources"
"""Key of a shard's header: the digest of every source, and whether it has items."""
CHECKSUMS = "checksums"
"""Key of a header: the CRC-32 of every tensor."""
MAX_SIZES = {"width": 2**14, "height": 2**14, "frames": 2**14, "text_length": 2**14, "count": 10**7, "per_shard": 10**7}
"""Largest numbers in a description: more than any cache has, and small enough to loop over."""
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
        provenance: What determines the contents besides, by name: settings, and digests of the encoders' weights.
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
            ValueError: The cache has another format, or a value is missing or impossible.
        """
        values = parse_json(text)
        if not isinstance(values, dict):
            raise ValueError(f"the description of a cache must be a JSON object; got a {type(values).__name__}")
        if (version := values.pop("format", None)) != FORMAT:
            raise ValueError(f"unknown cache format {version!r}; this version reads format {FORMAT}")
        names = [field.name for field in fields(cls)]
        if different := sorted(set(values) ^ set(names)):
            raise ValueError(
                f"'{different[0]}' is {'unknown' if different[0] in values else 'missing'}; expected {', '.join(names)}"
            )
        for name, most in MAX_SIZES.items():
            if type(values[name]) is not int or not 1 <= values[name] <= most:
                raise ValueError(f"'{name}' is {values[name]!r:.50}; expected a whole number from 1 to {most}")
        for name, step, rest in (("width", VAE_SPACE, 0), ("height", VAE_SPACE, 0), ("frames", VAE_TIME, 1)):
            if values[name] % step != rest:
                raise ValueError(f"'{name}' is {values[name]}; expected a multiple of {step}{' plus 1' * rest}")
        if values["definition"] not in DEFINITIONS or not isinstance(values["provenance"], dict):
            raise ValueError(f"'definition' is {values['definition']!r:.50}; expected {', '.join(DEFINITIONS)}")
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
        check_same(read_info(folder), info, folder)
    if not path.exists() or _damage(folder / EMPTY):
        _save({"text": empty}, folder / EMPTY, {})
        write_text(path, info.to_json())


def check_same(before: CacheInfo, info: CacheInfo, folder: Path) -> None:
    """Check that the cache in a folder is the one that is to be written.

    Raises:
        ValueError: It is a different one.
    """
    described = [{**asdict(each), **asdict(each)["provenance"]} for each in (before, info)]
    names = [name for name in described[1] if name != "provenance" and described[0].get(name) != described[1][name]]
    if names or before != info:
        shown = "; ".join(f"{name} was {described[0].get(name)!r}, is now {described[1][name]!r}" for name in names)
        raise ValueError(f"{folder} holds a different cache: {shown}. Choose another 'out', or remove the folder")


def read_info(folder: Path) -> CacheInfo:
    """Return the description of the cache in a folder.

    Raises:
        ValueError: There is none, or it cannot be read.
    """
    path = folder / INFO
    if not path.is_file():
        raise ValueError(f"{folder} is not a cache: it has no {INFO}. Create a cache with 'python -m pyramid.training cache'")
    values = read_json(path, "the description of a cache")
    try:
        return CacheInfo.from_json(json.dumps(values))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_shard(
    folder: Path,
    number: int,
    items: Sequence[CachedItem],
    skipped: Sequence[Skipped],
    sources: Sequence[tuple[str, bool]] = (),
) -> None:
    """Write a shard.

    Args:
        folder: Folder of the cache.
        number: Number of the shard.
        items: Its items; they are numbered from 0.
        skipped: Its sources without items.
        sources: Digest of every source, and whether it has items.
    """
    tensors = {f"{index}/text": item.text for index, item in enumerate(items)}
    for index, item in enumerate(items):
        tensors |= {f"{index}/stage{stage}": latent for stage, latent in enumerate(item.latents)}
    header = {
        "items": json.dumps([{"name": item.name, "caption": item.caption} for item in items]),
        "skipped": json.dumps([asdict(one) for one in skipped]),
        SOURCES: json.dumps(list(sources)),
    }
    _save(tensors, folder / SHARD.format(number), header)


def shard_sources(folder: Path, number: int) -> list[tuple[str, bool]]:
    """Return the digest of every source of a shard, and whether it has items; nothing if the shard does not tell."""
    header = _header(folder / SHARD.format(number)) or {}
    return [(str(digest), bool(used)) for digest, used in parse_json(header.get(SOURCES, "[]"))]


def missing_shards(folder: Path, info: CacheInfo) -> list[int]:
    """Return the numbers of the shards that do not exist or have no readable header."""
    return [number for number in range(info.shards) if _header(folder / SHARD.format(number)) is None]


def shard_damage(folder: Path, number: int) -> str | None:
    """Read every tensor of a shard and compare it with its checksum; return what is wrong, or None."""
    return _damage(folder / SHARD.format(number))


def skipped_sources(folder: Path, info: CacheInfo) -> list[Skipped]:
    """Return the skipped sources of all shards, in order."""
    headers = (_header(folder / SHARD.format(number)) for number in range(info.shards))
    return [Skipped(**one) for header in headers if header for one in json.loads(header["skipped"])]


class Cache:
    """A complete cache, opened for reading. Items are in the order of their sources."""

    def __init__(self, folder: str | Path, *, stages: int | None = None, all_full_size: bool = False) -> None:
        """Open a cache.

        Args:
            folder: Folder of the cache.
            stages: Number of stages to read, the finest ones, for a run whose pyramid has fewer stages than the cache; a run
                at full size only can read any cache. None reads all.
            all_full_size: Read the latents of full size for all of ``stages``, for a pyramid of patches, which can read any
                cache, too.

        Raises:
            ValueError: The folder is not a cache, or the cache is incomplete.
        """
        self.folder = Path(folder)
        self.info = read_info(self.folder)
        headers = [_header(self.folder / SHARD.format(number)) for number in range(self.info.shards)]
        if missing := headers.count(None):
            raise ValueError(
                f"the cache in {self.folder} is incomplete: {missing} of {self.info.shards} shards are missing. "
                "Run the same cache command again to write them"
            )
        self._checksums = [json.loads(header[CHECKSUMS]) if header else {} for header in headers]
        self._headers = headers
        cached = self.info.spec.number_of_stages
        self.all_full_size = all_full_size
        self.stages = (stages or cached) if all_full_size else min(stages or cached, cached)
        self._items = [
            (shard, index, item)
            for shard, header in enumerate(headers)
            for index, item in enumerate(json.loads(header["items"]) if header else [])
        ]
        self._open: OrderedDict[int, safe_open] = OrderedDict()
        self.empty = self._padded(_read_empty(self.folder))

    def fingerprint(self) -> str:
        """Return a digest of the contents: the description, the items, and the checksums of their tensors."""
        described = [self.info.to_json(), self._headers, tensor_checksum(self.empty)]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._items)

    @property
    def has_videos(self) -> bool:
        """Return whether items have latents."""
        return self.info.definition != "prompts"

    def size(self, stage: int) -> tuple[int, int, int, int]:
        """Return the size ``(C, T, H, W)`` of the latents of a stage, in running order."""
        shape = self.info.spec.shapes(self.info.latent)[self._cached_stage(stage)]
        return CHANNELS, shape.frames, shape.height, shape.width

    def name(self, item: int) -> str:
        """Return where an item comes from."""
        return self._items[item][2]["name"]

    def caption(self, item: int) -> str:
        """Return the prompt of an item."""
        return self._items[item][2]["caption"]

    def latent(self, item: int, stage: int) -> Tensor:
        """Return a clean latent, ``(C, T, H, W)`` in float32; stage 0 is the coarsest one that is read."""
        latent = self._tensor(item, f"stage{self._cached_stage(stage)}")
        if tuple(latent.shape) != self.size(stage):
            raise self._misfit(item, "a latent", latent.shape, self.size(stage))
        return latent.float()

    def text(self, item: int) -> Tensor:
        """Return a text embedding padded with zeros, ``(text_length, width)`` in float32."""
        text = self._tensor(item, "text")
        if text.ndim != 2 or text.shape[1] != self.empty.shape[1]:
            raise self._misfit(item, "a text embedding", text.shape, ("tokens", self.empty.shape[1]))
        return self._padded(text)

    def _misfit(self, item: int, what: str, shape: Sequence[int], expected: Sequence[object]) -> ValueError:
        sizes = ["x".join(map(str, sides)) for sides in (shape, expected)]
        return ValueError(
            f"'{self.name(item)}' in the cache {self.folder} has {what} of {sizes[0]}, expected {sizes[1]}; make another cache"
        )

    def _cached_stage(self, stage: int) -> int:
        """Return the index among the cached stages of one that is read."""
        finest = self.info.spec.number_of_stages - 1
        return finest if self.all_full_size else finest - (self.stages - 1 - stage)

    def _tensor(self, item: int, name: str) -> Tensor:
        shard, index, _ = self._items[item]
        path, key = self.folder / SHARD.format(shard), f"{index}/{name}"
        try:
            if shard not in self._open:
                self._open[shard] = safe_open(path, framework="pt")
                if len(self._open) > OPEN_FILES:
                    self._open.popitem(last=False)
            self._open.move_to_end(shard)
            tensor = self._open[shard].get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise _damaged(path, str(error)) from None
        if tensor_checksum(tensor) != self._checksums[shard].get(key):
            raise _damaged(path, f"'{key}' has changed since it was written")
        return tensor

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
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        items, skipped, checksums = (json.loads(header[name]) for name in ("items", "skipped", CHECKSUMS))
        named = all(isinstance(item["name"], str) and isinstance(item["caption"], str) for item in items)
        listed = all(isinstance(one["name"], str) and isinstance(one["reason"], str) and len(one) == 2 for one in skipped)
        told = all(len(digest_and_use) == 2 for digest_and_use in json.loads(header.get(SOURCES, "[]")))
        return header if named and listed and told and isinstance(checksums, dict) else None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _damage(path: Path) -> str | None:
    """Read every tensor of a file of the cache; return what is wrong, or None."""
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            checksums = json.loads((file.metadata() or {}).get(CHECKSUMS, "null"))
            names = list(file.keys())
            if checksums is None or sorted(checksums) != sorted(names):
                return "its list of checksums does not fit"
            wrong = next((name for name in names if tensor_checksum(file.get_tensor(name)) != checksums[name]), None)
            if wrong is None and path.name != EMPTY and _header(path) is None:
                return "its header cannot be read"
            return wrong and f"'{wrong}' has changed since it was written"
    except (OSError, SafetensorError, ValueError, TypeError, RecursionError) as error:
        return str(error)


def _read_empty(folder: Path) -> Tensor:
    path = folder / EMPTY
    if damage := _damage(path):
        raise _damaged(path, damage)
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("text")


def _damaged(path: Path, damage: str) -> ValueError:
    return ValueError(f"{path} is damaged: {damage}. Run the same cache command again; it rewrites damaged files")


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    # the clips of one video share its embedding, and safetensors rejects tensors that share memory
    separate = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    checksums = json.dumps({name: tensor_checksum(tensor) for name, tensor in separate.items()})
    write_tensors(separate, path, {**metadata, CHECKSUMS: checksums})
