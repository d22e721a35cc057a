"""Charts of pyramids, drawn with Pillow, which ComfyUI requires itself."""
