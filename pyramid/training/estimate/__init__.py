"""Estimates of what a training run costs, made before it starts."""
