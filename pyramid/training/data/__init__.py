"""Training data: video files and captions, the cache of latents and text embeddings, and the batches drawn from it."""
