"""What ``trpo-fast tune`` searches among: a range or a few values for each setting, and how words
of a command line narrow it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from .._base.arguments import fail, integer
from .._base.settings import Setting, declared
from .config import Config


@dataclass(frozen=True)
class Span:
    """Numbers from ``low`` to ``high``, evenly or on a logarithmic scale."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Any, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{' (log)' if self.log else ''}"


@dataclass(frozen=True)
class Among:
    """One of a few values."""

    values: tuple[Any, ...]

    def suggest(self, trial: Any, name: str) -> Any:
        words = [_word(value) for value in self.values]
        return self.values[words.index(trial.suggest_categorical(name, words))]

    def __str__(self) -> str:
        return ", ".join(map(_word, self.values))


Choices: TypeAlias = Span | Among

SETTINGS = declared(Config)
# The first of each kind: how far an update goes, what it learns from, how the critic is fitted, and
# the nets.
SPACE: dict[str, Choices] = {
    "max_kl": Span(1e-3, 0.1, log=True),
    "damping": Span(1e-3, 0.5, log=True),
    "cg_iterations": Among((5, 10, 15, 25)),
    "rows_per_update": Among((512, 1024, 2048, 4096, 8192)),
    "gamma": Among((0.9, 0.95, 0.98, 0.99, 0.995, 0.999)),
    "gae_lambda": Among((0.8, 0.9, 0.95, 0.98, 1.0)),
    "normalize_observations": Among((False, True)),
    "normalize_rewards": Among((False, True)),
    "critic_learning_rate": Span(3e-4, 1e-2, log=True),
    "critic_epochs": Among((5, 10, 20)),
    "critic_minibatch": Among((64, 128, 256, 512, 1024)),
    "initial_log_std": Span(-2.0, 0.5),
    "hidden": Among(((32, 32), (64, 64), (128, 128), (256, 256))),
    "activation": Among(("tanh", "relu", "silu")),
}


def narrowed(
    names: str | None, ranges: Iterable[str], fixed: Iterable[str] = ()
) -> dict[str, Choices]:
    """The space of the settings in ``names`` ("max_kl,gamma"; None: of all), with the values of
    ``ranges``, words such as max_kl=0.003:0.05, gamma=0.99,0.995 or hidden=64x64,256x256, which add
    settings that it does not have. Those that are ``fixed`` are left out.
    """
    space = dict(SPACE) if names is None else {}
    for name in names.split(",") if names else ():
        if name not in SPACE:
            wanted = f"some of {','.join(SPACE)}; --ranges {name}=... searches among others"
            raise fail("--search", wanted, repr(name))
        space[name] = SPACE[name]
    for word in ranges:
        name, _, text = word.partition("=")
        name = name.replace("-", "_")
        if name not in SETTINGS or name in ("env", "engine", "seed", "device"):
            raise fail("--ranges", "settings to search among", repr(name))
        space[name] = _choices(SETTINGS[name], word, text)
    space = {name: choices for name, choices in space.items() if name not in set(fixed)}
    if not space:
        raise fail("--search", "at least one setting that no flag fixes", "none")
    return space


def _choices(setting: Setting, word: str, text: str) -> Choices:
    """The values that the text of a word names."""
    low, colon, high = text.partition(":")
    try:
        if not colon:
            values = tuple(_value(setting, part) for part in text.split(","))
            return Among(values)
        if setting.kind is not float:
            raise ValueError(f"expected values with commas between, got {text}")
        span = Span(_value(setting, low), _value(setting, high))
    except ValueError as error:
        raise ValueError(f"--ranges {word}: {error}") from None
    if not span.low < span.high:
        raise fail(f"--ranges {word}", "the lower number first", text)
    known = SPACE.get(setting.name)
    log = isinstance(known, Span) and known.log
    return Span(span.low, span.high, log and span.low > 0.0)


def _value(setting: Setting, text: str) -> Any:
    """One value of a setting."""
    if setting.optional and text == "none":
        return None
    if setting.kind is bool:
        return setting.check({"true": True, "false": False}.get(text.lower(), text))
    if setting.kind is int:
        return setting.check(integer(text))
    if setting.kind is float:
        try:
            return setting.check(float(text))
        except ValueError as error:
            if "could not convert" not in str(error):
                raise
            raise fail(setting.name, "a number", text) from None
    if setting.kind is tuple:
        return setting.check(tuple(integer(width) for width in text.split("x") if width))
    return setting.check(text)


def _word(value: Any) -> str:
    """A value as ``--ranges`` takes it."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
