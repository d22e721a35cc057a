"""From the end of one stage to the start of the next, and from a clean prediction back to a noisy latent.

Between stages a latent is carried as a pair ``(signal, noise)`` that stands for ``(1 - sigma) * signal + sigma * noise``.
A stage that ends at ``sigma_c`` hands out ``x / (1 - sigma_c)`` as its signal: the factor ``alpha = (1 - sigma_n) /
(1 - sigma_c)`` of the transition is then nothing but adding noise again, and it is the host's own convention, too.
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
    """The next stage's start from this stage's end: upsample, and draw the band that the coarse stage cannot hold.

    signal: the coarse end, divided by the share of the signal there. noise: white, at the fine size; only its missing
    band is used. top_up: draws more white noise at the fine size, independent of the first; called only where the
    coarse stage carries less noise than the low band of the fine one wants (the first frame where it shares sigmas).
    Returns signal and noise of the fine stage.
    """
    # signal is (B, C, T, h, w), the coarse end over 1 - sigma_c. Source: PyramidalWan section A1; derived:
    #   start = alpha * up(x) + sigma_n * (z - up(down(z))),  sigma_n = T_n(sigma_c)
    # With white noise it has covariance sigma_n ** 2 times the identity about (1 - sigma_n) * up(signal). The top-up has a
    # low-band variance of sigma_n ** 2 - n * alpha ** 2 * sigma_c ** 2.
    fresh = missing_band(noise, resize)
    share = top_up_share(coarse, fine, resize).to(fresh)
    if torch.count_nonzero(share):
        if top_up is None:
            raise ValueError("this transition tops up the noise of frame 0 and needs a second draw for it")
        fresh = fresh + share * project(top_up().to(fresh), resize)
    return resize.up(signal), fresh


def top_up_share(coarse: NoiseLevel, fine: NoiseLevel, resize: OrthonormalResize) -> Tensor:
    """Coefficient of fresh low-band noise, per fine frame ``(T, 1, 1)``, in units of the fine sigma; mostly zeros.

    ValueError where the coarse stage carries more noise than the fine one can hold.
    """
    fine_per_coarse = coarse.sigma.new_tensor(resize.fine_per_coarse(coarse.sigma.shape[-3]))[:, None, None]
    odds = coarse.sigma / (1 - coarse.sigma)
    carried = _spread_frames(fine_per_coarse * odds**2, resize)
    wanted = (fine.sigma / (1 - fine.sigma)) ** 2
    share = 1 - carried / wanted
    if bool((share < -1e-3).any()):
        raise ValueError("the coarse stage ends with more noise than the fine stage starts with")
    return torch.where(share > 1e-5, share, torch.zeros_like(share)).sqrt()


def _spread_frames(per_frame: Tensor, resize: OrthonormalResize) -> Tensor:
    """A per-frame number ``(T, 1, 1)`` for the frames that each coarse frame becomes; constants stay constants."""
    return resize.up(per_frame[None, None].expand(-1, -1, -1, 2, 2))[0, 0, :, :1, :1]


def renoise(clean: Tensor, stage: Stage, natural: float | Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A clean prediction, noised again to a natural level *along the stage's path*.

    clean: ``(B, C, T, H, W)`` at the stage's size; noise: white, same shape. Returns (signal, noise) at ``stage.at``.
    On a pyramidal path the blurred signal is the low band of the prediction itself (method: few-step sampling with
    ``P * clean_hat``); on a natural path, and where the pyramid starts, it is the prediction.
    """
    if not stage.has_blur:
        return clean, noise
    blurred = stage.low_band(clean)
    clean_share, blurred_share = path_shares(stage, natural, like=clean)
    return (clean_share * clean + blurred_share * blurred) / (clean_share + blurred_share), noise


def path_shares(stage: Stage, natural: float | Tensor, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients of the clean and of the blurred signal on a pyramidal path, per frame; they add up to ``1 - sigma``."""
    # gamma_1 = (1 - rho) * (1 - sigma_c), gamma_2 = rho * (1 - sigma_n): PyramidalWan, equation of the forward process
    natural = torch.as_tensor(natural, dtype=like.dtype, device=like.device)
    rho = stage.rho(natural)
    rho = rho.reshape(-1, 1, 1, 1, 1) if rho.ndim else rho
    clean, noisy = stage.end_sigmas(natural)
    return (1 - rho) * (1 - clean), rho * (1 - noisy)
