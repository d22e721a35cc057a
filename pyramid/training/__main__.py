"""Makes pyramidal Wan models: caches a data set, finetunes, and exports files that ComfyUI loads.

    python -m pyramid.training cache    runs/wan/1.3b_cache.toml
    python -m pyramid.training finetune runs/wan/1.3b_20-20-10.toml --dry-run
    accelerate launch --num_processes 2 -m pyramid.training finetune runs/wan/1.3b_20-20-10.toml
    python -m pyramid.training export   runs/wan/1.3b_20-20-10.toml

The same command again goes on where the last one stopped. docs/training.md explains all of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from .config.toml_config import load_config, read_tables, to_toml


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, RuntimeError) as error:
        if not isinstance(error, ValueError) and type(error).__name__ != "Stopped":
            raise
        print(f"pyramid.training: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pyramid.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("cache", run_cache, "videos and captions to latents and text embeddings"),
        ("finetune", run_finetune, "a plain Wan to a pyramidal one"),
        ("distill", run_distill, "a pyramidal Wan to a student of a few steps"),
        ("export", run_export, "a run's weights to files for ComfyUI"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("config", metavar="CONFIG.toml", help="the run's configuration")
        command.add_argument(
            "--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="change a setting; may be given again"
        )
        command.set_defaults(run=run)
        if name in ("finetune", "distill"):
            command.add_argument(
                "--dry-run", action="store_true", help="print configuration, stages, TFLOPs and memory, and stop"
            )
        if name == "export":
            command.add_argument("--to", metavar="FILE", help="default: export/ in the run's folder")
            command.add_argument("--step", type=int, help="of the checkpoint; default: the best one")
            command.add_argument("--precision", default="bf16", help="bf16, fp16 or fp32 (default: %(default)s)")
    return parser


def run_cache(options: argparse.Namespace) -> int:
    from .data import cache
    from .engine import parallel

    config = load_config(cache.CacheConfig, options.config, options.set)
    cache.make_cache(config, parallel.start(config.system), lambda text: print(text, flush=True))
    return 0


def run_finetune(options: argparse.Namespace) -> int:
    from .estimate.dry_run import estimate_step
    from .recipes.finetune import FinetuneConfig
    from .run import run_finetuning

    return _run_or_estimate(options, FinetuneConfig, estimate_step, run_finetuning)


def run_distill(options: argparse.Namespace) -> int:
    from .estimate.dry_run import estimate_iteration
    from .recipes.distill import DistillConfig
    from .run import run_distillation

    return _run_or_estimate(options, DistillConfig, estimate_iteration, run_distillation)


def _run_or_estimate(options: argparse.Namespace, kind: type, estimate: Callable, run: Callable) -> int:
    config = load_config(kind, options.config, options.set)
    if options.dry_run:
        print(to_toml(config))
        print(estimate(config).text(config.train.steps))
    else:
        run(config)
    return 0


def run_export(options: argparse.Namespace) -> int:
    from .export import export
    from .recipes.distill import DistillConfig
    from .recipes.finetune import FinetuneConfig

    kind = DistillConfig if "networks" in read_tables(options.config) else FinetuneConfig
    config = load_config(kind, options.config, options.set)
    for path in export(config, options.to, step=options.step, precision=options.precision):
        print(f"{path} ({Path(path).stat().st_size / 2**20:.1f} MiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
