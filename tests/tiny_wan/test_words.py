"""Word embeddings: constant, different for every attribute and word, and written as a conditioning file."""

from __future__ import annotations

import torch
from safetensors import safe_open

from tiny_wan.world.grammar import EXAMPLE
from tiny_wan.world.words import TEXT_LENGTH, TEXT_WIDTH, embed, embed_all, save_conditioning, word_vector

FIRST_OF_MOTION_LEFT = [0.5590320, -1.0677940, -1.2777535]
FIRST_OF_EMPTY = [0.1184436, 0.1061140, 0.6315938]


def test_the_table_never_changes():
    """The shipped weights were trained on these vectors; any change breaks them without an error."""
    vector = word_vector("motion", "left")
    assert vector.shape == (TEXT_WIDTH,)
    torch.testing.assert_close(vector[:3], torch.tensor(FIRST_OF_MOTION_LEFT))
    torch.testing.assert_close(embed(None)[0, :3], torch.tensor(FIRST_OF_EMPTY))


def test_a_word_has_a_different_vector_for_every_attribute():
    motion, place = word_vector("motion", "left"), word_vector("place", "left")
    assert abs(torch.cosine_similarity(motion, place, dim=0)) < 0.06


def test_prompts_captions_and_the_empty_prompt_have_one_length():
    assert torch.equal(embed(str(EXAMPLE)), embed(EXAMPLE))
    assert torch.equal(embed(""), embed(None))
    assert embed_all([EXAMPLE, None]).shape == (2, TEXT_LENGTH, TEXT_WIDTH)


def test_the_conditioning_file_holds_embedding_and_prompt(tmp_path):
    save_conditioning(tmp_path / "prompt.safetensors", str(EXAMPLE))
    with safe_open(tmp_path / "prompt.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("cross_attn"), embed(EXAMPLE)[None])
        assert file.metadata()["prompt"] == str(EXAMPLE)
