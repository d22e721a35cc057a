"""The grammar: captions and sentences correspond one to one; other prompts are rejected with a suggestion."""

from __future__ import annotations

from collections import Counter

import pytest

from tiny_wan.world.grammar import ATTRIBUTES, EXAMPLE, VOCABULARY, Caption, draw_captions, every_caption, parse


def test_captions_and_sentences_correspond_one_to_one():
    captions = every_caption()
    sentences = {str(caption) for caption in captions}
    assert len(sentences) == len(captions) == 4 * 6 * 5 * 3 * 4 * 3
    assert all(parse(str(caption)) == caption for caption in captions)


def test_the_example_reads_as_english():
    assert str(EXAMPLE) == "a red ring moving left on the right over a striped blue background"


def test_parsing_ignores_case_spaces_and_a_full_stop():
    assert parse("  A red  ring moving left on the right over a striped blue background. ") == EXAMPLE


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a cat", "the tiny world understands"),
        ("a red ring on the right over a striped blue background", "moving left"),
        ("a red rung moving left on the right over a striped blue background", "nearest: 'ring'"),
        ("a red ring moving left on the right above a striped blue background", "did you mean"),
    ],
)
def test_a_prompt_outside_the_grammar_is_rejected_with_a_suggestion(prompt, message):
    with pytest.raises(ValueError, match=message):
        parse(prompt)


def test_a_caption_rejects_unknown_words():
    with pytest.raises(ValueError, match="colour 'rad'.*nearest: 'red'"):
        Caption(shape="ring", colour="rad", motion="left", place="right", pattern="striped", ground="blue")


def test_table_prompts_are_balanced_and_seeded():
    captions = draw_captions(256, seed=3)
    assert captions == draw_captions(256, seed=3) != draw_captions(256, seed=4)
    for name in ATTRIBUTES:
        counts = Counter(getattr(caption, name) for caption in captions)
        assert set(counts) == set(VOCABULARY[name])
        assert max(counts.values()) - min(counts.values()) <= 1
