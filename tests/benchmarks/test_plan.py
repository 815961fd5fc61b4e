"""The command `benchmarks.plan`, which predicts which cards are large enough."""

import re
import sys

import pytest

from benchmarks import plan
from fixtures.planning.cards import usable_bytes
from models.api import CLASSIFIERS, PRECISIONS, STRATEGIES

GIB = 2**30


@pytest.mark.parametrize(
    ("options", "precisions"),
    [(["--precision=float32,tf32"], ("float32", "tf32")), pytest.param([], PRECISIONS, marks=pytest.mark.slow)],
)
def test_every_strategy_of_accelerators_has_a_row_for_each_precision(
    options: list[str], precisions: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan.main(["--model=nin", "--resolution=512", *options]) == 0
    head, columns, *rows, halo = capsys.readouterr().out.splitlines()
    assert "nin at 512x512 px" in head
    assert "peak memory" in columns
    assert "px of the image around it" in halo
    assert [tuple(row.split()[:2]) for row in rows] == [
        (strategy, precision)
        for strategy in STRATEGIES
        if strategy not in ("offloaded", "winograd")  # for decoders, and on no accelerator
        for precision in precisions
    ]


@pytest.mark.slow
def test_an_8k_image_needs_the_largest_card_as_a_whole_and_a_small_one_in_tiles(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert plan.main(["--model=vgg19", "--resolution=7680x4320", "--tile=512", "--precision=float32"]) == 0
    rows = {tuple(line.split()[:2]): line for line in capsys.readouterr().out.splitlines()}
    assert rows["plain", "float32"].endswith("GiB  80, 96, 141, 192")
    assert rows["tiled", "float32"].endswith("8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 192")


def test_a_classifier_has_a_row_for_each_mode_and_batch(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--model=basic_cnn,alexnet", "--batch=1,2", "--resolution=64"]) == 0
    head, columns, *rows, _ = capsys.readouterr().out.splitlines()
    assert "64x64 px" in head
    assert all(part in columns for part in ("parameters", "gradients", "optimizer state", "activations"))
    assert [tuple(row.split()[:4]) for row in rows] == [
        (model, mode, "float32", batch)
        for model in ("basic_cnn", "alexnet")
        for mode in ("forward", "training")
        for batch in ("1", "2")
    ]


def test_a_generator_has_a_row_for_each_resolution_mode_and_precision(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model=kl_decoder_s", "--resolution=64,128x64", "--memory=1GiB", "--precision=float32,bfloat16"]
    assert plan.main(arguments) == 0
    _, columns, *rows = capsys.readouterr().out.partition("decoders by row streams")[0].splitlines()
    assert all(part in columns for part in ("parameters", "activations", "peak memory", "cards that hold it"))
    shown = [row.split() for row in rows if row.startswith("  kl_decoder_s")]
    assert [tuple(row[:5]) for row in shown] == [
        ("kl_decoder_s", resolution, mode, precision, "1")
        for resolution in ("64", "128x64")
        for mode in ("forward", "input")
        for precision in ("float32", "bfloat16")
    ]
    assert all(" ".join(row).endswith("; 1 GiB: yes") for row in shown)
    notes = " ".join(rows[len(shown) :])
    assert "by a kernel that stores no scores" in notes
    assert "workspace_memory_bytes" in notes


def test_a_mode_can_be_requested_of_generators(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model=kl_decoder_s", "--resolution=32", "--mode=input", "--precision=float32", "--batch=1,2"]
    assert plan.main(arguments) == 0
    lines = capsys.readouterr().out.partition("decoders by row streams")[0].splitlines()
    rows = [line.split() for line in lines if line.startswith("  kl_decoder_s")]
    assert [row[1:5] for row in rows] == [["32", "input", "float32", batch] for batch in ("1", "2")]


def test_a_decoder_has_rows_for_row_streams_without_a_limit_in_the_given_memory_and_in_the_least(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shared = ["--model=kl_decoder_s", "--mode=forward", "--precision=float32"]
    assert plan.main([*shared, "--resolution=2048,4096", "--memory=1GiB"]) == 0
    head, columns, *rows, _ = capsys.readouterr().out.partition("decoders by row streams")[2].splitlines()
    assert "work relative to plain" in head
    assert "maps" in columns
    shown = {tuple(row[column] for column in (1, 5)): row for row in (re.split(r"  +", line.strip()) for line in rows)}
    memories = ("no limit", "1 GiB", "least", "maps on host")
    assert list(shown) == [(side, memory) for side in ("2048", "4096") for memory in memories]
    maps, work = ([float(shown["2048", memory][column]) for memory in memories[:3]] for column in (6, 10))
    assert maps == sorted(maps, reverse=True)
    assert work == sorted(work)
    assert maps[0] == 2.0
    assert work[0] < 1  # upsampling with the convolution behind it has 4/9 of the work
    assert shown["4096", "1 GiB"][-1] == "too little"
    assert [shown["2048", memory][8] == "-" for memory in memories] == [True, True, True, False]
    assert float(shown["2048", "maps on host"][10]) == work[0]


def test_decodes_over_ranks_have_a_row_for_each_number_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["--model=kl_decoder_s", "--resolution=256", "--precision=float32", "--ranks=1,2"]
    assert plan.main([*shared, "--rate=12iterations/min", "--link=1GB/s"]) == 0
    head, columns, one, two, *_ = capsys.readouterr().out.splitlines()
    assert "in slabs over ranks" in head
    assert "decodes/min" in columns
    # A single rank takes 5 s and sends nothing; of two, each has half of the work.
    assert one.split()[:6] == ["kl_decoder_s", "256", "float32", "1", "1", "2.00"]
    assert " 0 B " in one
    assert " 5000 " in one
    assert " 50.0 " in two
    assert " 2500 " in two


@pytest.mark.parametrize(
    ("arguments", "first_words"),
    [
        (["--resolution=64", "--precision=float32"], "nin at 64x64 px with adam"),
        (["--resolution=64", "--batch=1"], "classifiers at 64x64 px"),
        (["--resolution=64", "--mode=forward"], "classifiers at 64x64 px"),
    ],
)
def test_with_mode_or_batch_a_name_means_the_classifier(
    capsys: pytest.CaptureFixture[str], arguments: list[str], first_words: str
) -> None:
    assert plan.main(["--model=nin", *arguments]) == 0
    assert capsys.readouterr().out.startswith(first_words)


def test_all_means_every_classifier(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "classifier_plan", lambda question: [",".join(question.models)])
    assert plan.main(["--model=all", "--batch=1"]) == 0
    assert capsys.readouterr().out.strip() == ",".join(sorted(CLASSIFIERS))


def test_ranks_have_a_row_for_each_kind_of_scaling_and_images_per_second_if_a_rate_is_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shared = ["--model=basic_cnn", "--batch=4", "--resolution=32", "--ranks=2,8"]
    assert plan.main([*shared, "--rate=100images/s", "--link=1GB/s"]) == 0
    _, columns, *rows = capsys.readouterr().out.splitlines()
    assert "images/s" in columns
    named = [tuple(row.split()[:4]) for row in rows if row.startswith("  basic_cnn")]
    # 8 ranks cannot share a batch of 4.
    assert named == [
        ("basic_cnn", "weak", "2", "4"),
        ("basic_cnn", "strong", "2", "2"),
        ("basic_cnn", "weak", "8", "4"),
    ]
    assert plan.main(shared) == 0
    output = capsys.readouterr().out
    assert "for times, give --rate=400images/s of one rank" in output
    assert "for times, give --link=50GB/s" in output


def test_an_image_over_ranks_has_a_row_for_each_number_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model=nin", "--resolution=128x256", "--tile=64", "--precision=float32", "--ranks=1,2"]
    assert plan.main([*arguments, "--rate=12iterations/min", "--link=1GB/s"]) == 0
    head, columns, one, two, *_ = capsys.readouterr().out.splitlines()
    assert "128x256 px" in head
    assert "sent by a rank" in columns
    # A single rank takes 5 s and sends nothing.
    assert one.split()[:3] == ["float32", "1", "64"]
    assert " 5000 " in one
    assert two.split()[:3] == ["float32", "2", "64"]


def test_the_usable_memory_of_a_card_is_less_by_the_reserve() -> None:
    assert usable_bytes(4 * GIB) == 4 * GIB - GIB // 2
    assert usable_bytes(80 * GIB) == 76 * GIB


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model=vgg91", "--resolution=64"], "no model named 'vgg91'; there are: alexnet, all,"),
        (["--model=vgg19", "--resolution=0"], "'0' is not a resolution"),
        (["--model=vgg19", "--resolution=8"], "the smallest side that works is 16"),
        (["--model=vgg19", "--resolution=64", "--memory=much"], "'much' is not a memory size"),
        (["--model=nin", "--resolution=64", "--tile=8"], "the smallest that works is --tile=32"),
        (["--model=vgg19"], "a style model needs a size"),
        (["--model=vgg19", "--batch=1"], "no classifier named 'vgg19'; there are: alexnet"),
        (["--model=alexnet", "--batch=0"], "'0' is not a batch"),
        (["--model=alexnet", "--mode=eval"], "no mode named 'eval'; there are: forward, input, training"),
        (["--model=alexnet", "--mode=input"], "no mode of classifiers named 'input'; there are: forward, training"),
        (["--model=alexnet", "--resolution=64,96"], "classifiers are planned at one resolution"),
        (["--model=dit_s2"], "a generator needs a size"),
        (["--model=dit_s2,nin", "--resolution=64"], "'dit_s2' is a denoiser or decoder, 'nin' is none"),
        (["--model=dit_s2", "--resolution=64,100"], "multiples of 16 px, and 100 is none; the nearest that work: --"),
        (["--model=kl_decoder", "--resolution=64", "--mode=training"], "model 'kl_decoder' has no mode 'training'"),
        (["--model=dit_s2", "--resolution=64", "--ranks=2"], "leave --ranks out"),
        (
            ["--model=kl_decoder", "--resolution=64", "--ranks=9"],
            "latents of 8 rows cannot be cut into a slab for each",
        ),
        (["--model=kl_decoder", "--resolution=64", "--ranks=2", "--mode=input"], "gradient is not computed over ranks"),
        (["--model=kl_decoder", "--resolution=2048", "--ranks=2", "--memory=600MiB"], "give more memory"),
        (["--model=alexnet", "--resolution=8"], "the smallest side that works is 63"),
        (["--model=alexnet", "--ranks=0"], "'0' is not a number of ranks"),
        (["--model=alexnet", "--ranks=2", "--mode=forward"], "ranks share training, not a forward pass"),
        (["--model=alexnet", "--ranks=2", "--link=50Gbit/s"], "'50Gbit/s' is not a bandwidth"),
        (["--model=alexnet", "--ranks=2", "--rate=400"], "'400' is not a rate"),
        (["--model=alexnet", "--ranks=2", "--record=absent.json"], "cannot be read"),
    ],
)
def test_bad_input_is_reported_in_one_sentence_with_exit_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    try:
        status = plan.main(arguments)
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert sentence in capsys.readouterr().err


def test_a_missing_extra_is_reported_in_one_sentence_with_exit_status_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "models.from_diffusers", raising=False)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert plan.main(["--model=sdxl", "--resolution=1024"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("plan: model 'sdxl': the models sd15,")
    assert "need the extra 'diffusers'" in sentence
