"""Where videos and captions come from: a folder, a table, or webdataset shards; always as one ordered list."""

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
    f"a folder of videos ({', '.join(VIDEO_SUFFIXES)}) with a .txt of the same name beside each, a .csv or .jsonl with the "
    "columns 'path' and 'caption', or webdataset shards (a .tar, or a folder of them) with a .txt or .json for each video"
)
PROMPTS = "a .txt with a prompt on each line, or a .csv or .jsonl with the column 'caption'"


@dataclass(frozen=True)
class Source:
    """One video file, or only its caption. member: its name inside the tar file ``path``. caption: None if there is none."""

    path: Path
    caption: str | None
    member: str | None = None

    @property
    def name(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    def open(self) -> BinaryIO:
        if self.member is None:
            return self.path.open("rb")
        with tarfile.open(self.path) as archive:
            file = archive.extractfile(self.member)
            if file is None:
                raise OSError(f"{self.name} is no file")
            return io.BytesIO(file.read())


def list_sources(videos: str | Path) -> list[Source]:
    """Every video of what is given; ValueError in plain words for anything else."""
    path = Path(videos)
    if not path.exists():
        raise ValueError(f"there is nothing at {path}; videos are {SUPPORTED}")
    if path.suffix in (".csv", ".jsonl"):
        found = list(_table(path))
    elif path.suffix == ".tar":
        found = list(_tar(path))
    elif path.is_dir() and (archives := sorted(path.glob("*.tar"))):
        found = [source for archive in archives for source in _tar(archive)]
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
        found = [Source(file, _text(file.with_suffix(".txt"))) for file in files]
    else:
        raise ValueError(f"{path} holds no videos that can be read; supported are {SUPPORTED}")
    if not found:
        raise ValueError(f"there is no video in {path}; supported are {SUPPORTED}")
    return found


def list_prompts(prompts: str | Path) -> list[Source]:
    """Every prompt of a list, without videos; ValueError in plain words for anything else."""
    path = Path(prompts)
    if not path.is_file() or path.suffix not in (".txt", ".csv", ".jsonl"):
        raise ValueError(f"{path} is no list of prompts; that is {PROMPTS}")
    if path.suffix == ".txt":
        captions = path.read_text(encoding="utf-8").splitlines()
    else:
        captions = [row.get("caption") or "" for _, row in _rows(path)]
    found = [Source(path, caption.strip(), f"{number}") for number, caption in enumerate(captions, 1) if caption.strip()]
    if not found:
        raise ValueError(f"there is no prompt in {path}; it should be {PROMPTS}")
    return found


def fingerprint(sources: Sequence[Source], root: Path) -> str:
    """Changes when the list does. Relative to ``root``, so that a folder may move."""
    digest = hashlib.sha256()
    for source in sources:
        name = source.name.removeprefix(str(root))
        digest.update(json.dumps([name, source.caption]).encode())
    return digest.hexdigest()[:16]


def _table(path: Path) -> Iterator[Source]:
    for number, row in _rows(path):
        if "path" not in row:
            raise ValueError(f"{path}, row {number}: there is no 'path'; it has {', '.join(map(str, row))}")
        video = Path(row["path"])
        caption = (row.get("caption") or "").strip()
        yield Source(video if video.is_absolute() else path.parent / video, caption or None)


def _rows(path: Path) -> Iterator[tuple[int, dict]]:
    with path.open(newline="", encoding="utf-8") as file:
        lines = (line for line in file if line.strip())
        yield from enumerate(csv.DictReader(lines) if path.suffix == ".csv" else map(json.loads, lines), 1)


def _tar(path: Path) -> Iterator[Source]:
    """Members that share everything before the first dot of their base name are one sample, as in webdataset."""
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
