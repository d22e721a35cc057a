"""One run on one card: the speed and memory of pyramidal sampling and training, as ratios to plain runs beside them."""
