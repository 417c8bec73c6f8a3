"""The words of a command line before tyro parses its flags: what belongs to no flag, flags that
decide the defaults of the others, numbers as people write them; and the flags in groups.
"""

from __future__ import annotations

import dataclasses
import json
import types
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .._base.arguments import fail, integer
from ..train.config import Config, groups

HELP = ("-h", "--help")
WORDS = tuple[str, ...]  # of a flag that takes name=value, as often as one likes

Options = TypeVar("Options")


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
    are the dataclasses whose fields are the flags. Integers come back in digits, "1e5" as "100000";
    ``--flag True`` comes back as ``--flag`` and ``--flag False`` as ``--no-flag``.
    """
    hints: dict[str, Any] = {}
    for option in options:
        hints |= get_type_hints(option)
    flags, others, i = [], [], 0
    words_of: dict[str, list[str]] = {}
    while i < len(words):
        if not words[i].startswith("-"):
            others.append(words[i])
            i += 1
            continue
        flag, equals, value = words[i].partition("=")
        name = flag.lstrip("-").replace("-", "_")
        hint = hints.get(name, hints.get(name.removeprefix("no_"), str))
        if equals:
            values, i = [value], i + 1
        else:
            count = 0 if flag in HELP else _count(flag, words[i + 1 :], hint)
            values, i = words[i + 1 : i + 1 + count], i + 1 + count
        if hint == WORDS:  # all in one place: of a repeated flag tyro takes the last
            words_of.setdefault(flag, []).extend(values)
        elif hint is bool:
            flags.append(_switch(flag, values, negative=name not in hints))
        else:
            values = [_plain(flag, value, hint) for value in values]
            flags += [f"{flag}={values[0]}"] if equals else [flag, *values]
    for flag, values in words_of.items():
        flags += [flag, *values]
    return flags, others


def environment(words: tuple[str, ...]) -> dict[str, Any]:
    """The options that words such as gravity=5.0 give an environment: values as JSON has them, or
    Python its constants; anything else is a string.
    """
    options: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (equals and name.isidentifier()):
            raise fail("--env-options", "words such as gravity=5.0", repr(word))
        try:
            options[name] = json.loads(text)
        except (ValueError, RecursionError):
            options[name] = {"True": True, "False": False, "None": None}.get(text, text)
    return options


def _count(flag: str, following: list[str], hint: Any) -> int:
    """How many of the words that follow a flag are its values."""
    if hint is bool:
        return int(bool(following) and following[0].lower() in ("true", "false"))
    if hint == WORDS:  # name=value; a word without it is of the command
        given = [word.partition("=")[0].isidentifier() and "=" in word for word in following]
        return given.index(False) if False in given else len(given)
    if get_origin(hint) is not tuple:
        return min(1, len(following))
    numbers = [_is_number(word) for word in following]
    if numbers and not numbers[0] and all(map(_is_number, following[0].split(","))):
        raise ValueError(f"{flag}: expected numbers with spaces between, got {following[0]}")
    return numbers.index(False) if False in numbers else len(numbers)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return any(letter.isdigit() for letter in word)


def _switch(flag: str, values: list[str], *, negative: bool) -> str:
    """A flag that takes no value, from one that may have been given True or False."""
    if not values:
        return flag
    if negative:
        raise ValueError(f"{flag}: expected no value after it, got {values[0]}")
    if values[0].lower() not in ("true", "false"):
        raise ValueError(f"{flag}: expected true or false, got {values[0]}")
    return flag if values[0].lower() == "true" else f"--no-{flag.lstrip('-')}"


def _plain(flag: str, value: str, hint: Any) -> str:
    """The value as tyro takes it: an integer in digits, whatever else as it is."""
    kinds = get_args(hint) or (hint,)
    if int not in kinds or (types.NoneType in kinds and value == "None"):
        return value
    try:
        return str(integer(value))
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from None


def one(words: list[str], argument: str, what: str) -> str | None:
    """The word that belongs to no flag, or None; several are refused."""
    if len(words) > 1:
        raise ValueError(f"{argument}: expected {what}, got {' '.join(words)}")
    return words[0] if words else None


def env_of(words: list[str], others: list[str]) -> tuple[list[str], str | None]:
    """(the other flags, the environment: the word that belongs to no flag, or --env's)."""
    name = one(others, "ENV", "one environment")
    words, named = take(words, "--env")
    if name is not None and named not in (None, name):
        raise ValueError(f"ENV: expected one environment, got {name} and --env {named}")
    return words, named if name is None else name


def parse(
    words: list[str], run: Options, defaults: Config, *, prog: str, description: str
) -> tuple[Options, Config]:
    """A run's options and its settings over their defaults; ``--help`` shows them in groups."""
    import tyro

    flat: Any = tyro.conf.OmitArgPrefixes  # --damping, not --update.damping
    parts: dict[str, Any] = {"run": run}
    for name, group in groups().items():
        fields = [field.name for field in dataclasses.fields(group)]
        parts[name] = group(**{field: getattr(defaults, field) for field in fields})
    kind = dataclasses.make_dataclass(
        "Arguments", [(name, flat[type(part)]) for name, part in parts.items()]
    )
    found: Any = tyro.cli(
        kind, args=words, prog=prog, description=description, default=kind(**parts)
    )
    settings: dict[str, Any] = {}
    for name in groups():
        settings |= vars(getattr(found, name))
    return found.run, Config(**settings)
