"""Quality of the sampler's settings on the tiny Wan world: ``python -m benchmarks.quality --help``."""
