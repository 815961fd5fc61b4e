"""What is the largest square image that fits?

For each device and model, the largest side within the memory budget is predicted. Then sizes near it run for two
iterations each, until one fits and the next one, 64 px larger, does not. The row shows the largest size that fitted;
the record also has the sizes that were tried, and the failure one step above. A size that fails for another reason than
memory is too large as well, if a smaller one fits; the summary says so.

With tiles, sizes fit that would take hours: a size is tried only if it is expected to take at most a quarter of
`--cell-timeout`, based on a first run at 512 px. The record says if time limited the search, and which side memory
would allow.

On an accelerator the budget is its free memory, and each size takes seconds. On cpu the budget is the machine's memory,
and each size takes minutes: there the search runs only with `-m search` or with a `--memory-limit` under 4GiB.
"""

import pytest

from fixtures.schema import Cell
from fixtures.search import SearchLargest


@pytest.mark.search
@pytest.mark.matrix(step="style_iteration", model=("vgg19", "nin"), without=("resolution",))
def test_largest_image(cell: Cell, largest_image: SearchLargest) -> None:
    largest_image(cell)
