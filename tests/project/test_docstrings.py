"""Everything public says what it is: names, methods and properties have a docstring, and one that
takes or returns tensors names their shapes.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
from torch import Tensor

import trpo_fast

pytest.importorskip("gymnasium")
pytest.importorskip("safetensors")

MODULES = ("trpo_fast", "trpo_fast.envs.tensor", "trpo_fast.bench", "trpo_fast.theory")
OPERATORS = ("__matmul__", "__call__", "__len__", "__float__")
HOOKS = ("extra_repr", "get_extra_state", "set_extra_state")  # of torch's modules, for torch alone


def function_of(member: Any) -> Any:
    """The function behind a method, class method or property; None for anything else."""
    if isinstance(member, property):
        return member.fget
    if isinstance(member, functools.cached_property):
        return member.func
    if isinstance(member, classmethod | staticmethod):
        return member.__func__
    return member if inspect.isfunction(member) else None


def members(kind: type) -> Iterator[tuple[str, Any, str]]:
    """(name, function, docstring) of what a class of ours defines; one that overrides another of
    ours without a docstring has the other's.
    """
    ours = [base for base in kind.__mro__ if base.__module__.startswith("trpo_fast")]
    for name in {name: None for base in ours for name in vars(base)}:
        if name in HOOKS or (name.startswith("_") and name not in OPERATORS):
            continue
        found = [function_of(vars(base).get(name)) for base in ours]
        functions = [function for function in found if function is not None]
        if functions:
            written = (inspect.cleandoc(f.__doc__) for f in functions if f.__doc__)
            yield name, functions[0], next(written, "")


def undocumented(name: str, thing: Any) -> list[str]:
    """The names, of a public thing and what it offers, that have no docstring."""
    if inspect.isfunction(thing):
        return [] if thing.__doc__ else [name]
    if not inspect.isclass(thing):
        return []
    written = (thing.__doc__ or "").strip()
    own = [] if written and not written.startswith(f"{thing.__name__}(") else [name]
    return own + [f"{name}.{member}" for member, _, text in members(thing) if not text]


def without_shapes(name: str, thing: Any) -> list[str]:
    """The names whose signature has a tensor and whose docstring has no shape."""
    functions = [(name, thing, inspect.getdoc(thing) or "")] if inspect.isfunction(thing) else []
    if inspect.isclass(thing):
        functions = [(f"{name}.{member}", *rest) for member, *rest in members(thing)]
    return [n for n, f, text in functions if has_tensor(f) and not names_a_shape(text)]


def has_tensor(function: Any) -> bool:
    return any(re.search(r"\bTensor\b", str(hint)) for hint in function.__annotations__.values())


def names_a_shape(text: str) -> bool:
    return any(word in text for word in ("[", "0-d", "scalar", "shape"))


def public() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for module in MODULES:
        loaded = importlib.import_module(module)
        found |= {f"{module}.{name}": getattr(loaded, name) for name in loaded.__all__}
    trainer = importlib.import_module(found["trpo_fast.TRPO"].__module__)
    return found | {"Config": trainer.Config}


@pytest.mark.parametrize("name", sorted(public()))
def test_a_public_name_says_what_it_is(name: str) -> None:
    assert undocumented(name, public()[name]) == []


@pytest.mark.parametrize("name", sorted(public()))
def test_what_takes_tensors_names_their_shapes(name: str) -> None:
    assert without_shapes(name, public()[name]) == []


def test_what_lacks_a_docstring_is_found() -> None:
    class Bare:
        """Something."""

        def method(self, x: Tensor) -> None:
            """Uses x."""

        @property
        def value(self) -> int:
            return 0

        def __matmul__(self, v: Tensor) -> Tensor:
            """A times v [P]."""
            return v

    Bare.__module__ = "trpo_fast.made_up"
    assert undocumented("Bare", Bare) == ["Bare.value"]
    assert without_shapes("Bare", Bare) == ["Bare.method"]
    assert undocumented("f", lambda: None) == ["f"]
    assert {"trpo_fast.trpo_update", "trpo_fast.TRPO", "Config"} <= public().keys()
    assert len(public()) > 50 and trpo_fast.Batch in public().values()
