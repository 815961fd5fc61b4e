"""`streamed`: the whole image, block by block and tile by tile, exact, in a fraction of the memory.

With frozen weights the backward pass needs little of what autograd keeps: of a ReLU one bit per element, of a max
pool which input it took, of a Gram loss the features themselves. So nothing but these is kept or computed again, and
the backward pass is written out. A block is the layers up to and including a pooling layer.

    pass 1, downwards                                     pass 2, upwards         kept of VGG-19, bytes per pixel

    image                                                 its gradient                                         12
      | normalise, conv1_1, relu1_1: Gram sum               ^  computed again from the image                    -
      | conv1_2, pool1                                      |  scattered to what the pool took             4 (bits)
    pool1, dropped after block 2                          its gradient         computed again, tile by tile     -
      | relu1_2, conv2_1, relu2_1: Gram sum                 ^  computed again from pool1                        -
      | conv2_2, pool2                                      |                                              2 (bits)
    pool2                                                 its gradient                                         32
      | relu2_2, conv3_1, relu3_1: Gram sum                 ^  computed again from pool2                        -
      | conv3_2, relu3_2, conv3_3, relu3_3                  |  signs                                       4 (bits)
      | conv3_4, pool3                                      |                                              1 (bits)
    pool3                                                 its gradient                                         16
      | relu3_4, conv4_1, relu4_1: Gram sum                 ^  computed again from pool3                        -
      | conv4_2, relu4_2: content                           |  kept whole, and so is the target           32 + 32
      | ...                                                 |

Each block is cut into tiles. In pass 1 a tile of the block's output is computed from the part of its input that it
reads (halo: that of this block alone, a few positions); in pass 2 a tile of the input's gradient is computed from the
part of the output's gradient that it feeds, and written once. Of the features of a loss layer, which neighbouring
tiles both compute, each is summed by the one tile that owns it.

    pass 1   .--- input read ---.        pass 2   .- output's gradient read -.
             |  .------------.  |                 |  .--------------------.  |
             |  |   output   |  |                 |  |  input's gradient  |  |
             |  |    tile    |  |                 |  |        tile        |  |
             |  '------------'  |                 |  '--------------------'  |
             '------------------'                 '--------------------------'

max(relu(x)) = relu(max(x)), so that a ReLU in front of a max pool is done behind it, on fewer elements.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from models.steps.malloc import keep_small_blocks
from models.steps.objectives import (
    Objective,
    StyleTask,
    arithmetic,
    full_precision,
    lay_out_channels_last,
    loss_scale,
    style_loss,
)
from models.steps.tiling.activation_store import Memory, whole_map
from models.steps.tiling.blocks import Block, blocks_of, cut_out, layer_by_layer, part_of
from models.steps.tiling.geometry import Box
from models.steps.tiling.layers import AveragePool, Convolution, MaxPool, Rectifier

# Sides of tiles: 4 MiB of float32 per tile and layer where the picture is small, 16 MiB where some twenty of these are
# little against what is kept. Larger ones gain little; smaller ones compute more halo: VGG-19 at 2048 px took 238 bytes
# per pixel and 24.7 s with 128 px, 331 and 21.2 s with 256 px.
_SMALL_TILE_PX, _LARGE_TILE_PX = 128, 256
_LARGE_PICTURE_PIXELS = 3072**2
# The first block's output is computed twice rather than kept if it has more numbers than this for each pixel: VGG's
# has 16, the largest thing there would be, and costs a twentieth of an iteration.
_KEPT_NUMBERS_PER_PIXEL = 12


class StreamedObjective(Objective):
    """The loss of `PlainObjective` and its gradient, without autograd.

    Raises:
        InputError: the network is no chain of convolutions, ReLU and pooling layers.
    """

    def __init__(self, task: StyleTask) -> None:
        self._network = network = task.network
        self._precision = task.precision
        self._tile_px = task.tile_px or chosen_tile_px(*task.content.shape[2:])
        self._mean, self._std = (
            task.content.new_tensor(values).view(1, 3, 1, 1) for values in (network.mean, network.std)
        )
        # With its halo, a tile of a layer is not twice as large as without.
        keep_small_blocks(2 * 64 * self._tile_px**2 * task.content.element_size())
        self._blocks = blocks_of(network, *task.content.shape[2:])
        self._report: Callable[[int, int], None] | None = None
        self._tiles_done, self._tiles_of_iteration = 0, 1
        lay_out_channels_last(network)
        with torch.no_grad(), arithmetic(task.precision, task.content.device.type):
            content = self._forward(task.content, Memory(for_backward=False)).content
            assert content is not None
            self._content_target = content
            self._gram_targets = self._forward(task.style, Memory(for_backward=False)).grams

    def on_progress(self, report: Callable[[int, int], None]) -> None:
        self._report = report

    def __call__(self, image: Tensor) -> Tensor:
        image.grad = None
        both = [(block, place) for block in self._blocks for place in (block.last, -1)]
        self._tiles_done, self._tiles_of_iteration = 0, sum(len(self._tiles(*one, image)) for one in both)
        scale = loss_scale(self._precision, image[0, 0].numel())
        with torch.no_grad(), arithmetic(self._precision, image.device.type):
            memory = self._forward(image, Memory(for_backward=True))
            image.grad = self._backward(image, memory, scale)
            if scale != 1.0:
                image.grad /= scale
            return self._loss(memory)

    def _forward(self, image: Tensor, memory: Memory) -> Memory:
        """Pass 1: puts into `memory` what the losses, and the backward pass if there is one, need of the image."""
        for block in self._blocks:
            self._forward_tiles(block, image, memory, self._tiles(block, block.last, image))
            if block.number and (not memory.for_backward or self._computed_twice(block.number - 1)):
                memory.forget_output(self._blocks[block.number - 1])
        return memory

    def _tiles(self, block: Block, place: int, image: Tensor) -> list[Box]:
        again = self._blocks[block.number - 1] if place < 0 and self._computed_twice(block.number - 1) else None
        tiles = list(block.tiles(place, self._tile_px, again))
        if isinstance(image, FakeTensor):
            # Prediction asks for memory, and tiles of one shape take the same: thousands become a handful.
            fed_or_read = block.boxes_fed if place < 0 else partial(block.boxes_read, place, owned={})
            return list({tuple(box.lengths for box in fed_or_read(tile)): tile for tile in tiles}.values())
        return tiles

    def _tell_of_tile(self) -> None:
        self._tiles_done += 1
        if self._report is not None:
            self._report(self._tiles_done, self._tiles_of_iteration)

    def _computed_twice(self, number: int) -> bool:
        if number != 0:
            return False
        block = self._blocks[number]
        numbers = block.channels[-1] * block.positions(block.last)
        return numbers > _KEPT_NUMBERS_PER_PIXEL * math.prod(block.sizes[0])

    def _forward_tiles(self, block: Block, image: Tensor, memory: Memory, tiles: Iterable[Box]) -> None:
        for tile in tiles:
            owned = {place: block.owned(place, tile) for place in block.taps}
            boxes = block.boxes_read(block.last, tile, owned)
            source = self._input(block, image, memory, boxes[0])
            for place, features, choice in layer_by_layer(block, source, boxes):
                memory.keep(block, place, boxes[place + 1], features, choice)
                if place in block.taps:
                    own = part_of(features, boxes[place + 1], owned[place])
                    self._add_statistics(block, place, own, owned[place], memory)
            self._tell_of_tile()

    def _add_statistics(self, block: Block, place: int, features: Tensor, box: Box, memory: Memory) -> None:
        """Add to the sums that the losses are functions of what a tile's own features, those at `box`, contribute."""
        name, features = block.names[place], full_precision(features)
        with torch.autocast(features.device.type, enabled=False):
            if name in self._network.style_layers:
                flat = _flat(features)
                gram = memory.grams.setdefault(name, flat.new_zeros(flat.shape[1], flat.shape[1]))
                gram.addmm_(flat.T, flat, alpha=1 / block.positions(place))
            if name == self._network.content_layer and memory.for_backward:
                memory.content_sum = memory.content_sum + (features - self._content_target[box.slices]).square().sum()
            elif name == self._network.content_layer:
                if memory.content is None:
                    memory.content = whole_map(block, place, features)
                memory.content[box.slices] = features

    def _loss(self, memory: Memory) -> Tensor:
        network = self._network
        loss = network.content_weight * memory.content_sum / (2 * self._content_target.numel())
        for name, weight in network.style_layers.items():
            loss = loss + network.style_weight * weight * style_loss(memory.grams[name], self._gram_targets[name])
        assert isinstance(loss, Tensor)
        return loss

    def _backward(self, image: Tensor, memory: Memory, scale: float) -> Tensor:
        """Pass 2: the gradient of the loss times `scale`, shape of the image; empties `memory` on its way."""
        pulls = self._gram_gradients(memory, scale)
        above: Tensor | None = None
        for block in reversed(self._blocks):
            before = self._blocks[block.number - 1] if block.number else None
            below = torch.empty_like(image) if before is None else None
            for tile in self._tiles(block, -1, image):
                gradient = self._backward_tile(block, image, above, tile, memory, pulls, scale)
                if below is None:
                    below = whole_map(block, -1, gradient)
                below[tile.slices] = gradient if before else gradient / self._std
                self._tell_of_tile()
            memory.forget(block)
            if before:
                memory.forget_output(before)
            above = below
        assert above is not None
        return above

    def _gram_gradients(self, memory: Memory, scale: float) -> dict[str, Tensor]:
        """For each style layer the matrix P for which the loss's gradient with respect to its features F is P F.

        Gatys et al. 2016, equation 6, with the Gram matrix G = F F^T / M: P = weight * (G - target) / (channels^2 M).
        """
        pulls = {}
        for block in self._blocks:
            for place in block.taps:
                name = block.names[place]
                if name in self._network.style_layers:
                    gram = memory.grams[name]
                    weight = self._network.style_weight * self._network.style_layers[name] * scale
                    pulls[name] = (gram - self._gram_targets[name]) * (
                        weight / (gram.shape[0] ** 2 * block.positions(place))
                    )
        return pulls

    def _backward_tile(
        self,
        block: Block,
        image: Tensor,
        above: Tensor | None,
        tile: Box,
        memory: Memory,
        pulls: dict[str, Tensor],
        scale: float,
    ) -> Tensor:
        """The gradient with respect to one tile of the block's input.

        Args:
            above: the gradient with respect to the block's output, whole; None behind the last block.
        """
        boxes = block.boxes_fed(tile)
        again: dict[int, Tensor] = {}

        def features(place: int) -> Tensor:
            if place >= block.recomputed:
                return cut_out(memory.whole(block, place), boxes[place + 1])
            if not again:  # not before they are needed, which is last
                again.update(self._recomputed(block, image, memory, boxes))
            return again[place]

        gradient = None if above is None or boxes[-1].empty else cut_out(above, boxes[-1])
        if gradient is not None and block.last in block.taps:
            # Losses are added in place. What is cut out can be a view, as strips of full width are, and neighbouring
            # tiles read some of the same positions.
            gradient = gradient.clone()
        for place in range(block.last, -1, -1):
            layer, given, wanted = block.layers[place], boxes[place + 1], boxes[place]
            if given.empty:
                continue
            if place in block.taps:
                gradient = self._with_losses(block.names[place], gradient, features(place), given, pulls, scale)
            if gradient is None:
                continue
            match layer:
                case Rectifier() if block.keeps_signs(place):
                    gradient.mul_(memory.signs(block, place, given))
                case Rectifier():
                    # In place: the gradient is this tile's own.
                    torch.ops.aten.threshold_backward.grad_input(gradient, features(place), 0, grad_input=gradient)
                case MaxPool():
                    gradient = layer.backward(gradient, memory.choice(block, place, given), given, wanted)
                case Convolution():
                    gradient = layer.backward(gradient, given, wanted)
                case AveragePool():
                    gradient = layer.backward(gradient, given, wanted, block.sizes[place])
        # Where strides leave the last positions unread, nothing depends on them.
        return torch.zeros_like(self._input(block, image, memory, tile)) if gradient is None else gradient

    def _with_losses(
        self,
        name: str,
        gradient: Tensor | None,
        features: Tensor,
        box: Box,
        pulls: dict[str, Tensor],
        scale: float,
    ) -> Tensor:
        """The gradient with respect to features at `box`, with what the losses that look at them add to it."""
        total = torch.zeros_like(features) if gradient is None else gradient
        exact = full_precision(features)
        with torch.autocast(features.device.type, enabled=False):
            if name == self._network.content_layer:
                weight = self._network.content_weight * scale / self._content_target.numel()
                total.add_(exact - self._content_target[box.slices], alpha=weight)
            if name in pulls and total.dtype == exact.dtype:
                _flat(total).addmm_(_flat(exact), pulls[name])
            elif name in pulls:
                _flat(total).add_(_flat(exact) @ pulls[name])
        return total

    def _recomputed(self, block: Block, image: Tensor, memory: Memory, boxes: list[Box]) -> dict[int, Tensor]:
        """Features of the block's first layers, for those that are computed again rather than kept, at their boxes."""
        last = max(place for place in range(block.recomputed) if not boxes[place + 1].empty)
        wanted = {place: boxes[place + 1] for place in range(last)}
        read = block.boxes_read(last, boxes[last + 1], wanted)
        source = self._input(block, image, memory, read[0])
        return {
            place: part_of(features, read[place + 1], boxes[place + 1])
            for place, features, _ in layer_by_layer(block, source, read)
        }

    def _input(self, block: Block, image: Tensor, memory: Memory, box: Box) -> Tensor:
        """The block's input at `box`: part of the image, of what was kept, or computed again from the block before."""
        if block.number == 0:
            return (cut_out(image, box) - self._mean) / self._std
        before = self._blocks[block.number - 1]
        if memory.has_output(before):
            return cut_out(memory.whole(before, before.last), box)
        boxes = before.boxes_read(before.last, box, {})
        # A deque of one forgets each layer for the next.
        [(_, features, _)] = deque(layer_by_layer(before, self._input(before, image, memory, boxes[0]), boxes), 1)
        return features


def chosen_tile_px(height: int, width: int) -> int:
    """The side of a tile for a picture of that size, where none was asked for."""
    return _LARGE_TILE_PX if height * width >= _LARGE_PICTURE_PIXELS else _SMALL_TILE_PX


def _flat(features: Tensor) -> Tensor:
    """A view of shape (positions, channels)."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)
