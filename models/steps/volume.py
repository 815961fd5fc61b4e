"""How much the ranks of a group send each other. No torch here: plans need these numbers, too."""

from collections.abc import Iterable


def all_reduce_bytes(message_bytes: int, ranks: int) -> int:
    """What one rank sends so that all have the sum of a message over all.

    2 (n - 1) / n of the message, in a ring: the least that does without one rank sending more than another (Patarasuk
    & Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations", sections 2 and 3).
    """
    return 2 * (ranks - 1) * message_bytes // ranks


def style_volume_bytes(
    style_channels: Iterable[int], exchanged_pixels: int, ranks: int, history: int = 0, number_bytes: int = 4
) -> int:
    """What one rank sends in an iteration of `models.steps.sharded`.

    V = R(g) + 3 e h + s R(e), with R(m) = 2 (n - 1) / n m as in `all_reduce_bytes`, and e bytes for a number:
        g = e (1 + sum of C^2): the Gram sums of all style layers, and the content loss, as one message;
        h: pixels of the halo, sent in the forward direction with their values, backward with their gradient;
        s = 2 k + 4: of L-BFGS with k pairs in its history, for two loops of k dot products, the two of the newest
            pair, the slope, and the largest element of the gradient; 0 for Adam.
    The image's gradient is not summed over the ranks: halos are all that two of them have in common.

    Args:
        style_channels: of each style layer.
        exchanged_pixels: of this rank, see `models.steps.bands.Bands.exchanged_pixels`.
        history: pairs that L-BFGS has; 0 for Adam.
    """
    if ranks == 1:
        return 0
    sums = all_reduce_bytes(number_bytes * (1 + sum(channels**2 for channels in style_channels)), ranks)
    scalars = 2 * history + 4 if history else 0
    return sums + 3 * number_bytes * exchanged_pixels + scalars * all_reduce_bytes(number_bytes, ranks)
