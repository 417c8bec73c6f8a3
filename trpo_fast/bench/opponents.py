"""Finds the opponents of a checkout. They are programs to be timed against, not part of the
package, so an installed package has none of them unless it runs inside a checkout.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_NAME = "trpo_fast_opponents"


class OpponentsUnavailable(RuntimeError):
    """There are no opponents to time against; the message says why."""


def folder() -> Path | None:
    """benchmarks/opponents beside the package's sources, or below the working directory."""
    beside = Path(__file__).resolve().parents[2]
    for root in (beside, Path.cwd()):
        candidate = root / "benchmarks" / "opponents"
        if (candidate / "__init__.py").is_file():
            return candidate
    return None


def load() -> ModuleType:
    """The package of opponents, imported once."""
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    found = folder()
    if found is None:
        raise OpponentsUnavailable(
            "opponents live in benchmarks/opponents of a checkout, which an installed package does "
            "not carry; run from the root of a checkout, or with --opponents none"
        )
    spec = importlib.util.spec_from_file_location(
        _NAME, found / "__init__.py", submodule_search_locations=[str(found)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[_NAME] = package
    try:
        spec.loader.exec_module(package)
    except BaseException:
        del sys.modules[_NAME]
        raise
    return package
