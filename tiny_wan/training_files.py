"""What training reads, in miniature: a transformer, a cache, a VAE, a text encoder, videos, and the configurations for them.

For tests and for ``python -m benchmarks.faults``. Weights are random; a run of four steps takes about a second.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import av
import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from pyramid.stages import PRESETS, PyramidSpec
from pyramid.training.data.cache_files import CachedItem, CacheInfo, write_info, write_shard

from .checkpoints import t2v_state_dict, vae_state_dict

TEXT = 6
"""Tokens of the prompts in ``cache_folder``."""
WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "ring", "moving", "left", "right"]


def transformer_file(folder: Path, **sizes) -> Path:
    """Write a tiny transformer with random weights; return its path."""
    path = folder / "tiny.safetensors"
    save_file(t2v_state_dict(**sizes), path)
    return path


def cache_folder(
    folder: Path, *, items: int = 6, spec: PyramidSpec = PRESETS["pyramidal-wan"], video=(128, 128, 17), per_shard: int = 4
) -> Path:
    """Write a cache of Gaussian latents; those of every stage are downsampled from the next finer one. Return its folder."""
    width, height, frames = video
    info = CacheInfo(spec, width, height, frames, "latents", TEXT, items, per_shard, "test")
    generator = torch.Generator().manual_seed(0)
    write_info(folder, info, torch.randn(TEXT, 4096, generator=generator))
    made = [_item(number, info, generator) for number in range(items)]
    for number in range(info.shards):
        write_shard(folder, number, made[number * per_shard : (number + 1) * per_shard], [])
    return folder


def _item(number: int, info: CacheInfo, generator: torch.Generator) -> CachedItem:
    shape = info.latent
    latents = [torch.randn(1, 16, shape.frames, shape.height, shape.width, generator=generator)]
    for stage in reversed(info.spec.stages(shape)[1:]):
        latents.append(stage.from_coarser.down(latents[-1]))  # pyright: ignore[reportOptionalMemberAccess]
    text = torch.randn(TEXT - number % 3, 4096, generator=generator)
    return CachedItem(f"item {number}", f"prompt {number}", [one[0] for one in reversed(latents)], text)


def settings(folder: Path, **changes) -> dict:
    """Return a finetuning run as nested tables, with changes given as ``table__key=value``."""
    values = {
        "out": str(folder / "run"),
        "model": {"transformer": str(transformer_file(folder)), "gradient_checkpointing": False},
        "data": {"cache": str(cache_folder(folder / "cache")), "held_out": 2, "workers": 0},
        "video": {"width": 128, "height": 128, "frames": 17},
        "train": {"steps": 4, "per_stage": 2},
        "optimizer": {"learning_rate": 1e-3, "warm_up": 1, "ema": 0.9},
        "adapter": {"rank": 4},
        "system": {"device": "cpu", "precision": "fp32"},
        "keep": {"save_every": 2, "log_every": 1},
        "validation": {"every": 100, "videos": 0, "steps": "1-1-1"},
    }
    return with_changes(values, **changes)


def distillation_settings(folder: Path, *, recipe: str) -> dict:
    """Return a distillation of four steps to 2-2-1 as nested tables; student and teacher are the same transformer."""
    values = settings(folder)
    tiny = values.pop("model")["transformer"]
    rates = {"learning_rate": 1e-3, "warm_up": 0, "betas": [0.0, 0.99]}
    del values["optimizer"]
    return values | {
        "recipe": recipe,
        "schedule": "2-2-1",
        "networks": {"student": tiny, "teacher": tiny, "gradient_checkpointing": False},
        "student": {**rates, "ema": 0.5},
        "critic": {**rates, "ema": 0.0},
        "train": {"steps": 4, "critic_updates": 2},
    }


def with_changes(tables: dict, **changes) -> dict:
    """Return nested tables with changes, ``table__key=value`` within a table and ``name=value`` beside the tables."""
    for name, value in changes.items():
        table, _, key = name.partition("__")
        if key:
            tables.setdefault(table, {})[key] = value
        else:
            tables[table] = value
    return tables


def vae_file(folder: Path) -> Path:
    """Write a tiny random VAE, and return its path."""
    path = folder / "tiny_vae.safetensors"
    save_file(vae_state_dict(), path)
    return path


def text_folder(folder: Path, *, width: int = 4096) -> Path:
    """Write a UMT5 with one narrow layer in transformers' layout, and return its folder."""
    path = folder / "text"
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>").save_pretrained(
        path
    )
    torch.manual_seed(0)
    config = UMT5Config(vocab_size=len(WORDS), d_model=width, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    UMT5EncoderModel(config).save_pretrained(path)
    return path


def video_bytes(*, width=72, height=64, frames=20, rate=16, phase=0, lossless=True) -> bytes:
    """Return a Matroska file of stripes that move by two pixels per frame."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        codec, options = ("ffv1", {}) if lossless else ("libx264", {"crf": "18"})
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "bgr0" if lossless else "yuv420p"
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number + phase, width, height), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def picture(number: int, width: int, height: int) -> np.ndarray:
    """Return a frame ``(height, width, 3)`` in 0..255, whose red channel encodes its number."""
    columns = (np.arange(width)[None, :] + 2 * number) % 16 * 8 + np.arange(height)[:, None] // 2
    red = np.full_like(columns, 10 * number)
    return np.stack([red, columns, 255 - columns], axis=-1).astype(np.uint8)


def write_folder(folder: Path, count: int, **options) -> Path:
    """Write videos, each with a caption, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"clip{number:02}.mkv").write_bytes(video_bytes(phase=number, **options))
        (folder / f"clip{number:02}.txt").write_text(f"a red ring moving {'left' if number % 2 else 'right'}")
    return folder


def write_tar(path: Path, samples: list[dict[str, bytes]]) -> Path:
    """Write a webdataset shard from the contents of each sample by extension, and return its path."""
    with tarfile.open(path, "w") as archive:
        for number, sample in enumerate(samples):
            for extension, contents in sample.items():
                member = tarfile.TarInfo(f"{number:06}.{extension}")
                member.size = len(contents)
                archive.addfile(member, io.BytesIO(contents))
    return path


def cache_settings(folder: Path, videos: Path, **changes) -> dict:
    """Return the configuration of a tiny cache as nested tables; ``changes`` are given as ``table__key=value``."""
    values = {
        "out": str(folder / "cache"),
        "clips": {"videos": str(videos)},
        "encoders": {"vae": str(vae_file(folder)), "text": str(text_folder(folder)), "text_length": 8},
        "video": {"width": 64, "height": 64, "frames": 17},
        "shards": {"items": 2, "precision": "fp32"},
        "system": {"device": "cpu", "precision": "fp32"},
    }
    for name, value in changes.items():
        table, _, key = name.partition("__")
        values.setdefault(table, {})[key] = value
    return json.loads(json.dumps(values))


def toml(tables: dict, path: Path) -> Path:
    """Write nested tables as TOML; return the path."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in tables.items() if not isinstance(value, dict)]
    for name, table in tables.items():
        if isinstance(table, dict):
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    path.write_text("\n".join(lines) + "\n")
    return path
