"""The tiny Wan world: captions, clips, metrics, and the recipes of a miniature Wan VAE and text-to-video model."""
