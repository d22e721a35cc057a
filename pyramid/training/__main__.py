"""Train pyramidal Wan models: cache a data set, finetune or distil, and export files for ComfyUI.

    python -m pyramid.training cache    runs/wan/1.3b_cache.toml
    python -m pyramid.training finetune runs/wan/1.3b_20-20-10.toml --dry-run
    accelerate launch --num_processes 2 -m pyramid.training finetune runs/wan/1.3b_20-20-10.toml
    python -m pyramid.training export   runs/wan/1.3b_20-20-10.toml
    python -m pyramid.training init-ppf models/wan2.1_t2v_1.3B_fp16.safetensors

The same command resumes an interrupted run. docs/training.md is the manual.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from ..untrusted import first_line
from .config.distill import DistillConfig
from .config.finetune import FinetuneConfig
from .config.run_file import load_run_config
from .config.toml_config import config_of, load_config, to_toml
from .engine.errors import StoppedError
from .files import printable

LESS_MEMORY = "use a smaller size or train.per_stage, a LoRA, gradient_checkpointing or more processes"

# The commands import what they need, so that --help and wrong settings do not wait for diffusers and transformers.


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit status: 2 after an error that the message explains, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal's encoding cannot show
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, StoppedError) as error:
        return _report(str(error))
    except OSError as error:
        problem = f"{error.filename or 'a file'} cannot be read or written: " if error.errno else ""
        return _report(f"{problem}{error.strerror or error}")
    except MemoryError:
        return _report(f"the memory is not sufficient; {LESS_MEMORY}")
    except RuntimeError as error:
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        return _report(f"the memory is not sufficient ({first_line(error)}); {LESS_MEMORY}")
    except KeyboardInterrupt:
        _report("stopped; the same command resumes")
        return 130
    return 0


def _report(text: str) -> int:
    print(f"pyramid.training: {printable(text)}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pyramid.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("cache", run_cache, "encode videos and captions into latents and text embeddings"),
        ("finetune", run_finetune, "finetune a plain Wan into a pyramidal one"),
        ("distill", run_distill, "distil a pyramidal Wan into a few-step student"),
        ("export", run_export, "export a run's weights to files for ComfyUI"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("config", metavar="CONFIG.toml", help="the run's configuration")
        command.add_argument(
            "--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override a setting; can be repeated"
        )
        command.set_defaults(run=run)
        if name in ("finetune", "distill"):
            command.add_argument(
                "--dry-run", action="store_true", help="print configuration, stages, TFLOPs and memory, and exit"
            )
        if name == "export":
            command.add_argument("--to", metavar="FILE", help="file to write (default: in export/ in the run's folder)")
            command.add_argument("--step", type=int, help="step of the checkpoint (default: the best one)")
            command.add_argument("--precision", default="bf16", help="bf16, fp16 or fp32 (default: %(default)s)")
    _add_init(commands)
    return parser


def _add_init(commands: argparse._SubParsersAction) -> None:
    text = "write a checkpoint for patches of several sizes, made from a plain Wan"
    command = commands.add_parser("init-ppf", help=text, description=text)
    command.add_argument("model", metavar="MODEL", help="a .safetensors file of a Wan transformer, or a diffusers folder")
    command.add_argument("--to", metavar="FILE", help="file to write (default: next to the model, with _ppf in its name)")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting of [pyramid], such as boundaries",
    )
    command.set_defaults(run=run_init)


def run_init(options: argparse.Namespace) -> None:
    """Run the command ``init-ppf``."""
    from .config.settings import Pyramid
    from .init_patches import write_initial_checkpoint

    pyramid = config_of(Pyramid, {"preset": "ppf"}, options.set, "--set")
    path = write_initial_checkpoint(options.model, pyramid.spec(), options.to)
    print(f"{path} ({path.stat().st_size / 2**20:.1f} MiB)")


def run_cache(options: argparse.Namespace) -> None:
    """Run the command ``cache``."""
    from .data.cache import CacheConfig, make_cache
    from .engine import parallel

    config = load_config(CacheConfig, options.config, options.set)
    make_cache(config, parallel.start(config.system), lambda text: print(text, flush=True))


def run_finetune(options: argparse.Namespace) -> None:
    """Run the command ``finetune``."""
    config = load_config(FinetuneConfig, options.config, options.set)
    if options.dry_run:
        from .estimate.dry_run import estimate_step

        print(to_toml(config))
        print(estimate_step(config).text(config.train.steps))
    else:
        from .run import run_finetuning

        run_finetuning(config)


def run_distill(options: argparse.Namespace) -> None:
    """Run the command ``distill``."""
    config = load_config(DistillConfig, options.config, options.set)
    if options.dry_run:
        from .estimate.dry_run import estimate_iteration

        print(to_toml(config))
        print(estimate_iteration(config).text(config.train.steps))
    else:
        from .run import run_distillation

        run_distillation(config)


def run_export(options: argparse.Namespace) -> None:
    """Run the command ``export``."""
    from .export import export

    config = load_run_config(options.config, options.set)
    for path in export(config, options.to, step=options.step, precision=options.precision):
        print(f"{path} ({Path(path).stat().st_size / 2**20:.1f} MiB)")


if __name__ == "__main__":
    sys.exit(main())
