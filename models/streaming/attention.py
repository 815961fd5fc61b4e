"""Attention over all positions of a map that lies in an arena: in chunks, in place, forward and backward.

In float32 and float64 on a cpu, torch's fused kernel takes a chunk of queries with all keys. Elsewhere products of
chunks of queries with chunks of keys are merged with a running maximum (Rabe & Staats 2021, "Self-attention does not
need O(n^2) memory"): on a cpu in bfloat16 that is faster than the fused kernel, and fused kernels of accelerators do
not take heads of 512 numbers in every precision.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from models.streaming.operations import Attention
from models.streaming.rows import Statistics
from models.streaming.statistics import wide
from models.streaming.work import no_progress

CHUNK = 1024
KEY_CHUNK = 8192
# Of a cpu, whose cache then holds most of the products: 245 us for a query of 32768 keys in bfloat16, and 295 with 8192
# (two threads of a Zen 4; the products of matrices alone take 190).
CPU_KEY_CHUNK = 2048


def attend(
    operation: Attention,
    features: Tensor,
    keys: Tensor,
    values: Tensor,
    statistics: Statistics,
    first: int = 0,
    gather: Callable[[], None] = lambda: None,
    progress: Callable[[float], None] = no_progress,
) -> None:
    """Overwrite a map, or a slab of it, with the operation's output.

    Args:
        features: the map or slab, shape (1, channels, height, width), without gaps between rows.
        keys, values: memory for those of all the map's positions, shape (positions, channels).
        statistics: of the operation's normalisation, complete.
        first: of the map's positions, the slab's first.
        gather: completes keys and values, in which those of the slab have been set.
        progress: called with the share of the queries that is done.
    """
    tokens = tokens_of(features)
    own_keys, own_values = (matrix[first : first + tokens.shape[0]] for matrix in (keys, values))
    for part in _chunks(tokens.shape[0], CHUNK):
        normalised = _normalised(operation, tokens[part], statistics)
        own_keys[part], own_values[part] = operation.key(normalised), operation.value(normalised)
    gather()
    for part in _chunks(tokens.shape[0], CHUNK):
        queries = operation.query(_normalised(operation, tokens[part], statistics))
        tokens[part] += operation.out(_attended(queries, keys, values))
        progress(min(1.0, part.stop / tokens.shape[0]))


def attention_gradient(
    operation: Attention,
    features: Tensor,
    gradient: Tensor,
    memory: Tensor,
    statistics: Statistics,
    progress: Callable[[float], None] = no_progress,
) -> None:
    """Overwrite the gradient at the operation's output with that at its input.

    Args:
        features: the operation's input, shape (1, channels, height, width), without gaps between rows.
        gradient: of the same shape, likewise.
        memory: for five times as many numbers, shape (5, positions, channels).
        statistics: of the operation's normalisation, complete.
        progress: called with the share of the queries that is done.
    """
    tokens, upstream = tokens_of(features), tokens_of(gradient)
    keys, values, key_gradients, value_gradients, input_gradients = memory
    key_gradients.zero_()
    value_gradients.zero_()
    scale = tokens.shape[1] ** -0.5
    for part in _chunks(tokens.shape[0], CHUNK):
        normalised = _normalised(operation, tokens[part], statistics)
        keys[part], values[part] = operation.key(normalised), operation.value(normalised)
    for part in _chunks(tokens.shape[0], CHUNK):
        queries = operation.query(_normalised(operation, tokens[part], statistics))
        query_gradients = torch.zeros_like(queries)
        outer = linear(upstream[part], operation.out.weight.t())
        output, normaliser = _attended_by_chunks(queries, keys, values)
        # The gradient of a softmax is p (d - sum(p d)); this sum is output x gradient (Dao et al. 2022, section 3.1).
        product = (outer * output).sum(1, keepdim=True)
        for other in _chunks(tokens.shape[0], _key_chunk(keys)):
            weights = _scores(queries, keys[other]).sub_(normaliser).exp_()
            value_gradients[other] += weights.to(outer.dtype).t() @ outer
            inner = weights.mul_((outer @ values[other].t()).sub_(product)).to(outer.dtype)
            key_gradients[other] += (inner.t() @ queries).mul_(scale)
            query_gradients += (inner @ keys[other]).mul_(scale)
        input_gradients[part] = linear(query_gradients, operation.query.weight.t())
        progress(min(1.0, part.stop / tokens.shape[0]))
    for part in _chunks(tokens.shape[0], CHUNK):
        input_gradients[part] += linear(key_gradients[part], operation.key.weight.t())
        input_gradients[part] += linear(value_gradients[part], operation.value.weight.t())
    _add_through_norm(operation, tokens, upstream, input_gradients, statistics)


def tokens_of(features: Tensor) -> Tensor:
    """A map without gaps as a view of shape (positions, channels)."""
    return features.permute(0, 2, 3, 1).view(-1, features.shape[1])


def as_rows(tokens: Tensor) -> Tensor:
    """Tokens as one row of a map, shape (1, channels, 1, positions)."""
    return tokens.t()[None, :, None]


def _normalised(operation: Attention, tokens: Tensor, statistics: Statistics) -> Tensor:
    if operation.norm is None:
        return tokens
    return statistics[operation.norm].apply(as_rows(tokens))[0, :, 0].t()


def _add_through_norm(
    operation: Attention, tokens: Tensor, upstream: Tensor, gradients: Tensor, statistics: Statistics
) -> None:
    """Add to `upstream` the gradient at the normalisation's input; `gradients` are at its output."""
    if operation.norm is None:
        upstream += gradients
        return
    norm = statistics[operation.norm]
    for part in _chunks(tokens.shape[0], CHUNK):
        norm.add_gradient(as_rows(gradients[part]), as_rows(tokens[part]))
    norm.finish_gradient()
    for part in _chunks(tokens.shape[0], CHUNK):
        upstream[part] += norm.input_gradient(as_rows(gradients[part]), as_rows(tokens[part]))[0, :, 0].t()


def _attended(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    if queries.device.type == "cpu" and queries.dtype.itemsize > 2:
        # With dimensions of batch and head, which fused kernels take.
        return scaled_dot_product_attention(queries[None, None], keys[None, None], values[None, None])[0, 0]
    return _attended_by_chunks(queries, keys, values)[0]


def _attended_by_chunks(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attention, shape (queries, channels), and the logarithms of the sums of exponentials, shape (queries, 1)."""
    highest = total = output = None
    for part in _chunks(keys.shape[0], _key_chunk(keys)):
        weights = _scores(queries, keys[part])
        peak = weights.amax(1, keepdim=True)
        if highest is not None:
            peak = torch.maximum(peak, highest)
        weights.sub_(peak).exp_()
        sums, sought = weights.sum(1, keepdim=True), weights.to(values.dtype) @ values[part]
        if highest is None or total is None or output is None:
            total, output = sums, sought.to(sums.dtype)
        else:
            shrunk = (highest - peak).exp_()
            total, output = total.mul_(shrunk).add_(sums), output.mul_(shrunk).add_(sought)
        highest = peak
    assert highest is not None, "attention without keys"
    assert total is not None
    assert output is not None
    return output.div_(total).to(queries.dtype), highest + total.log()


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Scaled products, in float32 or float64."""
    return wide(queries @ keys.t()).mul_(queries.shape[1] ** -0.5)


def _key_chunk(keys: Tensor) -> int:
    return CPU_KEY_CHUNK if keys.device.type == "cpu" else KEY_CHUNK


def _chunks(positions: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, positions, size))
