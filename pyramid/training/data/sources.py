"""Lists of videos and captions, read from a folder, a table or webdataset shards.

Whatever is wrong with one entry is kept as its ``problem``, and the entry is skipped with this reason later.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ...untrusted import decode, first_line
from ..files import check_regular, parse_json, read_limited
from .tables import Row, rows, text_lines

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".gif")
SUPPORTED = (
    f"a folder of videos ({', '.join(VIDEO_SUFFIXES)}) each with a .txt of the same name, a .csv or .jsonl with the columns "
    "'path' and 'caption', or webdataset shards (a .tar, or a folder of them) with a .txt or .json per video"
)
OTHER_FORMAT = f"is a video of a format that is not read; convert it to one of {', '.join(VIDEO_SUFFIXES)}"
OTHER_VIDEOS = (".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".m2ts", ".ogv", ".3gp", ".vob")
OTHER_ARCHIVES = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
"""Endings of files that are listed as skipped, because they look like videos or archives of them."""
PROMPTS = "a .txt with one prompt per line, or a .csv or .jsonl with the column 'caption'"
MAX_CAPTION = 2**16
"""Bytes of the longest caption; text encoders read a few hundred words."""
MAX_MEMBER = 2**33
"""Bytes of the largest video in an archive, which is read into memory."""
MAX_SOURCES = 10_000_000
"""Largest number of entries in a list."""


@dataclass(frozen=True)
class Source:
    """One video, or a prompt without a video.

    Attributes:
        path: The video file, or the file that contains the video or the prompt.
        caption: The prompt; None if there is none.
        member: Name of the video inside the tar file ``path``, or line number of the prompt in ``path``.
        problem: Why it cannot be used; None if nothing is known to be wrong.
        size: Bytes of the video, to notice that another one has its name; None if unknown.
    """

    path: Path
    caption: str | None
    member: str | None = None
    problem: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        """Return a name that is unique in its list."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    @property
    def digest(self) -> str:
        """Return a hash of the caption, the size of the video, and what is wrong with them."""
        return hashlib.sha256(json.dumps([self.caption, self.size, self.problem]).encode()).hexdigest()[:16]

    def open(self) -> BinaryIO:
        """Open the video.

        Raises:
            OSError: It does not exist, or is not a file.
        """
        check_regular(self.path)
        if self.member is None:
            return self.path.open("rb")
        try:
            with tarfile.open(self.path, "r:") as archive:
                return io.BytesIO(_contents(archive, archive.getmember(self.member), MAX_MEMBER))
        except (tarfile.TarError, ValueError, KeyError, MemoryError) as error:
            raise OSError(f"cannot be read from the archive ({first_line(error)})") from None


def list_sources(videos: str | Path, *, outside: bool = False) -> list[Source]:
    """Return every video with its caption, in a fixed order.

    Args:
        videos: Any of the layouts in ``SUPPORTED``.
        outside: Follow the paths of a table that lead out of its folder.

    Raises:
        ValueError: The path does not exist, has an unknown layout, or contains no video.
    """
    path = Path(videos)
    if not path.exists():
        raise ValueError(f"{path} does not exist; expected {SUPPORTED}")
    if path.suffix in (".csv", ".jsonl"):
        sources = _limited(_table(path, outside=outside), path)
    elif path.suffix == ".tar":
        sources = _limited(_tar(path), path)
    elif path.is_dir():
        sources = _limited(_folder(path), path)
    else:
        raise ValueError(f"unknown list of videos {path}; expected {SUPPORTED}")
    if all(source.problem for source in sources):
        reason = f" that can be read ({sources[0].problem})" if sources else ""
        raise ValueError(f"there are no videos{reason} in {path}; expected {SUPPORTED}")
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
    try:
        numbered = list(rows(path)) if path.suffix != ".txt" else list(enumerate(map(_line_row, text_lines(path)), 1))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} {first_line(error)}; expected {PROMPTS}") from None
    sources = _limited(filter(None, (_prompt(path, number, row) for number, row in numbered)), path)
    if all(source.problem for source in sources):
        raise ValueError(f"there are no prompts in {path}; expected {PROMPTS}")
    return sources


def fingerprint(sources: Sequence[Source], root: Path) -> str:
    """Return a hash of the names in order. They are relative to ``root``, so the folder may move."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(json.dumps(source.name.removeprefix(str(root))).encode())
    return digest.hexdigest()[:16]


def _limited(sources: Iterator[Source], path: Path) -> list[Source]:
    listed: list[Source] = []
    for source in sources:
        listed.append(source)
        if len(listed) > MAX_SOURCES:
            raise ValueError(f"{path} lists more than {MAX_SOURCES} entries; divide it into several caches")
    return listed


def _line_row(line: str | ValueError) -> Row | str:
    return str(line) if isinstance(line, ValueError) else {"caption": line}


def _prompt(path: Path, number: int, row: Row | str) -> Source | None:
    if isinstance(row, str):
        return Source(path, None, f"{number}", problem=row)
    caption = (row.get("caption") or "").strip()
    return _checked(path, caption, member=f"{number}") if caption else None


def _table(path: Path, *, outside: bool) -> Iterator[Source]:
    try:
        for number, row in rows(path):
            if isinstance(row, str) or not row.get("path"):
                reason = row if isinstance(row, str) else "has no 'path'"
                yield Source(path, None, f"row {number}", problem=reason)
                continue
            video, caption = path.parent / str(row["path"]), (row.get("caption") or "").strip()
            yield _checked(video, caption, problem=None if outside else _leads_out(video, path.parent))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} {first_line(error)}; expected {SUPPORTED}") from None


def _leads_out(video: Path, folder: Path) -> str | None:
    """Return why a path is not followed, or None if it stays in the folder of its list."""
    try:
        inside = video.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # NUL in a name, a loop of links
        return f"is not a path ({first_line(error)})"
    return None if inside else "leads out of the folder of its list; --set clips.outside=true follows it"


def _checked(path: Path, caption: str, *, member: str | None = None, problem: str | None = None) -> Source:
    """Return a source with its size, unless something is wrong with it or its caption."""
    problem, size = problem or _caption_problem(caption), None
    if problem is None and member is None:
        try:
            size = path.stat().st_size
        except (OSError, ValueError) as error:
            problem = "does not exist" if isinstance(error, FileNotFoundError) else first_line(error)
    return Source(path, None if problem else caption or None, member, problem=problem, size=size)


def _caption_problem(caption: str) -> str | None:
    if not caption.isascii():
        try:
            caption.encode("utf-8")
        except UnicodeEncodeError:
            return "has a caption with half a character (a lone surrogate)"
    if "\0" in caption:
        return "has a caption with NUL characters"
    if len(caption) > MAX_CAPTION:
        return f"has a caption of {len(caption)} characters; at most {MAX_CAPTION} are allowed"
    return None


def _folder(folder: Path) -> Iterator[Source]:
    """Yield the videos of a folder and of its archives, at any depth."""
    for path in sorted(folder.rglob("*")):
        name = path.name.lower()
        if name.endswith(VIDEO_SUFFIXES):
            yield _with_text(path)
        elif path.is_dir():
            continue
        elif name.endswith(".tar"):
            yield from _tar(path)
        elif name.endswith(OTHER_VIDEOS):
            yield Source(path, None, problem=OTHER_FORMAT)
        elif name.endswith(OTHER_ARCHIVES):
            yield Source(path, None, problem="is not an uncompressed .tar; unpack it, or pack it again as .tar")


def _with_text(video: Path) -> Source:
    """Return a video with the caption in the .txt file of its name."""
    path = video.with_suffix(".txt")
    if not path.exists():
        return _checked(video, "")
    try:
        return _checked(video, decode(read_limited(path, 4 * MAX_CAPTION)).strip())
    except (OSError, ValueError) as error:
        return Source(video, None, problem=f"has a caption that cannot be used: {path.name} {first_line(error)}")


def _tar(path: Path) -> Iterator[Source]:
    """Yield the videos of an archive, each with the caption of its name or of its sample.

    The members of a sample share everything before the first dot of the base name (webdataset).
    """
    try:
        check_regular(path)
        with tarfile.open(path, "r:") as archive:
            members: list[tarfile.TarInfo] = []
            damage = _collect(archive, members)
            captions = {_without_suffix(member.name): member for member in members if _suffix(member) == ".json"}
            captions |= {_without_suffix(member.name): member for member in members if _suffix(member) == ".txt"}
            newest = {member.name: member for member in members}
            for member in members:
                if _suffix(member) in VIDEO_SUFFIXES:
                    yield _member(path, archive, member, captions, replaced=newest[member.name] is not member)
                elif _suffix(member) in OTHER_VIDEOS:
                    yield Source(path, None, member.name, problem=OTHER_FORMAT)
            if members and _suffix(members[-1]) in VIDEO_SUFFIXES and _member_problem(archive, members[-1], MAX_MEMBER):
                damage = None  # the archive's damage is this member's
    except (tarfile.TarError, OSError, ValueError, MemoryError, RecursionError) as error:
        damage = f"is not an uncompressed tar archive that can be read ({first_line(error)})"
    if damage:
        yield Source(path, None, problem=damage)


def _suffix(member: tarfile.TarInfo) -> str:
    return PurePosixPath(member.name).suffix.lower()


def _without_suffix(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


def _sample(name: str) -> str:
    """Return the name of a member's sample."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _collect(archive: tarfile.TarFile, members: list[tarfile.TarInfo]) -> str | None:
    """Collect the members; return what is wrong with the archive after the last readable one."""
    try:
        while (member := archive.next()) is not None:
            members.append(member)
    except (tarfile.TarError, OSError, ValueError, MemoryError, OverflowError, RecursionError) as error:
        return f"is damaged after its first {len(members)} members ({first_line(error)})"
    if _block(archive) != bytes(tarfile.BLOCKSIZE):  # tarfile stops silently at a damaged header
        return f"is damaged or cut off after its first {len(members)} members"
    return None


def _block(archive: tarfile.TarFile) -> bytes:
    """Return the block after the last member, which is zero at the end of an archive."""
    with open(str(archive.name), "rb") as file:
        file.seek(archive.offset)
        return file.read(tarfile.BLOCKSIZE)


def _member(
    path: Path,
    archive: tarfile.TarFile,
    video: tarfile.TarInfo,
    captions: Mapping[str, tarfile.TarInfo],
    *,
    replaced: bool,
) -> Source:
    problem = "is replaced by a later member of the same name" if replaced else _member_problem(archive, video, MAX_MEMBER)
    caption = captions.get(_without_suffix(video.name)) or captions.get(_sample(video.name))
    try:
        text = None if caption is None else _member_text(archive, caption)
        problem = problem or _caption_problem(text or "")
    except (tarfile.TarError, OSError, ValueError, MemoryError) as error:
        text, problem = None, problem or f"has a caption that cannot be used: it {first_line(error)}"
    return Source(path, None if problem else text, video.name, problem=problem, size=video.size)


def _member_text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
    if _suffix(member) == ".txt":
        return decode(_contents(archive, member, 4 * MAX_CAPTION)).strip() or None
    values = parse_json(decode(_contents(archive, member, 2**20)))
    caption = (values.get("caption") or values.get("text")) if isinstance(values, dict) else values
    if caption is not None and not isinstance(caption, str):
        raise ValueError(f"is {caption!r:.50} in the .json; expected a string")
    return (caption or "").strip() or None


def _contents(archive: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> bytes:
    """Return a member's contents.

    Raises:
        ValueError: It is larger than the limit or than the archive, or is not stored as a plain file.
    """
    if problem := _member_problem(archive, member, limit):
        raise ValueError(problem)
    file = archive.extractfile(member)
    if file is None:
        raise ValueError("is not a file in the archive")
    return file.read()


def _member_problem(archive: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> str | None:
    """Return why a member cannot be read, from its header alone, or None."""
    if not member.isfile():
        return f"is a {'folder' if member.isdir() else 'link or device'} in the archive; pack the file itself"
    if member.size > limit:
        return f"is larger than {limit} bytes"
    end = Path(str(archive.name)).stat().st_size
    if member.issparse() or not 0 <= member.offset_data <= member.offset_data + member.size <= end:
        return "is not complete in the archive"
    return None
