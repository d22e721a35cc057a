"""The lift of a VAE, which resizes clean latents at a transition."""

from __future__ import annotations

from comfy_api.latest import io

from ..samplers.lift.choice import AUTO, METHODS, make_lift
from .schema import Lift, Pyramid, checked, schema, show_text


class PyramidalWanLiftFromVAE(io.ComfyNode):
    """A lift fitted to a VAE, or through its pixels."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return schema(
            node_id="PyramidalWanLiftFromVAE",
            display_name="Pyramidal Lift from VAE",
            description="Fits once how latents of a small video become those of a large one, and keeps it for the VAE. "
            "Transitions then keep the texture that enlarged latents lose. Samplers find a kept lift by themselves.",
            hidden=[io.Hidden.unique_id],
            search_aliases=["pyramid", "latent upscale", "texture", "blurry", "detail", "vae"],
            inputs=[
                io.Vae.Input("vae", tooltip="The VAE of the model; Wan 2.1 and 2.2 14B share one."),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=AUTO,
                    tooltip="auto: the kept lift, or a new one fitted on rendered clips. linear: fitted on your clips, filled "
                    "up with rendered ones, and kept. pixels: decodes, resizes and encodes at every transition; slow, nothing "
                    "is kept. none: resizes latents, even where a lift is kept.",
                ),
                io.Image.Input(
                    "clips",
                    optional=True,
                    tooltip="Only for linear: the frames of one video, at the size you sample, at least 17 in a row.",
                ),
                Pyramid.Input(
                    "pyramid",
                    optional=True,
                    tooltip="Optional: the pyramid whose transitions the lift serves; otherwise training-free with every "
                    "scale, for which the fit takes three times as long.",
                ),
            ],
            outputs=[
                Lift.Output("lift", display_name="lift", tooltip="For every node with a lift input."),
                io.String.Output(
                    "text",
                    display_name="text",
                    tooltip="What was fitted or loaded, and its errors on clips kept out of the fit.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, vae, method, clips=None, pyramid=None) -> io.NodeOutput:
        """Return the lift and a text about it, and show the text on the node."""
        lift, text = make_lift(vae, method, clips, pyramid)
        show_text(cls, text)
        return io.NodeOutput(lift, text)
