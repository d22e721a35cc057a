"""Convert between what a network predicts (flow, epsilon or v) and the velocity that paths and samplers of the pyramid use.

A variance-preserving network sees ``gamma * clean + sigma_vp * noise`` with ``gamma**2 + sigma_vp**2 = 1``. That is ``x / r``
with ``r = sqrt((1 - sigma)**2 + sigma**2)`` for the ``x`` of ``pyramid.paths`` at the sigma with the same odds
``sigma / (1 - sigma) = sigma_vp / gamma``. The stages of TPDiff (arXiv 2503.09566) for epsilon models are then those of
``stage_path``, its targets are affine in the velocity, and a step of DDIM is a step of ``solvers.euler`` (derived).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, Protocol

import torch
from torch import Tensor

from .stages import CLOSEST, FORM_KEY, Stage
from .untrusted import read_json_object, shown

FORMS = ("flow", "epsilon", "v")

TIMESTEPS = 1000
"""Timesteps for a conditioning of 1."""


class Form(Protocol):
    """The units of a network's input and output. Sigmas broadcast over latents ``(B, C, T, H, W)``, one per frame."""

    @property
    def name(self) -> str:
        """Return one of ``FORMS``."""
        ...

    @property
    def highest(self) -> float:
        """Return the highest noise level that the network can be conditioned on; 1 is pure noise."""
        ...

    def network_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return what the network sees of ``x``."""
        ...

    def conditioning(self, level: Tensor) -> Tensor:
        """Return the network's timestep over ``TIMESTEPS`` for a noise level in [0, 1]."""
        ...

    def scale(self, sigma: Tensor) -> Tensor:
        """Return d output / d velocity, which converts an error of the velocity into one of the output."""
        ...

    def output(self, velocity: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the output that stands for a velocity; that of the path's velocity is the regression target."""
        ...

    def velocity(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Return ``d x / d sigma``; the inverse of ``output``."""
        ...


@dataclass(frozen=True)
class Flow:
    """The form of Wan and of this package: the network predicts ``d x / d sigma``."""

    name: str = "flow"
    highest: float = 1.0

    def network_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return ``x``."""
        return x

    def conditioning(self, level: Tensor) -> Tensor:
        """Return the level."""
        return level

    def scale(self, sigma: Tensor) -> Tensor:
        """Return 1."""
        return torch.ones_like(sigma)

    def output(self, velocity: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the velocity."""
        return velocity

    def velocity(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the output."""
        return output


FLOW = Flow()


@dataclass(frozen=True)
class NoiseTable:
    """The noise schedule of a variance-preserving model.

    Attributes:
        schedule: "linear" for evenly spaced betas, "scaled-linear" for evenly spaced roots of betas.
        first: Beta of the first timestep.
        last: Beta of the last timestep.
        zero_snr: Whether the table is rescaled to end in pure noise (arXiv 2305.08891, algorithm 1).
    """

    schedule: Literal["linear", "scaled-linear"]
    first: float
    last: float
    zero_snr: bool = False

    def __post_init__(self) -> None:
        """Check the fields, which can come from a file."""
        betas = self.first, self.last
        numbers = all(isinstance(beta, float) for beta in betas) and 0 < self.first < self.last < 1
        if self.schedule not in ("linear", "scaled-linear") or not numbers or not isinstance(self.zero_snr, bool):
            values = ", ".join(map(shown, (self.schedule, *betas, self.zero_snr)))
            raise ValueError(
                "a noise table needs schedule 'linear' or 'scaled-linear', betas that rise between 0 and 1, and whether it "
                f"ends in pure noise; got {values}"
            )

    def alphas_cumprod(self) -> tuple[float, ...]:
        """Return ``gamma**2`` of every timestep, falling."""
        power = 2 if self.schedule == "scaled-linear" else 1
        first, last = self.first ** (1 / power), self.last ** (1 / power)
        betas = [(first + (last - first) * step / (TIMESTEPS - 1)) ** power for step in range(TIMESTEPS)]
        alphas = list(accumulate((1 - beta for beta in betas), lambda product, alpha: product * alpha))
        if not self.zero_snr:
            return tuple(alphas)
        start, end = math.sqrt(alphas[0]), math.sqrt(alphas[-1])
        return tuple(((math.sqrt(alpha) - end) * start / (start - end)) ** 2 for alpha in alphas)

    def sigmas(self) -> tuple[float, ...]:
        """Return the sigma with the odds ``sigma_vp / gamma`` of every timestep, rising."""
        pairs = [(math.sqrt(alpha), math.sqrt(1 - alpha)) for alpha in self.alphas_cumprod()]
        return tuple(noise / (signal + noise) for signal, noise in pairs)


TABLES = {
    "stable-diffusion": NoiseTable("scaled-linear", 0.00085, 0.012),  # also ModelScope's text-to-video
    "animatediff": NoiseTable("linear", 0.00085, 0.012),
    "ddpm": NoiseTable("linear", 0.0001, 0.02),
    "zero-snr": NoiseTable("scaled-linear", 0.00085, 0.012, zero_snr=True),
}


@dataclass(frozen=True)
class Ddim:
    """A variance-preserving form: epsilon, or ``v = gamma * epsilon - sigma_vp * clean``.

    On a pyramidal path epsilon is the slope ``d(x / gamma) / d(sigma_vp / gamma)`` (TPDiff), and v follows from it and ``x``.
    In terms of the velocity they are ``x + (1 - sigma) * velocity`` and ``(1 - 2 * sigma) / r * x + r * velocity`` (derived).

    Attributes:
        name: What the network predicts.
        table: Its noise schedule.
    """

    name: Literal["epsilon", "v"]
    table: NoiseTable

    @functools.cached_property
    def sigmas(self) -> tuple[float, ...]:
        """Return ``table.sigmas()``."""
        return self.table.sigmas()

    @property
    def highest(self) -> float:
        """Return the sigma of the last timestep."""
        return self.sigmas[-1]

    def network_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return ``x / r``."""
        return x / _radius(sigma)

    def conditioning(self, level: Tensor) -> Tensor:
        """Return the timestep, interpolated in the logarithm of the odds and kept within the table, over ``TIMESTEPS``."""
        knots = _log_odds(torch.tensor(self.sigmas, dtype=level.dtype, device=level.device))
        odds = _log_odds(level).clamp(knots[0], knots[-1])
        after = torch.searchsorted(knots, odds).clamp(1, len(knots) - 1)
        share = (odds - knots[after - 1]) / (knots[after] - knots[after - 1])
        return (after - 1 + share) / TIMESTEPS

    def scale(self, sigma: Tensor) -> Tensor:
        """Return ``1 - sigma`` for epsilon and r for v."""
        return 1 - sigma if self.name == "epsilon" else _radius(sigma)

    def output(self, velocity: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Return epsilon or v."""
        return self.scale(sigma) * velocity + self._share_of_x(sigma) * x

    def velocity(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Return ``d x / d sigma``; epsilon does not determine it at sigma 1."""
        return (output - self._share_of_x(sigma) * x) / self.scale(sigma)

    def _share_of_x(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma) if self.name == "epsilon" else (1 - 2 * sigma) / _radius(sigma)


def make_form(name: str, table: NoiseTable | None = None) -> Form:
    """Return a form.

    Args:
        name: One of ``FORMS``.
        table: Noise schedule of an epsilon or v model; None for flow.

    Raises:
        ValueError: The name is unknown, or the form and the table exclude each other.
    """
    if name not in FORMS:
        raise ValueError(f"unknown form {shown(name)}; expected {', '.join(FORMS)}")
    if name == "flow":
        if table is not None:
            raise ValueError("form 'flow' has no noise table; leave it out, or use form 'epsilon' or 'v'")
        return FLOW
    if table is None:
        raise ValueError(f"form '{name}' requires a noise table; expected {', '.join(TABLES)}")
    form = Ddim("epsilon" if name == "epsilon" else "v", table)
    if form.name == "epsilon" and form.highest == 1:
        raise ValueError("form 'epsilon' requires a table that ends below pure noise, where it determines no video; use 'v'")
    return form


def named_form(name: str, table: str | None) -> Form:
    """Return a form with one of ``TABLES``, or with none.

    Raises:
        ValueError: A name is unknown, or the form and the table exclude each other.
    """
    if table is not None and table not in TABLES:
        raise ValueError(f"unknown noise table {shown(table)}; expected {', '.join(TABLES)}")
    return make_form(name, None if table is None else TABLES[table])


def form_to_metadata(form: Form) -> dict[str, str]:
    """Return the entry for the header of a safetensors file."""
    table = {"table": dataclasses.asdict(form.table)} if isinstance(form, Ddim) else {}
    return {FORM_KEY: json.dumps({"form": form.name, **table})}


def form_from_metadata(metadata: Mapping[str, str] | None) -> Form:
    """Return the form in the header of a safetensors file, or Wan's if the header has none.

    Raises:
        ValueError: The entry is not a form.
    """
    if not metadata or FORM_KEY not in metadata:
        return FLOW
    values = read_json_object(metadata[FORM_KEY], "the form of the network")
    table = values.get("table")
    try:
        return make_form(values.get("form", ""), None if table is None else NoiseTable(**table))
    except TypeError:
        raise ValueError(f"the noise table of the network is {shown(table)}; expected a schedule and two betas") from None


def starting_rho(stage: Stage, form: Form) -> float:
    """Return the local time at which a stage starts: 1, except in the first stage if the form's table ends below pure noise.

    There the run starts where the network is conditioned on the table's last timestep.

    Raises:
        ValueError: The first stage ends above that level.
    """
    if stage.from_coarser is not None or form.highest == 1:
        return 1.0
    clean, noisy = stage.clean.conditioning, stage.noisy.conditioning
    rho = stage.rho(form.highest) if stage.timestep_source == "natural" else (form.highest - clean) / (noisy - clean)
    if rho <= 0:
        raise ValueError(
            f"the first stage ends at noise level {clean:.4g}, but the form's table has no level above {form.highest:.4g}; "
            "use smaller boundaries"
        )
    return rho


def starting_levels(levels: Sequence[float], stage: Stage, form: Form) -> tuple[float, ...]:
    """Return the natural levels of a stage's steps, moved to where it starts by ``starting_rho``, with the same end."""
    top = starting_rho(stage, form)
    return tuple(levels) if top == 1 else tuple(stage.natural_at(top * stage.rho(level)) for level in levels)


def starting_signal(noise: Tensor, sigma: Tensor) -> Tensor:
    """Return the initial signal of a run, for which a variance-preserving network sees ``noise`` alone.

    That is what samplers of such models start from. At sigma 1 it is 0.

    Args:
        noise: White noise of the first stage, ``(B, C, T, H, W)``.
        sigma: Sigmas at the start, which broadcast over it.
    """
    return noise * (1 - sigma) / (_radius(sigma) + sigma)


def _radius(sigma: Tensor) -> Tensor:
    """Return ``r = sqrt((1 - sigma)**2 + sigma**2)``, the standard deviation of the path for data and noise of variance 1."""
    return ((1 - sigma) ** 2 + sigma**2).sqrt()


def _log_odds(level: Tensor) -> Tensor:
    return torch.logit(level, eps=CLOSEST)
