"""The words of a command line before tyro parses its flags: what belongs to no flag, and flags that
decide the defaults of the others.
"""

from __future__ import annotations

from typing import Any, get_origin, get_type_hints

HELP = ("-h", "--help")


def take(words: list[str], flag: str) -> tuple[list[str], str | None]:
    """(the other words, the value of ``flag VALUE`` or ``flag=VALUE``: the last, if repeated)."""
    rest, value, i = [], None, 0
    while i < len(words):
        if words[i] == flag:
            if i + 1 == len(words) or words[i + 1].startswith("--"):
                raise ValueError(f"{flag}: expected a value after it, got nothing")
            value, i = words[i + 1], i + 1
        elif words[i].startswith(f"{flag}="):
            value = words[i].partition("=")[2]
        else:
            rest.append(words[i])
        i += 1
    return rest, value


def split(words: list[str], *options: type) -> tuple[list[str], list[str]]:
    """(flags with their values, the words that belong to none), wherever they stand; ``options``
    are the dataclasses whose fields are the flags.
    """
    hints: dict[str, Any] = {}
    for option in options:
        hints |= get_type_hints(option)
    flags, others, i = [], [], 0
    while i < len(words):
        count = 1
        if words[i].startswith("-"):
            count += _values(words[i + 1 :], words[i], hints)
            flags += words[i : i + count]
        else:
            others.append(words[i])
        i += count
    return flags, others


def _values(following: list[str], flag: str, hints: dict[str, Any]) -> int:
    """How many of the words that follow a flag are its values."""
    name = flag.lstrip("-").replace("-", "_")
    hint = hints.get(name, hints.get(name.removeprefix("no_"), str))
    if "=" in flag or flag in HELP or hint is bool:
        return 0
    if get_origin(hint) is not tuple:
        return min(1, len(following))
    numbers = [word.isdigit() for word in following]
    return numbers.index(False) if False in numbers else len(numbers)


def one(words: list[str], argument: str, what: str) -> str | None:
    """The word that belongs to no flag, or None; several are refused."""
    if len(words) > 1:
        raise ValueError(f"{argument}: expected {what}, got {' '.join(words)}")
    return words[0] if words else None
