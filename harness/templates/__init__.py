"""ComfyUI's own workflow templates, made tiny and queued with and without the pyramid.

`wan_templates` finds them, `tiny_graph` makes one small, `with_pyramid` puts 'Pyramidal Model' in front of its samplers.
"""

from .catalog import Template, online_nodes, wan_templates
from .prepared import PYRAMID_NODE, high_noise_models, tiny_document, tiny_graph, with_pyramid, with_saved_latents
from .small_files import write_networks, write_small_files

__all__ = [
    "PYRAMID_NODE",
    "Template",
    "high_noise_models",
    "online_nodes",
    "tiny_document",
    "tiny_graph",
    "wan_templates",
    "with_pyramid",
    "with_saved_latents",
    "write_networks",
    "write_small_files",
]
