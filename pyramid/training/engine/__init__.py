"""The training loop and its parts, for any algorithm: optimisers, checkpoints, logs, processes, random draws."""
