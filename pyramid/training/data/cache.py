"""Encode videos and captions into a cache of latents and text embeddings; an interrupted run continues where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from accelerate import Accelerator
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from ...latent_shape import LatentShape
from ...stages import PyramidSpec
from ..config.settings import Name, Pyramid, System, Video
from ..config.toml_config import Section
from ..engine import atomic, parallel
from ..engine.digests import files_digest
from ..engine.locks import locked
from ..files import printable
from ..models.encoders import TextEncoder, Umt5, WanVae, open_vae, text_files, vae_files
from .cache_files import (
    DEFINITIONS,
    EMPTY,
    INFO,
    SHARD,
    CachedItem,
    CacheInfo,
    Skipped,
    check_same,
    missing_shards,
    read_info,
    shard_damage,
    shard_sources,
    skipped_sources,
    write_info,
    write_shard,
)
from .clips import ClipSize, UnusableError, clips_of, stage_videos
from .sources import Source, fingerprint, list_prompts, list_sources

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
SKIPPED = "skipped.txt"
"""List of the skipped sources and their reasons."""


class Clips(Section):
    """The videos, and how clips are cut from them."""

    videos: Name = Field(
        description="folder of videos with .txt captions, a .csv or .jsonl (path, caption), or .tar shards; for definition "
        "'prompts' a .txt with one prompt per line, or a .csv or .jsonl (caption)"
    )
    fps: NonNegativeFloat = Field(
        default=16.0, le=240, description="frames per second of the clips (Wan: 16); 0 keeps each file's frame rate"
    )
    per_video: PositiveInt = Field(default=1, le=10_000, description="maximum number of consecutive clips taken from one file")
    outside: bool = Field(default=False, description="follow the paths of a list that lead out of its folder")


class Encoders(Section):
    """The VAE and the text encoder."""

    vae: str = Field(
        default="",
        description="Wan 2.1 VAE: diffusers folder, or a .safetensors or .pth file; not used by definition 'prompts'",
    )
    text: Name = Field(description="UMT5 encoder and tokenizer, in the layout of transformers or diffusers")
    text_length: PositiveInt = Field(default=512, le=8192, description="tokens (Wan)")
    definition: str = Field(
        default="pixels",
        description="coarse stages: 'pixels' encodes downsampled videos (PW), 'latents' averages latents; 'prompts' caches "
        "no videos, for distillation with train.inputs 'simulated'",
    )


class Shards(Section):
    """Settings of the files of a cache."""

    items: PositiveInt = Field(
        default=32, le=10_000, description="sources per shard; an interruption costs at most one shard of work"
    )
    precision: str = Field(default="bf16", description="of latents and embeddings: bf16 or fp32")


class CacheConfig(Section):
    """Configuration of one cache."""

    out: Name = Field(description="folder of the cache")
    clips: Clips
    encoders: Encoders
    pyramid: Pyramid = Pyramid()
    video: Video = Video()
    shards: Shards = Shards()
    system: System = System()

    def model_post_init(self, _: object) -> None:
        """Validate the settings together.

        Raises:
            ValueError: A setting has an unknown value, a VAE is missing, or the videos do not fit the pyramid.
        """
        if self.encoders.definition not in DEFINITIONS:
            raise ValueError(f"unknown encoders.definition '{self.encoders.definition}'; expected {', '.join(DEFINITIONS)}")
        if not self.encoders.vae and self.encoders.definition != "prompts":
            raise ValueError("encoders.vae is required unless encoders.definition is 'prompts'")
        if self.shards.precision not in DTYPES:
            raise ValueError(f"unknown shards.precision '{self.shards.precision}'; expected {', '.join(DTYPES)}")
        self.video.check_fits(self.pyramid)

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of the stored tensors."""
        return DTYPES[self.shards.precision]


def make_cache(config: CacheConfig, accelerator: Accelerator, report: Callable[[str], None]) -> None:
    """Write the shards that are missing, and list the sources that were skipped in ``skipped.txt``.

    The missing shards are divided among the processes.

    Args:
        config: What to cache, and where.
        accelerator: The group of processes.
        report: Receives lines of progress, in the main process only.

    Raises:
        ValueError: There are no sources or none that can be used, a network cannot be opened, or the folder holds a different
            cache or is in use.
    """
    folder, prompts_only = Path(config.out), config.encoders.definition == "prompts"
    sources = (
        list_prompts(config.clips.videos) if prompts_only else list_sources(config.clips.videos, outside=config.clips.outside)
    )
    with ExitStack() as held:
        info = parallel.on_main(lambda: _claim(config, sources, held))
        text = Umt5(config.encoders.text, length=config.encoders.text_length).to(accelerator.device)
        vae = None if prompts_only else open_vae(config.encoders.vae).to(accelerator.device)
        parallel.on_main(lambda: write_info(folder, info, text([""])[0].to(config.dtype)))
        missing = parallel.on_main(lambda: _shards_to_write(folder, info, sources))  # before any process writes

        def write(number: int) -> int:
            part = _part(sources, info, number)
            items, skipped = encode_all(part, config, vae, text)
            names = {one.name for one in skipped}
            write_shard(folder, number, items, skipped, [(each.digest, printable(each.name) not in names) for each in part])
            return len(part)

        _write_missing(missing, write, info, accelerator, report)
        _rewrite_damaged(set(missing), write, info, folder, accelerator, report)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _report_skipped(folder, info, report)


def _part(sources: Sequence[Source], info: CacheInfo, number: int) -> Sequence[Source]:
    """Return the sources of a shard."""
    return sources[number * info.per_shard : (number + 1) * info.per_shard]


def _shards_to_write(folder: Path, info: CacheInfo, sources: Sequence[Source]) -> list[int]:
    """Return the numbers of the shards that are missing, or that skipped a source which has changed since then.

    Raises:
        ValueError: A source that is in the cache has changed.
    """
    numbers = set(missing_shards(folder, info))
    for number in range(info.shards):
        for source, (digest, used) in zip(_part(sources, info, number), shard_sources(folder, number), strict=False):
            if source.digest == digest:
                continue
            if used:
                raise ValueError(
                    f"{folder} holds a different cache: {printable(source.name)} has another caption or size than when it was "
                    "cached. Choose another 'out', or remove the folder"
                )
            numbers.add(number)
    return sorted(numbers)


def _write_missing(
    missing: Sequence[int],
    write: Callable[[int], int],
    info: CacheInfo,
    accelerator: Accelerator,
    report: Callable[[str], None],
) -> None:
    """Write this process's part of the missing shards; ``write`` returns the number of sources in a shard."""
    mine, began = missing[accelerator.process_index :: accelerator.num_processes], time.monotonic()
    for done, number in enumerate(mine, 1):
        count = write(number)
        if accelerator.is_main_process:
            others, seconds = len(missing) - len(mine), time.monotonic() - began
            report(_progress(done, len(mine), count, others, seconds, _unit(info)))


def _rewrite_damaged(
    missing: Container[int],
    write: Callable[[int], int],
    info: CacheInfo,
    folder: Path,
    accelerator: Accelerator,
    report: Callable[[str], None],
) -> None:
    """Read this process's part of the shards that were there before, and rewrite the damaged ones."""
    before = [number for number in range(info.shards) if number not in missing]
    for number in before[accelerator.process_index :: accelerator.num_processes]:
        if damage := shard_damage(folder, number):
            report(f"shard {number} is damaged and is rewritten: {damage}")
            write(number)


def _claim(config: CacheConfig, sources: Sequence[Source], held: ExitStack) -> CacheInfo:
    """Lock the folder, and check that it holds no other cache, before networks are loaded."""
    info, folder = _info(config, sources), Path(config.out)
    held.enter_context(locked(folder))
    for name in (INFO, EMPTY, SKIPPED, *map(SHARD.format, range(info.shards))):
        atomic.check_target(folder / name)
    atomic.remove_leftovers(folder)
    if (folder / INFO).exists():
        check_same(read_info(folder), info, folder)
        _shards_to_write(folder, info, sources)
    return info


def _info(config: CacheConfig, sources: Sequence[Source]) -> CacheInfo:
    prompts_only = config.encoders.definition == "prompts"
    return CacheInfo(
        spec=config.pyramid.spec(),
        width=config.video.width,
        height=config.video.height,
        frames=config.video.frames,
        definition=config.encoders.definition,
        text_length=config.encoders.text_length,
        count=len(sources),
        per_shard=config.shards.items,
        sources=fingerprint(sources, Path(config.clips.videos)),
        provenance={
            "vae weights": "none" if prompts_only else files_digest(vae_files(config.encoders.vae)),
            "text encoder": files_digest(text_files(config.encoders.text)),
            "fps": f"{config.clips.fps:g}",
            "per_video": str(config.clips.per_video),
            "precision": config.shards.precision,
        },
    )


def encode_all(
    sources: Sequence[Source], config: CacheConfig, vae: WanVae | None, text: TextEncoder
) -> tuple[list[CachedItem], list[Skipped]]:
    """Encode sources in order; return the items, and the unusable sources with reasons.

    Without a VAE only the captions are encoded, and the items have no latents.
    """
    items: list[CachedItem] = []
    skipped: list[Skipped] = []
    size = ClipSize(config.video.width, config.video.height, config.video.frames, config.clips.fps)
    for source in sources:
        try:
            items += _encode(source, size, config, vae, text)
        except (UnusableError, OSError) as error:
            skipped.append(Skipped(printable(source.name), printable(_reason(error))))
    return items, skipped


def _encode(source: Source, size: ClipSize, config: CacheConfig, vae: WanVae | None, text: TextEncoder) -> list[CachedItem]:
    if source.problem or source.caption is None:
        raise UnusableError(source.problem or "has no caption")
    if vae is None:
        return [CachedItem(source.name, source.caption, [], _embedding(source.caption, text, config.dtype))]
    with source.open() as file:
        clips = clips_of(file, size, max_clips=config.clips.per_video)
    embedding, items = _embedding(source.caption, text, config.dtype), []
    for index, clip in enumerate(clips):
        stored = [
            latent.to(config.dtype) for latent in encode_stages(clip, config.pyramid.spec(), vae, config.encoders.definition)
        ]
        if not all(latent.isfinite().all() for latent in stored):
            raise UnusableError("is encoded to NaN or infinity by the VAE")
        items.append(CachedItem(f"{source.name}#{index}", source.caption, stored, embedding))
    return items


def _embedding(caption: str, text: TextEncoder, dtype: torch.dtype) -> Tensor:
    embedding = text([caption])[0].to(dtype)
    if not embedding.isfinite().all():
        raise UnusableError("has a caption that is encoded to NaN or infinity")
    return embedding


def _reason(error: Exception) -> str:
    return "does not exist" if isinstance(error, FileNotFoundError) else str(error)


def encode_stages(clip: Tensor, spec: PyramidSpec, vae: WanVae, definition: str) -> list[Tensor]:
    """Return the clean latents of every stage in running order, each ``(C, T, H, W)``.

    Args:
        clip: ``(3, F, H, W)`` in -1..1, at full size.
        spec: The pyramid.
        vae: The VAE.
        definition: "pixels" encodes the downsampled clip of every stage (PyramidalWan, arXiv 2601.04792, definition 2);
            "latents" downsamples the latent of the full size (definition 1).
    """
    if definition == "pixels":
        return [vae.encode(video[None])[0] for video in stage_videos(clip, spec)]
    latents = [vae.encode(clip[None])]
    for stage in reversed(spec.stages(LatentShape(*latents[0].shape[-3:]))[1:]):
        latents.append(stage.from_coarser.down(latents[-1]))  # pyright: ignore[reportOptionalMemberAccess]
    return [latent[0] for latent in reversed(latents)]


def _progress(done: int, mine: int, items: int, others: int, seconds: float, unit: str) -> str:
    rate = done * items / max(seconds, 1e-9)
    left = (mine - done) * seconds / done
    shared = f" (and {others} by other processes)" if others else ""
    return f"shard {done} of {mine}{shared}, {rate:.2f} {unit} per second, {_duration(left)} left"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes else f"{seconds:.0f} s"


def _report_skipped(folder: Path, info: CacheInfo, report: Callable[[str], None]) -> None:
    skipped = skipped_sources(folder, info)
    atomic.write_text(folder / SKIPPED, "".join(f"{one.name}: {one.reason}\n" for one in skipped))
    report(f"cached {info.count - len(skipped)} of {info.count} {_unit(info)} in {folder}")
    if skipped:
        if len(skipped) == info.count:
            raise ValueError(
                f"none of the {info.count} {_unit(info)} can be used; {folder / SKIPPED} lists the reasons, the first is: "
                f"{skipped[0].name}: {skipped[0].reason}"
            )
        shown = "".join(f"\n  {one.name}: {one.reason}" for one in skipped[:5])
        report(f"skipped {len(skipped)}, listed in {folder / SKIPPED}; the first are:{shown}")


def _unit(info: CacheInfo) -> str:
    return "prompts" if info.definition == "prompts" else "videos"
