"""Data and networks that are wrong: one bad item among good ones is skipped with its reason, a bad network is refused."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pyramid.training.data.cache_files import Cache
from pyramid.training.models.encoders import open_vae
from pyramid.training.models.networks import open_transformer
from tiny_wan.training_files import video_bytes

from .cases import expect
from .training_runs import SECONDS, Inputs, expect_sentence, finish, start

Check = Callable[[Path], None]
CAPTION = "a red ring moving left"


def sources(inputs: Inputs) -> dict[str, Check]:
    """Return one case for each kind of bad item; a good one beside it must end up in the cache."""
    checks: dict[str, Check] = {}
    for name, caption in CAPTIONS.items():
        checks[f"caption, {name}"] = functools.partial(_caption, inputs, caption)
    for name, encoding in (("with a UTF-8 mark", "utf-8-sig"), ("in UTF-16", "utf-16"), ("in UTF-32", "utf-32")):
        checks[f"caption {name} is read"] = functools.partial(_encoded_caption, inputs, encoding)
    for name, video in VIDEOS.items():
        checks[f"video, {name}"] = functools.partial(_video, inputs, video)
    for name, make in SPECIAL.items():
        checks[f"video, {name}"] = functools.partial(_special, inputs, make)
    for name, row in CSV_ROWS.items():
        checks[f"csv row, {name}"] = functools.partial(_table, inputs, "list.csv", row)
    for name, row in JSON_ROWS.items():
        checks[f"jsonl row, {name}"] = functools.partial(_table, inputs, "list.jsonl", row)
    for name, damage in ARCHIVES.items():
        checks[f"archive, {name}"] = functools.partial(_archive, inputs, damage)
    for name, beside in BESIDE.items():
        checks[f"beside a video, {name}"] = functools.partial(_beside, inputs, beside)
    checks["prompts, other separators in UTF-16"] = functools.partial(_separators, inputs)
    for name, text in PROMPTS.items():
        checks[f"prompts, {name}"] = functools.partial(_prompts, inputs, text)
    return checks


CAPTIONS: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "white space": b" \n\t ",
    "Latin-1": "caf\xe9".encode("latin-1"),
    "Windows-1252": b"\x93red ring\x94",
    "UTF-16 without a mark": "a red ring".encode("utf-16-le"),
    "cut off inside a character": "caf\xe9".encode()[:-1],
    "binary": bytes(range(256)),
    "NUL": b"a\0b",
    "too long": b"a " * 2**20,
    "a UTF-16 mark and half a character": b"\xff\xfea",
}
VIDEOS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"not a video" * 100,
    "zeros": lambda: bytes(10_000),
    "cut off in its header": lambda: video_bytes()[:100],
    "cut off in the middle": lambda: video_bytes()[: len(video_bytes()) // 2],
    "zeros in the middle": lambda: video_bytes()[:600] + bytes(len(video_bytes()) - 600),
    "too short": lambda: video_bytes(frames=5),
    "too small": lambda: video_bytes(width=32, height=32),
    "too slow": lambda: video_bytes(rate=5),
    "a playlist": lambda: b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
    "a list for ffmpeg": lambda: b"ffconcat version 1.0\nfile /etc/passwd\n",
    "a picture": lambda: b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0),
}
SPECIAL: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nowhere.mkv"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}
CSV_ROWS = {
    "an unclosed quotation mark": b'bad.mkv,"a red ring\n',
    "text behind a quotation mark": b'bad.mkv,"a"red\n',
    "too many columns": b"bad.mkv,a,red,ring\n",
    "no caption": b"bad.mkv\n",
    "no path": b",a red ring\n",
    "Latin-1": b"bad.mkv,caf\xe9\n",
    "NUL": b"bad.mkv,a\0b\n",
    "a missing file": b"nowhere.mkv,a red ring\n",
    "a path that leads out": b"/etc/passwd,a red ring\n",
    "a path that climbs out": b"../../../../../etc/passwd,a red ring\n",
    "a device": b"/dev/zero,a red ring\n",
    "a field that is too long": b"bad.mkv," + b"a" * 2**21 + b"\n",
}
JSON_ROWS = {
    "not JSON": b'{"path": "bad.mkv", \n',
    "a number": b"3\n",
    "a list": b'["bad.mkv"]\n',
    "a path that is a number": b'{"path": 3, "caption": "x"}\n',
    "a caption that is a list": b'{"path": "bad.mkv", "caption": ["x"]}\n',
    "no path": b'{"caption": "x"}\n',
    "half a character": b'{"path": "bad.mkv", "caption": "\\ud800"}\n',
    "NUL in the path": b'{"path": "a\\u0000b", "caption": "x"}\n',
    "nested too deeply": b"[" * 100_000 + b"\n",
    "Latin-1": b'{"path": "bad.mkv", "caption": "caf\xe9"}\n',
    "a number of 5000 digits": b'{"path": "bad.mkv", "caption": "x", "n": ' + b"9" * 5000 + b"}\n",
    "a path that leads out": b'{"path": "/etc/passwd", "caption": "x"}\n',
}


def _cache(inputs: Inputs, videos: Path, folder: Path) -> tuple[Cache, list[str]]:
    """Cache a list, and return the cache and the lines of ``skipped.txt``."""
    tables = inputs.tables("cache", folder / "out")
    tables["clips"]["videos"] = str(videos)
    tables["shards"]["items"] = 8
    outcome = finish("cache", tables)
    expect("Traceback" not in outcome.output, outcome.output[-800:])
    return Cache(folder / "out"), (folder / "out" / "skipped.txt").read_text(encoding="utf-8").splitlines()


def _expect_skipped(inputs: Inputs, videos: Path, folder: Path, name: str) -> None:
    cache, skipped = _cache(inputs, videos, folder)
    expect([cache.caption(item) for item in range(len(cache))] == [CAPTION] * len(cache), "a caption changed")
    expect(len(cache) >= 1, "the good item is missing")
    expect(len(skipped) == 1 and name in skipped[0] and ": " in skipped[0], f"skipped.txt holds {skipped}")


def _good(videos: Path, name: str = "good") -> None:
    videos.mkdir(exist_ok=True)
    (videos / f"{name}.mkv").write_bytes(video_bytes())
    (videos / f"{name}.txt").write_text(CAPTION)


def _caption(inputs: Inputs, caption: bytes | None, folder: Path) -> None:
    videos = folder / "videos"
    _good(videos)
    _good(videos, "bad")
    (videos / "bad.txt").unlink()
    if caption is not None:
        (videos / "bad.txt").write_bytes(caption)
    _expect_skipped(inputs, videos, folder, "bad.mkv")


def _encoded_caption(inputs: Inputs, encoding: str, folder: Path) -> None:
    videos = folder / "videos"
    _good(videos)
    (videos / "good.txt").write_bytes(CAPTION.encode(encoding))
    cache, skipped = _cache(inputs, videos, folder)
    expect(cache.caption(0) == CAPTION and not skipped, f"read {cache.caption(0)!r}")


def _video(inputs: Inputs, contents: Callable[[], bytes], folder: Path) -> None:
    videos = folder / "videos"
    _good(videos)
    _good(videos, "bad")
    (videos / "bad.mkv").write_bytes(contents())
    _expect_skipped(inputs, videos, folder, "bad.mkv")


def _special(inputs: Inputs, make: Callable[[Path], object], folder: Path) -> None:
    videos = folder / "videos"
    _good(videos)
    make(videos / "bad.mkv")
    (videos / "bad.txt").write_text(CAPTION)
    _expect_skipped(inputs, videos, folder, "bad.mkv")


def _table(inputs: Inputs, name: str, row: bytes, folder: Path) -> None:
    videos = folder / "videos"
    _good(videos)
    shutil.copy(videos / "good.mkv", videos / "bad.mkv")
    if name.endswith(".csv"):
        good, head = f"good.mkv,{CAPTION}\n".encode(), b"path,caption\n"
    else:
        good, head = json.dumps({"path": "good.mkv", "caption": CAPTION}).encode() + b"\n", b""
    (videos / name).write_bytes(head + good + row + good)
    cache, skipped = _cache(inputs, videos / name, folder)
    expect([cache.caption(item) for item in range(len(cache))] == [CAPTION, CAPTION], f"cached {len(cache)} items")
    expect(len(skipped) == 1, f"skipped.txt holds {skipped}")


def _tar(samples: dict[str, bytes], *, format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, contents in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))
    return file.getvalue()


def _pair(name: str, **contents: bytes) -> bytes:
    return _tar({f"{name}.mkv": video_bytes(), **{f"{name}.{suffix}": text for suffix, text in contents.items()}})


def _links(kind: bytes) -> bytes:
    file = io.BytesIO(_tar({"a.txt": CAPTION.encode()}))
    with tarfile.open(fileobj=file, mode="a") as archive:
        member = tarfile.TarInfo("a.mkv")
        member.type, member.linkname = kind, "b.mkv"
        archive.addfile(member)
    return file.getvalue()


def _bomb() -> bytes:
    """Return an archive whose member claims to have eight exbibytes."""
    contents = bytearray(_tar({"a.mkv": b"x" * 512, "a.txt": b"x"}))
    contents[124:136] = b"\x80" + (2**62).to_bytes(11, "big")
    contents[148:156] = b" " * 8
    contents[148:156] = f"{sum(contents[:512]):06o}\0 ".encode()
    return bytes(contents)


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"not an archive" * 100,
    "cut off": lambda: _pair("a", txt=CAPTION.encode())[:700],
    "a member that is too large": _bomb,
    "compressed": lambda: __import__("gzip").compress(_pair("a", txt=CAPTION.encode())),
    "a caption in Latin-1": lambda: _pair("a", txt=b"caf\xe9"),
    "no caption": lambda: _pair("a"),
    "JSON that is not JSON": lambda: _pair("a", json=b"{"),
    "JSON that is nested too deeply": lambda: _pair("a", json=b"[" * 100_000),
    "JSON whose caption is a number": lambda: _pair("a", json=b'{"caption": 3}'),
    "JSON that is a list": lambda: _pair("a", json=b"[1]"),
    "a video that is text": lambda: _tar({"a.mkv": b"text", "a.txt": b"x"}),
    "a video that is a hard link": lambda: _links(tarfile.LNKTYPE),
    "a video that is a symbolic link": lambda: _links(tarfile.SYMTYPE),
    "a video that is a pipe": lambda: _links(tarfile.FIFOTYPE),
    "a video of another format": lambda: _tar({"a.mpg": video_bytes(), "a.txt": CAPTION.encode()}),
}
BESIDE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "dots in its name": ("a.tar", lambda: _tar({"clip.12s.mkv": video_bytes(), "clip.12s.txt": CAPTION.encode()})),
    "another video of its sample": (
        "a.tar", lambda: _tar({"a.mp4": video_bytes(), "a.mkv": video_bytes(), "a.txt": CAPTION.encode()})
    ),
    "an archive in a folder": ("deep/a.tar", lambda: _pair("a", txt=CAPTION.encode())),
}  # fmt: skip
PROMPTS: dict[str, tuple[str, bytes]] = {
    "a line in Latin-1": ("p.txt", b"a red ring moving left\ncaf\xe9\n"),
    "a line with NUL": ("p.txt", b"a red ring moving left\na\0b\n"),
    "a row that is not JSON": ("p.jsonl", b'{"caption": "a red ring moving left"}\n{\n'),
    "a row that is a number": ("p.jsonl", b'{"caption": "a red ring moving left"}\n3\n'),
    "a csv row with an unclosed mark": ("p.csv", b'caption\na red ring moving left\n"a\n'),
    "half a character": ("p.jsonl", b'{"caption": "a red ring moving left"}\n{"caption": "\\udc00"}\n'),
}


def _archive(inputs: Inputs, damage: Callable[[], bytes], folder: Path) -> None:
    tars = folder / "tars"
    tars.mkdir()
    (tars / "0.tar").write_bytes(_pair("good", txt=CAPTION.encode()))
    (tars / "1.tar").write_bytes(damage())
    _expect_skipped(inputs, tars, folder, "1.tar")


def _beside(inputs: Inputs, beside: tuple[str, Callable[[], bytes]], folder: Path) -> None:
    """Put an archive beside a video: everything in it is cached, too."""
    videos, (name, contents) = folder / "videos", beside
    _good(videos)
    (videos / name).parent.mkdir(exist_ok=True)
    (videos / name).write_bytes(contents())
    with tarfile.open(videos / name) as archive:
        members = [member for member in archive.getnames() if not member.endswith(".txt")]
    cache, skipped = _cache(inputs, videos, folder)
    expect(len(cache) == 1 + len(members) and not skipped, f"cached {len(cache)} items, skipped {skipped}")


def _separators(inputs: Inputs, folder: Path) -> None:
    prompts = ["a red\u2028ring moving left", "a ring\x0bleft"]
    (folder / "p.txt").write_bytes("\n".join(prompts).encode("utf-16"))
    tables = inputs.tables("cache", folder / "out")
    tables["clips"]["videos"], tables["encoders"]["definition"] = str(folder / "p.txt"), "prompts"
    finish("cache", tables)
    cache = Cache(folder / "out")
    expect([cache.caption(item) for item in range(len(cache))] == prompts, f"read {len(cache)} prompts")


def _prompts(inputs: Inputs, list_file: tuple[str, bytes], folder: Path) -> None:
    name, contents = list_file
    (folder / name).write_bytes(contents)
    tables = inputs.tables("cache", folder / "out")
    tables["clips"]["videos"], tables["encoders"]["definition"] = str(folder / name), "prompts"
    finish("cache", tables)
    cache, skipped = Cache(folder / "out"), (folder / "out" / "skipped.txt").read_text(encoding="utf-8").splitlines()
    expect(len(cache) == 1 and cache.caption(0) == CAPTION, f"cached {len(cache)} prompts")
    expect(len(skipped) == 1 and name in skipped[0], f"skipped.txt holds {skipped}")


def networks(inputs: Inputs) -> dict[str, Check]:
    """Return one case for each kind of damaged network."""
    checks: dict[str, Check] = {}
    for name, damage in FILES.items():
        checks[f"transformer, {name}"] = functools.partial(_transformer, inputs, damage)
        checks[f"VAE, {name}"] = functools.partial(_vae, inputs, damage)
    for name, change in WEIGHTS.items():
        checks[f"transformer, {name}"] = functools.partial(_changed_transformer, inputs, change)
    for name, contents in CONFIGS.items():
        checks[f"transformer's folder, {name}"] = functools.partial(_config, inputs, contents)
    for kind, changes in SETTINGS.items():
        for name, setting in changes.items():
            checks[f"{kind}'s configuration, {name}"] = functools.partial(_setting, inputs, kind, setting)
    for name, pickled in PICKLES.items():
        checks[f"VAE, {name}"] = functools.partial(_pickle, inputs, pickled)
    for name, change_folder in TEXTS.items():
        checks[f"text encoder, {name}"] = functools.partial(_text, inputs, change_folder)
    return checks


FILES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda contents: b"",
    "cut off": lambda contents: contents[: len(contents) // 2],
    "cut off in its header": lambda contents: contents[:100],
    "text": lambda contents: b"version https://git-lfs.github.com/spec/v1\n",
    "zeros": lambda contents: bytes(len(contents)),
    "a header that is too long": lambda contents: struct.pack("<Q", 2**62) + contents[8:],
    "a header that is nested too deeply": lambda contents: struct.pack("<Q", 100_000) + b"[" * 100_000,
    "a tensor outside of the file": lambda contents: _safetensors({"a": [[0, 2**40], [2**20, 2**20]]}),
    "overlapping tensors": lambda contents: _safetensors({"a": [[0, 4], [1]], "b": [[2, 6], [1]]}) + bytes(6),
}
WEIGHTS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "NaN": lambda weights: weights["blocks.0.self_attn.q.weight"].view(-1)[3:4].fill_(float("nan")),
    "infinity": lambda weights: weights["head.head.weight"].view(-1)[:1].fill_(float("inf")),
    "a weight is missing": lambda weights: weights.pop("blocks.1.ffn.0.weight"),
    "a layer is missing": lambda weights: weights.pop("patch_embedding.weight"),
    "the first block is missing": lambda weights: [weights.pop(name) for name in list(weights) if name.startswith("blocks.0.")],
    "another shape": lambda weights: weights.update({"blocks.1.ffn.0.weight": torch.zeros(3, 3)}),
    "other axes": lambda weights: weights.update({"patch_embedding.weight": torch.zeros(3)}),
    "no elements": lambda weights: weights.update({"patch_embedding.weight": torch.zeros(0, 16, 1, 2, 2)}),
    "a block with a huge number": lambda weights: weights.update({"blocks.999999999.x": torch.zeros(1)}),
    "a block without a number": lambda weights: weights.update({"blocks.x.y": torch.zeros(1)}),
    "an unknown weight": lambda weights: weights.update({"more.weight": torch.zeros(1)}),
    "image to video": lambda weights: weights.update({"img_emb.proj.0.weight": torch.zeros(1)}),
    "quantised": lambda weights: weights.update({"scaled_fp8": torch.zeros(1)}),
}
CONFIGS: dict[str, bytes] = {
    "not JSON": b"{",
    "a list": b"[]",
    "no sizes": b'{"_class_name": "WanTransformer3DModel"}',
    "another network": b'{"_class_name": "UNet2DModel"}',
    "nested too deeply": b"[" * 100_000,
    "a billion layers": b'{"_class_name": "WanTransformer3DModel", "num_layers": 1000000000, "in_channels": 16}',
    "binary": bytes(range(256)),
}
TEXTS: dict[str, Callable[[Path], object]] = {
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "a configuration that is not JSON": lambda folder: (folder / "config.json").write_text("{"),
    "another network": lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "weights that are cut off": lambda folder: os.truncate(folder / "model.safetensors", 1000),
    "weights of another network": lambda folder: save_file({"a": torch.zeros(1)}, folder / "model.safetensors"),
    "NaN": lambda folder: _spoil(folder / "model.safetensors"),
    "no tokenizer": lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
    "a tokenizer that is not JSON": lambda folder: (folder / "tokenizer.json").write_text("{"),
    "a tokenizer with more words": lambda folder: _change_json(
        folder / "tokenizer.json", lambda values: values["model"]["vocab"].update(ring=5000)
    ),
    "fewer layers in its configuration": lambda folder: _change_json(
        folder / "config.json", lambda values: values.update(num_layers=0)
    ),
    "a billion layers": lambda folder: _change_json(folder / "config.json", lambda values: values.update(num_layers=10**9)),
    "a huge width": lambda folder: _change_json(folder / "config.json", lambda values: values.update(d_model=10**6)),
    "a huge vocabulary": lambda folder: _change_json(folder / "config.json", lambda values: values.update(vocab_size=10**12)),
    "another activation": lambda folder: _change_json(
        folder / "config.json", lambda values: values.update(feed_forward_proj="gated-silu")
    ),
}
NAN = float("nan")
SETTINGS: dict[str, dict[str, dict]] = {
    "transformer": {
        "fewer layers": {"num_layers": 1},
        "no norms": {"qk_norm": None},
        "other heads": {"attention_head_dim": 64, "num_attention_heads": 2},
        "another patch": {"patch_size": [1, 4, 1]},
        "a patch that is text": {"patch_size": "x"},
        "8 output channels": {"out_channels": 8},
        "another eps": {"eps": 0.1},
    },
    "vae": {
        "no strides in time": {"temperal_downsample": [False, False, False]},
        "8 channels": {"z_dim": 8},
        "8 means": {"latents_mean": [0.0] * 8},
        "means that are text": {"latents_mean": "x"},
        "means that are NaN": {"latents_mean": [NAN] * 16},
        "deviations of 0": {"latents_std": [0.0] * 16},
        "deviations that are NaN": {"latents_std": [NAN] * 16},
        "no width": {"base_dim": 0},
        "a huge width": {"base_dim": 10**6},
    },
}
PICKLES: dict[str, object] = {
    "numbers in place of tensors": {"encoder.conv1.weight": 3, "conv2.weight": 3},
    "names that are numbers": {3: torch.zeros(1)},
    "a list": [1],
    "700 channels in a small file": {
        "encoder.conv1.weight": torch.zeros(700, 3, 1, 1, 1), "conv2.weight": torch.zeros(16, 16, 1, 1, 1)
    },
}  # fmt: skip


def _change_json(path: Path, change: Callable[[dict], object]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def _setting(inputs: Inputs, kind: str, setting: dict, folder: Path) -> None:
    """Change a setting in the diffusers folder of a network."""
    if kind == "transformer":
        command, table, network = "finetune", "model", open_transformer(inputs.folder / "tiny.safetensors")
    else:
        command, table, network = "cache", "encoders", open_vae(inputs.folder / "tiny_vae.safetensors").network
    network.save_pretrained(folder / "network")
    _change_json(folder / "network" / "config.json", lambda values: values.update(setting))
    tables = inputs.tables(command, folder / "out")
    tables[table][kind] = str(folder / "network")
    _refused(command, tables, folder, "network")


def _pickle(inputs: Inputs, contents: object, folder: Path) -> None:
    torch.save(contents, folder / "vae.pth")
    tables = inputs.tables("cache", folder / "out")
    tables["encoders"]["vae"] = str(folder / "vae.pth")
    _refused("cache", tables, folder, "vae.pth")


def _safetensors(tensors: dict[str, list]) -> bytes:
    header = json.dumps(
        {name: {"dtype": "F32", "shape": shape, "data_offsets": offsets} for name, (offsets, shape) in tensors.items()}
    )
    return struct.pack("<Q", len(header)) + header.encode()


def _spoil(path: Path) -> None:
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[:1].fill_(float("nan"))
    save_file(weights, path, metadata={"format": "pt"})


def _refused(command: str, tables: dict, folder: Path, *mentions: str) -> None:
    expect_sentence(start(command, tables).wait(SECONDS), *mentions)
    expect(not list(folder.rglob("shard-*")) and not list(folder.rglob("step-*")), "wrote something")


def _transformer(inputs: Inputs, damage: Callable[[bytes], bytes], folder: Path) -> None:
    (folder / "bad.safetensors").write_bytes(damage((inputs.folder / "tiny.safetensors").read_bytes()))
    tables = inputs.tables("finetune", folder / "out")
    tables["model"]["transformer"] = str(folder / "bad.safetensors")
    _refused("finetune", tables, folder, "bad.safetensors")


def _vae(inputs: Inputs, damage: Callable[[bytes], bytes], folder: Path) -> None:
    (folder / "bad.safetensors").write_bytes(damage((inputs.folder / "tiny_vae.safetensors").read_bytes()))
    tables = inputs.tables("cache", folder / "out")
    tables["encoders"]["vae"] = str(folder / "bad.safetensors")
    _refused("cache", tables, folder, "bad.safetensors")


def _changed_transformer(inputs: Inputs, change: Callable[[dict], object], folder: Path) -> None:
    weights = load_file(inputs.folder / "tiny.safetensors")
    change(weights)
    save_file(weights, folder / "bad.safetensors")
    tables = inputs.tables("finetune", folder / "out")
    tables["model"]["transformer"] = str(folder / "bad.safetensors")
    _refused("finetune", tables, folder, "bad.safetensors")


def _config(inputs: Inputs, contents: bytes, folder: Path) -> None:
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_bytes(contents)
    tables = inputs.tables("finetune", folder / "out")
    tables["model"]["transformer"] = str(folder)
    _refused("finetune", tables, folder)


def _text(inputs: Inputs, change: Callable[[Path], object], folder: Path) -> None:
    shutil.copytree(inputs.folder / "text", folder / "text")
    change(folder / "text")
    tables = inputs.tables("cache", folder / "out")
    tables["encoders"]["text"] = str(folder / "text")
    _refused("cache", tables, folder, "text")
