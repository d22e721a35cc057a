"""Every resize satisfies the laws of ``OrthonormalResize`` at all sizes and frame counts that occur."""

import numpy as np
import pytest
import torch

from pyramid.resize import AXES, RESIZES, make_resize, missing_band, project

SIZES = [(2, 4), (14, 26), (8, 6)]  # smaller than most filters, the low stage of 832x448, another ratio
FRAMES = [1, 3, 5, 21]


def draw(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", RESIZES)
def test_a_resize_is_orthonormal_and_keeps_constants(name, axes):
    resize = make_resize(name, axes)
    for frames in FRAMES:
        for height, width in SIZES:
            x = draw(2, 3, frames, height, width)
            y = resize.down(x)
            assert y.shape[2] == ((frames + 1) // 2 if "T" in axes else frames)
            assert y.shape[3:] == ((height // 2, width // 2) if "HW" in axes else (height, width))
            torch.testing.assert_close(resize.down(resize.up(y)), y, atol=1e-9, rtol=0)
            other = draw(2, 3, frames, height, width).flip(-1)
            symmetric = (project(x, resize) * other).sum() - (x * project(other, resize)).sum()
            assert abs(symmetric) < 1e-8
            torch.testing.assert_close(project(missing_band(x, resize), resize), torch.zeros_like(x), atol=1e-9, rtol=0)
            ones = torch.full_like(x, 1.7)
            torch.testing.assert_close(resize.down(ones), torch.full_like(y, 1.7), atol=1e-9, rtol=0)
            torch.testing.assert_close(project(ones, resize), ones, atol=1e-9, rtol=0)
            fine_per_coarse = torch.tensor(resize.fine_per_coarse(y.shape[2]), dtype=y.dtype)[:, None, None]
            torch.testing.assert_close((resize.up(y) ** 2).sum(), (fine_per_coarse * y**2).sum(), atol=0, rtol=1e-9)
            assert int(fine_per_coarse.sum()) * y.shape[3] * y.shape[4] == x[0, 0].numel()


def test_frame_zero_is_not_averaged_in_time():
    x = torch.arange(5.0).reshape(1, 1, 5, 1, 1).expand(1, 1, 5, 2, 2)
    assert make_resize("haar", "T").down(x)[0, 0, :, 0, 0].tolist() == [0.0, 1.5, 3.5]
    assert make_resize("db2", "THW").down(x).shape == (1, 1, 3, 1, 1)
    assert make_resize("haar", "THW").fine_per_coarse(3) == (4, 8, 8)


def test_wavelets_are_the_orthonormal_ones_of_pywavelets():
    pywt = pytest.importorskip("pywt")
    orthonormal, haar = set(), {"haar", "db1", "bior1.1", "rbio1.1"}
    for name in pywt.wavelist(kind="discrete"):
        filters = pywt.Wavelet(name).filter_bank
        low, same = np.array(filters[2]), np.allclose(filters[0][::-1], filters[2], atol=1e-12)
        lags = [np.dot(low[2 * m :], low[: len(low) - 2 * m]) - (m == 0) for m in range(len(low) // 2)]
        if same and np.abs(lags).max() < 1e-9:
            orthonormal.add(name)
    assert "dmey" not in orthonormal
    assert orthonormal - haar == set(RESIZES) - {"haar", "dct"}


@pytest.mark.parametrize("name", ["db2", "sym5", "coif3"])
def test_coefficients_equal_those_of_pywavelets(name):
    pywt = pytest.importorskip("pywt")
    line = draw(1, 1, 1, 1, 16)
    ours = make_resize(name, "HW").down(line.expand(1, 1, 1, 16, 16))[0, 0, 0, 0].numpy()
    theirs = pywt.dwt(np.roll(line.flatten().numpy(), 1), name, "periodization")[0] / np.sqrt(2)
    even = pywt.dwt(line.flatten().numpy(), name, "periodization")[0] / np.sqrt(2)
    rolled = [np.roll(c, k) for c in (theirs, even, theirs[::-1], even[::-1]) for k in range(8)]
    flipped = pywt.dwt(line.flatten().numpy()[::-1], name, "periodization")[0] / np.sqrt(2)
    flipped_odd = pywt.dwt(np.roll(line.flatten().numpy()[::-1], 1), name, "periodization")[0] / np.sqrt(2)
    rolled += [np.roll(c[::-1], k) for c in (flipped, flipped_odd) for k in range(8)]
    assert min(np.abs(ours - c).max() for c in rolled) < 1e-9


@pytest.mark.parametrize("name", RESIZES)
def test_a_coarse_image_is_not_shifted(name):
    """The centre of a centred blob stays within half a coarse sample."""
    i = torch.arange(64, dtype=torch.float64)
    blob = torch.exp(-(((i - 31.5) / 8) ** 2))
    coarse = make_resize(name, "HW").down((blob[:, None] * blob[None, :])[None, None, None])[0, 0, 0].sum(0)
    centre = (coarse * (2 * torch.arange(32) + 0.5)).sum() / coarse.sum()
    assert abs(float(centre) - 31.5) < 0.76


def test_a_wavelet_without_pywavelets_raises_a_clear_error(monkeypatch):
    import sys

    from pyramid import resize

    resize._low_band.cache_clear()
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(ValueError, match="'db2' needs the Python package PyWavelets.*'haar' and 'dct' work without it"):
        make_resize("db2", "HW").down(draw(1, 1, 1, 4, 4))
    for name in ("haar", "dct"):
        make_resize(name, "THW").down(draw(1, 1, 3, 4, 4))
