"""One pass over the maps of a graph, row by row: some are read, others computed from them, measured or written.

Strips of rows are read from the map that is furthest behind; then every computed map gets as far as it can. Of a map
that is there in part the other rows are computed; what that needs begins some rows before them.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from models.streaming.arena import strips
from models.streaming.gradient_graph import Graph, Node, Turn, bits
from models.streaming.operations import Residual, row_before, scale_of
from models.streaming.row_gradients import RowSum, gradient_stream
from models.streaming.rows import RowQueue, Statistics, Stream, stream_of
from models.streaming.slabs import rows_around


class GraphPass:
    """One pass.

    Args:
        maps: those that are there, shape (1, channels, height, width); of a map in part the first rows.
        heights: of all maps of the graph.
        strip_rows: from a map to how many of its rows are read at a time.
    """

    def __init__(
        self,
        graph: Graph,
        maps: Mapping[int, Tensor],
        heights: Sequence[int],
        statistics: Statistics,
        strip_rows: Callable[[Tensor, int], int],
    ) -> None:
        self._graph, self._maps, self._heights, self._statistics = graph, maps, heights, statistics
        self._strip_rows = strip_rows
        self._read: list[_Read] = []
        self._computed: list[_Computed | _Joined] = []

    def __call__(self, turn: Turn | None, written: Mapping[int, Tensor]) -> None:
        """Measure the two sums of a normalisation, and write maps.

        Args:
            written: where maps are written, or their first rows; over maps that are read, too.
        """
        targets = [*written] if turn is None else [turn.gradient, turn.activation, *written]
        rows = self._producers(targets)
        sinks: list[_Measured | _Written] = []
        if turn is not None:
            sinks.append(_Measured(turn, rows[turn.gradient].to(0), rows[turn.activation].to(0), self._statistics))
        for node, out in written.items():
            overwritten = [one for one in self._read if one.lies_at(out)]
            sinks.append(_Written(rows[node].to(0), out, overwritten))
        while reading := [one for one in self._read if not one.done]:
            min(reading, key=lambda one: one.share).advance()
            for one in (*self._computed, *sinks):
                one.advance()
        assert all(sink.done for sink in sinks), "a map ended early"
        if turn is not None:
            self._statistics[turn.norm].finish_gradient()

    def _producers(self, targets: Sequence[int]) -> dict[int, "_Producer"]:
        """What the rows of each map that is needed come from."""
        graph = self._graph
        whole = [node for node, features in self._maps.items() if features.shape[2] == self._heights[node]]
        needed = bits(graph.needed(sum(1 << node for node in whole), targets))
        # The first row of each map that is needed.
        first = dict.fromkeys(targets, 0)
        computed_from: dict[int, int] = {}
        for node in reversed(needed):
            computed_from[node] = start = max(first[node], self._maps[node].shape[2] if node in self._maps else 0)
            for one in graph.nodes[node].inputs:
                row = _row_before(graph.nodes[node], start)
                first[one] = min(row, first.get(one, row))
        rows: dict[int, _Producer] = {}
        for node in sorted(first):
            if node not in needed:
                rows[node] = self._reader(node, first[node])
                continue
            rows[node] = computer = self._computer(node, computed_from[node], rows)
            if computed_from[node] > first[node]:
                joined = _Joined(self._reader(node, first[node]), computer, first[node], computed_from[node])
                self._computed.append(joined)
                rows[node] = joined
        return rows

    def _reader(self, node: int, first: int) -> "_Read":
        reader = _Read(self._maps[node], self._strip_rows(self._maps[node], node), first, self._heights[node])
        self._read.append(reader)
        return reader

    def _computer(self, number: int, start: int, rows: Mapping[int, "_Producer"]) -> "_Producer":
        """Computes a map from a row on."""
        node = self._graph.nodes[number]
        row = _row_before(node, start)
        inputs = [rows[one].to(row) for one in node.inputs]
        stream = self._stream(node, inputs, top=row == 0)
        computer = _Computed(stream, inputs, self._heights[node.inputs[0]] - row, _first_row(node, row))
        self._computed.append(computer)
        return computer

    def _stream(self, node: Node, inputs: Sequence[RowQueue], top: bool) -> Stream:
        operation, zeros = node.operation, (top, True)
        assert operation is not None
        if isinstance(operation, Residual):
            return RowSum(inputs[1], operation.shortcut, node.back)
        if node.back:
            return gradient_stream(operation, self._statistics, inputs[-1], zeros)
        return stream_of(operation, self._statistics, zeros)


class _Producer:
    """Rows of a map from row `first` on, and those who take them."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._queues: list[RowQueue] = []

    def to(self, row: int) -> RowQueue:
        """A queue that gets the rows from one on."""
        self._queues.append(RowQueue(row - self._first))
        return self._queues[-1]

    def put(self, rows: Tensor) -> None:
        for queue in self._queues:
            queue.put(rows)


class _Read(_Producer):
    """A map, or its first rows, read in strips.

    Attributes:
        position: the rows before it have been read.
    """

    def __init__(self, features: Tensor, rows: int, first: int, height: int) -> None:
        super().__init__(first)
        self._features, self._height, self.position = features, height, first
        self._strips = strips(features, rows, first)
        self.done = first >= features.shape[2]

    @property
    def share(self) -> float:
        """Of the whole map, how much has been read."""
        return self.position / self._height

    def lies_at(self, other: Tensor) -> bool:
        """Whether the map's memory begins where another's does."""
        ours, theirs = (one.untyped_storage()._cdata for one in (self._features, other))
        return ours == theirs and int(self._features.storage_offset()) == int(other.storage_offset())

    def advance(self) -> None:
        strip, self.done = next(self._strips)
        self.position += strip.shape[2]
        self.put(strip)


class _Computed(_Producer):
    """What a stream makes of its inputs, of which the first has so many rows."""

    def __init__(self, stream: Stream, inputs: Sequence[RowQueue], rows: int, first: int) -> None:
        super().__init__(first)
        self._stream, self._inputs, self._left = stream, inputs, rows

    def advance(self) -> None:
        rows = min(queue.rows for queue in self._inputs)
        if rows:
            self._left -= rows
            out = self._stream.push(self._inputs[0].take(rows), self._left == 0)
            if out is not None:
                self.put(out)


class _Joined(_Producer):
    """The first rows of a map, which are there, then those that are computed."""

    def __init__(self, there: _Producer, computed: _Producer, first: int, computed_from: int) -> None:
        super().__init__(first)
        self._left, self._there, self._computed = computed_from - first, there.to(first), computed.to(computed_from)

    def advance(self) -> None:
        if self._left and self._there.rows:
            self._left -= self._there.rows
            self.put(self._there.take(self._there.rows))
        if not self._left and self._computed.rows:
            self.put(self._computed.take(self._computed.rows))


class _Measured:
    """Adds to the two sums of a normalisation."""

    def __init__(self, turn: Turn, gradient: RowQueue, activation: RowQueue, statistics: Statistics) -> None:
        self._norm, self._gradient, self._activation = statistics[turn.norm], gradient, activation

    @property
    def done(self) -> bool:
        return not self._gradient.rows and not self._activation.rows

    def advance(self) -> None:
        rows = min(self._gradient.rows, self._activation.rows)
        if rows:
            self._norm.add_gradient(self._gradient.take(rows), self._activation.take(rows))


class _Written:
    """Writes a map, or its first rows, behind the place up to which the maps that it overwrites have been read."""

    def __init__(self, queue: RowQueue, out: Tensor, overwritten: Sequence[_Read]) -> None:
        self._queue, self._out, self._overwritten, self._row = queue, out, overwritten, 0

    @property
    def done(self) -> bool:
        return self._row >= self._out.shape[2]

    def advance(self) -> None:
        free = min((one.position - self._row for one in self._overwritten if not one.done), default=self._queue.rows)
        rows = min(free, self._queue.rows)
        if rows > 0:
            strip, end = self._queue.take(rows), min(self._row + rows, self._out.shape[2])
            if end > self._row:
                self._out[:, :, self._row : end] = strip[:, :, : end - self._row]
            self._row += rows


def _row_before(node: Node, row: int) -> int:
    """The first row of the inputs that a map needs from a row on."""
    operation = node.operation
    if isinstance(operation, Residual) or operation is None:
        return row
    if node.back and scale_of(operation) > 1:
        return max(0, 2 * row - rows_around([operation]))
    return max(0, row_before([operation], row))


def _first_row(node: Node, row: int) -> int:
    """The first row of a map that comes of the inputs from a row on."""
    operation = node.operation
    if isinstance(operation, Residual) or operation is None:
        return row
    inner = row + rows_around([operation]) if row else 0
    return -(-inner // scale_of(operation)) if node.back else scale_of(operation) * inner
