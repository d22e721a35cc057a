"""The tiny Wan: a miniature world of captions, clips and metrics, and the recipes of a miniature Wan VAE and transformers."""
