"""Names of stages in widgets: low, mid, high, or the number in running order, 0 being the lowest that runs."""

from __future__ import annotations

AUTO = "auto"

STAGE_CHOICES = ("low", "mid", "high", "0", "1", "2", "3")
"""For widgets that name one stage."""


def stage_name(index: int, number_of_stages: int) -> str:
    """Return "low", "mid" or "high"; in pyramids of more than three stages the place in running order."""
    names = {1: ["high"], 2: ["low", "high"], 3: ["low", "mid", "high"]}.get(number_of_stages)
    return names[index] if names else str(index)


def stage_index(text: str, number_of_stages: int) -> int:
    """The index of one stage; ValueError in plain words if the pyramid has no such stage, or several."""
    found = stage_set(text, number_of_stages)
    if len(found) != 1:
        raise ValueError(f"stage '{text}' is {len(found)} stages of a pyramid of {number_of_stages}; name one by its number")
    return min(found)


def stage_set(text: str, number_of_stages: int | None) -> frozenset[int]:
    """Indices for "all", "low", "mid,high", "0,1", ...; "mid" is every stage between the lowest and the highest.

    ValueError in plain words for anything that is no stage. Without a number of stages only the words are checked.
    """
    count = number_of_stages or 10
    words = [word.strip().lower() for word in text.split(",")]
    found: set[int] = set()
    for word in words:
        if word == "all":
            found |= set(range(count))
        elif word == "low":
            found.add(0)
        elif word == "high":
            found.add(count - 1)
        elif word == "mid" and count > 2:
            found |= set(range(1, count - 1))
        elif word.isdecimal() and int(word) < count:
            found.add(int(word))
        else:
            known = "all, " + ", ".join(stage_name(index, count) for index in range(count)) if number_of_stages else \
                "all, low, mid, high, or numbers from 0"  # fmt: skip
            of = f" in a pyramid of {number_of_stages} stages" if number_of_stages else ""
            raise ValueError(f"there is no stage '{word}'{of}; there are {known}")
    return frozenset(found)


def stages_problem(text: str) -> str | None:
    """What is wrong with a text of stages, whatever the pyramid; None if nothing is."""
    try:
        stage_set(text, None)
    except ValueError as error:
        return str(error)
    return None
