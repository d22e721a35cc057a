"""The mathematics of pyramidal video diffusion, in torch, numpy and einops only: no ComfyUI, no files, no devices."""
