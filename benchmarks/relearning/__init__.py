"""Cost of learning something new, with and without a pyramid: ``python -m benchmarks.relearning --help``."""
