"""Lists of videos and captions, read from a folder, a table or webdataset shards."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".gif")
SUPPORTED = (
    f"a folder of videos ({', '.join(VIDEO_SUFFIXES)}) each with a .txt of the same name, a .csv or .jsonl with the columns "
    "'path' and 'caption', or webdataset shards (a .tar, or a folder of them) with a .txt or .json per video"
)
PROMPTS = "a .txt with one prompt per line, or a .csv or .jsonl with the column 'caption'"


@dataclass(frozen=True)
class Source:
    """One video, or a prompt without a video.

    Attributes:
        path: The video file, or the file that contains the video or the prompt.
        caption: The prompt; None if there is none.
        member: Name of the video inside the tar file ``path``, or line number of the prompt in ``path``.
    """

    path: Path
    caption: str | None
    member: str | None = None

    @property
    def name(self) -> str:
        """Return a name that is unique in its list."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    def open(self) -> BinaryIO:
        """Open the video.

        Raises:
            OSError: It does not exist, or is not a file.
        """
        if self.member is None:
            return self.path.open("rb")
        with tarfile.open(self.path) as archive:
            file = archive.extractfile(self.member)
            if file is None:
                raise OSError(f"{self.name} is not a file")
            return io.BytesIO(file.read())


def list_sources(videos: str | Path) -> list[Source]:
    """Return every video with its caption, in a fixed order.

    Args:
        videos: Any of the layouts in ``SUPPORTED``.

    Raises:
        ValueError: The path does not exist, has an unknown layout, or contains no video.
    """
    path = Path(videos)
    if not path.exists():
        raise ValueError(f"{path} does not exist; expected {SUPPORTED}")
    if path.suffix in (".csv", ".jsonl"):
        sources = list(_table(path))
    elif path.suffix == ".tar":
        sources = list(_tar(path))
    elif path.is_dir() and (archives := sorted(path.glob("*.tar"))):
        sources = [source for archive in archives for source in _tar(archive)]
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
        sources = [Source(file, _text(file.with_suffix(".txt"))) for file in files]
    else:
        raise ValueError(f"unknown list of videos {path}; expected {SUPPORTED}")
    if not sources:
        raise ValueError(f"there are no videos in {path}; expected {SUPPORTED}")
    return sources


def list_prompts(prompts: str | Path) -> list[Source]:
    """Return the prompts of a list without videos, in order; empty lines are ignored.

    Args:
        prompts: Any of the layouts in ``PROMPTS``.

    Raises:
        ValueError: The path is not such a file, or contains no prompt.
    """
    path = Path(prompts)
    if not path.is_file() or path.suffix not in (".txt", ".csv", ".jsonl"):
        raise ValueError(f"{path} is not a list of prompts; expected {PROMPTS}")
    if path.suffix == ".txt":
        captions = path.read_text(encoding="utf-8").splitlines()
    else:
        captions = [row.get("caption") or "" for _, row in _rows(path)]
    sources = [Source(path, caption.strip(), f"{number}") for number, caption in enumerate(captions, 1) if caption.strip()]
    if not sources:
        raise ValueError(f"there are no prompts in {path}; expected {PROMPTS}")
    return sources


def fingerprint(sources: Sequence[Source], root: Path) -> str:
    """Return a hash of the names and captions. Names are relative to ``root``, so the folder may move."""
    digest = hashlib.sha256()
    for source in sources:
        name = source.name.removeprefix(str(root))
        digest.update(json.dumps([name, source.caption]).encode())
    return digest.hexdigest()[:16]


def _table(path: Path) -> Iterator[Source]:
    for number, row in _rows(path):
        if "path" not in row:
            raise ValueError(f"{path}, row {number}: the column 'path' is missing; there are {', '.join(map(str, row))}")
        video = Path(row["path"])
        caption = (row.get("caption") or "").strip()
        yield Source(video if video.is_absolute() else path.parent / video, caption or None)


def _rows(path: Path) -> Iterator[tuple[int, dict]]:
    with path.open(newline="", encoding="utf-8") as file:
        lines = (line for line in file if line.strip())
        yield from enumerate(csv.DictReader(lines) if path.suffix == ".csv" else map(json.loads, lines), 1)


def _tar(path: Path) -> Iterator[Source]:
    """Yield one source per sample: the members that share everything before the first dot of the base name (webdataset)."""
    with tarfile.open(path) as archive:
        samples: dict[str, dict[str, tarfile.TarInfo]] = {}
        for member in archive.getmembers():
            folder, _, base = member.name.rpartition("/")
            stem, _, extension = base.partition(".")
            if member.isfile():
                samples.setdefault(f"{folder}/{stem}", {})[f".{extension.lower()}"] = member
        for parts in samples.values():
            video = next((parts[suffix] for suffix in VIDEO_SUFFIXES if suffix in parts), None)
            if video is not None:
                yield Source(path, _member_text(archive, parts), video.name)


def _member_text(archive: tarfile.TarFile, parts: dict[str, tarfile.TarInfo]) -> str | None:
    if ".txt" in parts:
        return _read(archive, parts[".txt"]).strip() or None
    if ".json" in parts:
        values = json.loads(_read(archive, parts[".json"]))
        return (values.get("caption") or values.get("text") or "").strip() or None
    return None


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member)
    return file.read().decode("utf-8") if file else ""


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8").strip() or None if path.is_file() else None
