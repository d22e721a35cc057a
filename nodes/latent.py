"""The empty-latent node, for sizes that a pyramid can halve."""

from __future__ import annotations

from comfy_api.latest import io

from ..pyramid.sizes import SNAPS, VideoSize, describe_stages
from ..pyramid.sizes import snap as snap_size
from ..pyramid.stages import STOCK
from ..samplers.comfyui.latents import empty_latent
from .schema import Pyramid, checked, schema, show_text


class PyramidalWanEmptyLatent(io.ComfyNode):
    """An empty latent whose size fits a pyramid."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanEmptyLatent",
            display_name="Pyramidal Empty Latent",
            description="Creates an empty Wan video of a size that the pyramid can shrink down to its lowest stage. Other "
            "sizes change to the nearest that fits: with three stages, 832x480 becomes 832x448.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["empty latent video", "wan size", "resolution", "pyramid size"],
            inputs=[
                io.Int.Input("width", default=832, min=16, max=16384, step=16, tooltip="Width in pixels."),
                io.Int.Input("height", default=480, min=16, max=16384, step=16, tooltip="Height in pixels."),
                io.Int.Input(
                    "frames",
                    default=81,
                    min=1,
                    max=16384,
                    step=4,
                    tooltip="Number of video frames, 4k+1. Three stages in time require 16k+1, such as 33, 49, 65 or 81.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="Number of videos to make at once."),
                io.Combo.Input(
                    "snap",
                    options=list(SNAPS),
                    default="nearest",
                    tooltip="Size to use if yours does not fit: the nearest, the next smaller or the next larger.",
                ),
                Pyramid.Input(
                    "pyramid",
                    optional=True,
                    tooltip="Optional: the pyramid that you sample with. Otherwise the size fits 'training-free', which the "
                    "samplers use by default.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="latent", tooltip="The empty video."),
                io.String.Output("sizes", display_name="sizes", tooltip="The size used, and the size of every stage."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, width, height, frames, batch_size, snap, pyramid=None) -> io.NodeOutput:
        """Return the empty latent and the sizes of its stages."""
        spec, requested = pyramid or STOCK, VideoSize(width, height, frames)
        size = snap_size(requested, spec.at_size(requested.latent), snap)
        text = describe_stages(requested, size, spec.at_size(size.latent))
        show_text(cls, text)
        return io.NodeOutput(empty_latent(size.latent, batch_size), text)
