"""The tiled iteration of one device: all tiles of the image, one after the other."""

from torch import Tensor

from models.steps.objective import StyleTask
from models.steps.statistics import Statistics
from models.steps.tile_chain import TileChain
from models.steps.tile_passes import Share, TilePasses

# For where nothing is known of the memory: with its halo, such a tile of VGG-19 takes 1 GB in float32.
DEFAULT_TILE_PX = 512


class TiledObjective(TilePasses):
    """The numbers of `PlainObjective`, in two passes over tiles.

    Raises:
        InputError: the network has a layer that cannot be tiled, or the tile is too small for it.
    """

    def __init__(self, task: StyleTask) -> None:
        chain = TileChain(task.network, task.network.taps)
        self.tile_px = tile_side(task.tile_px, chain)
        content, style = (_whole(chain, picture, self.tile_px) for picture in (task.content, task.style))
        super().__init__(task, chain, content, style, combine=_as_they_are)

    def __call__(self, image: Tensor) -> Tensor:
        image.grad = None
        loss, image.grad = self.evaluate(image)
        return loss


def tile_side(asked_px: int, chain: TileChain) -> int:
    """Side of the largest tile, in pixels; 0 leaves it to this."""
    return asked_px or max(DEFAULT_TILE_PX, chain.smallest_side())


def _whole(chain: TileChain, picture: Tensor, tile_px: int) -> Share:
    height, width = picture.shape[-2:]
    return Share(height * width, chain.sizes(height, width), chain.tiles(height, width, tile_px))


def _as_they_are(found: Statistics) -> Statistics:
    return found
