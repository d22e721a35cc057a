"""Configurations: what is wrong is said in one sentence, and a resolved one reads back as itself."""

from pathlib import Path

import pytest

from pyramid.training.config.toml_config import check_config, load_config, read_tables, to_toml
from pyramid.training.data.cache import CacheConfig
from pyramid.training.recipes.distill import DistillConfig
from pyramid.training.recipes.finetune import FinetuneConfig

ROOT = Path(__file__).resolve().parents[2]
LEAST = {"out": "o", "model": {"transformer": "m"}, "data": {"cache": "c"}}


def wrong(**tables):
    with pytest.raises(ValueError) as caught:
        check_config(FinetuneConfig, {**LEAST, **tables}, "run.toml")
    return str(caught.value)


def test_an_unknown_setting_is_an_error_that_lists_the_known_ones():
    message = wrong(train={"stepz": 3})
    assert "there is no setting 'train.stepz' (did you mean 'steps'?)" in message
    assert "known here: steps, per_stage, accumulation, drop_prompt, levels, seed" in message


def test_an_unknown_table_is_an_error_that_lists_the_known_ones():
    assert "there is no setting 'trian' (did you mean 'train'?); known here: out, model, data" in wrong(trian={})


@pytest.mark.parametrize(
    "tables, said",
    [
        ({"train": {"steps": "many"}}, "'train.steps' is \"many\""),
        ({"train": {"steps": 2.5}}, "'train.steps' is 2.5"),
        ({"train": {"steps": 0}}, "greater than 0"),
        ({"train": {"drop_prompt": 1.5}}, "less than or equal to 1"),
        ({"optimizer": {"betas": [0.9]}}, "'optimizer.betas.1' is missing"),
        ({"adapter": {"kind": "lokr"}}, "'full' or 'lora'"),
        ({"pyramid": {"preset": "wan"}}, "preset 'wan' is none of pyramidal-wan"),
        ({"pyramid": {"boundaries": [0.3, 0.9]}}, "in running order that is 0.9, 0.3"),
        ({"pyramid": {"resize": "haarr"}}, "resize 'haarr'"),
        ({"video": {"height": 450}}, "the nearest that does is 832x448, 81 frames"),
        ({"video": {"frames": 80}}, "81 frames"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(tables, said):
    assert said in wrong(**tables)


def test_everything_that_is_wrong_is_said_at_once():
    message = wrong(train={"steps": 0}, adapter={"rank": 0})
    assert "train.steps" in message and "adapter.rank" in message


def test_a_missing_setting_is_named():
    with pytest.raises(ValueError, match="'model' is missing"):
        check_config(FinetuneConfig, {"out": "o", "data": {"cache": "c"}}, "run.toml")


def test_settings_from_the_command_line_win(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('out = "o"\nmodel.transformer = "m"\ndata.cache = "c"\n[train]\nsteps = 5\n')
    changes = ["train.steps=7", "out=elsewhere", "pyramid.boundaries=[0.9, 0.5]", "adapter.kind=lora", "losses.teacher=0"]
    config = load_config(FinetuneConfig, path, changes)
    assert (config.train.steps, config.out, config.pyramid.boundaries) == (7, "elsewhere", (0.9, 0.5))
    assert (config.adapter.kind, config.losses.teacher) == ("lora", 0.0)


@pytest.mark.parametrize("setting, said", [("train.steps", "--set takes"), ("out.x=3", "'out' is a value, not a table")])
def test_a_setting_that_is_none_is_refused(tmp_path, setting, said):
    path = tmp_path / "run.toml"
    path.write_text('out = "o"\n')
    with pytest.raises(ValueError, match=said):
        load_config(FinetuneConfig, path, [setting])


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no configuration file"):
        load_config(FinetuneConfig, tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("out = ")
    with pytest.raises(ValueError, match="is not TOML"):
        load_config(FinetuneConfig, tmp_path / "bad.toml")


def test_a_resolved_configuration_reads_back_as_itself(tmp_path):
    tables = {"pyramid": {"boundaries": [0.9, 0.5], "rope": "scaled"}, "losses": {"teacher_levels": []}}
    config = check_config(FinetuneConfig, {**LEAST, **tables, "train": {"seed": 3}}, "x")
    (tmp_path / "resolved.toml").write_text(to_toml(config))
    assert load_config(FinetuneConfig, tmp_path / "resolved.toml") == config


@pytest.mark.parametrize("kind", [FinetuneConfig, DistillConfig, CacheConfig])
def test_every_setting_is_explained(kind):
    for name, table in kind.model_fields.items():
        if hasattr(table.annotation, "model_fields"):
            assert table.annotation.__doc__, name
            for key, field in table.annotation.model_fields.items():
                assert field.description, f"{name}.{key}"
        else:
            assert table.description, name


@pytest.mark.parametrize("path", sorted((ROOT / "runs").rglob("*.toml")), ids=lambda path: path.name)
def test_the_shipped_runs_are_valid(path):
    distilling = DistillConfig if "networks" in read_tables(path) else FinetuneConfig
    config = load_config(CacheConfig if "encoders" in read_tables(path) else distilling, path)
    assert config.out and config.pyramid.spec().shapes(config.video.latent)
