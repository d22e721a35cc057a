"""The lift: fitted to a VAE or through its pixels, kept in files, and chosen for a run."""
