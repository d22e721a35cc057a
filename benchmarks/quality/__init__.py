"""What a setting of the sampler costs in quality, on the tiny Wan world: ``python -m benchmarks.quality --help``."""
