"""Lists of videos and prompts: a bad entry has a problem of its own; only a list that is wrong as a whole is an error."""

import io
import json
import os
import tarfile

import pytest

from pyramid.training.data.sources import list_prompts, list_sources
from tiny_wan.training_files import write_tar


def folder(path, **captions):
    path.mkdir()
    for name, caption in captions.items():
        (path / f"{name}.mp4").write_bytes(b"video")
        if caption is not None:
            (path / f"{name}.txt").write_bytes(caption)
    return path


def problems(sources):
    return [source.problem for source in sources]


@pytest.mark.parametrize(
    "caption, problem",
    [
        ("café".encode("latin-1"), "bad.txt is not text in UTF-8: byte 3 cannot be decoded; save it as UTF-8"),
        (b"a\0b", "bad.txt holds NUL characters"),
        (b"\xff\xfea", "bad.txt is not text in UTF-16-LE"),
        (b"a" * 2**20, "bad.txt is larger than"),
    ],
)
def test_an_unreadable_caption_is_the_problem_of_its_video(tmp_path, caption, problem):
    sources = list_sources(folder(tmp_path / "videos", bad=caption, good=b"a ring"))
    assert problem in sources[0].problem and sources[0].caption is None
    assert (sources[1].caption, sources[1].problem) == ("a ring", None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_caption_is_read_in_every_encoding_with_a_mark(tmp_path, encoding):
    assert list_sources(folder(tmp_path / "videos", a="ein Ring für".encode(encoding)))[0].caption == "ein Ring für"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_pipes_folders_and_devices_are_not_opened(tmp_path, make):
    videos = folder(tmp_path / "videos", good=b"a ring")
    make(videos / "a.mp4")
    (videos / "a.txt").write_text("a ring")
    with pytest.raises(OSError, match="is a folder|is not a file but a pipe, socket or device"):
        list_sources(videos)[0].open()


CSV = b"path,caption\na.mp4,one\n%s\nb.mp4,two\n"
JSONL = b'{"path": "a.mp4", "caption": "one"}\n%s\n{"path": "b.mp4", "caption": "two"}\n'


@pytest.mark.parametrize(
    "name, row, problem",
    [
        ("list.csv", b'c.mp4,"unclosed', "cannot be parsed (unexpected end of data)"),
        ("list.csv", b'c.mp4,"a"b', "cannot be parsed"),
        ("list.csv", b"c.mp4,one,two", "has 3 columns, the header has 2"),
        ("list.csv", b",one", "has no 'path'"),
        ("list.csv", b"c.mp4,caf\xe9", "is not text in UTF-8: byte 9 cannot be decoded"),
        ("list.csv", b"/etc/passwd,one", "leads out of the folder of its list; --set clips.outside=true follows it"),
        ("list.csv", b"../../c.mp4,one", "leads out of the folder of its list"),
        ("list.csv", b"nowhere.mp4,one", "does not exist"),
        ("list.jsonl", b"{", "is not valid JSON"),
        ("list.jsonl", b"3", "is a JSON int; expected an object with the keys 'path' and 'caption'"),
        ("list.jsonl", b'{"path": 3}', "'path' is 3; expected a string"),
        ("list.jsonl", b'{"path": "a.mp4", "caption": "\\ud800"}', "has a caption with half a character"),
        ("list.jsonl", b'{"path": "a\\u0000.mp4"}', "is not a path"),
        ("list.jsonl", b"[" * 100_000, "is nested too deeply"),
        ("list.jsonl", b"9" * 5000, "holds a number of 5000 digits; at most 40 are allowed"),
    ],
)
def test_a_bad_row_is_a_problem_of_its_own(tmp_path, name, row, problem):
    videos = folder(tmp_path / "videos", a=None, b=None)
    (videos / name).write_bytes((CSV if name.endswith("csv") else JSONL) % row)
    sources = list_sources(videos / name)
    assert [source.caption for source in sources] == ["one", None, "two"]
    assert problem in sources[1].problem and problems(sources)[::2] == [None, None]


def test_rows_with_line_breaks_and_tables_with_a_mark_are_read(tmp_path):
    videos = folder(tmp_path / "videos", a=None)
    for encoding in ("utf-8-sig", "utf-16"):
        (videos / "list.csv").write_bytes('path,caption\na.mp4,"a ""red""\nring"\n'.encode(encoding))
        assert [source.caption for source in list_sources(videos / "list.csv")] == ['a "red"\nring']


def test_a_path_that_leads_out_is_followed_if_that_is_allowed(tmp_path):
    videos = folder(tmp_path / "videos", a=None)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.csv").write_text(f"path,caption\n{videos}/a.mp4,one\n")
    with pytest.raises(ValueError, match="there are no videos that can be read .leads out of the folder of its list"):
        list_sources(tmp_path / "lists" / "list.csv")
    assert problems(list_sources(tmp_path / "lists" / "list.csv", outside=True)) == [None]


def test_a_table_in_another_encoding_is_an_error_that_names_it(tmp_path):
    (tmp_path / "list.csv").write_bytes("path,caption\na.mp4,one\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match="list.csv the header holds NUL characters; save it as UTF-8 text"):
        list_sources(tmp_path / "list.csv")


@pytest.mark.parametrize(
    "damage, problem",
    [
        (lambda path: path.write_bytes(b"text" * 500), "is not an uncompressed tar archive"),
        (lambda path: os.truncate(path, 1600), "is damaged or cut off after its first 1 members"),
    ],
)
def test_a_damaged_archive_is_a_problem_and_the_others_are_read(tmp_path, damage, problem):
    tars = tmp_path / "tars"
    tars.mkdir()
    for number in range(2):
        write_tar(tars / f"{number}.tar", [{"mp4": b"x" * 800, "txt": b"one"}] * 2)
    damage(tars / "0.tar")
    sources = list_sources(tars)
    assert [problem in (source.problem or "") for source in sources].count(True) == 1
    assert [source.caption for source in sources if source.path.name == "1.tar"] == ["one", "one"]


def test_an_archive_that_ends_in_a_video_is_one_problem(tmp_path):
    write_tar(tmp_path / "a.tar", [{"txt": b"one", "mp4": b"x" * 800}] * 2)
    os.truncate(tmp_path / "a.tar", (tmp_path / "a.tar").read_bytes().rindex(b"x" * 800) + 100)
    assert problems(list_sources(tmp_path / "a.tar")) == [None, "is not complete in the archive"]


@pytest.mark.parametrize(
    "sample, problem",
    [
        ({"txt": "café".encode("latin-1")}, "is not text in UTF-8"),
        ({"json": b"{"}, "is not valid JSON"),
        ({"json": b'{"caption": 3}'}, "is 3 in the .json; expected a string"),
        ({"json": b"[" * 100_000}, "is nested too deeply"),
    ],
)
def test_a_bad_caption_in_an_archive_is_the_problem_of_its_video(tmp_path, sample, problem):
    sources = list_sources(write_tar(tmp_path / "a.tar", [{"mp4": b"x", **sample}, {"mp4": b"x", "txt": b"one"}]))
    assert problem in sources[0].problem and sources[1].caption == "one"


def test_a_member_that_claims_more_than_the_archive_holds_is_not_read(tmp_path):
    member = tarfile.TarInfo("a.mp4")
    member.size = 2**40
    (tmp_path / "a.tar").write_bytes(member.tobuf() + b"x" * 512)
    with pytest.raises(ValueError, match="there are no videos that can be read .is larger than"):
        list_sources(tmp_path / "a.tar")


@pytest.mark.parametrize("name, line", [("p.txt", b"caf\xe9"), ("p.jsonl", b"{"), ("p.jsonl", b"3")])
def test_a_bad_prompt_is_a_problem_of_its_own(tmp_path, name, line):
    good = b"one" if name == "p.txt" else json.dumps({"caption": "one"}).encode()
    (tmp_path / name).write_bytes(good + b"\n" + line + b"\n" + good + b"\n")
    sources = list_prompts(tmp_path / name)
    assert [source.caption for source in sources] == ["one", None, "one"] and sources[1].problem


def archive(path, *members):
    """Write an archive of files, given as name and contents, and of links, given as name, kind and target."""
    with tarfile.open(path, "w") as tar:
        for name, contents, *target in members:
            member = tarfile.TarInfo(name)
            if target:
                member.type, member.linkname = contents, target[0]
            else:
                member.size = len(contents)
            tar.addfile(member, None if target else io.BytesIO(contents))
    return path


def test_every_video_of_an_archive_is_listed(tmp_path):
    """A video that is neither cached nor skipped would be lost without a word."""
    sources = list_sources(
        archive(
            tmp_path / "a.tar",
            *[("a.mkv", b"x"), ("a.mp4", b"x"), ("a.txt", b"both"), ("clip.12s.mkv", b"x"), ("clip.12s.txt", b"dots")],
            *[("b.left.mp4", b"x"), ("b.right.MP4", b"x"), ("b.json", b'{"caption": "sample"}'), ("d.mpg", b"x")],
            *[("c.mkv", tarfile.LNKTYPE, "a.mkv"), ("c.txt", b"hard"), ("s.mkv", tarfile.SYMTYPE, "a.mkv"), ("s.txt", b"soft")],
            *[("t.mkv", b"x"), ("t.txt", tarfile.SYMTYPE, "a.txt"), ("e.mkv", b"old"), ("e.mkv", b"new"), ("e.txt", b"e")],
            ("f.mkv", tarfile.DIRTYPE, ""),
        )
    )
    good = {source.member: source.caption for source in sources if source.problem is None and source.caption}
    assert good == {
        **{"a.mkv": "both", "a.mp4": "both", "clip.12s.mkv": "dots", "b.left.mp4": "sample", "b.right.MP4": "sample"},
        "e.mkv": "e",
    }
    bad = [(source.member, source.problem) for source in sources if source.problem]
    assert [(member, problem[:40]) for member, problem in bad] == [
        ("d.mpg", "is a video of a format that is not read;"),
        ("c.mkv", "is a link or device in the archive; pack"),
        ("s.mkv", "is a link or device in the archive; pack"),
        ("t.mkv", "has a caption that cannot be used: it is"),
        ("e.mkv", "is replaced by a later member of the sam"),
        ("f.mkv", "is a folder in the archive; pack the fil"),
    ]


def test_every_video_of_a_folder_is_listed_beside_archives(tmp_path):
    videos = folder(tmp_path / "videos", loose=b"loose")
    (videos / "deep.tar").mkdir()
    for name in ("a.tar", "deep.tar/b.TAR"):
        archive(videos / name, ("x.mp4", b"x"), ("x.txt", name.encode()))
    for name in ("old.mpg", "more.tar.gz", "notes.md"):
        (videos / name).write_bytes(b"x")
    sources = list_sources(videos)
    assert [source.caption for source in sources if source.problem is None] == ["a.tar", "deep.tar/b.TAR", "loose"]
    assert {source.path.name: source.problem.split(";")[0] for source in sources if source.problem} == {
        "more.tar.gz": "is not an uncompressed .tar",
        "old.mpg": "is a video of a format that is not read",
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_only_line_breaks_divide_prompts(tmp_path, encoding):
    lines = ["a red\u2028ring", "a ring\x0bleft\x85right\x1c", "blue"]
    (tmp_path / "p.txt").write_bytes(f"{lines[0]}\r\n{lines[1]}\r{lines[2]}\n".encode(encoding))
    assert [source.caption for source in list_prompts(tmp_path / "p.txt")] == [line.strip() for line in lines]
