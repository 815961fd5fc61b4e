"""The input side of classification: picture files become a normalised batch on the device.

Short because one step is all of it, and no other reads files.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from models import images
from models.errors import InputError
from models.network import IMAGENET_MEAN, IMAGENET_STD
from models.workload import Step, Workload


class PictureInput(Step):
    """One batch: read, decode, resize and crop, normalise each picture in one of `size` threads, then copy it over.

    Threads, because torchvision's decoding and resizing hold no interpreter lock while they work; each computes with
    one core. The content and the style picture take turns. Files come from the system's cache after the first batch.
    """

    def __init__(self, workload: Workload) -> None:
        paths = [path for path in (workload.content, workload.style) if path]
        if not paths:
            raise InputError("there is no picture to read; give --content=PATH or --style=PATH")
        self._paths = [paths[place % len(paths)] for place in range(workload.batch)]
        self._width, self._height = workload.width, workload.height
        self._device = torch.device(workload.device)
        self._mean, self._std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self._threads = ThreadPoolExecutor(workload.size, initializer=partial(torch.set_num_threads, 1))
        self._on_host = torch.empty(workload.batch, 3, workload.height, workload.width)
        self.batch = self._on_host

    def __call__(self) -> None:
        list(self._threads.map(self._prepare, range(len(self._paths))))
        # On cpu the batch is where it must be; elsewhere the copy is waited for before the next batch overwrites it.
        self.batch = self._on_host.to(self._device)

    def loss(self) -> float | None:
        """Mean of the batch: a number that shows that pictures were read."""
        return float(self.batch.mean())

    def _prepare(self, place: int) -> None:
        picture = images.fit(images.read(self._paths[place]), self._width, self._height)
        torch.sub(picture[0], self._mean, out=self._on_host[place]).div_(self._std)
