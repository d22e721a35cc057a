"""Finetune and distil pyramidal Wan models: ``python -m pyramid.training --help``.

ComfyUI does not load this package: it requires diffusers, transformers, peft, accelerate and PyAV besides the core.
"""
