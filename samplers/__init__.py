"""The host adapter: one stage of a pyramid is one ordinary sampling run of ComfyUI on a copy of the guider."""
