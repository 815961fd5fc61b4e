"""Exact decoding in bounded memory, by strips of rows: the image, and the gradient to the latents."""
