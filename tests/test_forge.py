"""GitHub's workflows and issue templates: they parse, pin the major version of actions, and run commands that exist."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FORGE = ROOT / ".github"
FILES = sorted(FORGE.rglob("*.yml"))
JOBS = {
    f"{path.stem}/{name}": job
    for path in sorted((FORGE / "workflows").glob("*.yml"))
    for name, job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].items()
}
each_job = pytest.mark.parametrize("job", JOBS.values(), ids=JOBS.keys())


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_parse_and_have_no_tabs(path):
    assert isinstance(load(path), dict) and "\t" not in path.read_text(encoding="utf-8")


@each_job
def test_jobs_have_a_runner_and_pinned_actions(job):
    assert job["runs-on"] == "ubuntu-latest" and job["steps"]
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
        assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"]), step


@each_job
def test_commands_are_targets_of_the_makefile(job):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for step in job["steps"]:
        assert set(re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))) <= set(targets)


def test_every_push_is_linted_and_tested():
    workflow = load(FORGE / "workflows" / "test.yml")
    assert {"push", "pull_request"} <= workflow[True].keys()  # YAML 1.1 reads the word "on" as true
    assert [step["run"] for step in JOBS["test/test"]["steps"] if "run" in step][-2:] == ["make lint", "make test"]
    assert JOBS["test/newest-comfyui"]["steps"][-1]["env"].keys() == {"COMFYUI_DIR"}


def test_a_new_version_is_published_with_the_registrys_token():
    workflow = load(FORGE / "workflows" / "publish.yml")
    assert workflow[True]["push"] == {"branches": ["main"], "paths": ["pyproject.toml"]}
    publish = JOBS["publish/publish"]
    assert publish["needs"] == "version" and publish["if"] == "needs.version.outputs.new == 'true'"
    assert publish["steps"][-1] == {
        "uses": "Comfy-Org/publish-node-action@v1",
        "with": {"personal_access_token": "${{ secrets.REGISTRY_ACCESS_TOKEN }}"},
    }
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert len(re.findall(r'^version = "(\d+\.\d+\.\d+)"$', project, re.MULTILINE)) == 1, "read by a line of publish.yml"
