"""Fixtures of all tests, and the real ComfyUI on the path before the pack: its ``nodes.py`` takes precedence over ours."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ONE_WORKER = ("tests/browser/", "tests/templates/", "tests/samplers/test_lift.py", "::test_two_processes_")
"""Tests that share a ComfyUI, a browser, a fitted lift or a forked process: each group runs in one worker, and starts first."""

sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]


def pytest_configure(config: pytest.Config) -> None:
    from harness.in_process import use_comfyui

    try:
        use_comfyui()
    except FileNotFoundError as error:
        raise pytest.UsageError(str(error)) from None
    import torch

    torch.set_num_threads(int(os.environ.get("PYRAMID_TEST_THREADS", "1")))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Start one worker more than there are cores: tests wait for servers and browsers, but each worker loads ComfyUI first."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Assign each group of ``ONE_WORKER`` to one worker, and other tests to any free one."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid) or nodeid

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the groups of ``ONE_WORKER`` first, so that no worker is left with one at the end."""
    items.sort(key=lambda item: group_of(item.nodeid) is None)


def group_of(nodeid: str) -> str | None:
    """Return the group of ``ONE_WORKER`` that a test belongs to, or None."""
    return next((group for group in ONE_WORKER if group in nodeid), None)


@pytest.fixture(scope="session")
def t2v_model():
    """Load a tiny random Wan text-to-video MODEL in the real ComfyUI."""
    import comfy.sd

    from tiny_wan.checkpoints import t2v_state_dict

    return comfy.sd.load_diffusion_model_state_dict(t2v_state_dict())


@pytest.fixture(scope="session")
def i2v_model():
    """Load a tiny random Wan image-to-video MODEL in the real ComfyUI."""
    import comfy.sd

    from tiny_wan.checkpoints import i2v_state_dict

    return comfy.sd.load_diffusion_model_state_dict(i2v_state_dict())


@pytest.fixture(autouse=True, scope="session")
def no_times_of_earlier_runs(tmp_path_factory):
    """Keep the times of runs, which samplers and 'Pyramidal Cost Estimate' show, in a folder of these tests."""
    import folder_paths

    folder_paths.set_user_directory(str(tmp_path_factory.mktemp("user")))


@pytest.fixture(autouse=True)
def no_kept_lifts(monkeypatch):
    """Hide the lifts in ComfyUI's models folder, which samplers would use."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "pyramidal_lifts", ([], set()))


@pytest.fixture(autouse=True)
def no_dead_models():
    """Forget models that a failed run left in a cycle: while one is listed, ComfyUI collects garbage before every run."""
    import comfy.model_management as management

    yield
    management.current_loaded_models[:] = [loaded for loaded in management.current_loaded_models if not loaded.is_dead()]


@pytest.fixture(autouse=True)
def as_comfyui_runs_nodes():
    """Run every test without gradients, as ComfyUI runs nodes, and without progress bars in the log."""
    import comfy.utils
    import torch

    comfy.utils.PROGRESS_BAR_ENABLED = False
    with torch.no_grad():
        yield
