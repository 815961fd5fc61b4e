"""What is the largest square image that fits?

For each device and model: the peak memory of an iteration is predicted for growing sides until it leaves the budget,
then the sizes around that edge are really run, two iterations each, until one fits and the next, 64 px larger, does
not. The row shows the largest that fitted; its record says which were tried, and what failed one step above.

Strategies in tiles fit sizes that take hours: there a try may take a quarter of `--cell-timeout`, by the speed of a
first one at 512 px. A search that ends for that reason says so in its record, with the side that memory would allow.

On an accelerator the budget is its free memory, and a try takes seconds. On cpu it is the whole machine's, and a try
takes minutes: there the search joins a run only with `-m search`, or with a `--memory-limit` under 4GiB.
"""

import pytest

from fixtures.schema import Cell
from fixtures.search import SearchLargest


@pytest.mark.search
@pytest.mark.matrix(step="style_iteration", model=("vgg19", "nin"), without=("resolution",))
def test_largest_image(cell: Cell, largest_image: SearchLargest) -> None:
    largest_image(cell)
