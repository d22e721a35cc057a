"""The networks that training uses: Wan's transformer, LoRA adapters, the VAE and the text encoder."""
