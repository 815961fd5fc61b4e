"""The architecture, kept by reading imports: they only ever go down, benchmarks to fixtures to models."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {"models": {"fixtures", "benchmarks", "pytest"}, "fixtures": {"benchmarks"}, "benchmarks": set()}
# Run in workers only; nothing that pytest's own process imports at its start may bring torch.
WORKER_SIDE = {
    "fixtures/worker/service.py",
    "fixtures/worker/devices.py",
    "fixtures/worker/memory_breakdown.py",
    "fixtures/worker/estimate.py",
    "fixtures/worker/rank_launcher.py",
    "fixtures/worker/rank_process.py",
    "fixtures/worker/generation_loop.py",
    "fixtures/worker/executor.py",
}


def imported(path: Path, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_only_go_down(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert not set(imported(path)) & FORBIDDEN[folder], path


def test_the_process_that_plans_never_imports_torch():
    for path in (*(ROOT / "fixtures").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py"), ROOT / "models/__init__.py"):
        if path.relative_to(ROOT).as_posix() not in WORKER_SIDE:
            assert not {"torch", "torchvision"} & set(imported(path, top_level_only=True)), path


def test_the_root_conftest_is_nothing_but_a_list_of_plugins():
    body = ast.parse((ROOT / "conftest.py").read_text()).body
    assert [type(node) for node in body] == [ast.Expr, ast.Assign]
