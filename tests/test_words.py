"""Identifiers and file names use the field's terms: words that the project once coined do not come back."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

# Each coined word with the term to use instead.
TERMS = {
    "asked": "requested",
    "bands": "partition",
    "borrow": "receive",
    "borrowed": "received",
    "bout": "trial",
    "burden": "added work",
    "burdened": "added work",
    "couple": "worker pair",
    "errand": "call",
    "inquest": "diagnosis",
    "keeping": "activation store",
    "lent": "sent",
    "life": "session",
    "lives": "sessions",
    "material": "activation store",
    "neighbours": "background load",
    "news": "progress event",
    "said": "text",
    "tenants": "other processes",
    "told": "reported",
    "whereabouts": "rendezvous",
    "workbench": "executor",
    "zygote": "fork server",
}
FOLDERS = ("models", "fixtures", "benchmarks", "tests")
# Not renamed yet: delete each line with its last coined word.
PENDING = (
    "models/",
    "benchmarks/",
    *(f"fixtures/{folder}/" for folder in ("comparing", "planning")),
    "tests/models/",
    "tests/benchmarks/",
    *(f"tests/fixtures/{folder}/" for folder in ("comparing", "planning")),
)


def words(name: str) -> list[str]:
    """The words of an identifier or a file name, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def identifiers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of everything that a module defines or assigns."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.alias(asname=str(name)):
                yield node.lineno, name


def coined(root: Path) -> list[str]:
    """Where a coined word is part of a name, and the term to use instead."""
    found = []
    for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py")):
        place = path.relative_to(root)
        names = [(0, part) for part in place.parts] + list(identifiers(ast.parse(path.read_text())))
        found += [
            f"{place}:{line}: {name}: write {TERMS[word]} instead of {word}"
            for line, name in names
            for word in words(name)
            if word in TERMS
        ]
    return found


def test_no_name_has_a_coined_word():
    assert [message for message in coined(ROOT) if not message.startswith(PENDING)] == []


@pytest.mark.parametrize(
    ("path", "text", "line"),
    [
        ("models/zygote.py", "", 0),
        ("fixtures/a.py", "class NewsReader: ...", 1),
        ("fixtures/b.py", "def run(lives): ...", 1),
        ("benchmarks/c.py", "\nself.told_count = 0", 2),
        ("tests/d.py", "def test_what_is_asked(): ...", 1),
    ],
)
def test_a_planted_word_is_found(tmp_path, path, text, line):
    (tmp_path / path).parent.mkdir()
    (tmp_path / path).write_text(text)
    (message,) = coined(tmp_path)
    assert message.startswith(f"{path}:{line}: ")
