"""The architecture, checked by the imports: they only go down the ladder, and there is no cycle."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.paths import ROOT

TOPS = ("models", "fixtures", "benchmarks")
# From the bottom up. A module may import modules of earlier lines only; a folder counts as a whole.
LADDER = (
    "models",
    "fixtures.schema",
    "fixtures.hooks",
    "fixtures.model_registry",
    "fixtures.host",
    "fixtures.failures",
    "fixtures.formatting",
    "fixtures.parsing",
    "fixtures.progress",
    "fixtures.telemetry",
    "fixtures.worker",
    "fixtures.runner",
    "fixtures.options",
    "fixtures.machine",
    "fixtures.marker",
    "fixtures.validation",
    "fixtures.matrix",
    "fixtures.records",
    "fixtures.comparing",
    "fixtures.measure",
    "fixtures.generate",
    "fixtures.search",
    "fixtures.scaling",
    "fixtures.planning",
    "fixtures.summaries",
    "benchmarks",
)
# These run in workers or commands. No other module, which pytest imports at its start, may import torch.
WITH_TORCH = ("fixtures.worker", "fixtures.planning")


def module_of(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.Module, known: set[str], top_level_only: bool = False) -> Iterator[str]:
    """Imported modules, those of this project with their full names."""
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else node.module


def graph(root: Path) -> dict[str, set[str]]:
    """For each module of the project, the modules of the project that it imports anywhere."""
    paths = {module_of(path, root): path for top in TOPS for path in (root / top).rglob("*.py")}
    trees = {name: ast.parse(path.read_text()) for name, path in paths.items()}
    known = set(trees)
    return {
        name: {one for one in imported(tree, known) if one in known and one != name} for name, tree in trees.items()
    }


def rung_of(module: str) -> str:
    """The line of `LADDER` to which a module belongs."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "fixtures" else parts[0]


def cycle_in(modules: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a cycle, in order; empty without a cycle."""
    done: set[str] = set()

    def search(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for other in sorted(modules[module]):
            if cycle := search(other, [*path, module]):
                return cycle
        done.add(module)
        return []

    return next((cycle for module in sorted(modules) if (cycle := search(module, []))), [])


def upward(modules: Mapping[str, set[str]]) -> list[str]:
    """Imports that go up the ladder."""
    return [
        f"{module} imports {other}"
        for module, others in modules.items()
        for other in others
        if "." in module and "." in other and LADDER.index(rung_of(other)) > LADDER.index(rung_of(module))
    ]


def test_imports_only_go_down_the_ladder():
    assert upward(graph(ROOT)) == []


def test_no_modules_import_each_other_in_a_cycle():
    assert cycle_in(graph(ROOT)) == []


def test_a_planted_cycle_and_a_planted_upward_import_are_found(tmp_path):
    for name, text in {
        "models/one.py": "from models import two",
        "models/two.py": "def later():\n    from models.one import x",
        "fixtures/schema.py": "import fixtures.measure",
        "fixtures/measure.py": "",
        "benchmarks/none.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cycle_in(graph(tmp_path)) == ["models.one", "models.two", "models.one"]
    assert upward(graph(tmp_path)) == ["fixtures.schema imports fixtures.measure"]


def test_only_in_process_imports_the_workers_side_and_inside_a_function():
    importers = {
        module
        for module, others in graph(ROOT).items()
        if rung_of(module) not in (*WITH_TORCH, "benchmarks")
        and any(rung_of(one) == "fixtures.worker" for one in others)
    }
    assert importers == {"fixtures.runner.in_process"}
    tree = ast.parse((ROOT / "fixtures/runner/in_process.py").read_text())
    assert not [name for name in imported(tree, set(graph(ROOT)), top_level_only=True) if "worker." in name + "."]


@pytest.mark.parametrize("top", ["fixtures", "benchmarks", "models/api.py"])
def test_only_workers_and_planning_import_torch_at_the_top(top):
    for path in (ROOT / top).rglob("*.py") if (ROOT / top).is_dir() else [ROOT / top]:
        if rung_of(module_of(path, ROOT)) not in WITH_TORCH:
            names = imported(ast.parse(path.read_text()), set(), top_level_only=True)
            assert not {"torch", "torchvision"} & {name.split(".")[0] for name in names}, path


def test_a_short_or_long_file_states_the_reason():
    for path in (path for top in TOPS for path in (ROOT / top).rglob("*.py")):
        lines = path.read_text().splitlines()
        exempt = path.name in ("__init__.py", "hooks.py", "errors.py") or path.match("benchmarks/test_*.py")
        if not exempt and not 60 <= len(lines) <= 350:
            reason = "Short because" if len(lines) < 60 else "Long because"
            assert reason in "\n".join(lines[:12]), f"{path}: {len(lines)} lines"


def test_models_do_not_import_pytest():
    for path in (ROOT / "models").rglob("*.py"):
        assert "pytest" not in {name.split(".")[0] for name in imported(ast.parse(path.read_text()), set())}, path


def test_diffusers_whose_import_takes_seconds_is_imported_only_by_modules_that_a_cell_asks_for():
    trees = {module_of(path, ROOT): ast.parse(path.read_text()) for top in TOPS for path in (ROOT / top).rglob("*.py")}
    importers = {
        name for name, tree in trees.items() if any(one.startswith("diffusers") for one in imported(tree, set()))
    }
    assert importers == {"models.from_diffusers", "models.diffusers_autoencoder"}
    # In a function, when latents of a photograph are wanted.
    assert [name for name, modules in graph(ROOT).items() if importers & modules] == ["models.steps.tiled_decode"]


def test_the_root_conftest_has_only_the_list_of_plugins():
    body = ast.parse((ROOT / "conftest.py").read_text()).body
    assert [type(node) for node in body] == [ast.Expr, ast.Assign]
