"""Measurements of clips of the dead leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from safetensors.torch import load_file, save_file
from torch import Tensor

from pyramid.training.engine.atomic import atomic_file
from tiny_wan.leaves.grammar import ATTRIBUTES, Caption
from tiny_wan.leaves.reading import Scales, agrees, camera_movement, read
from tiny_wan.world.octaves import octave_energies, patch_moments
from tiny_wan.worlds import LEAVES

from . import results
from .rows import FRAMES, SIDE

SCALE_CLIPS, SCALE_SEED = 48, 31


def scales_of(processed: Callable[[Tensor], Tensor], name: str) -> Scales:
    """Return the distribution of energies by scale in rendered clips that were processed; it is kept beside the results.

    Args:
        processed: Takes rendered clips (B, 3, T, H, W), and returns them as they are compared, such as decoded ones.
        name: Name of the file.
    """
    path = results.FOLDER / f"scales-{name}.safetensors"
    if not path.exists():
        prompts = LEAVES.draw_captions(SCALE_CLIPS, seed=SCALE_SEED)
        scenes = [LEAVES.scene_for(caption, seed=SCALE_SEED + row) for row, caption in enumerate(prompts)]
        scales = Scales.of(processed(LEAVES.render(scenes, frames=FRAMES, height=SIDE, width=SIDE)), prompts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            save_file({"means": scales.means, "precision": scales.precision.contiguous()}, partial)
    return Scales(**load_file(path))


def measure(video: Tensor, prompts: Sequence[Caption], scales: Scales) -> dict[str, list]:
    """Measure clips (B, 3, T, H, W) in -1..1 of these prompts.

    Returns:
        right (B, 4), 1 for an attribute that agrees and 0 otherwise; octaves (B, 4); patches (B, 4, 152); camera (B, 3); and
        what `results.measure_any` returns.
    """
    right = [agrees(words, caption) for words, caption in zip(read(video, scales), prompts, strict=True)]
    return {
        "right": [[int(row[name]) for name in ATTRIBUTES] for row in right],
        "octaves": octave_energies(video).tolist(),
        "patches": patch_moments(video).tolist(),
        "camera": camera_movement(video).tolist(),
        **results.measure_any(video),
    }
