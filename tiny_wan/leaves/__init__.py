"""A world with the statistics of natural images: dead leaves under a moving camera, and leaves that move in front of them."""
