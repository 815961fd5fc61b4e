"""Strategy `streamed`: the exact loss and gradient of the whole image, block by block and tile by tile.

With frozen weights the backward pass needs little of what autograd stores: one bit per element of a ReLU, the argmax of
a max pool, the features of a style or content layer. Only these are stored or computed again, and the backward pass is
explicit. A block is a number of layers of which the last is a pooling layer.

    pass 1, downwards                                     pass 2, upwards       stored for VGG-19, bytes per pixel

    image                                                 its gradient                                         12
      | normalise, conv1_1, relu1_1: Gram sum               ^  computed again from the image                    -
      | conv1_2, pool1                                      |  scattered to the argmax                     4 (bits)
    pool1, freed after block 2                            its gradient         computed again, tile by tile     -
      | relu1_2, conv2_1, relu2_1: Gram sum                 ^  computed again from pool1                        -
      | conv2_2, pool2                                      |                                              2 (bits)
    pool2                                                 its gradient                                         32
      | relu2_2, conv3_1, relu3_1: Gram sum                 ^  computed again from pool2                        -
      | conv3_2, relu3_2, conv3_3, relu3_3                  |  signs                                       4 (bits)
      | conv3_4, pool3                                      |                                              1 (bits)
    pool3                                                 its gradient                                         16
      | relu3_4, conv4_1, relu4_1: Gram sum                 ^  computed again from pool3                        -
      | conv4_2, relu4_2: content                           |  stored unchanged, as is the target         32 + 32
      | ...                                                 |

Each block is cut into tiles. Pass 1 computes a tile of the block's output from the part of the input that it reads. The
halo is that of one block, a few positions. Pass 2 computes a tile of the input's gradient from the part of the output's
gradient that depends on it, and writes it once. Adjacent tiles compute some features twice; the tile that owns a
feature adds it to the sums.

    pass 1   .--- input read ---.        pass 2   .- output's gradient read -.
             |  .------------.  |                 |  .--------------------.  |
             |  |   output   |  |                 |  |  input's gradient  |  |
             |  |    tile    |  |                 |  |        tile        |  |
             |  '------------'  |                 |  '--------------------'  |
             '------------------'                 '--------------------------'

A ReLU before a max pool is computed behind it, on fewer elements: max(relu(x)) = relu(max(x)).
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from models.network import Normalisation
from models.steps import winograd
from models.steps.malloc import keep_small_blocks
from models.steps.objectives import (
    Objective,
    StyleTask,
    full_precision,
    lay_out_channels_last,
    loss_scale_of,
    style_arithmetic,
    style_loss,
)
from models.steps.tiling.activation_store import ActivationStore, empty_output
from models.steps.tiling.blocks import Block, blocks_of, crop, crop_within, run_layers
from models.steps.tiling.geometry import Box
from models.steps.tiling.layers import AveragePool, Convolution, MaxPool, Relu
from models.steps.tiling.winograd_tiles import names_of_winograd, with_winograd

# Default sides of tiles: 4 MiB of float32 per tile and layer for small images, 16 MiB for large ones, where some twenty
# such layers are little compared with what is stored. Smaller tiles compute more halo, larger ones save little time:
# VGG-19 at 2048 px took 238 bytes per pixel and 24.7 s with 128 px, 331 bytes per pixel and 21.2 s with 256 px.
_SMALL_TILE_PX, _LARGE_TILE_PX = 128, 256
_LARGE_PICTURE_PIXELS = 3072**2
# At least this side in blocks with Winograd's algorithm: 64 positions of 512 channels, where its layers took half the
# time of direct convolution, and two thirds with the 32 positions that an image of 512 px else has.
_WINOGRAD_TILE_PX = 182
# Free memory that the heap keeps between tiles. With half of it VGG-19 had 30 000 to 100 000 page faults an iteration
# at 512 px, of 4 microseconds each: a tenth of the time. The peak grew by at most 27 MiB.
_SPARE_BYTES = 64 * 2**20
# The first block's output is computed twice if it has more numbers per pixel than this. VGG's has 16: it would be the
# largest map that is stored, and computing it again takes a twentieth of an iteration.
_STORED_NUMBERS_PER_PIXEL = 12


class StreamedObjective(Objective):
    """The loss of `PlainObjective` and its gradient, without autograd.

    Raises:
        InputError: the network has a layer that cannot be computed tile by tile.
    """

    def __init__(self, task: StyleTask) -> None:
        self._network = network = task.network
        self._precision = task.precision
        self.loss_scale = loss_scale_of(task)
        self._tile_px = task.tile_px or default_tile_px(*task.content.shape[2:])
        self._winograd_tile_px = task.tile_px or max(self._tile_px, _WINOGRAD_TILE_PX)
        self._normalisation = Normalisation(network, task.content)
        self._report: Callable[[int, int], None] | None = None
        self._tiles_done, self._tiles_of_iteration = 0, 1
        lay_out_channels_last(network)
        blocks = blocks_of(network, *task.content.shape[2:])
        self._blocks = with_winograd(blocks, self._winograd_tile_px, task)
        # A tile with its halo is less than twice as large as without. The larger tiles of Winograd's algorithm may
        # return to the kernel: whole feature maps among the heap's blocks took 40 MiB more at 1024 px.
        keep_small_blocks(2 * 64 * self._tile_px**2 * task.content.element_size(), _SPARE_BYTES)
        with torch.no_grad(), style_arithmetic(task.precision, task.content):
            content = self._forward(task.content, ActivationStore(for_backward=False)).content
            assert content is not None
            self._content_target = content
            self._gram_targets = self._forward(task.style, ActivationStore(for_backward=False)).grams

    def on_progress(self, report: Callable[[int, int], None]) -> None:
        self._report = report

    def algorithms(self) -> Mapping[str, Any]:
        return winograd.facts([name for block in self._blocks for name in names_of_winograd(block)])

    def __call__(self, image: Tensor) -> Tensor:
        return self.loss_scale.settle(lambda: self._evaluate(image))

    def _evaluate(self, image: Tensor) -> Tensor:
        image.grad = None
        passes = [(block, index) for block in self._blocks for index in (block.last_index, -1)]
        self._tiles_done = 0
        self._tiles_of_iteration = sum(len(self._tiles(block, index, image)) for block, index in passes)
        with torch.no_grad(), style_arithmetic(self._precision, image):
            store = self._forward(image, ActivationStore(for_backward=True))
            image.grad = self._backward(image, store, self.loss_scale.factor)
            self.loss_scale.unscale(image.grad)
            return self._loss(store)

    def _forward(self, image: Tensor, store: ActivationStore) -> ActivationStore:
        """Pass 1: fills `store` with what the losses and pass 2 need; returns it."""
        for block in self._blocks:
            self._forward_tiles(block, image, store, self._tiles(block, block.last_index, image))
            if block.number and (not store.for_backward or self._is_recomputed(block.number - 1)):
                store.drop_output(self._blocks[block.number - 1])
        return store

    def _tiles(self, block: Block, index: int, image: Tensor) -> list[Box]:
        """Tiles of the output of layer `index` (pass 1) or, for -1, of the block's input (pass 2)."""
        recomputed = self._blocks[block.number - 1] if index < 0 and self._is_recomputed(block.number - 1) else None
        tiles = list(block.tiles(index, self._tile_px_of(block), recomputed))
        if isinstance(image, FakeTensor):
            # A prediction of memory needs one tile of each shape only: a few instead of thousands.
            boxes_of = block.dependent_boxes if index < 0 else partial(block.required_boxes, index, owned={})
            return list({tuple(box.lengths for box in boxes_of(tile)): tile for tile in tiles}.values())
        return tiles

    def _tile_px_of(self, block: Block) -> int:
        return self._winograd_tile_px if names_of_winograd(block) else self._tile_px

    def _report_tile(self) -> None:
        self._tiles_done += 1
        if self._report is not None:
            self._report(self._tiles_done, self._tiles_of_iteration)

    def _is_recomputed(self, number: int) -> bool:
        """Whether pass 2 computes the output of this block again."""
        if number != 0:
            return False
        block = self._blocks[number]
        numbers = block.channels[-1] * block.positions(block.last_index)
        return numbers > _STORED_NUMBERS_PER_PIXEL * math.prod(block.sizes[0])

    def _forward_tiles(self, block: Block, image: Tensor, store: ActivationStore, tiles: Iterable[Box]) -> None:
        for tile in tiles:
            owned = {index: block.owned(index, tile) for index in block.loss_indices}
            boxes = block.required_boxes(block.last_index, tile, owned)
            source = self._input(block, image, store, boxes[0])
            for index, features, argmax in run_layers(block, source, boxes):
                store.add(block, index, boxes[index + 1], features, argmax)
                if index in block.loss_indices:
                    owned_features = crop_within(features, boxes[index + 1], owned[index])
                    self._add_statistics(block, index, owned_features, owned[index], store)
            self._report_tile()

    def _add_statistics(self, block: Block, index: int, features: Tensor, box: Box, store: ActivationStore) -> None:
        """Add a tile's owned features, which lie at `box`, to the sums of the losses."""
        name, features = block.names[index], full_precision(features)
        if name in self._network.style_layers:
            flat = _flat(features)
            gram = store.grams.setdefault(name, flat.new_zeros(flat.shape[1], flat.shape[1]))
            gram.addmm_(flat.T, flat, alpha=1 / block.positions(index))
        if name == self._network.content_layer and store.for_backward:
            difference = features - self._content_target[box.slices]
            store.content_squared_error = store.content_squared_error + difference.square().sum()
        elif name == self._network.content_layer:
            if store.content is None:
                store.content = empty_output(block, index, features)
            store.content[box.slices] = features

    def _loss(self, store: ActivationStore) -> Tensor:
        network = self._network
        loss = network.content_weight * store.content_squared_error / (2 * self._content_target.numel())
        for name, weight in network.style_layers.items():
            loss = loss + network.style_weight * weight * style_loss(store.grams[name], self._gram_targets[name])
        assert isinstance(loss, Tensor)
        return loss

    def _backward(self, image: Tensor, store: ActivationStore, scale: float | Tensor) -> Tensor:
        """Pass 2: `scale` times the gradient of the loss, shape of the image; frees what `store` holds."""
        gram_factors = self._gram_factors(store, scale)
        output_gradient: Tensor | None = None
        for block in reversed(self._blocks):
            previous = self._blocks[block.number - 1] if block.number else None
            input_gradient = torch.empty_like(image) if previous is None else None
            for tile in self._tiles(block, -1, image):
                gradient = self._backward_tile(block, image, output_gradient, tile, store, gram_factors, scale)
                if input_gradient is None:
                    input_gradient = empty_output(block, -1, gradient)
                input_gradient[tile.slices] = gradient if previous else self._normalisation.backward(gradient)
                self._report_tile()
            store.drop(block)
            if previous:
                store.drop_output(previous)
            output_gradient = input_gradient
        assert output_gradient is not None
        return output_gradient

    def _gram_factors(self, store: ActivationStore, scale: float | Tensor) -> dict[str, Tensor]:
        """For each style layer the matrix P, shape (channels, channels): the loss's gradient at features F is P F.

        Gatys et al. 2016, equation 6, with the Gram matrix G = F F^T / M: P = weight * (G - target) / (channels^2 M).
        """
        gram_factors = {}
        for block in self._blocks:
            for index in block.loss_indices:
                name = block.names[index]
                if name in self._network.style_layers:
                    gram = store.grams[name]
                    weight = self._network.style_weight * self._network.style_layers[name] * scale
                    gram_factors[name] = (gram - self._gram_targets[name]) * (
                        weight / (gram.shape[0] ** 2 * block.positions(index))
                    )
        return gram_factors

    def _backward_tile(
        self,
        block: Block,
        image: Tensor,
        output_gradient: Tensor | None,
        tile: Box,
        store: ActivationStore,
        gram_factors: dict[str, Tensor],
        scale: float | Tensor,
    ) -> Tensor:
        """The gradient with respect to one tile of the block's input.

        Args:
            output_gradient: the gradient with respect to the block's whole output; None for the last block.
        """
        boxes = block.dependent_boxes(tile)
        recomputed: dict[int, Tensor] = {}

        def features(index: int) -> Tensor:
            if index >= block.recomputed_count:
                return crop(store.output(block, index), boxes[index + 1])
            if not recomputed:  # as late as possible, to save memory
                recomputed.update(self._recompute(block, image, store, boxes))
            return recomputed[index]

        gradient = None if output_gradient is None or boxes[-1].empty else crop(output_gradient, boxes[-1])
        if gradient is not None and block.last_index in block.loss_indices:
            # Loss gradients are added in place, and a crop of full width is a view that overlaps those of other tiles.
            gradient = gradient.clone()
        for index in range(block.last_index, -1, -1):
            layer, output_box, input_box = block.layers[index], boxes[index + 1], boxes[index]
            if output_box.empty:
                continue
            if index in block.loss_indices:
                name = block.names[index]
                gradient = self._add_loss_gradients(name, gradient, features(index), output_box, gram_factors, scale)
            if gradient is None:
                continue
            match layer:
                case Relu() if block.stores_signs(index):
                    gradient.mul_(store.signs(block, index, output_box))
                case Relu():
                    # In place: no other tile uses this gradient.
                    torch.ops.aten.threshold_backward.grad_input(gradient, features(index), 0, grad_input=gradient)
                case MaxPool():
                    gradient = layer.backward(gradient, store.argmax(block, index, output_box), output_box, input_box)
                case Convolution():
                    gradient = layer.backward(gradient, output_box, input_box)
                case AveragePool():
                    gradient = layer.backward(gradient, output_box, input_box, block.sizes[index])
        # No output depends on a tile of positions that no window reads.
        return torch.zeros_like(self._input(block, image, store, tile)) if gradient is None else gradient

    def _add_loss_gradients(
        self,
        name: str,
        gradient: Tensor | None,
        features: Tensor,
        box: Box,
        gram_factors: dict[str, Tensor],
        scale: float | Tensor,
    ) -> Tensor:
        """The gradient with respect to the features at `box`, plus that of the losses at this layer."""
        total = torch.zeros_like(features) if gradient is None else gradient
        exact = full_precision(features)
        if name == self._network.content_layer:
            weight = self._network.content_weight * scale / self._content_target.numel()
            difference = exact - self._content_target[box.slices]
            if isinstance(weight, Tensor):  # as `alpha`, it would have to be read by the host
                total.add_(difference.mul_(weight))
            else:
                total.add_(difference, alpha=weight)
        if name in gram_factors and total.dtype == exact.dtype:
            _flat(total).addmm_(_flat(exact), gram_factors[name])
        elif name in gram_factors:
            _flat(total).add_(_flat(exact) @ gram_factors[name])
        return total

    def _recompute(self, block: Block, image: Tensor, store: ActivationStore, boxes: list[Box]) -> dict[int, Tensor]:
        """Features at `boxes` of the block's first layers, which are computed again instead of stored."""
        last = max(index for index in range(block.recomputed_count) if not boxes[index + 1].empty)
        owned = {index: boxes[index + 1] for index in range(last)}
        required = block.required_boxes(last, boxes[last + 1], owned)
        source = self._input(block, image, store, required[0])
        return {
            index: crop_within(features, required[index + 1], boxes[index + 1])
            for index, features, _ in run_layers(block, source, required)
        }

    def _input(self, block: Block, image: Tensor, store: ActivationStore, box: Box) -> Tensor:
        """The block's input at `box`: from the image, from `store`, or computed again from the previous block."""
        if block.number == 0:
            return self._normalisation(crop(image, box))
        previous = self._blocks[block.number - 1]
        if store.has_output(previous):
            return crop(store.output(previous, previous.last_index), box)
        boxes = previous.required_boxes(previous.last_index, box, {})
        # A deque of length 1 frees each layer's output when the next one is there.
        [(_, features, _)] = deque(run_layers(previous, self._input(previous, image, store, boxes[0]), boxes), 1)
        return features


def default_tile_px(height: int, width: int) -> int:
    """Side of a tile in pixels, for an image of this size, if none is requested."""
    return _LARGE_TILE_PX if height * width >= _LARGE_PICTURE_PIXELS else _SMALL_TILE_PX


def _flat(features: Tensor) -> Tensor:
    """A view of shape (positions, channels)."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)
