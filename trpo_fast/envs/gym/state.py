"""Saving and restoring the exact state of one gymnasium environment: physics, generator, wrappers'
counters.

Needed to resume a run bit for bit and to branch rollouts (vine). Understood are gymnasium's classic
control and toy text, MuJoCo environments, and any environment with ``save_state() -> dict`` and
``load_state(dict)`` of its own.

Generators are the environment's, those that are attributes, and those of spaces that are: an
environment may draw from its ``action_space``. What belongs to a class is not saved.
"""

from __future__ import annotations

import functools
import itertools
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from .mujoco_state import is_mujoco, load_simulator, simulator_state

_SIMPLE = ("gymnasium.envs.classic_control.", "gymnasium.envs.toy_text.")
# Attributes that describe a wrapper and never change while it runs, or that are saved separately.
_SKIPPED = set(
    "env _np_random _np_random_seed spec model data metadata _saved_kwargs _cached_spec "
    "_action_space _observation_space _metadata".split()
)
# What gymnasium gives its MuJoCo environments besides: neither changes the simulation.
_UNUSED = set("mujoco_renderer _ezpickle_args _ezpickle_kwargs".split())
# What gymnasium's own environments render with: a file must not change it.
_RENDERING = set("render_mode screen screen_width screen_height clock surf isopen window".split())

_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, type, np.ufunc)


def unsupported(env: Any) -> str | None:
    """Why the environment's state cannot be saved, as a sentence, or None where it can."""
    core = env.unwrapped
    if (
        not _saves_itself(core)
        and not is_mujoco(core)
        and not type(core).__module__.startswith(_SIMPLE)
    ):
        return (
            f"{type(core).__name__} has no state adapter: classic control, toy text and MuJoCo do, "
            "and any environment with save_state() and load_state(state)"
        )
    if not _saves_itself(core) and not type(core).__module__.startswith("gymnasium.envs."):
        for name in _opaque(core):
            return (
                f"{type(core).__name__} keeps {name}, which cannot be saved: numbers, strings, "
                "arrays, numpy's generators and containers can, and environments may bring "
                "save_state() and load_state(state)"
            )
    for wrapper in _wrappers(env):
        if not type(wrapper).__module__.startswith("gymnasium.wrappers."):
            for name in _opaque(wrapper):
                return f"the wrapper {type(wrapper).__name__} keeps {name}, which cannot be saved"
    return None


def snapshot(env: Any) -> dict[str, Any]:
    """Everything the environment's future depends on, as dicts, numbers and arrays."""
    core = env.unwrapped
    generator = core.np_random.bit_generator.state
    saved: dict[str, Any] = {"generator": _copy(generator)}
    if _saves_itself(core):
        saved["own"] = core.save_state()
    else:
        saved["core"] = _attributes(core)
        if is_mujoco(core):
            saved["mujoco"] = simulator_state(core)
    saved["wrappers"] = [_attributes(wrapper) for wrapper in _wrappers(env)]
    return saved


def restore(env: Any, saved: dict[str, Any]) -> None:
    """Bring an environment of the same kind to a saved state."""
    core = env.unwrapped
    wrappers = list(_wrappers(env))
    if len(wrappers) != len(saved["wrappers"]):
        raise ValueError(
            f"state: expected one of an environment with {len(wrappers)} wrappers, "
            f"got one with {len(saved['wrappers'])}"
        )
    core.np_random.bit_generator.state = _copy(saved["generator"])
    if _saves_itself(core):
        core.load_state(saved["own"])
    else:
        _assign(core, saved["core"])
        if is_mujoco(core):
            load_simulator(core, saved["mujoco"])
    for wrapper, attributes in zip(wrappers, saved["wrappers"], strict=True):
        _assign(wrapper, attributes)


def _saves_itself(core: Any) -> bool:
    return callable(getattr(core, "save_state", None)) and callable(
        getattr(core, "load_state", None)
    )


def _wrappers(env: Any) -> Any:
    while env is not env.unwrapped:
        yield env
        env = env.env


def _plain(value: Any) -> bool:
    """Numbers, strings, arrays, and containers of them."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    if isinstance(value, list | tuple | deque):
        return all(_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str | np.generic)


def _opaque(owner: Any) -> Iterator[str]:
    """Names of attributes that may be state and that cannot be saved."""
    for name, value in vars(owner).items():
        if name in _SKIPPED or name in _UNUSED or _plain(value) or _is_generator(value):
            continue
        if not _is_space(value) and not _describes(value):
            yield name


def _describes(value: Any) -> bool:
    """Functions and classes say what a wrapper does; they are not state. Other objects that can be
    called, and their methods, may keep some.
    """
    from gymnasium import Env

    if isinstance(value, functools.partial):
        given = (*value.args, *value.keywords.values())
        return _describes(value.func) and all(_plain(item) or _describes(item) for item in given)
    if isinstance(value, types.MethodType):
        return isinstance(value.__self__, type | Env)
    decorated = callable(value) and hasattr(value, "__wrapped__")
    return decorated or isinstance(value, _FUNCTIONS)


def _is_space(value: Any) -> bool:
    from gymnasium import Space

    return isinstance(value, Space)


def _spaces(space: Any) -> Iterator[Any]:
    """A space and those it is made of, each with a generator of its own."""
    yield space
    for value in vars(space).values():
        parts = value.values() if isinstance(value, dict) else value
        for part in parts if isinstance(value, dict | list | tuple) else [value]:
            if _is_space(part):
                yield from _spaces(part)


def _space_generators(space: Any) -> list[Any]:
    """The states of a space's generators, which are made here if they were never used."""
    return [_copy(part.np_random.bit_generator.state) for part in _spaces(space)]


def _renders(owner: Any, name: str) -> bool:
    return name in _RENDERING and _from_gymnasium(owner)


def _from_gymnasium(owner: Any) -> bool:
    return type(owner).__module__.startswith("gymnasium.")


def _is_generator(value: Any) -> bool:
    return isinstance(value, np.random.Generator)


def _is_moments(value: Any) -> bool:
    return type(value).__name__ == "RunningMeanStd"


def _attributes(owner: Any) -> dict[str, Any]:
    """The plain attributes of an object, the states of its generators and its spaces', and the
    running moments of gymnasium's normalising wrappers.
    """
    saved: dict[str, Any] = {}
    for name, value in vars(owner).items():
        if name in _SKIPPED or _renders(owner, name):
            continue
        if _is_moments(value):
            saved[name] = _attributes(value)
        elif _is_generator(value):
            saved[name] = _copy(value.bit_generator.state)
        elif _is_space(value):
            saved[name] = _space_generators(value)
        elif _plain(value):
            saved[name] = _copy(value)
    return saved


def _assign(owner: Any, saved: dict[str, Any]) -> None:
    """Set the attributes that ``_attributes`` lists of the live object, and no others: a file
    must not reach whatever else the object has.
    """
    listed = _attributes(owner)
    for name, value in saved.items():
        if _renders(owner, name):  # in the states of earlier versions
            continue
        if name not in listed:
            raise ValueError(
                f"state: expected attributes that {type(owner).__name__} has and that can be "
                f"saved ({', '.join(sorted(listed))}), got {name!r}"
            )
        present = vars(owner)[name]
        if type(present) is bool and type(value) is not bool and _from_gymnasium(owner):
            raise ValueError(f"state: expected {name} to be true or false, got {value!r:.60}")
        if _is_moments(present):
            _assign(present, value)
        elif _is_generator(present):
            present.bit_generator.state = _copy(value)
        elif _is_space(present):
            for part, state in zip(_spaces(present), value, strict=True):
                part.np_random.bit_generator.state = _copy(state)
        elif isinstance(present, np.ndarray) and _borrows_memory(present) and _fits(present, value):
            present[...] = value  # perhaps the simulator's memory: it has to stay a view of it
        else:
            setattr(owner, name, _retyped(value, present))


def _retyped(value: Any, present: Any) -> Any:
    """A deep copy of plain data in which lists are the tuples and deques of the present value, at
    any depth: a saved deque is a list, and so were the tuples in the files of earlier versions.
    """
    if isinstance(value, dict):
        named = present if isinstance(present, dict) else {}
        return {key: _retyped(item, named.get(key)) for key, item in value.items()}
    if not isinstance(value, list | tuple):
        return _copy(value)
    known = present if isinstance(present, list | tuple | deque) else ()
    items = [_retyped(*pair) for pair in itertools.zip_longest(value, list(known)[: len(value)])]
    if isinstance(present, deque):
        return deque(items, maxlen=present.maxlen)
    return tuple(items) if isinstance(value, tuple) or isinstance(present, tuple) else items


def _borrows_memory(array: np.ndarray) -> bool:
    """Whether numpy does not own an array's memory. What it owns may be anybody's, such as a table
    that the array is a row of, and is not written to.
    """
    while isinstance(array.base, np.ndarray):
        array = array.base
    return not array.flags.owndata


def _fits(present: np.ndarray, value: Any) -> bool:
    """Whether a saved array can be written over the present one."""
    same = isinstance(value, np.ndarray) and (present.shape, present.dtype) == (
        value.shape,
        value.dtype,
    )
    return same and present.flags.writeable


def _copy(value: Any) -> Any:
    """A deep copy of plain data; deques become lists, which a checkpoint can hold."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | deque):
        return [_copy(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_copy(item) for item in value)
    return value
