"""PyramidalWan for ComfyUI: Wan video models sampled through a pyramid of resolutions and frame rates."""

WEB_DIRECTORY = "./web"
"""Help pages, and a script for texts and widgets of the nodes in the front end."""

if __package__:  # imported by ComfyUI as a package; test runners import this file by its path

    async def comfy_entrypoint():
        """Called by ComfyUI for the nodes of this pack."""
        from .nodes import PyramidalWanExtension

        return PyramidalWanExtension()

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
