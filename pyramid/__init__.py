"""The mathematics of pyramidal video diffusion: torch, numpy and einops only. Knows no host, no file and no device."""
