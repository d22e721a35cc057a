"""Values that no artist's widget or socket should hold, as API prompts and nodes of other packs may send them."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch

from harness.in_process import pack_module

NAN, INF = math.nan, math.inf

JSON_VALUES: tuple[Any, ...] = (
    None, True, False, "", " ", "abc", "nan", "-inf", NAN, INF, -INF, -1, 0, 1, 0.5, 2**31, 2**64, 10**30, 10**400,
    1e308, -1e308,
    5e-324, "1" * 5000, "x" * 100_000, "2-" * 50_000 + "2", "99999999999-1", "1-1-1-1-1-1-1-1-1-1-1-1", "0-0", "1-0",
    "-1-1", "1e3-1",
    "٢-٢", "²-²", "1\n1", "1-1\x00", "\ud800", "0.5,0.5", "nan,nan", "0.9,nan", "1e-320", "0.99999999999999999",
    "5e-324, 4e-324",
    ",".join(["0.5"] * 20_000), "HW," * 20_000, "low,low", "0,1,2,3", "9999999999999999999", "all," * 20_000,
    "../../etc/passwd", "a/../../b", "/etc/passwd", "C:\\con", "con", "NUL.txt", "aux.safetensors", "lpt1/x", "x.", "x ",
    " x", "x/",
    "x" * 300, "a/" * 100 + "b", "ä" * 130, "x\ty", "a:b", "..", ".", "x [output]", "loras/", "vae/x.safetensors",
    {}, {"a": 1}, {"__value__": None}, {"__value__": [1, 2, 3]}, {"__value__": []}, {"__value__": {"a": [NAN]}}, [], [1,
    2, 3],
)  # fmt: skip
"""Values that JSON can carry; ComfyUI takes lists of two for links."""


class Opaque:
    """An object without any of the attributes that a node reads."""


def python_values() -> list[Any]:
    """Return further values that reach an input through a link to a node with outputs of any type."""
    return [
        Opaque(), Opaque, object(), len, b"bytes", {1, 2}, (1, 2), [1, 2], [[1]], [None], {"samples": 1}, range(3),
        1 + 2j, NotImplemented,
        torch.tensor(3), torch.tensor(NAN), torch.zeros(0), torch.zeros(2, 2), torch.full((1, 16, 3, 8, 8), NAN),
    ]  # fmt: skip


def malformed_of(io_type: str, valid: Mapping[str, Any], rng: random.Random) -> Any:
    """Return a value of a socket's type with one thing wrong."""
    make = {
        "LATENT": _latent, "CONDITIONING": _conditioning, "SIGMAS": _sigmas, "NOISE": _noise, "GUIDER": _guider,
        "IMAGE": _image,
        "MODEL": _model, "PYRAMID": _pyramid, "LIFT": _lift, "SAMPLER": _sampler, "VAE": _vae,
    }[io_type]  # fmt: skip
    return make(valid, rng)


def with_bad_number(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Return a copy with one value that is NaN or infinite."""
    bad = tensor.clone().float()
    bad.view(-1)[rng.randrange(bad.numel())] = rng.choice([NAN, INF, -INF])
    return bad


def _latent(valid: Mapping[str, Any], rng: random.Random) -> Any:
    latent = dict(valid[rng.choice(["latent", "video", "draft"])])
    samples = latent["samples"]
    changes: list[Callable[[], dict]] = [
        dict,
        lambda: {**latent, "samples": None},
        lambda: {**latent, "samples": samples.tolist()},
        lambda: {**latent, "samples": with_bad_number(samples, rng)},
        lambda: {**latent, "samples": samples[:, :, 0]},
        lambda: {**latent, "samples": samples[:, :, :0]},
        lambda: {**latent, "samples": samples[:0]},
        lambda: {**latent, "samples": samples[:, :3]},
        lambda: {**latent, "samples": samples[..., :7, :5]},
        lambda: {**latent, "samples": samples.long()},
        lambda: {**latent, "samples": samples.to(torch.complex64)},
        lambda: {**latent, "samples": torch.zeros(())},
        lambda: {**latent, "samples": samples * 1e38 + 3e38},
        lambda: {**latent, "noise_mask": with_bad_number(torch.ones(1, 1, 3, 8, 8), rng)},
        lambda: {**latent, "noise_mask": "mask"},
        lambda: {**latent, "noise_mask": torch.ones(())},
        lambda: {**latent, "noise_mask": torch.ones(2, 3, 4, 5, 6, 7)},
        lambda: {**latent, "batch_index": rng.choice([[10**12], [-1], ["a"], [NAN], 5, [[0]], [0, 1, 2], [None]])},
        lambda: {**latent, "pyramid": rng.choice(["tag", {}, 5])},
    ]
    return rng.choice(changes)()


def _conditioning(valid: Mapping[str, Any], rng: random.Random) -> Any:
    (tensor, options), *_ = valid["positive"]
    number = rng.choice([NAN, INF, "a", None, [1], -5.0])
    key = rng.choice(["start_percent", "end_percent", "strength"])
    return rng.choice(
        [
            [], [tensor], [[tensor]], [[None, {}]], [[tensor, None]], [[tensor, []]], [[tensor, {}], None], "prompt",
            {"a": tensor},
            [[with_bad_number(tensor, rng), {}]], [[tensor[0], {}]], [[tensor[..., :768], {}]], [[tensor[:, :0], {}]],
            [[tensor.long(), {}]], [[tensor, {"pooled_output": with_bad_number(torch.zeros(1, 4), rng)}]],
            [[tensor, {"concat_latent_image": with_bad_number(torch.zeros(1, 16, 3, 8, 8), rng)}]],
            [[tensor, {"reference_latents": [with_bad_number(torch.zeros(1, 16, 3, 8, 8), rng)]}]],
            [[tensor, {**options, key: number}]], [[tensor[:0], {}]],
        ]
    )  # fmt: skip


def _sigmas(valid: Mapping[str, Any], rng: random.Random) -> Any:
    sigmas = valid["sigmas"]
    return rng.choice(
        [
            with_bad_number(sigmas, rng), sigmas[:0], sigmas[:1], sigmas[None], sigmas.flip(0), torch.linspace(1, 0,
            100_000), sigmas * 2,
            sigmas - 0.5, sigmas.tolist(), torch.zeros(4), torch.ones(4), sigmas.to(torch.complex64), torch.tensor(1.0),
            sigmas * 1e-30,
        ]
    )  # fmt: skip


class BrokenNoise:
    """NOISE that draws something else than noise of the shape asked for."""

    def __init__(self, seed: Any, drawn: Any):
        self.seed, self._drawn = seed, drawn

    def generate_noise(self, latent: dict) -> Any:
        """Return what it was made with."""
        return self._drawn


def _noise(valid: Mapping[str, Any], rng: random.Random) -> Any:
    good = torch.randn(valid["latent"]["samples"].shape)
    seed = rng.choice([0, 0, 0, "a", None, NAN, -1, 2**70])
    return BrokenNoise(seed, rng.choice([with_bad_number(good, rng), good[:, :3], good[0], None, "noise", good.tolist()]))


def _guider(valid: Mapping[str, Any], rng: random.Random) -> Any:
    guider = copy.copy(valid["guider"])
    if rng.random() < 0.5:
        guider.cfg = rng.choice([NAN, INF, "6", None, 1e300, [6], torch.tensor(NAN)])
    elif rng.random() < 0.5:
        guider.original_conds = rng.choice(
            [{}, None, {"positive": []}, {"positive": None, "negative": None}, {"positive": [{}]}]
        )
    else:
        conds = {name: [dict(cond) for cond in group] for name, group in guider.original_conds.items()}
        conds["positive"][0]["cross_attn"] = with_bad_number(conds["positive"][0]["cross_attn"], rng)
        guider.original_conds = conds
    return guider


def _image(valid: Mapping[str, Any], rng: random.Random) -> Any:
    clips = valid["clips"]
    return rng.choice(
        [
            clips[0],
            with_bad_number(clips, rng),
            clips[..., :1],
            clips[:0],
            clips[:, :2, :2],
            clips[:, :0],
            clips.to(torch.complex64),
        ]
    )


def _model(valid: Mapping[str, Any], rng: random.Random) -> Any:
    return rng.choice([valid["nan_model"], valid["bound_model"], valid["other_model"], valid["pyramidal_model"]])


def _pyramid(valid: Mapping[str, Any], rng: random.Random) -> Any:
    spec = pack_module("pyramid.stages").PyramidSpec
    natural = {"field": "natural", "timestep_source": "sigma", "first_frame": "shared"}
    boundaries = rng.choice(
        [(1e-300,), (1 - 1e-16,), (0.5, 0.5 - 1e-12), (5e-324,), tuple(1 / (n + 2) for n in range(60)), (1e-7,)]
    )
    try:
        return spec(boundaries, ("HW",) * len(boundaries), **rng.choice([natural, {}]))
    except ValueError:  # a pyramid that cannot be made does not reach a socket
        return rng.choice([{}, "training-free", dict(vars(valid["pyramid"]))])


def _lift(valid: Mapping[str, Any], rng: random.Random) -> Any:
    lift = pack_module("samplers.lift.video_lift").VideoLift
    function = pack_module("pyramid.lift").FunctionLift

    def bad(clean: torch.Tensor, size: Any) -> torch.Tensor:
        return with_bad_number(clean.new_zeros(*clean.shape[:2], *size), rng)

    def small(clean: torch.Tensor, size: Any) -> torch.Tensor:
        return clean

    made = function(rng.choice([bad, small]))
    return rng.choice(
        [lift("bad", 16, {"HW": made}, {"HW": made}), lift("bad", 48, {"HW": made}), lift("bad", 16, {"T": made})]
    )


def _sampler(valid: Mapping[str, Any], rng: random.Random) -> Any:
    samplers = pack_module("samplers.supported_samplers").comfy.samplers

    def not_a_number(model: Any, x: torch.Tensor, sigmas: torch.Tensor, **_: Any) -> torch.Tensor:
        return x * NAN

    adaptive = samplers.sampler_object("dpm_adaptive")
    return rng.choice(
        [
            samplers.KSAMPLER(not_a_number),
            adaptive,
            samplers.KSAMPLER(samplers.k_diffusion_sampling.sample_euler, {"s_churn": NAN}),
        ]
    )


def _vae(valid: Mapping[str, Any], rng: random.Random) -> Any:
    vae = copy.copy(valid["vae"])
    vae.latent_dim = rng.choice([2, None, "3", NAN])
    return vae
