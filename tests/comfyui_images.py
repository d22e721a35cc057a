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


class MeanColours(torch.nn.Module):
    """Make of a picture of a face what Animate's encoder of faces makes, 512 numbers, from its mean colours."""

    def get_motion(self, faces: torch.Tensor) -> torch.Tensor:
        return faces.mean(dim=(2, 3)) @ torch.randn(3, 512, generator=torch.Generator().manual_seed(0)).to(faces)


def animate_model():
    """Load a tiny random Animate MODEL, with ``MeanColours`` for the encoder, which is large and takes 17 s for each face."""
    import comfy.sd

    from tiny_wan.variants import VARIANTS, state_dict

    model = comfy.sd.load_diffusion_model_state_dict(state_dict(VARIANTS["animate"]))
    model.model.diffusion_model.motion_encoder = MeanColours()
    return model
