"""References: how one process tells another which function or class to import."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from models.errors import InputError


def resolve(reference: str) -> Any:
    """The object that `module:name` or `path/to/file.py:name` stands for.

    Raises:
        InputError: the module, file or name does not exist, or importing it fails.
    """
    where, _, name = reference.rpartition(":")
    try:
        found: Any = _load_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        raise InputError(f"cannot import {reference!r} ({error}); the worker needs a module-level name") from error
    return found


def _load_file(path: Path) -> ModuleType:
    # A conftest.py is no importable module: it is loaded under a name that its path makes unique.
    name = "goghmark_plugin_" + "_".join(path.with_suffix("").parts[1:])
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
