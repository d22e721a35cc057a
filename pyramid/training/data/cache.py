"""Videos and captions become a cache of latents and text embeddings; interrupted, it goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor

from ...latent_shape import LatentShape
from ...stages import PyramidSpec
from ..config.settings import Positive, Pyramid, System, Video, Weight
from ..config.toml_config import Section
from ..models.encoders import TextEncoder, Umt5, WanVae, open_vae
from .cache_files import CachedItem, CacheInfo, Skipped, missing_shards, skipped_sources, write_info, write_shard
from .clips import ClipSize, UnusableError, clips_of, stage_videos
from .sources import Source, fingerprint, list_prompts, list_sources

DEFINITIONS = ("pixels", "latents", "prompts")


class Clips(Section):
    """Which videos, and how they are cut."""

    videos: str = Field(
        description="folder of videos with .txt captions, a .csv or .jsonl (path, caption), or .tar shards; for definition "
        "'prompts' a .txt with a prompt on each line, or a .csv or .jsonl (caption)"
    )
    fps: Weight = Field(default=16.0, description="frames per second of the clips; 0 keeps the files' own (Wan: 16)")
    per_video: Positive = Field(default=1, description="clips taken from one file at most, one after the other")


class Encoders(Section):
    """The networks that encode."""

    vae: str = Field(
        default="", description="Wan 2.1 VAE: diffusers folder, or a .safetensors or .pth file; definition 'prompts' needs none"
    )
    text: str = Field(description="UMT5 encoder and tokenizer in transformers' layout")
    text_length: Positive = Field(default=512, description="tokens (Wan)")
    definition: str = Field(
        default="pixels",
        description="coarse stages: 'pixels' encodes smaller videos (PW), 'latents' averages; 'prompts' caches no videos at "
        "all, for distillation with train.inputs 'simulated'",
    )


class Shards(Section):
    """How it is stored."""

    items: Positive = Field(default=32, description="sources per shard; an interruption costs at most one shard of work")
    precision: str = Field(default="bf16", description="of latents and embeddings: bf16 or fp32")


class CacheConfig(Section):
    """One cache."""

    out: str = Field(description="folder of the cache")
    clips: Clips
    encoders: Encoders
    pyramid: Pyramid = Pyramid()
    video: Video = Video()
    shards: Shards = Shards()
    system: System = System()

    def model_post_init(self, _: object) -> None:
        if self.encoders.definition not in DEFINITIONS:
            raise ValueError(f"encoders.definition {self.encoders.definition!r} is none of {', '.join(DEFINITIONS)}")
        if not self.encoders.vae and self.encoders.definition != "prompts":
            raise ValueError("encoders.vae is not set; only encoders.definition 'prompts' does without a VAE")
        if self.shards.precision not in ("bf16", "fp32"):
            raise ValueError(f"shards.precision {self.shards.precision!r} is none of bf16, fp32")
        self.pyramid.spec().shapes(self.video.latent)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.shards.precision == "bf16" else torch.float32


def make_cache(config: CacheConfig, accelerator: Accelerator, say: Callable[[str], None]) -> None:
    """Writes every shard that is missing and lists what was skipped; several processes share the shards."""
    prompts = config.encoders.definition == "prompts"
    sources = (list_prompts if prompts else list_sources)(config.clips.videos)
    folder, info = Path(config.out), _info(config, sources)
    text = Umt5(config.encoders.text, length=config.encoders.text_length).to(accelerator.device)
    vae = None if prompts else open_vae(config.encoders.vae).to(accelerator.device)
    if accelerator.is_main_process:
        write_info(folder, info, text([""])[0].to(config.dtype))
    accelerator.wait_for_everyone()
    missing = missing_shards(folder, info)
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    accelerator.wait_for_everyone()
    began = time.monotonic()
    for done, number in enumerate(mine, 1):
        part = sources[number * info.per_shard : (number + 1) * info.per_shard]
        items, skipped = encode_all(part, config, vae, text)
        write_shard(folder, number, items, skipped)
        if accelerator.is_main_process:
            others, seconds = len(missing) - len(mine), time.monotonic() - began
            say(_progress(done, len(mine), len(part), others, seconds, "prompts" if prompts else "videos"))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _report_skipped(folder, info, say)


def _info(config: CacheConfig, sources: Sequence[Source]) -> CacheInfo:
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
            "vae": Path(config.encoders.vae).name or "none",
            "text": Path(config.encoders.text).name,
            "fps": f"{config.clips.fps:g}",
            "per_video": str(config.clips.per_video),
            "precision": config.shards.precision,
        },
    )


def encode_all(
    sources: Sequence[Source], config: CacheConfig, vae: WanVae | None, text: TextEncoder
) -> tuple[list[CachedItem], list[Skipped]]:
    """Items of what can be used, in order, and the rest with reasons; without a VAE prompts alone."""
    items: list[CachedItem] = []
    skipped: list[Skipped] = []
    size = ClipSize(config.video.width, config.video.height, config.video.frames, config.clips.fps)
    for source in sources:
        try:
            if source.caption is None:
                raise UnusableError("has no caption")
            if vae is None:
                embedding = text([source.caption])[0].to(config.dtype)
                items.append(CachedItem(source.name, source.caption, [], embedding))
                continue
            with source.open() as file:
                clips = clips_of(file, size, most=config.clips.per_video)
        except (UnusableError, OSError) as error:
            skipped.append(Skipped(source.name, str(error)))
            continue
        embedding = text([source.caption])[0].to(config.dtype)
        for place, clip in enumerate(clips):
            latents = encode_stages(clip, config.pyramid.spec(), vae, config.encoders.definition)
            stored = [one.to(config.dtype) for one in latents]
            items.append(CachedItem(f"{source.name}#{place}", source.caption, stored, embedding))
    return items, skipped


def encode_stages(clip: Tensor, spec: PyramidSpec, vae: WanVae, definition: str) -> list[Tensor]:
    """Clean latents of every stage, each ``(C, T, H, W)``, in running order, by the paper's definition 2 or 1."""
    if definition == "pixels":
        return [vae.encode(video[None])[0] for video in stage_videos(clip, spec)]
    latents = [vae.encode(clip[None])]
    for stage in reversed(spec.stages(LatentShape(*latents[0].shape[-3:]))[1:]):
        latents.append(stage.from_coarser.down(latents[-1]))  # pyright: ignore[reportOptionalMemberAccess]
    return [one[0] for one in reversed(latents)]


def _progress(done: int, mine: int, items: int, others: int, seconds: float, what: str) -> str:
    rate = done * items / max(seconds, 1e-9)
    left = (mine - done) * seconds / done
    shared = f" (and {others} by other processes)" if others else ""
    return f"shard {done} of {mine}{shared}, {rate:.2f} {what} a second, {_duration(left)} to go"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes else f"{seconds:.0f} s"


def _report_skipped(folder: Path, info: CacheInfo, say: Callable[[str], None]) -> None:
    skipped = skipped_sources(folder, info)
    (folder / "skipped.txt").write_text("".join(f"{one.name}: {one.reason}\n" for one in skipped), encoding="utf-8")
    what = "prompts" if info.definition == "prompts" else "videos"
    say(f"{info.count - len(skipped)} of {info.count} {what} are in {folder}")
    if skipped:
        shown = "".join(f"\n  {one.name}: {one.reason}" for one in skipped[:5])
        say(f"{len(skipped)} skipped, all of them listed in {folder / 'skipped.txt'}:{shown}")
