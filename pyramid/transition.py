"""Transitions from the end of one stage to the start of the next, and from a clean prediction back to a noisy latent.

Between stages a latent is a pair ``(signal, noise)`` that stands for ``(1 - sigma) * signal + sigma * noise``. The output of a
stage that ends at ``sigma_c`` is the signal ``x / (1 - sigma_c)``. The factor ``alpha = (1 - sigma_n) / (1 - sigma_c)`` of the
transition then results from adding noise, and ComfyUI uses the same convention.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .noise_levels import NoiseLevel
from .resize import OrthonormalResize, missing_band, project
from .stages import Stage


def transition(
    signal: Tensor,
    coarse: NoiseLevel,
    fine: NoiseLevel,
    resize: OrthonormalResize,
    noise: Tensor,
    top_up: Callable[[], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the signal and noise at the start of the fine stage: upsample, and add the band the coarse stage cannot hold.

    ``start = alpha * up(x) + sigma_n * (z - up(down(z)))`` with ``sigma_n = T_n(sigma_c)`` (PyramidalWan, section A1; closed
    form derived). For white noise z its covariance is ``sigma_n**2`` times the identity around ``(1 - sigma_n) * up(signal)``.
    Where frame 0 shares the sigmas of the other frames, its low band carries too little noise; the top-up adds the missing
    variance ``sigma_n**2 - n * alpha**2 * sigma_c**2``.

    Args:
        signal: Output of the coarse stage, ``x / (1 - sigma_c)``, ``(B, C, T, h, w)``.
        coarse: Noise level at the coarse stage's clean end.
        fine: Noise level at the fine stage's noisy end.
        resize: Resize between the two stages.
        noise: White noise at the fine size; only its missing band is used.
        top_up: Draws independent white noise at the fine size; called only where the top-up is not zero.

    Raises:
        ValueError: A top-up is required and ``top_up`` is None, or the coarse stage ends with too much noise.
    """
    fresh = missing_band(noise, resize)
    share = top_up_share(coarse, fine, resize).to(fresh)
    if torch.count_nonzero(share):
        if top_up is None:
            raise ValueError("this transition tops up the noise of frame 0; pass top_up to draw the extra frame-0 noise")
        fresh = fresh + share * project(top_up().to(fresh), resize)
    return resize.up(signal), fresh


def top_up_share(coarse: NoiseLevel, fine: NoiseLevel, resize: OrthonormalResize) -> Tensor:
    """Return the coefficient of fresh low-band noise per fine frame, ``(T, 1, 1)``, in units of the fine sigma.

    Raises:
        ValueError: The coarse stage carries more noise than the fine one can hold.
    """
    fine_per_coarse = coarse.sigma.new_tensor(resize.fine_per_coarse(coarse.sigma.shape[-3]))[:, None, None]
    odds = coarse.sigma / (1 - coarse.sigma)
    carried = _spread_frames(fine_per_coarse * odds**2, resize)
    required = (fine.sigma / (1 - fine.sigma)) ** 2
    share = 1 - carried / required
    if bool((share < -1e-3).any()):
        raise ValueError("the coarse stage ends with more noise than the fine stage starts with")
    return torch.where(share > 1e-5, share, torch.zeros_like(share)).sqrt()


def _spread_frames(per_frame: Tensor, resize: OrthonormalResize) -> Tensor:
    """Return a per-frame value ``(T, 1, 1)`` for the fine frames that each coarse frame becomes."""
    return resize.up_frames(per_frame[None, None])[0, 0]


def renoise(clean: Tensor, stage: Stage, natural: float | Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the signal and noise that take a clean prediction back to a natural level along the stage's path.

    On a pyramidal path the blurred signal is the low band ``P clean_hat`` of the prediction. On a natural path, and in the
    first stage, it is the prediction.

    Args:
        clean: Clean prediction ``(B, C, T, H, W)`` at the stage's size.
        stage: The stage.
        natural: Natural level, ``()`` or ``(B,)``.
        noise: White noise of the same shape.
    """
    if not stage.has_blur:
        return clean, noise
    blurred = stage.low_band(clean)
    clean_share, blurred_share = path_shares(stage, natural, like=clean)
    return (clean_share * clean + blurred_share * blurred) / (clean_share + blurred_share), noise


def path_shares(stage: Stage, natural: float | Tensor, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coefficients of the clean and of the blurred signal on a pyramidal path, per frame.

    ``(1 - rho) * (1 - sigma_c)`` and ``rho * (1 - sigma_n)`` (PyramidalWan, forward process); they add up to ``1 - sigma``.

    Args:
        stage: The stage.
        natural: Natural level, ``()`` or ``(B,)``.
        like: Tensor that gives dtype and device.
    """
    natural = torch.as_tensor(natural, dtype=like.dtype, device=like.device)
    rho = stage.rho(natural)
    rho = rho.reshape(-1, 1, 1, 1, 1) if rho.ndim else rho
    clean, noisy = stage.end_sigmas(natural)
    return (1 - rho) * (1 - clean), rho * (1 - noisy)
