"""Identifiers, file names and prose use the field's terms: words that this project once coined do not come back."""

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.paths import ROOT

TREES = ("conftest.py", "models", "fixtures", "benchmarks", "tests")

# Coined words, each with the field's term. A word counts wherever it is part of an identifier or a file name.
PARTS_OF_NAMES = {
    "asked": "requested, options",
    "band": "range of rows, partition",
    "bands": "ranges of rows, partition",
    "borrow": "receive",
    "borrowed": "received",
    "borrower": "receiver",
    "bout": "trial",
    "bouts": "trials",
    "burden": "added work, background load",
    "burdened": "with added work",
    "burdens": "added work, background load",
    "couple": "worker pair",
    "couples": "worker pairs",
    "errand": "request",
    "errands": "requests",
    "inquest": "end of a worker, exit status",
    "keeping": "activation store",
    "lend": "send",
    "lender": "sender",
    "lent": "sent",
    "life": "session, lifetime",
    "lives": "sessions, worker pairs",
    "material": "workload, targets",
    "neighbour": "background load; adjacent",
    "neighbours": "background load; adjacent",
    "news": "progress event, reply",
    "said": "text, output",
    "spoken": "argument type",
    "tenant": "other process",
    "tenants": "other processes",
    "told": "reported",
    "whereabouts": "progress state",
    "workbench": "executor",
    "zygote": "fork server",
}

# These count as whole identifiers only: `not_found` and the sentence of a test's name may contain them.
WHOLE_NAMES = {
    "found": "result",
    "heard": "reply, received",
    "tell": "report",
}

# Words that have no other meaning, so that comments and docstrings are searched for them as well.
IN_PROSE = (
    "bout", "bouts", "burdened", "errand", "errands", "inquest", "lender", "tenants", "whereabouts", "workbench", "zygote",
)  # fmt: skip

# Identifiers that stay, each with the reason. Strings are not searched, so record keys and `[tool.goghmark.floors]` in
# pyproject.toml need no entry.
EXCEPTIONS: dict[str, str] = {}

# Folders and files that are not clean yet.
NOT_YET: tuple[str, ...] = ()


def words_of(name: str) -> list[str]:
    """The words of an identifier in snake or camel case, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def term_for(name: str) -> str | None:
    """The field's term if a name contains a coined word; else None."""
    if name in EXCEPTIONS:
        return None
    coined = next((word for word in words_of(name) if word in PARTS_OF_NAMES), None)
    return PARTS_OF_NAMES[coined] if coined else WHOLE_NAMES.get(name.strip("_").lower())


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of each comment and docstring."""
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
    with_docstrings = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, with_docstrings) and (text := ast.get_docstring(node, clean=False)):
            yield node.body[0].lineno, text


def identifiers_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and name of each identifier."""
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.NAME:
                yield token.start[0], token.string


def coined_in(path: Path, name: str) -> list[str]:
    """A sentence for each coined word of a file.

    Args:
        name: path of the file in messages; its parts are searched as well.
    """
    sentences = [
        f"{name}: the file name has a coined word; the field's term is: {term}"
        for part in Path(name).parts
        if (term := term_for(part.removesuffix(".py")))
    ]
    seen: set[str] = set()
    for line, identifier in identifiers_of(path):
        if identifier not in seen and (term := term_for(identifier)):
            sentences.append(f"{name}:{line}: identifier {identifier!r}; the field's term is: {term}")
        seen.add(identifier)
    for line, text in prose_of(path):
        sentences += [
            f"{name}:{line}: {word!r} in a comment or docstring; the field's term is: {PARTS_OF_NAMES[word]}"
            for word in IN_PROSE
            if re.search(rf"\b{word}\b", text, re.IGNORECASE)
        ]
    return sentences


def test_no_coined_word_is_in_an_identifier_a_file_name_or_prose():
    paths = [
        path for tree in TREES for path in ([ROOT / tree] if tree.endswith(".py") else (ROOT / tree).rglob("*.py"))
    ]
    names = [path.relative_to(ROOT).as_posix() for path in sorted(paths)]
    sentences = [
        sentence for name in names if not name.startswith(NOT_YET) for sentence in coined_in(ROOT / name, name)
    ]
    assert not sentences, "\n".join(sentences)


def test_coined_words_of_a_planted_file_are_reported_with_the_fields_term(tmp_path):
    path = tmp_path / "zygote.py"
    path.write_text(
        '"""An inquest."""\n\nclass WorkerNews:\n    lent_px = 1  # by tenants\n    _told = lent_px\n', "utf-8"
    )
    assert coined_in(path, path.name) == [
        "zygote.py: the file name has a coined word; the field's term is: fork server",
        "zygote.py:3: identifier 'WorkerNews'; the field's term is: progress event, reply",
        "zygote.py:4: identifier 'lent_px'; the field's term is: sent",
        "zygote.py:5: identifier '_told'; the field's term is: reported",
        "zygote.py:4: 'tenants' in a comment or docstring; the field's term is: other processes",
        "zygote.py:1: 'inquest' in a comment or docstring; the field's term is: end of a worker, exit status",
    ]


def test_words_of_the_field_are_not_reported(tmp_path):
    path = tmp_path / "talent.py"
    path.write_text("class FileNotFound(Exception):\n    bandwidth = lifetime = not_found = 0\n", "utf-8")
    assert coined_in(path, path.name) == []
