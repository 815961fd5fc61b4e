"""Which positions a layer's output is computed from, and which it acts on: integer arithmetic along one axis.

An output o of a layer with window k, stride s and padding p reads the inputs o*s - p ... o*s - p + k - 1
(Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep learning", section 2).
"""

from dataclasses import dataclass
from typing import NamedTuple, Self


class Span(NamedTuple):
    """Positions from `start` up to, not including, `stop`; outside of a map they stand for its padding."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def within(self, size: int) -> "Span":
        """The part that lies on a map of `size` positions."""
        return Span(min(max(self.start, 0), size), max(min(self.stop, size), 0))

    def hull(self, other: "Span") -> "Span":
        """The shortest span that holds both."""
        return Span(min(self.start, other.start), max(self.stop, other.stop))


class Box(NamedTuple):
    """A rectangle of positions."""

    rows: Span
    columns: Span

    @property
    def empty(self) -> bool:
        return self.rows.length <= 0 or self.columns.length <= 0

    @property
    def lengths(self) -> tuple[int, int]:
        return self.rows.length, self.columns.length

    @property
    def slices(self) -> tuple[slice, slice, slice, slice]:
        """To index a tensor of shape (1, channels, height, width) with."""
        return slice(None), slice(None), slice(*self.rows), slice(*self.columns)

    def seen_from(self, other: "Box") -> "Box":
        """Where it lies within `other`."""
        spans = (Span(own.start - of.start, own.stop - of.start) for own, of in zip(self, other, strict=True))
        return Box(*spans)

    def hull(self, other: "Box") -> "Box":
        """The smallest rectangle that holds both."""
        return Box(self.rows.hull(other.rows), self.columns.hull(other.columns))


@dataclass(frozen=True)
class Window:
    """A layer along one axis. `padding` is that before the first position; what is behind the last is in `size`."""

    kernel: int = 1
    stride: int = 1
    padding: int = 0
    ceil: bool = False

    def size(self, inputs: int) -> int:
        """Outputs that there are for so many inputs, as torch counts them."""
        room = inputs + 2 * self.padding - self.kernel
        outputs = room // self.stride + 1
        # A last window that sticks out counts if it begins on the map or in the padding before it.
        if self.ceil and room % self.stride and outputs * self.stride < inputs + self.padding:
            outputs += 1
        return outputs

    def reads(self, outputs: Span) -> Span:
        """The inputs that `outputs` are computed from, padding included."""
        first = outputs.start * self.stride - self.padding
        return Span(first, (outputs.stop - 1) * self.stride - self.padding + self.kernel)

    def feeds(self, inputs: Span, outputs: int) -> Span:
        """The outputs, out of so many, that any of `inputs` acts on; may be empty."""
        first = -((self.kernel - 1 - self.padding - inputs.start) // self.stride)
        return Span(first, (inputs.stop - 1 + self.padding) // self.stride + 1).within(outputs)


@dataclass(frozen=True)
class Windows:
    """A layer along both axes."""

    rows: Window
    columns: Window

    @classmethod
    def of(
        cls,
        kernel: int | tuple[int, ...],
        stride: int | tuple[int, ...],
        padding: int | tuple[int, ...],
        ceil: bool = False,
    ) -> Self:
        """From the attributes of torch's layers: one number for both axes, or one for each."""
        pairs = [value if isinstance(value, tuple) else (value, value) for value in (kernel, stride, padding)]
        kernels, strides, paddings = pairs
        rows, columns = (Window(kernels[axis], strides[axis], paddings[axis], ceil) for axis in range(2))
        return cls(rows, columns)

    def size(self, inputs: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output."""
        return self.rows.size(inputs[0]), self.columns.size(inputs[1])

    def reads(self, outputs: Box) -> Box:
        """As `Window.reads`."""
        return Box(self.rows.reads(outputs.rows), self.columns.reads(outputs.columns))

    def feeds(self, inputs: Box, outputs: tuple[int, int]) -> Box:
        """As `Window.feeds`."""
        return Box(self.rows.feeds(inputs.rows, outputs[0]), self.columns.feeds(inputs.columns, outputs[1]))


def clip(box: Box, size: tuple[int, int]) -> Box:
    """The part of a box that lies on a map of that height and width."""
    return Box(box.rows.within(size[0]), box.columns.within(size[1]))
