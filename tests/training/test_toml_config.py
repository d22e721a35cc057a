"""Configurations: errors name the setting and what is allowed, and a resolved configuration loads back unchanged."""

from pathlib import Path
from typing import get_args

import pytest

from pyramid.training.config.distill import RECIPES, DistillConfig
from pyramid.training.config.finetune import FinetuneConfig
from pyramid.training.config.run_file import load_run_config
from pyramid.training.config.toml_config import check_config, load_config, read_tables, to_toml
from pyramid.training.data.cache import CacheConfig

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = {"out": "o", "model": {"transformer": "m"}, "data": {"cache": "c"}}


def error_message(**tables):
    with pytest.raises(ValueError) as caught:
        check_config(FinetuneConfig, {**REQUIRED, **tables}, "run.toml")
    return str(caught.value)


def test_an_unknown_setting_is_an_error_that_lists_the_known_ones():
    message = error_message(train={"stepz": 3})
    assert "unknown setting 'train.stepz' (did you mean 'steps'?)" in message
    assert "expected steps, per_stage, accumulation, seed, drop_prompt, levels" in message


def test_an_unknown_table_is_an_error_that_lists_the_known_ones():
    assert "unknown setting 'trian' (did you mean 'train'?); expected out, data, pyramid, video, train" in error_message(
        trian={}
    )


@pytest.mark.parametrize(
    "tables, message",
    [
        ({"train": {"steps": "many"}}, "'train.steps' is \"many\""),
        ({"train": {"steps": 2.5}}, "'train.steps' is 2.5"),
        ({"train": {"steps": 0}}, "greater than 0"),
        ({"train": {"drop_prompt": 1.5}}, "less than or equal to 1"),
        ({"optimizer": {"betas": [0.9]}}, "'optimizer.betas.1' is required"),
        ({"adapter": {"kind": "lokr"}}, "'full' or 'lora'"),
        ({"pyramid": {"preset": "wan"}}, "unknown preset 'wan'; expected pyramidal-wan, pyramidal-flow"),
        ({"pyramid": {"boundaries": [0.3, 0.9]}}, "in running order that is 0.9, 0.3"),
        ({"pyramid": {"resize": "haarr"}}, "unknown resize 'haarr'; expected haar, dct"),
        ({"video": {"height": 450}}, "the nearest is 832x448, 81 frames"),
        ({"video": {"frames": 80}}, "81 frames"),
        ({"video": {"height": 456}}, "cannot be halved"),
        ({"video": {"width": 10**9}}, "'video.width' is 1000000000: input should be less than or equal to 8192"),
        (
            {"optimizer": {"learning_rate": 1e25}},
            "'optimizer.learning_rate' is 1e+25: input should be less than or equal to 0.1",
        ),
        (
            {"optimizer": {"learning_rate": float("inf")}},
            "'optimizer.learning_rate' is Infinity: input should be a finite number",
        ),
        ({"optimizer": {"weight_decay": float("nan")}}, "'optimizer.weight_decay' is NaN: input should be a finite number"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "'optimizer.betas.1' is 1.0: input should be less than 1"),
        ({"optimizer": {"ema": 1.0}}, "'optimizer.ema' is 1.0: input should be less than 1"),
        ({"adapter": {"rank": 10**6}}, "'adapter.rank' is 1000000: input should be less than or equal to 4096"),
        ({"adapter": {"targets": []}}, "'adapter.targets' is []"),
        ({"data": {"cache": ""}}, "'data.cache' is \"\": a path must not be empty"),
        ({"data": {"cache": "c", "workers": 10**6}}, "'data.workers' is 1000000: input should be less than or equal to 256"),
        ({"data": {"cache": "a\0b"}}, "a path must not hold control characters or line breaks"),
        ({"validation": {"steps": "20-20"}}, "validation.steps: steps '20-20' has 2 numbers, but the pyramid has 3 stages"),
        ({"validation": {"steps": "9999999-1-1"}}, "validation.steps: steps '9999999-1-1' are more than 10000 in all"),
        ({"train": {"steps": 10**12}}, "'train.steps' is 1000000000000: input should be less than or equal to 10000000"),
        ({"train": {"seed": 2**64}}, "'train.seed'"),
        ({"model": {"transformer": "m", "size": "7B"}}, "'model.size' is \"7B\": expected 1.3B or 14B"),
        (
            {"losses": {"teacher_levels": [99]}},
            "losses.teacher_levels is [99]; expected different numbers from 0 (full size) to 2",
        ),
        ({"losses": {"teacher_levels": [-1]}}, "losses.teacher_levels is [-1]; expected different numbers"),
        ({"losses": {"teacher_levels": [1, 1]}}, "losses.teacher_levels is [1, 1]; expected different numbers"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(tables, message):
    assert message in error_message(**tables)


def test_all_wrong_values_are_listed():
    message = error_message(train={"steps": 0}, adapter={"rank": 0})
    assert "train.steps" in message and "adapter.rank" in message


def test_a_missing_setting_is_named():
    with pytest.raises(ValueError, match="'model' is required"):
        check_config(FinetuneConfig, {"out": "o", "data": {"cache": "c"}}, "run.toml")


def test_settings_from_the_command_line_override_the_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('out = "o"\nmodel.transformer = "m"\ndata.cache = "c"\n[train]\nsteps = 5\n')
    changes = ["train.steps=7", "out=elsewhere", "pyramid.boundaries=[0.9, 0.5]", "adapter.kind=lora", "losses.teacher=0"]
    config = load_config(FinetuneConfig, path, changes)
    assert (config.train.steps, config.out, config.pyramid.boundaries) == (7, "elsewhere", (0.9, 0.5))
    assert (config.adapter.kind, config.losses.teacher) == ("lora", 0.0)


def test_the_steps_of_one_stage_may_be_written_as_a_number(tmp_path):
    """A message about them says "for example 10", which TOML reads as a number."""
    path = tmp_path / "run.toml"
    path.write_text('out = "o"\nmodel.transformer = "m"\ndata.cache = "c"\npyramid.preset = "plain"\n')
    config = load_config(FinetuneConfig, path, ["validation.steps=10"])
    assert config.validation.steps == "10" and 'steps = "10"' in to_toml(config)
    with pytest.raises(ValueError, match="'validation.steps' is 2.5"):
        load_config(FinetuneConfig, path, ["validation.steps=2.5"])


def test_a_block_of_the_teacher_is_tapped_once():
    tables = {
        "out": "o",
        "networks": {"student": "s", "teacher": "t"},
        "data": {"cache": "c"},
        "discriminator": {"taps": [1, 1]},
    }
    with pytest.raises(ValueError, match=r"'discriminator.taps' is \[1, 1\]: each block may be used once"):
        check_config(DistillConfig, tables, "x")


@pytest.mark.parametrize(
    "setting, message",
    [
        ("train.steps", "--set expects table.key=value"),
        ("out.x=3", "'out' is a value, not a table"),
        ("train.steps=" + "9" * 5000, "^--set train.steps=9+...: holds a number of too many digits$"),
    ],
)
def test_a_malformed_setting_on_the_command_line_is_an_error(tmp_path, setting, message):
    path = tmp_path / "run.toml"
    path.write_text('out = "o"\n')
    with pytest.raises(ValueError, match=message):
        load_config(FinetuneConfig, path, [setting])


def test_a_missing_file_and_invalid_toml_are_errors(tmp_path):
    with pytest.raises(ValueError, match="no configuration file"):
        load_config(FinetuneConfig, tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("out = ")
    with pytest.raises(ValueError, match="is not valid TOML"):
        load_config(FinetuneConfig, tmp_path / "bad.toml")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_file_in_another_encoding_with_a_mark_is_read(tmp_path, encoding):
    (tmp_path / "run.toml").write_bytes('out = "café"'.encode(encoding))
    assert read_tables(tmp_path / "run.toml") == {"out": "café"}


@pytest.mark.parametrize(
    "contents, message",
    [
        ('out = "café"'.encode("latin-1"), "is not text in UTF-8: byte 10 cannot be decoded; save it as UTF-8"),
        (b"x = 2026-01-01", "holds a date or time, which no setting is; put it in quotation marks"),
        (b"x = " + b"[" * 5000, "is nested too deeply"),
        (b"x = " + b"9" * 5000, "cannot be read as a configuration: holds a number of too many digits$"),
        (b"#" * 2**21, "cannot be read as a configuration: is larger than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_configuration_is_an_error_in_words(tmp_path, contents, message):
    (tmp_path / "run.toml").write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        read_tables(tmp_path / "run.toml")


@pytest.mark.parametrize("path, message", [("/dev/zero", "not a file but a pipe, socket or device"), ("/", "is a folder")])
def test_devices_and_folders_are_not_read(path, message):
    with pytest.raises(ValueError, match=f"{path} cannot be read as a configuration: .*{message}"):
        read_tables(path)


def test_a_resolved_configuration_loads_back_unchanged(tmp_path):
    tables = {"pyramid": {"boundaries": [0.9, 0.5], "rope": "scaled"}, "losses": {"teacher_levels": []}}
    config = check_config(FinetuneConfig, {**REQUIRED, **tables, "train": {"seed": 3}}, "x")
    (tmp_path / "resolved.toml").write_text(to_toml(config))
    assert load_config(FinetuneConfig, tmp_path / "resolved.toml") == config


@pytest.mark.parametrize("kind", [FinetuneConfig, DistillConfig, CacheConfig])
def test_every_setting_has_a_description(kind):
    for name, table in kind.model_fields.items():
        if hasattr(table.annotation, "model_fields"):
            assert table.annotation.__doc__, name
            for key, field in table.annotation.model_fields.items():
                assert field.description, f"{name}.{key}"
        else:
            assert table.description, name


@pytest.mark.parametrize("path", sorted((ROOT / "runs").rglob("*.toml")), ids=lambda path: path.name)
def test_the_shipped_runs_are_valid(path):
    config = load_config(CacheConfig, path) if "encoders" in read_tables(path) else load_run_config(path)
    assert config.out and config.pyramid.spec().shapes(config.video.latent)


def test_every_recipe_has_traits():
    assert list(get_args(DistillConfig.model_fields["recipe"].annotation)) == list(RECIPES)


def test_the_kind_of_a_run_follows_from_its_tables(tmp_path):
    networks = {"student": "s", "teacher": "t"}
    finetune = check_config(FinetuneConfig, REQUIRED, "x")
    distill = check_config(DistillConfig, {"out": "o", "networks": networks, "data": {"cache": "c"}}, "x")
    for config in (finetune, distill):
        (tmp_path / "run.toml").write_text(to_toml(config))
        assert load_run_config(tmp_path / "run.toml") == config
    assert (finetune.base_checkpoint, distill.base_checkpoint) == ("m", "s")
    assert (finetune.exported_network, distill.exported_network) == ("network", "student")
