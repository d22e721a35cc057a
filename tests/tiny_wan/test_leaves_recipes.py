"""The recipes on the dead leaves: they start from the shapes' weights, and leave the training of the shapes as it was."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_wan.recipes import train_t2v, train_t2v_leaves, train_vae, whole_clip
from tiny_wan.recipes.patch_code import fit
from tiny_wan.recipes.train_t2v import Phase, Size, draw_batch
from tiny_wan.recipes.train_t2v_leaves import LeavesRecipe
from tiny_wan.recipes.train_t2v_leaves_longer import LongerLeavesRecipe
from tiny_wan.recipes.train_vae import Crop, draw_video, fold_latent_format, psnr, unfold_latent_format
from tiny_wan.recipes.train_vae_leaves import START
from tiny_wan.recipes.train_vae_leaves import LeavesRecipe as LeavesVaeRecipe
from tiny_wan.recipes.training_state import Run
from tiny_wan.worlds import LEAVES, SHAPES, WORLDS


@pytest.fixture(scope="module")
def code():
    return fit(seed=1, clips_per_size=32)


def test_the_world_is_no_option_of_a_run():
    """Runs of the shapes that were started before there was another world continue."""
    assert "world" not in dataclasses.asdict(train_t2v.Recipe()) | dataclasses.asdict(train_vae.Recipe())
    assert train_t2v.Recipe().world is train_vae.Recipe().world is SHAPES is WORLDS["shapes"]
    assert LeavesRecipe().world is LeavesVaeRecipe().world is LEAVES


def test_batches_are_of_the_recipes_world(code):
    batch = draw_batch(3, Size(2, 4, 2, 1.0), LeavesRecipe(), code)
    scenes = [LEAVES.scene_at(3 * 64 + row, seed=1) for row in range(2)]
    torch.testing.assert_close(batch.clean, code.latents(LEAVES.render(scenes, frames=5, height=32, width=32)))
    assert batch.context.shape == (2, 4, 4096)
    crop = LeavesVaeRecipe(crops=(Crop(5, 32, 32, 1, 1.0),))
    assert torch.equal(draw_video(7, crop), LEAVES.render([LEAVES.scene_at(7 * 16, seed=2)], frames=5, height=32, width=32))


def test_captions_of_both_worlds_have_different_embeddings_and_lengths():
    for world, length in ((SHAPES, 6), (LEAVES, 4)):
        captions = world.draw_captions(2, seed=0)
        embedded = world.embed_all([*captions, None])
        assert embedded.shape == (3, length, 4096) and len({tuple(rows[:, 0].tolist()) for rows in embedded}) == 3


def test_unfolding_inverts_the_folding_of_the_latent_format():
    weights = {name: value.float() for name, value in load_file(START).items()}
    again = fold_latent_format(unfold_latent_format(weights))
    for name, value in weights.items():
        torch.testing.assert_close(again[name], value)
    assert not torch.equal(unfold_latent_format(weights)["conv1.weight"], weights["conv1.weight"])


def test_both_recipes_start_from_the_shapes_and_train(tmp_path, code):
    runs = [Run(tmp_path / name) for name in ("vae", "t2v")]
    for run in runs:
        run.folder.mkdir()
        code.save(run.folder / "patch_code.safetensors")
    vae = LeavesVaeRecipe(steps=2, warm_up=1, encoder_share=0.5, crops=(Crop(5, 32, 32, 2, 1.0),))
    transformer = LeavesRecipe(phases=(Phase(2, (Size(2, 4, 2, 1.0),)),), warm_up=1)
    with torch.enable_grad():  # ComfyUI turns gradients off
        train_vae.train(vae, runs[0], device=torch.device("cpu"), seconds=60)
        train_t2v.train(transformer, runs[1], device=torch.device("cpu"), seconds=60)
    for run, recipe in zip(runs, (vae, transformer), strict=True):
        state = torch.load(run.folder / "state.pt", weights_only=True)
        start, shapes = (dict(network.named_parameters()) for network in (recipe.build(), type(recipe).__base__.build(recipe)))
        changes = [(value - start[name]).abs().max().item() for name, value in state["model"].items()]
        assert state["step"] == 2 and 0 < max(changes) < 0.1
        assert max((value - shapes[name]).abs().max().item() for name, value in start.items()) > 0.5  # those of no training


def test_the_longer_run_starts_where_the_first_one_ended_with_other_clips_in_the_same_latent_space(tmp_path, monkeypatch, code):
    first = {name: value + 0.5 for name, value in load_file(LeavesRecipe.start).items()}
    save_file(first, tmp_path / "first.safetensors")
    assert LongerLeavesRecipe.start.parent == train_t2v_leaves.STATE  # where the first run keeps its state
    monkeypatch.setattr(LongerLeavesRecipe, "start", tmp_path / "first.safetensors")
    recipe = LongerLeavesRecipe(phases=(Phase(1, (Size(2, 4, 2, 1.0),)),), warm_up=1)
    for name, value in recipe.build().state_dict().items():
        assert torch.equal(value, first[name].float()), name
    run, fitted = Run(tmp_path / "run"), []
    monkeypatch.setattr(train_t2v, "fit", lambda *, seed: fitted.append(seed) or code)
    with torch.enable_grad():
        train_t2v.train(recipe, run, device=torch.device("cpu"), seconds=60)
    assert fitted == [train_t2v.Recipe().seed]
    size = recipe.phases[0].sizes[0]
    batches = [draw_batch(0, size, drawn, code).clean for drawn in (recipe, LeavesRecipe())]
    assert not torch.equal(*batches)


def test_the_start_of_the_vae_reconstructs_leaves():
    video = LEAVES.render([LEAVES.scene_at(0, seed=9)], frames=5, height=64, width=64)
    vae = LeavesVaeRecipe().build().requires_grad_(False)
    assert psnr(whole_clip.decode(vae, whole_clip.encode(vae, video)), video).item() > 16.0  # 9 with random weights
