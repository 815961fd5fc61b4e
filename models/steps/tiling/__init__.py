"""Style iterations computed tile by tile: exact, in memory that does not grow with the activations of the image."""
