"""Style iterations in tiles: exact, in memory that does not grow with the activations of the whole image."""
