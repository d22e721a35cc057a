"""ComfyUI in the browser, with this pack and tiny models, random and trained.

Run: make serve    (or .venv/bin/python -m demo.serve [--port 8188] [any option of ComfyUI])
"""

from __future__ import annotations

import argparse
import os
import sys

import torch

from harness.server import command
from harness.workspace import default_workspace, prepare


def main() -> None:
    """Prepare the workspace and replace this process by ComfyUI."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8188)
    options, arguments = parser.parse_known_args()
    try:
        workspace = default_workspace()
    except FileNotFoundError as error:
        sys.exit(str(error))
    prepare(workspace)
    if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        arguments.append("--cpu")
    database = f"sqlite:///{workspace.base / 'user' / 'comfyui.db'}"
    line = command(workspace, port=options.port, database=database, arguments=("--preview-method", "auto", *arguments))
    print(f"models: {workspace.base / 'models'}")
    print(f"open:   http://127.0.0.1:{options.port}   (Ctrl-C stops it)", flush=True)
    os.chdir(workspace.comfyui)
    os.execv(line[0], line)


if __name__ == "__main__":
    main()
