"""Image conditioning as ComfyUI's image-to-video nodes create it."""

import torch
from comfyui_graph import prompt


def image_prompt(frames=5, height=16, width=16, given=1, channels=1, seed=3, **options):
    """Return CONDITIONING with an image latent; the given frames have mask 0."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(1, 16, frames, height, width, generator=generator)
    mask = torch.ones(1, channels, frames, height, width)
    mask[:, :, :given] = 0
    return prompt(1, concat_latent_image=latent, concat_mask=mask, **options)
