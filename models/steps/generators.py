"""Steps of today's generators: one evaluation of a denoiser, or one decode of latents, and their gradients.

Latents, conditions and targets are random and stay on the device: only computation is timed. Modes:

- `forward`: the output, in inference mode;
- `input`: the gradient of a loss with respect to the latents, with frozen weights, as guidance, reward and style losses
  through a generator need it. The loss is the mean square of the output: it depends on every number of the output, and
  takes next to no time;
- `training`: forward with the mean squared error of the predicted noise (Ho et al. 2020, equation 14) or velocity (Liu
  et al. 2022, "Flow Straight and Fast", equation 1), backward to the weights, and a step of AdamW. The variance that a
  DiT also predicts gets no loss of its own, and there is no moving average of the weights.

With a precision of 16 bits, weights and activations are stored in it in the modes `forward` and `input`, as in programs
that generate; in `training`, weights stay in float32 and layers run under autocast.
"""

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from models.attention import attention_kernel
from models.errors import InputError, Unsupported
from models.generators import Generator, materialise
from models.images import ROWS_PER_COPY, to_uint8
from models.residual import lay_out_channels_last
from models.steps.compilation import Compilation
from models.steps.graphs import GraphedCall
from models.steps.loss_scale import first_scale
from models.steps.objectives import arithmetic, frozen_arithmetic, frozen_type
from models.workload import Step, Workload, resolve

# Of the two papers. With random weights a larger rate diverges.
LEARNING_RATE = 1e-4
# AdamW divides by the gradient's scale, so that the factor that keeps float16 in range need not be undone.
FLOAT16_LOSS_SCALE = 1024.0

_WHY_NOT = {
    "tiled": "normalisation and attention of a generator span the whole image, so that tiles would change its output",
    "fastest": "it combines changes to a style iteration",
    "winograd": "its transformed weights are those of a style network",
}


def denoise(workload: Workload) -> Step:
    """The step of a denoiser, by mode.

    Raises:
        InputError: the mode, the size or the weights do not fit the model.
        Unsupported: the strategy does not apply.
    """
    if workload.strategy in ("streamed", "offloaded"):
        raise Unsupported(f"strategy {workload.strategy!r} does not apply: it computes images by strips or tiles")
    return step_of_mode({"forward": Forward, "input": InputGradient, "training": Training}, workload)


def step_of_mode(modes: Mapping[str, type["GeneratorStep"]], workload: Workload) -> Step:
    """The step of a workload's mode; errors as in `denoise`."""
    if workload.mode not in modes:
        raise InputError(f"there is no mode {workload.mode!r} of this step; use one of: {', '.join(modes)}")
    return modes[workload.mode](workload)


class GeneratorStep(Step):
    """A generator with its inputs; a subclass says what an iteration is."""

    def __init__(self, workload: Workload) -> None:
        self._device = torch.device(workload.device)
        self._precision, self._kernel = workload.precision, workload.attention
        self._network = self._loaded(workload)
        torch.manual_seed(workload.seed)
        shape = (workload.height, workload.width)
        sides = (side // self._network.latent_px for side in shape)
        self._latents = torch.randn(workload.batch, self._network.latent_channels, *sides, device=self._device)
        stored_as = self._stored_as(workload)
        self._conditions = tuple(
            condition.to(stored_as) if condition.is_floating_point() else condition
            for condition in self._network.conditions(workload.batch, self._device)
        )
        self._latents = self._latents.to(stored_as)
        if workload.strategy == "channels_last":
            self._latents = self._latents.contiguous(memory_format=torch.channels_last)
        self._evaluate: Callable[..., Tensor] = self._network
        if workload.strategy == "compiled":
            if workload.attention != "auto":
                # The keys of its caches lack the kernel: code of another one would be loaded.
                torch.compiler.config.force_disable_caches = True
            self._evaluate = torch.compile(self._network, dynamic=False)
        self._compilation = Compilation() if workload.strategy == "compiled" else None
        self._graphed = GraphedCall(self._device) if workload.strategy == "graphed" else None

    @property
    def network(self) -> Generator:
        return self._network

    @property
    def latents(self) -> Tensor:
        return self._latents

    def __call__(self) -> None:
        if self._compilation is not None:
            self._compilation.finish(self._run_first)
        if self._graphed is None:
            self._iterate()
        else:
            self._graphed(self._iterate)

    def compile_seconds(self) -> float | None:
        return None if self._compilation is None else self._compilation.seconds

    @abstractmethod
    def _iterate(self) -> None:
        """One iteration."""

    @staticmethod
    def _stored_as(workload: Workload) -> torch.dtype:
        """The type of weights and latents."""
        return frozen_type(workload.precision)

    def _loaded(self, workload: Workload) -> Generator:
        """The network with its weights, in the mode and memory layout of the workload."""
        network: Generator = resolve(workload.model)()
        _check(network, workload)
        materialise(network, self._device, workload.weights, self._stored_as(workload), workload.seed)
        network.eval().requires_grad_(False)
        network.checkpointed = workload.strategy == "checkpointed"
        if workload.strategy == "channels_last":
            lay_out_channels_last(network)
        return network

    def _run_first(self) -> None:
        self._iterate()
        self.loss()  # waits for the device

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """Within the context, torch computes with the workload's precision, and attention by its kernel."""
        with frozen_arithmetic(self._precision, self._device.type), attention_kernel(self._kernel):
            yield


class Forward(GeneratorStep):
    """The output for one batch, in inference mode."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._output: Tensor | None = None

    def _iterate(self) -> None:
        self._output = None  # two outputs at a time would raise the peak
        with torch.inference_mode(), self._computing():
            self._output = self._evaluate(self._latents, *self._conditions)

    def loss(self) -> float | None:
        """Mean of the output: the step has no loss, but a number shows that real work was done."""
        if self._output is None:
            return None
        # By rows: a copy in float32 of a whole image of 8K would be the peak of a decode.
        sums = [rows.float().sum() for rows in self._output.split(ROWS_PER_COPY, -2)]
        return float(torch.stack(sums).sum() / self._output.numel())


class Decode(Forward):
    """The pixels of one batch of latents, in inference mode."""

    def image(self) -> Tensor | None:
        """Shape (batch, 3, height, width), bytes: a decoder's pixels are in [-1, 1]."""
        if self._output is None:
            return None
        return torch.cat([to_uint8(rows.float() / 2 + 0.5) for rows in self._output.split(ROWS_PER_COPY, 2)], 2)


class InputGradient(GeneratorStep):
    """The gradient of the output's mean square with respect to the latents, with frozen weights."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._latents.requires_grad_(True)
        self._loss: Tensor | None = None

    def _iterate(self) -> None:
        self._latents.grad = None
        with self._computing():
            output = self._evaluate(self._latents, *self._conditions)
            loss = output.float().square().mean()
            # The gradient of a mean is proportional to 1 / numbers, and would underflow float16.
            (loss * first_scale(self._precision, output.numel())).backward()
        self._loss = loss.detach()

    def loss(self) -> float | None:
        """Not a number if the gradient is not finite."""
        if self._loss is None:
            return None
        assert self._latents.grad is not None
        return float(self._loss) if bool(self._latents.grad.isfinite().all()) else float("nan")


class Training(GeneratorStep):
    """One iteration of training a denoiser: forward and loss, backward to the weights, AdamW step."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._network.train().requires_grad_(True)
        noise = torch.randn_like(self._latents)
        mixed = flowing if self._network.flow_matching else noisy
        self._latents, self._target = mixed(self._latents, noise, self._conditions[0])
        self._scale = FLOAT16_LOSS_SCALE if workload.precision == "float16" else 1.0
        self._optimizer = torch.optim.AdamW(self._network.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
        self._loss_graph: Tensor | None = None
        self._loss: Tensor | None = None

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._optimizer

    def parts(self) -> Mapping[str, Callable[[], None]]:
        """The parts of an iteration, in order."""
        return {"forward": self._forward, "backward": self._backward, "optimizer": self._step}

    def loss(self) -> float | None:
        return None if self._loss is None else float(self._loss)

    @staticmethod
    def _stored_as(workload: Workload) -> torch.dtype:
        del workload
        return torch.float32

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        with arithmetic(self._precision, self._device.type), attention_kernel(self._kernel):  # autocast, for 16 bits
            yield

    def _iterate(self) -> None:
        self._forward()
        self._backward()
        self._step()

    def _forward(self) -> None:
        with self._computing():
            prediction = self._evaluate(self._latents, *self._conditions)
        # A DiT predicts the variance too, in further channels.
        self._loss_graph = mse_loss(prediction[:, : self._network.latent_channels].to(self._target.dtype), self._target)
        self._loss = self._loss_graph.detach()

    def _backward(self) -> None:
        assert self._loss_graph is not None, "forward comes first"
        with self._computing():
            (self._loss_graph * self._scale).backward()
        self._loss_graph = None

    def _step(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()


def noisy(latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Latents with the noise of their timesteps (Ho et al. 2020, equation 4, with the variances of section 4), and the
    noise, which is to be predicted.
    """
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, device=latents.device)).cumprod(0)[timesteps].view(-1, 1, 1, 1)
    return kept.sqrt() * latents + (1 - kept).sqrt() * noise, noise


def flowing(latents: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """The point between latents and noise where their timesteps lie on a straight line, and the velocity along it,
    which is to be predicted (Liu et al. 2022, equation 1; Esser et al. 2024, equation 2, with t from data to noise).
    """
    share = (timesteps / 1000).view(-1, 1, 1, 1)
    return (1 - share) * latents + share * noise, noise - latents


def _check(network: Generator, workload: Workload) -> None:
    """Refuse a size and a strategy that the network cannot have."""
    factor = network.factor_px
    if workload.width % factor or workload.height % factor or not workload.width or not workload.height:
        raise InputError(f"the model takes images whose sides are multiples of {factor} px")
    if network.largest_px is not None and max(workload.width, workload.height) > network.largest_px:
        raise InputError(f"the model takes images whose sides are at most {network.largest_px} px")
    strategy = workload.strategy
    if strategy in _WHY_NOT:
        raise Unsupported(f"strategy {strategy!r} is for style networks: {_WHY_NOT[strategy]}")
    if strategy == "checkpointed" and workload.mode == "forward":
        raise Unsupported("strategy 'checkpointed' does not apply to mode 'forward', which stores no activations")
    if strategy == "graphed" and workload.mode == "training":
        raise Unsupported("strategy 'graphed' does not apply to mode 'training': AdamW counts its steps on the host")
    if strategy == "channels_last" and not network.convolutional:
        raise Unsupported("strategy 'channels_last' does not apply: the model convolves nothing but its patches")
