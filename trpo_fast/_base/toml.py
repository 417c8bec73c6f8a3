"""Flat TOML files of ``name = value`` lines, as a run's directory holds them.

TOML has no null: None is written as "none", and read back.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import files

NONE = "none"


def read(path: str | os.PathLike[str], argument: str = "config") -> dict[str, Any]:
    """The values by name; ``argument`` is what a sentence about the file begins with."""
    # The standard library has it from Python 3.11 on; before, the train extra installs its twin.
    tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        values = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(
            f"{argument}: expected a TOML file, got {path}: {error.strerror}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{argument}: expected TOML in {path}: {error}") from error
    for name, value in values.items():
        if not _flat(value):
            raise ValueError(
                f"{argument}: expected lines of name = value in {path}, where a value is a number, "
                f"a string, true, false or a list of them, got {name} = {value!r:.60}"
            )
    return {name: None if value == NONE else value for name, value in values.items()}


def write(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """What ``read`` reads."""
    files.write(path, text(values).encode())


def text(values: Mapping[str, Any]) -> str:
    """The lines of a file that ``read`` reads."""
    return "".join(f"{name} = {_text(value)}\n" for name, value in values.items())


def _flat(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, bool | int | float | str) for item in items)


def _text(value: Any) -> str:
    if value is None:
        return json.dumps(NONE)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value)
