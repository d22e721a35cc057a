"""Runs of a student that start from data at the noisy end of a stage."""

import torch

from benchmarks import student_stages
from pyramid.paths import clean_prediction, stage_path
from pyramid.training.config.distill import DistillConfig
from pyramid.training.config.toml_config import check_config, to_toml
from pyramid.training.engine import draws
from tiny_wan.training_files import distillation_settings


def test_a_run_starts_from_noise_or_from_data_at_the_noisy_end_of_a_stage(tmp_path):
    made = check_config(DistillConfig, distillation_settings(tmp_path, recipe="dmd-pt-star"), "test")
    path = tmp_path / "run.toml"
    path.write_text(to_toml(made))
    student, cache = student_stages.open_run(path, made.networks.student)
    items, last = [0, 2], student.stages[-1]
    noise = torch.stack([draws.white(cache.size(cache.stages - 1), student_stages.SEED, "start", item) for item in items])
    context = torch.stack([cache.text(item) for item in items])
    with torch.no_grad():
        whole = student.sample(noise, context, items)
        assert torch.equal(student_stages.sample(student, cache, items, 0), whole)

        clean, coarse = (
            torch.stack([cache.latent(item, stage) for item in items]).float()
            for stage in (-1 % cache.stages, cache.stages - 2)
        )
        level = torch.full((2,), student.levels[-1][0])
        x = stage_path(clean, last.from_coarser.up(coarse), noise, last, level).x
        velocity = student.velocity(x, last.at(level).conditioning, context, last)
        torch.testing.assert_close(
            student_stages.sample(student, cache, items, last.index),
            clean_prediction(x, velocity, last, level),
            atol=1e-5,
            rtol=1e-5,
        )
