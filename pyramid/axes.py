"""What one transition shrinks, as text: "THW", "HW" or "T", which halve, or a scale of height and width as in "HW 2/3"."""

from __future__ import annotations

from fractions import Fraction

from .untrusted import shown

AXES = ("THW", "HW", "T")
"""Axes that one transition can halve."""

AUTO_SCALE = "auto"
"""Scale that depends on the size of the video; "HW auto" becomes "HW", "HW 2/3" or "HW 3/4" once the size is known."""

SCALES = {"half": "HW", "two thirds": "HW 2/3", "three quarters": "HW 3/4"}
"""Transitions of height and width that "auto" chooses from, smallest first, by the names that nodes show."""

MIN_SCALE = Fraction(1, 4)

MAX_CHARACTERS = 20
"""Characters of a scale; Python would compute every digit of "1e999999999"."""


def space_scale(axes: str) -> Fraction | None:
    """Return the scale of height and width if the text has one; None for a halving, and for "auto".

    A scale of 1/2 differs from a halving: it rounds to whole patches, and works for sides that are not even.
    """
    _, _, scale = axes.partition(" ")
    return None if scale in ("", AUTO_SCALE) else Fraction(scale)


def is_auto(axes: str) -> bool:
    """Return whether the scale depends on the size of the video."""
    return axes.endswith(f" {AUTO_SCALE}")


def has_scale(axes: str) -> bool:
    """Return whether height and width shrink by a scale, known or not, so that sizes are rounded to whole patches."""
    return " " in axes


def parse_axes(text: str) -> str:
    """Return a transition in canonical spelling: "HW 2/3" for "hw 4/6", the nearest simple fraction for a decimal.

    Raises:
        ValueError: The text is not a transition.
    """
    name, _, scale = " ".join(str(text).split()).partition(" ")
    name, scale = name.upper(), scale.lower()
    if name not in AXES or (scale and "HW" not in name):
        raise ValueError(
            f"unknown downsample_axes {shown(text)}; expected {', '.join(AXES)} for each transition, which halve, or HW and "
            "THW with a scale such as HW 2/3"
        )
    if not scale or scale == AUTO_SCALE:
        return f"{name} {scale}".strip()
    return f"{name} {_parse_scale(scale)}"


def _parse_scale(text: str) -> Fraction:
    try:
        scale = Fraction(text if len(text) <= MAX_CHARACTERS and "e" not in text else "0").limit_denominator(64)
    except (ValueError, ZeroDivisionError):
        scale = Fraction(0)
    if not MIN_SCALE <= scale < 1:
        raise ValueError(
            f"a scale of height and width must be a number from {MIN_SCALE} to below 1, such as 2/3, or auto; got {shown(text)}"
        )
    return scale
