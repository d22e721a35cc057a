"""Settings of the sampler node that belong together, chosen by one word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..pyramid.schedules import numbers_in, parse_steps
from ..pyramid.untrusted import shown
from .schedule import steps_text


@dataclass(frozen=True)
class Settings:
    """Values of the widgets that a quality sets.

    Attributes:
        steps: Steps per stage, or of the whole run.
        cfg: One cfg, or one per stage.
        grid: One of ``GRID_CHOICES``.
        shift: Flow shift; 0 for that of the model.
    """

    steps: str
    cfg: str
    grid: str = "auto"
    shift: float = 0.0


CUSTOM = "custom"
"""The choice that leaves the settings to the widgets."""

QUALITIES = {
    "draft": Settings("15", "6"),
    "balanced": Settings("30", "6"),
    "detail": Settings("50", "6"),
    "four-step LoRA": Settings("2-2", "1", shift=5.0),
}
"""Settings by quality. The levels of 4 steps with shift 5 are those that the step-distilled LoRAs of Wan were trained on."""

QUALITY_CHOICES = [*QUALITIES, CUSTOM]
DEFAULT = "balanced"


def settings_for(quality: str, widgets: Settings, number_of_stages: int | None = None) -> tuple[Settings, str]:
    """Return the settings that count, and a note about widgets that do not.

    Args:
        quality: One of ``QUALITY_CHOICES``.
        widgets: Values of the widgets. The front end writes those of the quality into them; graphs in the API format may hold
            others.
        number_of_stages: Stages of the pyramid; None where it is not known. Steps for another number of stages are split
            like a number of steps of the whole run.

    Raises:
        ValueError: The quality is unknown.
    """
    if quality == CUSTOM:
        return widgets, ""
    if quality not in QUALITIES:
        raise ValueError(f"unknown quality {shown(quality)}; expected {', '.join(QUALITY_CHOICES)}")
    chosen = QUALITIES[quality]
    given = asdict(widgets)
    ignored = [f"{name} {given[name]}" for name, value in asdict(chosen).items() if given[name] != value]
    parts = numbers_in(chosen.steps)
    if number_of_stages is not None and len(parts) not in (1, number_of_stages):
        total = str(sum(map(int, parts)))
        chosen = Settings(steps_text(parse_steps(total, number_of_stages)), chosen.cfg, chosen.grid, chosen.shift)
    note = f"quality '{quality}' replaces {', '.join(ignored)}; set it to '{CUSTOM}' to use the widgets" if ignored else ""
    return chosen, note


def settings_text(quality: str, settings: Settings, steps: Sequence[int], shift: float) -> str:
    """Return the settings that count, such as "balanced: steps 20-10 · cfg 6 · grid auto · shift 8".

    Args:
        quality: The quality that set them.
        settings: The settings.
        steps: Steps of each stage.
        shift: Flow shift of the run.
    """
    return f"{quality}: steps {steps_text(steps)} · cfg {settings.cfg.strip()} · grid {settings.grid} · shift {shift:g}"
