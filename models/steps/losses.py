"""Content and style loss of neural style generation (Gatys, Ecker & Bethge 2016, "Image Style Transfer Using
Convolutional Neural Networks", section 2). Features have shape (1, channels, height, width).
"""

import torch
from torch import Tensor


def gram_matrix(features: Tensor) -> Tensor:
    """Correlation of feature maps, divided by the number of positions; shape (channels, channels).

    Equation 3 of the paper divided by its M: a target from a picture of another size stays comparable, and
    float16 features cannot overflow the sum. Equation 4 then loses its 1/M^2, so the loss is the paper's.
    """
    flat = features.flatten(2).squeeze(0)
    return flat @ flat.T / flat.shape[1]


def style_loss(gram: Tensor, target: Tensor) -> Tensor:
    """E_l, equation 4: squared difference of Gram matrices over (2 x channels)^2; shape ()."""
    return (gram - target).square().sum() / (2 * gram.shape[0]) ** 2


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Half the mean squared difference of features; shape ().

    Departure from equation 1, which sums: the balance of content and style then depends on the image's size.
    """
    return (features - target).square().mean() / 2


def full_precision(features: Tensor) -> Tensor:
    """Features in at least float32: sums over a million positions have no business in 8 bits of mantissa."""
    return features.float() if features.dtype in (torch.bfloat16, torch.float16) else features
