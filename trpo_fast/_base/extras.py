"""Packages that only some parts need: a missing one ends in the line that installs it."""

from __future__ import annotations

import importlib
from typing import Any


def require(package: str, what: str, extra: str) -> Any:
    """The imported package, or an ImportError that says what needs it and how to get it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] != package.partition(".")[0]:
            raise  # it is there, and misses something of its own
        name = package.partition(".")[0]
        raise ImportError(f'{what} needs {name}: pip install "trpo-fast[{extra}]"') from error
