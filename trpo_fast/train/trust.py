"""What a checkpoint may have an environment's constructor do: nothing that imports a module or
opens a file of the checkpoint's choice.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from typing import Any

from .checkpoint import CheckpointError

_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_imports_nothing(name: str) -> None:
    """Refuse a checkpoint's "module:Id": gymnasium imports the module, which runs its code."""
    if ":" in name:
        raise CheckpointError(
            f"env: expected an id that imports nothing, got {name!r} in the checkpoint; give the "
            f"environment itself, TRPO.load(path, env=...), or trust_env=True (--trust-env)"
        )


def check_options(options: Any) -> None:
    """Refuse strings among a checkpoint's options that may name a module or a file: who knows what
    a constructor does with them. Numbers are fine, and so are words that name neither.
    """
    for text in _strings(options):
        why = _names(text)
        if why:
            raise CheckpointError(
                f"env_options: expected numbers and words that name no module and no file, got "
                f"{text!r:.80} in the checkpoint, {why}; give the options themselves, "
                f"TRPO.load(path, env_options=...), or trust_env=True (--trust-env)"
            )


def _strings(value: Any) -> Iterator[str]:
    """Every string in plain data; names of the options themselves are the constructor's."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
            yield from _strings(list(item) if isinstance(item, dict) else None)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _names(text: str) -> str | None:
    """Why a string may name a module or a file, or None where it does not."""
    if not _WORD.fullmatch(text):
        return "which is not a word of letters, digits, _ and -"
    if os.path.lexists(text):
        return "which names a file here"
    try:
        known = importlib.util.find_spec(text) is not None
    except (ImportError, ValueError):  # a module that is loaded, and does not say from where
        known = True
    return "which names a module here" if known else None
