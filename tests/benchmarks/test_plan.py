"""The command that says what card a picture needs."""

import pytest

from benchmarks import plan
from models import PRECISIONS, STRATEGIES

GIB = 2**30


def test_every_strategy_and_precision_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--model=nin", "--resolution=512"]) == 0
    head, columns, *rows, halo = capsys.readouterr().out.splitlines()
    assert "nin at 512x512 px" in head
    assert "peak memory" in columns
    assert "px of the image around it" in halo
    assert [tuple(row.split()[:2]) for row in rows] == [
        (strategy, precision) for strategy in STRATEGIES for precision in PRECISIONS
    ]


def test_an_8k_picture_needs_the_largest_card_whole_and_a_small_one_in_tiles(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert plan.main(["--model=vgg19", "--resolution=7680x4320", "--tile=512"]) == 0
    rows = {tuple(line.split()[:2]): line for line in capsys.readouterr().out.splitlines()}
    assert rows["plain", "float32"].endswith(" 141")
    assert rows["tiled", "float32"].endswith("4, 8, 12, 16, 24, 40, 80, 141") or rows["tiled", "float32"].endswith(
        "  8, 12, 16, 24, 40, 80, 141"
    )


def test_a_card_keeps_the_reserve_that_a_run_leaves() -> None:
    assert plan.usable(4 * GIB) == 4 * GIB - GIB // 2
    assert plan.usable(80 * GIB) == 76 * GIB


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model=vgg91", "--resolution=64"], "no model named 'vgg91'; there are: nin, vgg16, vgg19"),
        (["--model=vgg19", "--resolution=0"], "'0' is no resolution"),
        (["--model=vgg19", "--resolution=8"], "the smallest side that works is 16"),
        (["--model=vgg19", "--resolution=64", "--memory=much"], "'much' is no memory size"),
        (["--model=nin", "--resolution=64", "--tile=8"], "the smallest that works is --tile=32"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    try:
        status = plan.main(arguments)
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert sentence in capsys.readouterr().err
