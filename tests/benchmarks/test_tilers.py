"""`benchmarks/test_tilers.py` as users run it, with tilers of their own."""

import pytest

FILE = "benchmarks/test_tilers.py"
SMALL = ("--benchmark-only", "--device=cpu", "--model=kl_decoder_s", "-p", "tiler_plugin")


def sentence_of(done):
    assert done.returncode == 4, done.stdout + done.stderr
    (line,) = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]
    return line


def test_tilers_of_the_hook_are_results_or_have_their_reason(suite):
    done = suite.run(FILE, *SMALL, "--resolution=64x40", "--tiler=whole,halves,raises,transposed")
    assert done.returncode == 1, done.stdout + done.stderr
    cells = {cell["tiler"]: cell for cell in suite.recorded()["cells"]}
    assert {tiler: (cell["kind"], cell["status"]) for tiler, cell in cells.items()} == {
        "whole": ("tiling", "ok"),
        "halves": ("tiling", "ok"),
        "raises": ("tiling", "error"),
        "transposed": ("tiling", "error"),
    }
    whole, halves = (cells[tiler]["tiling_errors"]["noise"] for tiler in ("whole", "halves"))
    assert (whole["relative_l2"], whole["seam"]) == (0, None)
    assert halves["relative_l2"] > 0.01
    assert halves["seam"] > 1.2
    assert (suite.record.parent / halves["error_map"]).is_file()
    assert cells["halves"]["flops_per_iteration"] > 1e8
    assert "tile 7 is lost" in cells["raises"]["message"]
    assert "image of shape (1, 3, 64, 40), where (1, 3, 40, 64) is wanted" in cells["transposed"]["message"]
    assert "decoders that work in tiles, against the whole decode" in done.stdout
    assert "error: raises on kl_decoder_s 64x40 px" in done.stdout
    assert "test_tilers[cpu-kl_decoder_s-64x40px-halves]" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            (FILE, "--tiler=hales"),
            "no tiler named 'hales'; there are: diffusers, halves, naive, raises, transposed, wh",
        ),
        ((FILE, f"--save-images={__file__}/maps"), "pictures cannot be written to"),
        ((FILE, "--latents=picture"), "ERROR: no latents named 'picture'; there are: all, noise, photograph"),
        (
            ("benchmarks/test_decode.py", "--tiler=naive"),
            "--tiler=naive is given, but no benchmark of this run decodes",
        ),
    ],
    ids=("tiler", "folder", "latents", "no_effect"),
)
def test_bad_input_is_reported_in_one_sentence_before_anything_runs(suite, arguments, sentence):
    assert sentence in sentence_of(suite.run(*arguments, *SMALL, "--resolution=64"))
    assert not suite.record.exists()
