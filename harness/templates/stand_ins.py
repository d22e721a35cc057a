"""Nodes substituted for loaders and encoders that the template tests cannot make tiny from outside.

ComfyUI loads this file as a custom node pack. The loaders build ComfyUI's own classes with the sizes that the file names
in its metadata. Audio features and object masks are made up: the real ones come from networks of fixed size.
"""

from __future__ import annotations

import json
import os
import tempfile

import comfy.clip_vision
import comfy.ldm.wan.vae2_2
import comfy.sd
import comfy.utils
import folder_paths
import torch

AUDIO_ENCODERS = {"wav2vec2 base": (12, 768), "wav2vec2 large": (24, 1024), "whisper large v3": (32, 1280)}
"""Layers and width; the features are those of all layers and of the input."""
FEATURES_PER_SECOND = 50
SAMPLE_RATE = 16000


RECOGNISED_BY, RECOGNISED_SHAPE = "encoder.block.23.layer.1.DenseReluDense.wi_1.weight", (10240, 4096)
"""ComfyUI recognises umt5-xxl by this weight. The tiny one has no such layer and ignores it."""


def _read(folder: str, name: str) -> tuple[dict, dict]:
    path = folder_paths.get_full_path_or_raise(folder, name)
    weights, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    return weights, json.loads((metadata or {})["config"])


def _files(folder: str) -> dict:
    return {"required": {"name": (folder_paths.get_filename_list(folder),)}}


class TinyTextEncoderLoader:
    """A text encoder of Wan's class whose sizes come from the file."""

    CATEGORY, RETURN_TYPES, FUNCTION = "tests", ("CLIP",), "load"

    @classmethod
    def INPUT_TYPES(cls):
        return _files("text_encoders")

    def load(self, name):
        weights, config = _read("text_encoders", name)
        weights[RECOGNISED_BY] = torch.zeros(1).expand(RECOGNISED_SHAPE)
        options = {f"{key}_model_config": config for key in ("umt5xxl", "clip_umt5xxl")}
        kind = comfy.sd.CLIPType.WAN
        return (comfy.sd.load_text_encoder_state_dicts([weights], clip_type=kind, model_options=options),)


class TinyCLIPVisionLoader:
    """A CLIP vision encoder whose sizes come from the file."""

    CATEGORY, RETURN_TYPES, FUNCTION = "tests", ("CLIP_VISION",), "load"

    @classmethod
    def INPUT_TYPES(cls):
        return _files("clip_vision")

    def load(self, name):
        weights, config = _read("clip_vision", name)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "config.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump(config, file)
            encoder = comfy.clip_vision.ClipVisionModel(path)
        encoder.load_sd(weights)
        return (encoder,)


class TinyWan22VAELoader:
    """A Wan2.2 VAE whose widths come from the file: ComfyUI's loader has the widths of the released one as constants."""

    CATEGORY, RETURN_TYPES, FUNCTION = "tests", ("VAE",), "load"

    @classmethod
    def INPUT_TYPES(cls):
        return _files("vae")

    def load(self, name):
        weights, config = _read("vae", name)
        module = comfy.ldm.wan.vae2_2
        released = module.WanVAE
        module.WanVAE = lambda **settings: released(**{**settings, **config})
        try:
            return (comfy.sd.VAE(sd=weights),)
        finally:
            module.WanVAE = released


class RandomAudioFeatures:
    """Random features with the shapes that an audio encoder gives for a recording."""

    CATEGORY, RETURN_TYPES, FUNCTION = "tests", ("AUDIO_ENCODER_OUTPUT",), "encode"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"audio": ("AUDIO",), "encoder": (list(AUDIO_ENCODERS),)}}

    def encode(self, audio, encoder):
        layers, width = AUDIO_ENCODERS[encoder]
        seconds = audio["waveform"].shape[-1] / audio["sample_rate"]
        count = 30 * FEATURES_PER_SECOND if encoder.startswith("whisper") else max(1, int(seconds * FEATURES_PER_SECOND))
        generator = torch.Generator().manual_seed(0)
        features = [torch.randn(1, count, width, generator=generator) for _ in range(layers + 1)]
        samples = int(seconds * SAMPLE_RATE)
        return ({"encoded_audio": features[-1], "encoded_audio_all_layers": features, "audio_samples": samples},)


class MovingSquareMask:
    """Masks of a square that moves to the right, one for each image."""

    CATEGORY, RETURN_TYPES, FUNCTION = "tests", ("MASK",), "draw"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def draw(self, image):
        return (_moving_square(*image.shape[:3]),)


class MovingSquareTrack:
    """The track of one object, a square that moves to the right."""

    CATEGORY, RETURN_TYPES, FUNCTION = "tests", ("SAM3_TRACK_DATA",), "draw"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}}

    def draw(self, images):
        from comfy.ldm.sam3.tracker import pack_masks  # pyright: ignore[reportMissingImports] - only in newer ComfyUI

        frames, height, width = images.shape[:3]
        masks = _moving_square(frames, height, width // 8 * 8).unsqueeze(1)
        return ({"packed_masks": pack_masks(masks), "n_frames": frames, "scores": [1.0], "orig_size": (height, width)},)


def _moving_square(frames: int, height: int, width: int) -> torch.Tensor:
    masks = torch.zeros(frames, height, width)
    for index, mask in enumerate(masks):
        left = index * (width // 2) // frames
        mask[height // 4 : height // 4 * 3, left : left + width // 2] = 1
    return masks


NODE_CLASS_MAPPINGS = {
    kind.__name__: kind
    for kind in (
        TinyTextEncoderLoader,
        TinyCLIPVisionLoader,
        TinyWan22VAELoader,
        RandomAudioFeatures,
        MovingSquareMask,
        MovingSquareTrack,
    )
}
