"""What the code of a function names: globals, attributes, modules that it imports; and what modules
and classes of the caller's have under such names.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import sys
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

LIBRARIES = {"torch", "numpy", "trpo_fast", *sys.stdlib_module_names} - {"__main__"}
_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")
_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM")
_MAKES = ("__init__", "__new__", "__post_init__")  # run where a class is called


class Names(NamedTuple):
    """What code names, and the functions within it."""

    globals: tuple[str, ...]
    attributes: frozenset[str]  # words among the constants too, for getattr
    imports: frozenset[str]  # from outside of the libraries


@functools.lru_cache(maxsize=512)
def names_of(code: CodeType) -> Names:
    found = list(dis.get_instructions(code))
    names = {i.argval for i in found if i.opname in _GLOBAL}
    attributes = {i.argval for i in found if i.opname in _ATTRIBUTE}
    attributes |= {c for c in code.co_consts if isinstance(c, str) and c.isidentifier()}
    imports = {i.argval for i in found if i.opname == "IMPORT_NAME"}
    imports = {name for name in imports if not in_libraries(name)}
    for part in code.co_consts:
        if isinstance(part, CodeType):
            within = names_of(part)
            names.update(within.globals)
            attributes |= within.attributes
            imports |= within.imports
    return Names(tuple(sorted(names)), frozenset(attributes), frozenset(imports))


def in_libraries(module: str | None) -> bool:
    """Whether a module of this name holds nothing of the caller's."""
    return (module or "").partition(".")[0] in LIBRARIES


def open_to_callers(value: Any) -> bool:
    """Whether a caller may write attributes of this module or class, and mean something by it."""
    if isinstance(value, ModuleType):
        return not in_libraries(value.__name__)
    return isinstance(value, type) and not isinstance(value, enum.EnumMeta)


def under(holder: Any, called: bool, names: frozenset[str]) -> list[tuple[str, Any]]:
    """What a module or a class, with those it is derived from, has under the names of attributes,
    and functions that an operator calls, or a call of the class where it is ``called``.
    """
    if isinstance(holder, ModuleType):
        own = vars(holder)
        return [(name, own[name]) for name in sorted(names) if name in own]
    found = []
    for kind in holder.__mro__:
        if not in_libraries(kind.__module__):
            own = vars(kind)
            found += [(n, _plain(own[n])) for n in sorted(own) if n in names]
            found += [(n, own[n]) for n in sorted(own) if _implied(kind, n, called)]
    return found


def _implied(kind: type, name: str, called: bool) -> bool:
    """Whether a function of a class may run without being named."""
    if not name.startswith("__") or not isinstance(vars(kind)[name], FunctionType):
        return False
    written = name == "__init__" and dataclasses.is_dataclass(kind)
    return name != "__repr__" and not written and (called or name not in _MAKES)


def _plain(entry: Any) -> Any:
    """The functions of a method or property."""
    if isinstance(entry, (staticmethod, classmethod)):
        return entry.__func__
    if isinstance(entry, functools.cached_property):
        return entry.func
    return (entry.fget, entry.fset) if isinstance(entry, property) else entry
