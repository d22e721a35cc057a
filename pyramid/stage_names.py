"""Names of stages in widgets: low, mid, high, or the index in running order, where 0 is the lowest stage that runs."""

from __future__ import annotations

from .untrusted import shown

AUTO = "auto"
"""Choice of the stage that fits."""

STAGE_CHOICES = ("low", "mid", "high", "0", "1", "2", "3")
"""Choices of a widget that names one stage."""


def stage_name(index: int, number_of_stages: int) -> str:
    """Return "low", "mid" or "high", or the index in running order in pyramids of more than three stages."""
    names = {1: ["high"], 2: ["low", "high"], 3: ["low", "mid", "high"]}.get(number_of_stages)
    return names[index] if names else str(index)


def stage_index(text: str, number_of_stages: int) -> int:
    """Return the index of the stage that a text names.

    Raises:
        ValueError: The pyramid has no such stage, or the text names several.
    """
    indices = stage_set(text, number_of_stages)
    if len(indices) != 1:
        raise ValueError(
            f"stage {shown(text)} names {len(indices)} stages in a pyramid of {number_of_stages} stages; choose one by its "
            "number"
        )
    return min(indices)


def stage_set(text: str, number_of_stages: int | None) -> frozenset[int]:
    """Return the indices of the stages that a text names.

    Args:
        text: "all", "low", "mid,high", "0,1", ...; "mid" names every stage between the lowest and the highest.
        number_of_stages: Stages of the pyramid; None to check the words alone.

    Raises:
        ValueError: A word names no stage.
    """
    count = number_of_stages or 10
    indices: set[int] = set()
    for word in (part.strip().lower() for part in text.split(",")):
        if word == "all":
            indices |= set(range(count))
        elif word == "low":
            indices.add(0)
        elif word == "high":
            indices.add(count - 1)
        elif word == "mid" and count > 2:
            indices |= set(range(1, count - 1))
        elif word.isdecimal() and len(word) < 4 and int(word) < count:
            indices.add(int(word))
        elif number_of_stages is None:
            raise ValueError(f"unknown stage {shown(word)}; expected all, low, mid, high, or numbers from 0")
        else:
            names = ", ".join(stage_name(index, count) for index in range(count))
            raise ValueError(f"unknown stage {shown(word)} in a pyramid of {count} stages; expected all, {names}")
    return frozenset(indices)


def stages_problem(text: str) -> str | None:
    """Return the error in a text of stages that no pyramid accepts, or None."""
    try:
        stage_set(text, None)
    except ValueError as error:
        return str(error)
    return None
