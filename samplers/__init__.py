"""Sampling in ComfyUI: one stage of a pyramid is one ordinary sampling run on a copy of the guider."""
