"""The forms of a run with a lift: the sampler node, the advanced one, 'Pyramidal Model', and a graph wired by hand."""

from __future__ import annotations

import dataclasses

import torch
from comfy_extras.nodes_custom_sampler import CFGGuider, KSamplerSelect, RandomNoise, SamplerCustomAdvanced

from pyramidalwan.nodes import NODES
from pyramidalwan.pyramid.lift_fit import PairSums
from pyramidalwan.samplers.lift.video_lift import VideoLift

NODE = {node.__name__.removeprefix("PyramidalWan"): node for node in NODES}
STAGES = {1: ("high",), 2: ("low", "high"), 3: ("low", "mid", "high")}
SIZES = {"HW": ((3, 4, 4), (3, 8, 8)), "THW": ((3, 4, 4), (5, 8, 8)), "T": ((3, 4, 4), (5, 4, 4))}
SIZES |= {"HW 2/3": ((3, 8, 8), (3, 12, 12)), "HW 3/4": ((3, 6, 6), (3, 8, 8)), "THW 3/4": ((3, 6, 6), (5, 8, 8))}


def call(node, *args, **kwargs):
    return node.execute(*args, **kwargs).args


def random_map(source, target, seed, channels=16):
    """Return a map of the form that a fit has, with random weights that keep the size of latents."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    sums = PairSums(source=source, target=target, channels=channels)
    sums.add(draw(4, channels, *source), draw(4, channels, *target))
    fitted = sums.solve(ridge=1.0)
    first, rest = (draw(*weights.shape) / weights.shape[-1] ** 0.5 for weights in (fitted.first, fitted.rest))
    return dataclasses.replace(fitted, first=first, rest=rest)


def random_lift(*axes, channels=16):
    lifts_by_axes = {name: random_map(*SIZES[name], seed, channels) for seed, name in enumerate(axes)}
    drops = {name: random_map(*SIZES[name][::-1], seed + 10, channels) for seed, name in enumerate(axes)}
    return VideoLift("random", channels, lifts_by_axes, drops)


def schedule(spec, steps):
    return call(NODE["Schedule"], spec, steps, "auto", 5.0)


def one_node(model, positive, negative, spec, steps, lift, latent, end="auto", denoise=1.0):
    return call(
        NODE["Sampler"], model, positive, negative, latent, 5, steps, "3", "euler", denoise, "auto", 5.0, "auto", end, spec,
        lift=lift,
    )  # fmt: skip


def advanced_node(model, positive, negative, spec, steps, lift, latent):
    sigmas, moved = schedule(spec, steps)
    guider, noise, sampler = call(CFGGuider, model, positive, negative, 3.0)[0], call(RandomNoise, 5)[0], euler()
    return call(NODE["SamplerAdvanced"], noise, guider, sampler, sigmas, latent, "", "auto", "auto", moved, lift=lift)


def any_sampler(model, positive, negative, spec, steps, lift, latent):
    sigmas, moved = schedule(spec, steps)
    pyramidal = call(NODE["Model"], model, moved, lift)[0]
    guider, noise = call(CFGGuider, pyramidal, positive, negative, 3.0)[0], call(RandomNoise, 5)[0]
    return call(SamplerCustomAdvanced, noise, guider, euler(), sigmas, latent)


def stock_graph(model, positive, negative, spec, steps, lift, latent):
    """Wire a run by hand, with the lift at every stage and transition."""
    (sigmas, moved), noise = schedule(spec, steps), call(RandomNoise, 5)[0]
    stage_latent, stage_noise = call(NODE["StageStart"], noise, latent, moved)
    names = STAGES[spec.number_of_stages]
    for stage in names:
        bound = call(NODE["StageModel"], model, moved, stage, lift, latent)[0]
        guider = call(CFGGuider, bound, positive, negative, 3.0)[0]
        stage_sigmas = call(NODE["StageSigmas"], sigmas, moved, stage, latent)[0]
        output, denoised = call(SamplerCustomAdvanced, stage_noise, guider, euler(), stage_sigmas, stage_latent)
        if stage != names[-1]:
            stage_latent, stage_noise = call(NODE["StageTransition"], output, noise, moved, stage, denoised, lift)
    return output, denoised


def euler():
    return call(KSamplerSelect, "euler")[0]


FORMS = (one_node, advanced_node, any_sampler, stock_graph)
