"""The cache: clips, encoders, lists of sources, skipped videos, and resuming without lost or duplicated items."""

import dataclasses
import io
import json
import time
from pathlib import Path

import pytest
import torch
from processes import TIMEOUT, run_pair, start
from safetensors.torch import load_file

from pyramid.latent_shape import LatentShape
from pyramid.stages import PRESETS, PyramidSpec
from pyramid.training.config.toml_config import check_config
from pyramid.training.data import cache
from pyramid.training.data.cache import CacheConfig, encode_stages
from pyramid.training.data.cache_files import Cache, CacheInfo, missing_shards
from pyramid.training.data.clips import ClipSize, UnusableError, clips_of, save_video, stage_videos
from pyramid.training.data.sources import list_sources
from pyramid.training.engine import parallel
from pyramid.training.models.encoders import Umt5, open_vae
from tiny_wan.training_files import cache_settings, picture, text_folder, toml, vae_file, video_bytes, write_folder, write_tar

SPEC = PRESETS["pyramidal-wan"]


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return open_vae(vae_file(tmp_path_factory.mktemp("vae")))


def make(tables) -> tuple[Cache, list[str]]:
    config = check_config(CacheConfig, tables, "test")
    progress = []
    cache.make_cache(config, parallel.start(config.system), progress.append)
    return Cache(config.out), progress


def read_clip(number=0, **options):
    (clip,) = clips_of(io.BytesIO(video_bytes(phase=number, **options)), ClipSize(64, 64, 17))
    return clip


def test_a_clip_is_the_centre_of_the_frames():
    clip = (read_clip() + 1) * 127.5
    expected = torch.from_numpy(picture(5, 72, 64)).permute(2, 0, 1)[:, :, 4:68].float()
    assert clip.shape == (3, 17, 64, 64)
    assert (clip[:, 5] - expected).abs().max() < 1e-3


def test_larger_videos_are_scaled_down_first():
    clip = read_clip(width=160, height=128)
    assert clip.shape == (3, 17, 64, 64)
    assert ((clip[0, 3] + 1) * 127.5 - 30).abs().max() < 2


def test_frames_are_taken_at_the_requested_rate():
    file = io.BytesIO(video_bytes(frames=25, rate=32))
    (clip,) = clips_of(file, ClipSize(64, 64, 9, fps=16))
    assert torch.equal(((clip[0, :, 0, 0] + 1) * 12.75).round(), 2.0 * torch.arange(9))


def test_clips_of_one_video_are_consecutive():
    clips = clips_of(io.BytesIO(video_bytes(frames=20)), ClipSize(64, 64, 9), max_clips=5)
    assert len(clips) == 2
    assert ((clips[1][0, 0, 0, 0] + 1) * 12.75).round() == 9


@pytest.mark.parametrize(
    "options, message",
    [
        ({"frames": 16}, "too short: 16 frames at 16 per second; at least 17 are required"),
        ({"width": 48}, "too small: 48x64; at least 64x64 is required"),
        ({"rate": 8}, "too slow: 8 frames per second; at least 16 are required"),
    ],
)
def test_an_unusable_video_is_reported_with_the_reason(options, message):
    with pytest.raises(UnusableError, match=message):
        read_clip(**options)


def test_a_file_that_is_not_a_video_is_reported():
    with pytest.raises(UnusableError, match="cannot be decoded"):
        clips_of(io.BytesIO(b"not a video" * 100), ClipSize(64, 64, 17))


def test_stage_videos_drop_frames_and_average_pixels():
    video = torch.randn(3, 17, 64, 64)
    low, mid, high = stage_videos(video, SPEC)
    assert torch.equal(high, video)
    assert torch.allclose(mid[:, 3], torch.nn.functional.avg_pool2d(video[:, 6], 2))
    assert torch.allclose(low[:, 4], torch.nn.functional.avg_pool2d(video[:, 16], 4), atol=1e-6)
    assert low.shape == (3, 5, 16, 16)


def test_stage_videos_of_a_scale_have_the_size_of_their_latents():
    spec = PyramidSpec((0.9, 0.6), ("THW 3/4", "HW 2/3"))
    rows = torch.linspace(-0.9, 0.9, 144)[:, None].expand(144, 96)
    low, mid, high = stage_videos(rows.expand(3, 9, 144, 96), spec)
    assert high.shape[1:] == (9, 144, 96) and mid.shape[1:] == (9, 96, 64) and low.shape[1:] == (5, 80, 48)
    for video in (low, mid):
        ramp = torch.linspace(-0.9, 0.9, video.shape[2])
        torch.testing.assert_close(video[0, 0, 8:-8, 0], ramp[8:-8], atol=0.01, rtol=0)


def test_a_saved_video_reads_back(tmp_path):
    video = read_clip()
    save_video(tmp_path / "x.mp4", video)
    with (tmp_path / "x.mp4").open("rb") as file:
        (read_back,) = clips_of(file, ClipSize(64, 64, 17))
    assert (read_back - video).abs().mean() < 0.1 and [path.name for path in tmp_path.iterdir()] == ["x.mp4"]


@torch.no_grad()
def test_the_vae_agrees_with_comfyui(vae, tmp_path):
    """Normalised latents agree with those that ComfyUI samples, and decoded videos with those that ComfyUI decodes."""
    import comfy.latent_formats
    import comfy.sd
    import comfy.utils

    comfyui = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(vae_file(tmp_path))))
    video = read_clip()[None]
    encoded = comfy.latent_formats.Wan21().process_in(comfyui.encode((video[0].permute(1, 2, 3, 0) + 1) / 2))
    ours = vae.encode(video)
    assert (ours - encoded).abs().max() < 2e-3 * encoded.abs().max()
    decoded = comfyui.decode(comfy.latent_formats.Wan21().process_out(ours)).reshape(17, 64, 64, 3) * 2 - 1
    assert (vae.decode(ours)[0] - decoded.permute(3, 0, 1, 2)).abs().max() < 1e-2


@torch.no_grad()
def test_an_embedding_is_unpadded_and_independent_of_the_other_prompts(tmp_path):
    encoder = Umt5(text_folder(tmp_path), length=8)
    alone = encoder(["a red ring"])[0]
    together = encoder(["a red ring", "a red ring moving left right a", ""])
    assert [len(rows) for rows in together] == [4, 8, 1]
    assert torch.allclose(alone, together[0], atol=1e-5)


def test_definition_2_encodes_downsampled_videos_and_definition_1_downsamples_latents(vae):
    video = read_clip()
    pixels, latents = encode_stages(video, SPEC, vae, "pixels"), encode_stages(video, SPEC, vae, "latents")
    assert [tuple(latent.shape) for latent in pixels] == [(16, 2, 2, 2), (16, 3, 4, 4), (16, 5, 8, 8)]
    assert torch.equal(pixels[2], latents[2])
    assert torch.equal(pixels[0], vae.encode(stage_videos(video, SPEC)[0][None])[0])
    stages = SPEC.stages(LatentShape(5, 8, 8))
    assert torch.equal(latents[1], stages[2].from_coarser.down(latents[2][None])[0])
    assert (latents[1] - pixels[1]).abs().max() > 1e-2


def item_names(cache):
    return [Path(cache.name(item)).name for item in range(len(cache))]


def test_a_cache_holds_every_video_once_and_in_order(tmp_path, vae):
    videos = write_folder(tmp_path / "videos", 5)
    made, progress = make(cache_settings(tmp_path, videos))
    assert item_names(made) == [f"clip{number:02}.mkv#0" for number in range(5)]
    assert made.caption(3) == "a red ring moving left"
    video = read_clip(3)
    for stage, latent in enumerate(encode_stages(video, SPEC, vae, "pixels")):
        assert torch.allclose(made.latent(3, stage), latent, atol=1e-5)
    assert made.text(3).shape == (8, 4096) and made.text(3)[6:].abs().max() == 0 and made.empty[1:].abs().max() == 0
    assert any("shard 3 of 3" in line and "videos per second" in line and "left" in line for line in progress)
    assert progress[-1] == f"cached 5 of 5 videos in {tmp_path / 'cache'}"


def test_clips_of_one_video_share_its_caption(tmp_path):
    videos = write_folder(tmp_path / "videos", 2, frames=20)
    made, _ = make(cache_settings(tmp_path, videos, clips__per_video=3, video__frames=9, pyramid__preset="training-free"))
    assert item_names(made) == ["clip00.mkv#0", "clip00.mkv#1", "clip01.mkv#0", "clip01.mkv#1"]
    assert torch.equal(made.text(0), made.text(1)) and not torch.equal(made.text(1), made.text(2))
    assert not torch.equal(made.latent(0, 1), made.latent(1, 1))


def test_unusable_videos_are_skipped_and_listed(tmp_path):
    videos = write_folder(tmp_path / "videos", 4)
    (videos / "clip01.mkv").write_bytes(b"broken")
    (videos / "clip02.mkv").write_bytes(video_bytes(frames=9))
    (videos / "clip03.txt").unlink()
    made, progress = make(cache_settings(tmp_path, videos))
    assert len(made) == 1 and "cached 1 of 4 videos" in progress[-2]
    listed = (tmp_path / "cache" / "skipped.txt").read_text()
    assert "clip01.mkv: cannot be decoded" in listed and "clip02.mkv: too short: 9 frames" in listed
    assert "clip03.mkv: has no caption" in listed and "skipped 3" in progress[-1]


def test_what_was_skipped_can_be_mended(tmp_path):
    """Only its shard is encoded again; what is in the cache must not change."""
    videos = write_folder(tmp_path / "videos", 4)
    (videos / "clip02.txt").write_bytes("café".encode("latin-1"))
    (videos / "clip03.mkv").write_bytes(b"broken")
    tables = cache_settings(tmp_path, videos)
    make(tables)
    first, second = (tmp_path / "cache" / f"shard-0000{number}.safetensors" for number in range(2))
    before = first.stat().st_mtime_ns
    write_folder(videos, 4)
    made, progress = make(tables)
    assert item_names(made) == [f"clip{number:02}.mkv#0" for number in range(4)]
    assert first.stat().st_mtime_ns == before and progress[-1].startswith("cached 4 of 4")
    before = second.stat().st_mtime_ns
    make(tables)
    assert second.stat().st_mtime_ns == before
    (videos / "clip01.txt").write_text("another")
    with pytest.raises(ValueError, match="holds a different cache: .*clip01.mkv has another caption or size than when it was"):
        make(tables)


@pytest.mark.parametrize("definition", ["pixels", "prompts"])
def test_a_cache_without_items_is_an_error(tmp_path, definition):
    videos = write_folder(tmp_path / "videos", 2)
    if definition == "prompts":
        (tmp_path / "prompts.jsonl").write_text('{"caption": ""}\n{"caption": 3}\n')
        message = "there are no prompts in .*prompts.jsonl"
    else:
        message = (
            r"none of the 2 videos can be used; .*skipped.txt lists the reasons, the first is: .*clip00.mkv: cannot be dec"
        )
    for path in videos.glob("*.mkv"):
        path.write_bytes(b"broken")
    source = tmp_path / "prompts.jsonl" if definition == "prompts" else videos
    with pytest.raises(ValueError, match=message):
        make(cache_settings(tmp_path, source, encoders__definition=definition))


def test_no_item_is_lost_or_duplicated_after_sigkill(tmp_path):
    videos = write_folder(tmp_path / "videos", 8)
    tables = cache_settings(tmp_path, videos, shards__items=1)
    process = start("cache", toml(tables, tmp_path / "cache.toml"))
    folder, deadline = tmp_path / "cache", time.monotonic() + TIMEOUT
    while process.poll() is None and time.monotonic() < deadline and not list(folder.glob("shard-*.safetensors")):
        time.sleep(0.01)
    process.kill()
    output, _ = process.communicate()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.safetensors")}
    assert 0 < len(before) < 8, output[-3000:]
    with pytest.raises(ValueError, match=f"{8 - len(before)} of 8 shards are missing. Run the same cache command again"):
        Cache(folder)
    made, _ = make(tables)
    assert item_names(made) == [f"clip{number:02}.mkv#0" for number in range(8)]
    assert all((folder / name).stat().st_mtime_ns == stamp for name, stamp in before.items())


def test_a_damaged_shard_is_written_again(tmp_path):
    tables = cache_settings(tmp_path, write_folder(tmp_path / "videos", 4))
    made, _ = make(tables)
    expected = made.latent(2, 2).clone()
    path = tmp_path / "cache" / "shard-00001.safetensors"
    beginning = path.read_bytes()[:200]
    path.unlink()  # the open cache keeps the old file
    path.write_bytes(beginning)
    assert missing_shards(tmp_path / "cache", made.info) == [1]
    repaired, _ = make(tables)
    assert torch.equal(repaired.latent(2, 2), expected)


def test_two_processes_write_the_same_cache_as_one(tmp_path):
    videos = write_folder(tmp_path / "videos", 6)
    tables = cache_settings(tmp_path, videos)
    alone, _ = make(tables)
    output = run_pair("cache", toml({**tables, "out": str(tmp_path / "two")}, tmp_path / "cache.toml"), output=tmp_path)
    together = Cache(tmp_path / "two")
    assert "(and 1 by other processes)" in output
    for item in range(6):
        assert torch.allclose(alone.latent(item, 2), together.latent(item, 2), atol=1e-5)
        assert alone.name(item) == together.name(item)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "tar", "tars"])
def test_every_layout_of_sources_gives_the_same_cache(tmp_path, kind):
    folder = write_folder(tmp_path / "videos", 3)
    files = sorted(folder.glob("*.mkv"))
    captions = [file.with_suffix(".txt").read_text() for file in files]
    if kind == "csv":
        videos = tmp_path / "list.csv"
        rows = [f'videos/{file.name},"{caption}"' for file, caption in zip(files, captions, strict=True)]
        videos.write_text("\n".join(["path,caption", *rows]) + "\n")
    elif kind == "jsonl":
        videos = tmp_path / "list.jsonl"
        rows = [{"path": str(file), "caption": caption} for file, caption in zip(files, captions, strict=True)]
        videos.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        samples = [{"mkv": file.read_bytes(), "txt": text.encode()} for file, text in zip(files, captions, strict=True)]
        samples[1] = {"mkv": samples[1]["mkv"], "json": json.dumps({"caption": captions[1]}).encode()}
        videos = write_tar(tmp_path / "a.tar", samples)
        if kind == "tars":
            videos = tmp_path / "tars"
            videos.mkdir()
            write_tar(videos / "0.tar", samples[:2])
            write_tar(videos / "1.tar", samples[2:])
    made, _ = make(cache_settings(tmp_path, videos))
    reference, _ = make(cache_settings(tmp_path, folder) | {"out": str(tmp_path / "reference")})
    assert [made.caption(item) for item in range(3)] == captions
    assert all(torch.equal(made.latent(item, 2), reference.latent(item, 2)) for item in range(3))


@pytest.mark.parametrize(
    "name, text",
    [
        ("prompts.txt", "a red ball\n\n  a blue box \n"),
        ("prompts.csv", "caption\na red ball\n\na blue box\n"),
        ("prompts.jsonl", '{"caption": "a red ball"}\n{"caption": ""}\n{"caption": "a blue box"}\n'),
    ],
)
def test_prompts_are_cached_without_videos_or_a_vae(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    tables = cache_settings(tmp_path, tmp_path / name, encoders__definition="prompts", encoders__vae="")
    made, progress = make(tables)
    assert [made.caption(item) for item in range(len(made))] == ["a red ball", "a blue box"]
    assert not made.has_videos and made.size(0) == (16, 2, 2, 2)
    encoder = Umt5(tables["encoders"]["text"], length=tables["encoders"]["text_length"])
    expected = encoder(["a blue box"])[0]
    count = len(expected)
    assert torch.allclose(made.text(1)[:count], expected, atol=1e-5) and not made.text(1)[count:].any()
    assert progress[-1].startswith("cached 2 of 2 prompts in")


def test_a_list_without_prompts_is_rejected(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    for path, message in ((tmp_path, "is not a list of prompts"), (tmp_path / "empty.txt", "there are no prompts in")):
        with pytest.raises(ValueError, match=message):
            make(cache_settings(tmp_path, path, encoders__definition="prompts"))


def test_different_sources_or_settings_in_the_same_folder_are_rejected(tmp_path):
    videos = write_folder(tmp_path / "videos", 3)
    tables = cache_settings(tmp_path, videos)
    make(tables)
    with pytest.raises(ValueError, match="holds a different cache: definition was 'pixels', is now 'latents'"):
        make({**tables, "encoders": {**tables["encoders"], "definition": "latents"}})
    write_folder(tmp_path / "videos", 4)
    with pytest.raises(ValueError, match="count was 3, is now 4"):
        make(tables)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"clips__videos": "/nowhere"}, "/nowhere does not exist; expected a folder of videos"),
        (
            {"encoders__vae": "/nowhere.safetensors"},
            "there is no VAE at /nowhere.safetensors; expected a diffusers folder",
        ),
        ({"encoders__text": "/nowhere"}, "there is no text encoder at /nowhere; expected a transformers folder"),
        ({"encoders__definition": "both"}, "unknown encoders.definition 'both'; expected pixels, latents, prompts"),
        ({"encoders__vae": ""}, "encoders.vae is required unless encoders.definition is 'prompts'"),
        ({"shards__precision": "fp8"}, "unknown shards.precision 'fp8'; expected bf16, fp32"),
        ({"video__height": 72}, "cannot be halved"),
    ],
)
def test_a_wrong_setting_is_rejected_with_a_clear_error(tmp_path, changes, message):
    videos = write_folder(tmp_path / "videos", 1)
    with pytest.raises(ValueError, match=message):
        make(cache_settings(tmp_path, videos, **changes))


def test_a_folder_without_videos_is_rejected_with_the_supported_layouts(tmp_path):
    with pytest.raises(ValueError, match="there are no videos in .*; expected a folder of videos"):
        list_sources(tmp_path)


def test_a_folder_that_is_not_a_cache_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="is not a cache: it has no cache.json. Create a cache with"):
        Cache(tmp_path)


def test_every_layout_of_the_vae_opens_as_the_same_network(tmp_path, vae):
    vae.network.save_pretrained(tmp_path / "pipeline" / "vae")
    torch.save(load_file(vae_file(tmp_path)), tmp_path / "Wan2.1_VAE.pth")
    video = read_clip()[None]
    for path in (tmp_path / "pipeline", tmp_path / "pipeline" / "vae", tmp_path / "Wan2.1_VAE.pth"):
        assert torch.allclose(open_vae(path).encode(video), vae.encode(video), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("width", 65, "a multiple of 8"), ("height", 60, "a multiple of 8"), ("frames", 16, "a multiple of 4 plus 1")],
)
def test_a_size_that_no_latent_has_is_refused(name, value, words):
    """Rounded down it would equal the size of a training."""
    info = CacheInfo(PRESETS["pyramidal-wan"], 64, 64, 17, "pixels", 8, 4, 2, "x")
    assert CacheInfo.from_json(info.to_json()).latent == info.latent
    with pytest.raises(ValueError, match=f"'{name}' is {value}; expected {words}"):
        CacheInfo.from_json(dataclasses.replace(info, **{name: value}).to_json())
