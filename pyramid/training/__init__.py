"""Finetuning and distillation of pyramidal Wan models: ``python -m pyramid.training --help``.

Not part of what ComfyUI loads: needs diffusers, transformers, peft, accelerate and PyAV besides the core.
"""
