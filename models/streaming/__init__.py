"""Exact evaluation of convolutional decoders in bounded memory, by strips of rows: forward, and the gradient to the latents."""
