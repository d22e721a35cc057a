"""The tiny transformer's recipe: target, noise levels and sizes are right, a run resumes exactly, ComfyUI loads the export."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from harness.wan_modules import build_transformer
from tiny_wan.recipes import train_t2v
from tiny_wan.recipes.judge import sample_plain
from tiny_wan.recipes.loop import drawn_ahead
from tiny_wan.recipes.patch_code import PatchCode, fit
from tiny_wan.recipes.train_t2v import Batch, Phase, Recipe, Size, Trainer, draw_batch, flow_loss, size_at
from tiny_wan.recipes.train_t2v_full_size import FullSizeRecipe
from tiny_wan.recipes.training_state import Run
from tiny_wan.world.grammar import VOCABULARY
from tiny_wan.world.words import embed_all, word_vector

TINY = Recipe(
    layers=1,
    ffn_dim=64,
    warm_up=1,
    phases=(Phase(4, (Size(2, 4, 4, 1.0),)), Phase(4, (Size(2, 4, 4, 1.0), Size(3, 4, 2, 1.0)))),
)


@pytest.fixture(scope="module")
def code() -> PatchCode:
    return fit(seed=1, clips_per_size=32)


class ExactVelocity(torch.nn.Module):
    """The velocity of a known clean latent: every noisy x contains it, so noise - clean = (x - clean) / sigma."""

    def __init__(self, clean):
        super().__init__()
        self.clean = clean

    def forward(self, x, timestep, context):
        sigma = timestep[:, None, None, None, None] / 1000.0
        return (x - self.clean) / sigma


def test_the_loss_of_the_exact_velocity_is_zero(code):
    batch = draw_batch(0, Size(2, 4, 4, 1.0), TINY, code)
    assert flow_loss(ExactVelocity(batch.clean), batch) < 1e-8
    reverse = Batch(batch.noise, batch.clean, batch.sigma, batch.context, batch.beside)
    assert flow_loss(ExactVelocity(batch.clean), reverse) > 0.1


def test_sampling_follows_the_velocity_to_the_clean_latent(code):
    batch = draw_batch(0, Size(2, 4, 2, 1.0), TINY, code)
    model = ExactVelocity(torch.cat([batch.clean, batch.clean]))
    sampled = sample_plain(model, batch.noise, batch.context, steps=7, cfg=3.0, shift=5.0)
    torch.testing.assert_close(sampled, batch.clean, atol=1e-4, rtol=1e-4)


def test_batches_are_a_function_of_seed_and_step(code):
    size = Size(3, 4, 4, 1.0)
    first, again, next_step = (draw_batch(step, size, TINY, code) for step in (5, 5, 6))
    for a, b, c in zip(*(vars(batch).values() for batch in (first, again, next_step)), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c) or a.numel() == 0


def test_noise_levels_are_stratified_and_shifted_towards_noise(code):
    sigma = torch.cat([draw_batch(step, Size(2, 4, 16, 1.0), TINY, code).sigma for step in range(20)])
    u = sigma / (TINY.sigma_shift - (TINY.sigma_shift - 1.0) * sigma)
    assert torch.histc(u, 16, 0, 1).tolist() == [20.0] * 16
    assert sigma.mean() > 0.6


def test_prompts_are_dropped_with_the_configured_probability(code):
    always = draw_batch(0, Size(2, 4, 8, 1.0), dataclasses.replace(TINY, drop_prompt=1.0), code)
    assert torch.equal(always.context, embed_all([None] * 8))


@pytest.mark.parametrize("shape", [(size.frames, size.side) for phase in Recipe().phases for size in phase.sizes])
def test_every_size_of_the_recipe_can_be_drawn(shape, code):
    frames, side = shape
    assert draw_batch(0, Size(frames, side, 1, 1.0), Recipe(), code).clean.shape == (1, 16, frames, side, side)


def test_the_recipe_trains_on_every_stage_of_a_standard_clip():
    """They are 5x16x16, halved in space or in space and time: 5x8x8 and 3x8x8, then 2x4x4."""
    for phase in Recipe().phases:
        assert {(5, 16), (5, 8), (3, 8), (2, 4)} <= {(size.frames, size.side) for size in phase.sizes}


def test_sizes_are_drawn_in_proportion_to_their_weights():
    recipe = dataclasses.replace(
        TINY, phases=(Phase(10, (Size(2, 4, 1, 1.0),)), Phase(2000, (Size(2, 4, 1, 3.0), Size(5, 8, 1, 1.0))))
    )
    assert {size_at(step, recipe).frames for step in range(10)} == {2}
    drawn = [size_at(step, recipe).frames for step in range(10, 2010)]
    assert drawn.count(5) / 2000 == pytest.approx(0.25, abs=0.03)


def test_a_single_batch_is_learned(code):
    recipe = dataclasses.replace(TINY, layers=2, ffn_dim=128, phases=(Phase(200, (Size(2, 4, 4, 1.0),)),))
    trainer, batch = Trainer.start(recipe, torch.device("cpu")), draw_batch(0, Size(2, 4, 4, 1.0), recipe, code)
    with torch.enable_grad():
        losses = [trainer.train_step(batch) for _ in range(40)]
    assert losses[0] == pytest.approx((batch.noise - batch.clean).square().mean().item(), rel=0.01)  # the head starts at zero
    assert losses[-1] < 0.6 * losses[0]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, code):
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
        code.save(tmp_path / name / "patch_code.safetensors")
    device = torch.device("cpu")
    with torch.enable_grad():
        train_t2v.train(TINY, Run(tmp_path / "once"), device=device, seconds=600, report_every=2)
        train_t2v.train(TINY, Run(tmp_path / "twice", tmp_path / "copy"), device=device, seconds=0.02)
        stopped = torch.load(tmp_path / "twice" / "state.pt", weights_only=True)["step"]
        train_t2v.train(TINY, Run(tmp_path / "twice", tmp_path / "copy"), device=device, seconds=600)
    assert 0 < stopped < TINY.steps
    once, twice, copy = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("once", "twice", "copy"))
    assert once["step"] == twice["step"] == copy["step"] == TINY.steps
    for kind in ("model", "average"):
        for name, value in once[kind].items():
            assert torch.equal(value, twice[kind][name]), name
    assert (tmp_path / "once" / "log.jsonl").read_text().count("\n") == TINY.steps // 2


def test_the_full_size_recipe_has_no_small_video_and_the_latent_space_of_the_other(code):
    recipe = FullSizeRecipe()
    sizes = {size for phase in recipe.phases for size in phase.sizes}
    assert {size.side for size in sizes} == {16} and {5, 1} < {size.frames for size in sizes}
    assert recipe.seed == Recipe().seed
    image = draw_batch(0, Size(1, 16, 2, 1.0), recipe, code)
    assert image.clean.shape == (2, 16, 1, 16, 16) and torch.isfinite(image.clean).all()


def test_the_export_loads_in_comfyui(tmp_path):
    import comfy.sd

    model = build_transformer(dim=128, ffn_dim=64, layers=1)
    train_t2v.init_weights(model, seed=0)
    run = Run(tmp_path)
    run.open(TINY)
    run.save(lambda: {"average": dict(model.named_parameters()), "step": 3, "seconds": 1.0}, force=True)
    train_t2v.export(run, tmp_path / "t2v.safetensors", TINY)
    patcher = comfy.sd.load_diffusion_model_state_dict(load_file(tmp_path / "t2v.safetensors"))
    assert type(patcher.model).__name__ == "WAN21"
    assert patcher.model.diffusion_model.dim == 128


def test_the_units_of_every_word_stay_alive(code):
    """With too high a learning rate for 4096 inputs, GELUs saturate below zero and whole attributes lose their gradient."""
    size = Size(2, 4, 16, 1.0)
    trainer = Trainer.start(dataclasses.replace(TINY, phases=(Phase(1000, (size,)),)), torch.device("cpu"))
    with torch.enable_grad():
        for step in range(60):
            trainer.train_step(draw_batch(step, size, TINY, code))
    for attribute, words in VOCABULARY.items():
        vectors = torch.stack([word_vector(attribute, word) for word in words])
        embedded = trainer.model.text_embedding(vectors)
        apart = (embedded - embedded.mean(dim=0)).norm(dim=1) / embedded.norm(dim=1)
        assert apart.min() > 0.2, attribute
        assert trainer.model.text_embedding[0](vectors).abs().mean() < 2.0, attribute  # 4.4 and more at the full rate


def test_batches_are_drawn_ahead_in_order_and_no_longer_once_the_consumer_stops():
    drawn = []

    def draw(step: int) -> int:
        drawn.append(step)
        return step * step

    assert (
        list(drawn_ahead(draw, 3, 40, workers=3)) == list(drawn_ahead(draw, 3, 40, workers=0)) == [n * n for n in range(3, 40)]
    )
    drawn.clear()
    ahead = drawn_ahead(draw, 0, 1000, workers=2)
    assert [next(ahead) for _ in range(5)] == [0, 1, 4, 9, 16]
    ahead.close()
    assert max(drawn) < 12


def test_a_width_that_comfyui_cannot_load_is_rejected():
    with pytest.raises(ValueError, match="multiple of 128.*nearest: 256"):
        build_transformer(dim=200, ffn_dim=64, layers=1)
