"""Train an arm from point to point, and read the attributes of its samples; everything resumes."""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path

from pyramid.training.data.cache_files import Cache
from pyramid.training.engine.atomic import write_text
from pyramid.training.run import run_finetuning
from tiny_wan.world.grammar import ATTRIBUTES
from tiny_wan.world.reading import read

from ..quality.rows import Row
from ..quality.sampling import ComfyUISampler
from .arms import FOLDER, METHODS, MODEL, POINTS, ROOT, Arm
from .words import PROMPTS, prompts, rotated, write_cache

BATCH = 16
NOISE_SEED = 1800
CLIPS = 512
"""Clips of the cache that the runs are trained on."""


def results_file(arm: Arm) -> Path:
    """Return where the results of an arm are kept."""
    return FOLDER / "results" / f"{arm.name}.json"


def fingerprint(arm: Arm) -> str:
    """Return a digest of what determines an arm's results."""
    settings = arm.config(steps=1).model_dump_json(exclude={"out", "data", "keep"})
    digest = hashlib.sha256(f"{settings} {POINTS} {CLIPS} {PROMPTS} {METHODS[arm.method].steps}".encode())
    digest.update((ROOT / MODEL).read_bytes())
    return digest.hexdigest()[:16]


def results_of(arm: Arm) -> dict[int, list[list[int]]]:
    """Return, by point, 1 for every attribute that is right and 0 for the others, ``(clips, 6)``; only finished points."""
    path = results_file(arm)
    if not path.is_file():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    return {int(point): rows for point, rows in values["points"].items()} if values["fingerprint"] == fingerprint(arm) else {}


def run_arm(arm: Arm, source: Path, *, deadline: float = math.inf) -> None:
    """Train to every point that is missing and measure there, until a time of ``time.monotonic``.

    Args:
        arm: The run.
        source: Folder of a cache of the tiny world.
        deadline: No point is started after it.
    """
    done = results_of(arm)
    if len(done) < len(POINTS):
        write_cache(Cache(source), arm.cache, arm.config(steps=1).pyramid.spec(), clips=CLIPS)
    for point in POINTS:
        if point in done or time.monotonic() > deadline:
            continue
        began = time.process_time()
        (file,) = run_finetuning(arm.config(steps=arm.steps_at(point)))
        trained = time.process_time() - began
        done[point] = sample(arm, file)
        write_text(results_file(arm), json.dumps({"fingerprint": fingerprint(arm), "points": done}))
        right = 100 * sum(row[ATTRIBUTES.index("colour")] for row in done[point]) / len(done[point])
        seconds = time.process_time() - began
        costs = f"{trained:.0f} + {seconds - trained:.0f} CPU seconds"
        print(f"{arm.name}: {right:.0f} % of colours right at {point}; {costs}", flush=True)


def sample(arm: Arm, file: Path) -> list[list[int]]:
    """Sample all prompts with the exported weights in ComfyUI, and read their attributes."""
    method, right = METHODS[arm.method], []
    row = Row(arm.name, "", method.steps, arm.config(steps=1).pyramid.spec(), model=str(file), grid="uniform")
    sampler = ComfyUISampler(row)
    for start in range(0, PROMPTS, BATCH):
        part = prompts(PROMPTS)[start : start + BATCH]
        conditioning = sampler.conditioning([rotated(caption) for caption in part], start)
        video = sampler.decode(sampler.sample(conditioning, seed=NOISE_SEED + start))
        for reading, caption in zip(read(video), part, strict=True):
            agrees = reading.agrees(caption)
            right.append([int(agrees[name]) for name in ATTRIBUTES])
    return right
