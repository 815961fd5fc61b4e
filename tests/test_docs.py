"""The documentation: every link has a target, every command is valid, every name is in its file.

Nothing is measured: commands are checked with the parsers of pytest, of the suite's own commands and of torchrun, and
with the Makefile's targets.
"""

import argparse
import contextlib
import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from fixtures.options import Settings
from fixtures.parsing import size
from fixtures.records.reader import read_record
from tests.paths import ROOT
from tests.test_ladder import LADDER

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEMPLATES = sorted((ROOT / ".github").rglob("*.md"))
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
COMMANDS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if "\ndef main(" in path.read_text())

each_page = pytest.mark.parametrize("page", [*PAGES, *TEMPLATES], ids=lambda page: str(page.relative_to(ROOT)))


# What a text contains.


def fences(text: str, *languages: str) -> list[str]:
    """Bodies of the fenced blocks in these languages."""
    return [body for language, body in FENCE.findall(text) if language in languages]


def prose(text: str) -> str:
    """The text without fenced blocks."""
    return FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """GitHub's anchors of the headings."""
    slugs: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        slugs.append(f"{slug}-{slugs.count(slug)}" if slug in slugs else slug)
    return set(slugs)


def links(text: str) -> list[str]:
    """Targets of all links and pictures within this repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", INLINE.sub("", prose(text)))
    return [target for target in targets if not target.startswith(("http:", "https:"))]


def broken_links(text: str, folder: Path) -> list[str]:
    """The links of a page in `folder` without a target."""
    broken = []
    for target in links(text):
        path, _, anchor = target.partition("#")
        file = (folder / path).resolve() if path else None
        page = text if file is None else file.read_text() if file.suffix == ".md" and file.is_file() else ""
        if (file is not None and not file.exists()) or (anchor and anchor not in anchors(page)):
            broken.append(target)
    return broken


def command_lines(body: str) -> Iterator[list[str]]:
    """The words of each command of a shell block."""
    for line in body.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"\w+=.*", words[0]):  # environment variables
            words.pop(0)
        if words:
            yield words


def missing_files(text: str) -> list[str]:
    """Paths of this repository in a text that do not exist."""
    tops = r"(?:benchmarks|fixtures|models|tests|docs|\.github)"
    paths = [span for span in INLINE.findall(prose(text)) if re.fullmatch(rf"{tops}/[\w.*/-]*", span)]
    return [path for path in paths if not any(ROOT.glob(path.rstrip("/")))]


def missing_names(text: str) -> list[str]:
    """Names that are not in the file to which a text assigns them, as `path`: `name`, `name`."""
    references = re.findall(r"`([\w./]+\.(?:py|toml))`: (`\w+`(?:, `\w+`)*)", prose(text))
    pairs = [(path, name) for path, names in references for name in INLINE.findall(names)]
    return [f"{path}: {name}" for path, name in pairs if not re.search(rf"\b{name}\b", (ROOT / path).read_text())]


# What programs accept.


class Refused(Exception):
    """A program refuses these arguments."""


class Programs:
    """The parsers of all programs in the documentation."""

    def __init__(self, config: pytest.Config) -> None:
        self._of_pytest = parser_of(config)
        self._targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        self._extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])

    def error(self, words: Sequence[str]) -> str | None:
        """Why a command is invalid; None if it is valid."""
        try:
            self._check(words[0].rpartition("/")[2], list(words[1:]))
        except (Refused, SystemExit, argparse.ArgumentError, pytest.UsageError) as error:
            return f"{shlex.join(words)}: {error}"
        return None

    def knows(self, option: str) -> bool:
        """Whether pytest, torchrun or a command of the suite has an option."""
        with contextlib.suppress(SystemExit, pytest.UsageError):  # a value is missing
            if option in self._of_pytest.parse_known_and_unknown_args([option])[1]:
                helps = [parser_of_command(name).format_help() for name in COMMANDS] + [torchrun().format_help()]
                return any(re.search(rf"{re.escape(option)}\b(?!-)", text) for text in helps)
        return True

    def _check(self, program: str, words: list[str]) -> None:
        match program, words:
            case "pytest", _:
                self._check_pytest(words)
            case "python", ["-m", module, *rest] if module.startswith("benchmarks."):
                parser_of_command(module.removeprefix("benchmarks.")).parse_args(rest)
            case "torchrun", _:
                parsed = torchrun().parse_args(words)
                if not parsed.module:
                    raise Refused("torchrun is given no -m MODULE")
                parser_of_command(parsed.training_script.removeprefix("benchmarks.")).parse_args(
                    parsed.training_script_args
                )
            case "make", [target, *variables]:
                if target not in self._targets:
                    raise Refused(f"the Makefile has no target {target!r}")
                for variable in variables:
                    self._check_pytest(shlex.split(variable.removeprefix("ARGS=")))
            case "pip", ["install", "-e", project]:
                unknown = set(project.removeprefix(".").strip("[]").split(",")) - self._extras
                if unknown:
                    raise Refused(f"pyproject.toml has no extra {sorted(unknown)}")
            case ".", [".venv/bin/activate"]:
                pass
            case _:
                raise Refused("unknown command")

    def _check_pytest(self, words: list[str]) -> None:
        parsed, unknown = self._of_pytest.parse_known_and_unknown_args(words)
        if unknown:
            raise Refused(f"pytest has no {' '.join(unknown)}")
        for path in parsed.file_or_dir:
            if not (ROOT / path.partition("::")[0]).exists():
                raise Refused(f"there is no {path}")
        values = vars(parsed) | {"cell_seconds": parsed.cell_seconds or "2"}
        Settings.from_config(SimpleNamespace(getoption=lambda name: values[name.lstrip("-").replace("-", "_")]))


def parser_of(config: pytest.Config) -> pytest.Parser:
    """pytest's parser with the options of the suite. A plugin that is registered late gets it too."""

    class LatePlugin:
        parser: pytest.Parser

        def pytest_addoption(self, parser: pytest.Parser) -> None:
            self.parser = parser

    late = LatePlugin()
    config.pluginmanager.register(late)
    config.pluginmanager.unregister(late)
    return late.parser


def parser_of_command(name: str) -> argparse.ArgumentParser:
    """The parser that `python -m benchmarks.NAME` creates in its `main`."""
    if name not in COMMANDS:
        raise Refused(f"there is no command benchmarks.{name}")

    class ParserCreated(Exception):
        pass

    def stop(self: argparse.ArgumentParser, *_: object) -> None:
        raise ParserCreated(self)

    command = importlib.import_module(f"benchmarks.{name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(ParserCreated) as created:
            command.main([])
    return refusing(created.value.args[0])


def torchrun() -> argparse.ArgumentParser:
    """The parser of torchrun."""
    return refusing(importlib.import_module("torch.distributed.run").get_args_parser())


def refusing(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser, which now raises its error message instead of printing it."""

    def refuse(message: str) -> None:
        raise Refused(message)

    parser.error = refuse
    return parser


@pytest.fixture(scope="module")
def programs(pytestconfig):
    return Programs(pytestconfig)


# The checks.


@each_page
def test_every_link_has_a_target(page):
    assert broken_links(page.read_text(), page.parent) == []


@each_page
def test_every_command_is_valid(page, programs):
    lines = [words for body in fences(page.read_text(), "sh") for words in command_lines(body)]
    assert [error for words in lines if (error := programs.error(words))] == []


@each_page
def test_every_option_exists(page, programs):
    options = {
        span.partition("=")[0] for span in INLINE.findall(prose(page.read_text())) if re.match(r"--[a-z-]+(=|$)", span)
    }
    assert [option for option in sorted(options) if not programs.knows(option)] == []


@each_page
def test_every_file_exists_and_contains_the_names_given_for_it(page):
    assert missing_files(page.read_text()) + missing_names(page.read_text()) == []


CHECKS: dict[str, Callable[[str], object]] = {
    "python": lambda body: compile(body, "example", "exec"),
    "toml": tomllib.loads,
    "json": json.loads,
    "sh": lambda body: list(command_lines(body)),
    "text": str,
}


@each_page
def test_every_block_is_fenced_and_valid_in_its_language(page):
    text = page.read_text()
    for language, body in FENCE.findall(text):
        assert language in CHECKS, body
        CHECKS[language](body)
    assert "```" not in prose(text)
    assert not re.search(r"^\n    \S", prose(text), re.MULTILINE), "an indented block, which no test checks"


def test_every_page_can_be_reached_from_the_readme():
    reached, to_read = {README}, [README]
    while to_read:
        page = to_read.pop()
        targets = {(page.parent / target.partition("#")[0]).resolve() for target in links(page.read_text())}
        new = {target for target in targets if target.suffix == ".md"} - reached
        reached |= new
        to_read += new
    assert set(PAGES) - reached == set()


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_the_first_sentence_of_a_page_names_its_readers(page):
    title, _, first = page.read_text().splitlines()[:3]
    assert title.startswith("# ")
    assert first.startswith("This page is for ")


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_the_figures_of_the_readme_equal_those_of_the_record_files():
    rows = {}
    for name in ("cpu-2-cores-style.json", "cpu-2-cores-8k.json"):
        assert f"docs/results/{name}" in README.read_text()
        for cell in read_record(ROOT / "docs" / "results" / name).cells.values():
            if cell.benchmark == "test_style_iteration":
                strategy = "" if cell.axes["strategy"] == "plain" else f" {cell.axes['strategy']}"
                rows[f"{cell.model}{strategy}", cell.axes["resolution"]] = cell
    lines = [line for body in fences(README.read_text(), "text") for line in body.splitlines() if "  cpu " in line]
    assert len(lines) >= 12
    for line in lines:
        _, model, resolution, *figures, status = re.split(r"\s{2,}", line.strip())
        cell = rows[model, resolution]
        rates = cell.iterations_per_minute, cell.images_per_second, (cell.median_seconds or 0) * 1e3
        memory = cell.peak_memory_bytes, cell.predicted_memory_bytes
        assert [float(text) for text in figures[:3] if text != "-"] == pytest.approx([*filter(None, rates)], rel=1e-3)
        assert [size(text) for text in figures[4:] if text != "-"] == pytest.approx([*filter(None, memory)], rel=1e-3)
        assert status.split()[0] == cell.status


def test_the_ladder_of_the_page_equals_that_of_the_test():
    page = (ROOT / "docs" / "architecture.md").read_text()
    (ladder,) = (body for body in fences(page, "text") if body.startswith("benchmarks"))
    assert tuple(line.split()[0] for line in reversed(ladder.splitlines())) == LADDER


def test_every_file_in_the_figure_exists():
    shown = re.findall(r"[\w/]+(?:\.py|/(?=[<,]))", (ROOT / "docs" / "architecture.svg").read_text())
    assert len(shown) > 10
    for path in shown:
        assert any((folder / path).exists() for folder in (ROOT, ROOT / "fixtures", ROOT / "benchmarks")), path


# The checks can fail.


def test_planted_broken_links_are_found(tmp_path):
    (tmp_path / "page.md").write_text("# A page\n\n## Two `words`, here\n")
    text = (
        "# Own\n[a](page.md) [b](page.md#two-words-here) [c](#own) [d](nowhere.md) ![e](nowhere.png) [f](page.md#three)"
        " [g](#other) `[h](code.md)` [i](https://example.org/nowhere)\n```text\n[j](block.md)\n```\n"
    )
    assert broken_links(text, tmp_path) == ["nowhere.md", "nowhere.png", "page.md#three", "#other"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("pytest --benchmark-only --modle=vgg19", "--modle=vgg19"),
        ("OMP_NUM_THREADS=1 pytest --max-drop=5", "'5' is not a share"),
        ("pytest --resolution=big", "'big' is not a resolution"),
        ("pytest --telemetry=perhaps", "invalid choice"),
        ("pytest benchmarks/test_nothing.py", "there is no benchmarks/test_nothing.py"),
        ("python -m benchmarks.gate A.json B.json --max-dorp=5%", "--max-dorp=5%"),
        ("python -m benchmarks.plan --model=vgg91", "no model named 'vgg91'"),
        ("python -m benchmarks.gaet A.json", "no command benchmarks.gaet"),
        ("torchrun --nodes=2 -m benchmarks.ranks", "--nodes=2"),
        ("torchrun benchmarks.ranks", "torchrun is given no -m"),
        ("torchrun --nnodes=2 -m benchmarks.ranks \\\n    --benchmark=none", "no benchmark named 'none'"),
        ("make bencch", "no target 'bencch'"),
        ('make bench ARGS="--modle=nin"', "--modle=nin"),
        ("pip install -e '.[reports]'", "no extra ['reports']"),
        ("rm -r results", "unknown command"),
    ],
)
def test_a_planted_invalid_command_is_found(programs, line, reason):
    (words,) = command_lines(line + "  # a remark\n")
    assert reason in (programs.error(words) or "")


def test_planted_missing_names_are_found(programs):
    text = "`fixtures/options.py`: `OPTIONS`, `OPTOINS` and `fixtures/option.py`, `benchmarks/test_*.py`, `docs/`\n"
    assert missing_files(text) == ["fixtures/option.py"]
    assert missing_names(text) == ["fixtures/options.py: OPTOINS"]
    assert [programs.knows(option) for option in ("--max-drop", "--rdzv-conf", "--link", "--max-dorp")] == [
        True, True, True, False,
    ]  # fmt: skip
