"""Models, conditioning, latents and files of ComfyUI, fitted to the stages of a pyramid."""
