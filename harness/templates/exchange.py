"""Exchange the models and media of a template for tiny random ones of the same classes."""

from __future__ import annotations

import re
from collections.abc import Callable

from tiny_wan.variants import VARIANTS

from .graph import Graph, Node, drop_dangling, is_link, of_class

WAN_VAE, WAN22_VAE = "tiny_random_wan_vae.safetensors", "tiny_random_wan22_vae.safetensors"
TEXT_ENCODER, CLIP_VISION = "tiny_random_umt5.safetensors", "tiny_random_clip_vision.safetensors"
MODEL_PATCH = "tiny_random_infinite_talk.safetensors"
IMAGES = ("tiny_template_1.png", "tiny_template_2.png", "tiny_template_3.png")
VIDEO, AUDIO = "tiny_template.mp4", "tiny_template.wav"

NETWORKS = (
    (r"5b", r"fun_control", "fun_control_5b"),
    (r"5b", r"fun_inpaint", "fun_inpaint_5b"),
    (r"5b", r"", "ti2v_5b"),
    (r"wan2\.2", r"fun_control", "fun_control_2.2"),
    (r"wan2\.2", r"fun_camera", "camera_2.2"),
    (r"wan2\.2", r"i2v|fun_inpaint", "i2v_2.2"),
    (r"wan2\.2", r"s2v", "s2v"),
    (r"wan2\.2", r"dancer", "dancer"),
    (r"fun_control", r"", "fun_control"),
    (r"fun_camera", r"", "camera"),
    (r"flf2v", r"", "flf2v"),
    (r"fun_inp|i2v|chrono_edit|wanmove", r"", "i2v"),
    (r"vace", r"", "vace"),
    (r"humo", r"", "humo"),
    (r"animate_2", r"", "animate2"),
    (r"animate", r"", "animate"),
    (r"scail_2", r"", "scail2"),
    (r"scail", r"", "scail"),
    (r"causal_forcing", r"", "causal_ar"),
    (r"t2v|bernini", r"", "t2v"),
)
"""Two patterns that a file's name matches, and the variant in `tiny_wan.variants`; the first row that fits counts."""

SECOND_EXPERT = re.compile(r"low_noise|_local_")
AUDIO_ENCODERS = ((r"whisper", "whisper large v3"), (r"base", "wav2vec2 base"), (r"", "wav2vec2 large"))
WIDE = "i2v_wide"
SECOND = 1
"""Seed of a second expert's weights."""


def exchange(graph: Graph) -> None:
    """Replace every loader and media input in place.

    Raises:
        ValueError: A diffusion model's name fits no variant.
    """
    wide = any(True for _ in of_class(graph, "ModelPatchLoader"))
    for node in list(graph.values()):
        change = CHANGES.get(node["class_type"])
        if change is not None:
            change(graph, node)
    for number, (_, node) in enumerate(of_class(graph, "LoadImage")):
        node["inputs"]["image"] = IMAGES[number % len(IMAGES)]
    if wide:
        _widen(graph)
    for name in [name for name, _ in of_class(graph, "AudioEncoderLoader", "CheckpointLoaderSimple")]:
        _drop(graph, name)
    drop_dangling(graph)


def variant_of(file: str) -> str:
    """Return the variant that stands for a diffusion model's file.

    Raises:
        ValueError: The name fits no variant.
    """
    for first, second, variant in NETWORKS:
        if re.search(first, file.lower()) and re.search(second, file.lower()):
            return variant
    raise ValueError(f"no tiny variant for the diffusion model {file!r}; add it to NETWORKS")


def network_file(variant: str, *, second: bool = False) -> str:
    """Return the file name of a variant; second: the low-noise or local expert of a pair."""
    return f"tiny_random_wan_{variant}{'_second' if second else ''}.safetensors"


VARIANT_FILES = {network_file(name, second=second): (name, second) for name in VARIANTS for second in (False, True)}
"""The variant behind each file name, and whether it is the second expert."""


def lora_file(*, second: bool = False, wide: bool = False) -> str:
    """Return the file name of a LoRA for the networks of 128 or, if wide, 640 channels."""
    return f"tiny_random_template_lora{'_wide' if wide else ''}{'_second' if second else ''}.safetensors"


def _network(graph: Graph, node: Node) -> None:
    file = node["inputs"]["unet_name"]
    second = bool(SECOND_EXPERT.search(file))
    node["inputs"] = {"unet_name": network_file(variant_of(file), second=second), "weight_dtype": "default"}


def _text_encoder(graph: Graph, node: Node) -> None:
    node |= {"class_type": "TinyTextEncoderLoader", "inputs": {"name": TEXT_ENCODER}}


def _clip_vision(graph: Graph, node: Node) -> None:
    node |= {"class_type": "TinyCLIPVisionLoader", "inputs": {"name": CLIP_VISION}}


def _vae(graph: Graph, node: Node) -> None:
    if "2.2" in node["inputs"]["vae_name"]:
        node |= {"class_type": "TinyWan22VAELoader", "inputs": {"name": WAN22_VAE}}
    else:
        node["inputs"]["vae_name"] = WAN_VAE


def _lora(graph: Graph, node: Node) -> None:
    node["inputs"]["lora_name"] = lora_file(second=bool(SECOND_EXPERT.search(node["inputs"]["lora_name"])))


def _model_patch(graph: Graph, node: Node) -> None:
    node["inputs"]["name"] = MODEL_PATCH


def _audio_features(graph: Graph, node: Node) -> None:
    loader = graph[node["inputs"]["audio_encoder"][0]]
    file = loader["inputs"]["audio_encoder_name"]
    encoder = next(name for pattern, name in AUDIO_ENCODERS if re.search(pattern, file))
    node |= {"class_type": "RandomAudioFeatures", "inputs": {"audio": node["inputs"]["audio"], "encoder": encoder}}


def _track(graph: Graph, node: Node) -> None:
    node |= {"class_type": "MovingSquareTrack", "inputs": {"images": node["inputs"]["images"]}}


def _mask(graph: Graph, node: Node) -> None:
    node |= {"class_type": "MovingSquareMask", "inputs": {"image": node["inputs"]["image"]}}


def _video(graph: Graph, node: Node) -> None:
    node["inputs"]["file"] = VIDEO


def _audio(graph: Graph, node: Node) -> None:
    node["inputs"] = {"audio": AUDIO}


CHANGES: dict[str, Callable[[Graph, Node], None]] = {
    "UNETLoader": _network,
    "CLIPLoader": _text_encoder,
    "CLIPVisionLoader": _clip_vision,
    "VAELoader": _vae,
    "LoraLoader": _lora,
    "LoraLoaderModelOnly": _lora,
    "ModelPatchLoader": _model_patch,
    "AudioEncoderEncode": _audio_features,
    "SAM3_VideoTrack": _track,
    "SAM3_Detect": _mask,
    "LoadVideo": _video,
    "LoadAudio": _audio,
}


def _widen(graph: Graph) -> None:
    """Use the network of 640 channels: ComfyUI builds InfiniteTalk's patch with 40 heads."""
    for _, node in of_class(graph, "UNETLoader"):
        node["inputs"]["unet_name"] = network_file(WIDE)
    for _, node in of_class(graph, "LoraLoaderModelOnly"):
        node["inputs"]["lora_name"] = lora_file(wide=True)


def _drop(graph: Graph, name: str) -> None:
    """Remove a loader and the text encoders that use it."""
    del graph[name]
    for user, node in list(of_class(graph, "CLIPTextEncode")):
        if is_link(node["inputs"].get("clip")) and node["inputs"]["clip"][0] == name:
            del graph[user]
