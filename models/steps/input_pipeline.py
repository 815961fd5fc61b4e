"""The input pipeline of classification: from picture files to a normalised batch on the device.

Short because it is one step, and the only one that reads files.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from models import images
from models.errors import InputError
from models.network import IMAGENET_MEAN, IMAGENET_STD
from models.workload import Step, Workload


class PictureInput(Step):
    """One batch: `size` threads read, decode, resize, crop and normalise pictures; then the batch is copied.

    Decoding and resizing release the interpreter lock, so threads run in parallel; each uses one core. The batch
    alternates between content and style picture. After the first batch the files are in the system's page cache.
    """

    def __init__(self, workload: Workload) -> None:
        paths = [path for path in (workload.content, workload.style) if path]
        if not paths:
            raise InputError("there is no picture to read; give --content=PATH or --style=PATH")
        self._paths = [paths[index % len(paths)] for index in range(workload.batch)]
        self._width, self._height = workload.width, workload.height
        self._device = torch.device(workload.device)
        self._mean, self._std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self._threads = ThreadPoolExecutor(workload.size, initializer=partial(torch.set_num_threads, 1))
        self._on_host = torch.empty(workload.batch, 3, workload.height, workload.width)
        self.batch = self._on_host

    def __call__(self) -> None:
        list(self._threads.map(self._prepare, range(len(self._paths))))
        # On cpu this is no copy. From pageable memory the copy is synchronous, so the next batch may overwrite it.
        self.batch = self._on_host.to(self._device)

    def loss(self) -> float | None:
        """Mean of the batch: the step has no loss, but a number shows that pictures were read."""
        return float(self.batch.mean())

    def _prepare(self, index: int) -> None:
        picture = images.fit(images.read(self._paths[index]), self._width, self._height)
        torch.sub(picture[0], self._mean, out=self._on_host[index]).div_(self._std)
