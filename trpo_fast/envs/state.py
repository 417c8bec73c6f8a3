"""Saving and restoring the exact state of one gymnasium environment: physics, generator, wrappers'
counters.

Needed to resume a run bit for bit and to branch rollouts (vine). Understood are gymnasium's classic
control and toy text, MuJoCo environments, and any environment with ``save_state() -> dict`` and
``load_state(dict)`` of its own.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

# What MuJoCo derives during a step and environments read afterwards (or before the next one): the
# integration state alone would repeat the physics but not the rewards and observations made from
# these.
DERIVED = (
    "qacc xpos xquat xmat xipos ximat geom_xpos geom_xmat site_xpos site_xmat subtree_com "
    "cinert cvel cacc cfrc_int cfrc_ext qfrc_actuator qfrc_constraint qfrc_bias qfrc_passive "
    "actuator_force actuator_length actuator_velocity ten_length ten_velocity sensordata"
).split()

_SIMPLE = ("gymnasium.envs.classic_control.", "gymnasium.envs.toy_text.")
# Attributes that describe a wrapper and never change while it runs, or that are saved separately.
_SKIPPED = set(
    "env _np_random _np_random_seed spec model data metadata _saved_kwargs _cached_spec "
    "_action_space _observation_space _metadata".split()
)


def unsupported(env: Any) -> str | None:
    """Why the environment's state cannot be saved, as a sentence, or None where it can."""
    core = env.unwrapped
    if not _own(core) and not _is_mujoco(core) and not type(core).__module__.startswith(_SIMPLE):
        return (
            f"{type(core).__name__} has no state adapter: classic control, toy text and MuJoCo do, "
            "and any environment with save_state() and load_state(state)"
        )
    for wrapper in _wrappers(env):
        if not type(wrapper).__module__.startswith("gymnasium.wrappers."):
            opaque = [k for k, v in vars(wrapper).items() if k not in _SKIPPED and not _plain(v)]
            opaque = [k for k in opaque if not _describes(vars(wrapper)[k])]
            if opaque:
                return (
                    f"the wrapper {type(wrapper).__name__} keeps {opaque[0]}, which cannot be saved"
                )
    return None


def snapshot(env: Any) -> dict[str, Any]:
    """Everything the environment's future depends on, as dicts, numbers and arrays."""
    core = env.unwrapped
    generator = core.np_random.bit_generator.state
    saved: dict[str, Any] = {"generator": _copy(generator)}
    if _own(core):
        saved["own"] = core.save_state()
    else:
        saved["core"] = _attributes(core)
        if _is_mujoco(core):
            saved["mujoco"] = _mujoco_state(core)
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
    if _own(core):
        core.load_state(saved["own"])
    else:
        _assign(core, saved["core"])
        if _is_mujoco(core):
            _load_mujoco(core, saved["mujoco"])
    for wrapper, attributes in zip(wrappers, saved["wrappers"], strict=True):
        _assign(wrapper, attributes)


def _own(core: Any) -> bool:
    return callable(getattr(core, "save_state", None)) and callable(
        getattr(core, "load_state", None)
    )


def _is_mujoco(core: Any) -> bool:
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(core).__mro__}
    return "gymnasium.envs.mujoco.mujoco_env.MujocoEnv" in kinds


def _wrappers(env: Any) -> Any:
    while env is not env.unwrapped:
        yield env
        env = env.env


def _mujoco_state(core: Any) -> dict[str, np.ndarray]:
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(core.model, kind))
    mujoco.mj_getState(core.model, core.data, state, kind)
    derived = {
        name: getattr(core.data, name).copy() for name in DERIVED if hasattr(core.data, name)
    }
    return {"integration": state, **derived}


def _load_mujoco(core: Any, saved: dict[str, np.ndarray]) -> None:
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    size = mujoco.mj_stateSize(core.model, kind)
    if saved["integration"].shape != (size,):
        raise ValueError(
            f"state: expected {size} numbers of MuJoCo state, got {saved['integration'].shape}"
        )
    mujoco.mj_setState(core.model, core.data, saved["integration"], kind)
    for name in DERIVED:  # the file names nothing: what it holds beyond these stays unread
        if name in saved:
            getattr(core.data, name)[:] = saved[name]


def _plain(value: Any) -> bool:
    """Numbers, strings, arrays, and containers of them."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    if isinstance(value, list | tuple | deque):
        return all(_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str | np.generic)


def _describes(value: Any) -> bool:
    """Functions and spaces say what a wrapper does; they are not state."""
    from gymnasium import Space

    return callable(value) or isinstance(value, Space)


def _is_moments(value: Any) -> bool:
    return type(value).__name__ == "RunningMeanStd"


def _attributes(owner: Any) -> dict[str, Any]:
    """The plain attributes of an object, and the running moments of gymnasium's normalising
    wrappers.
    """
    saved: dict[str, Any] = {}
    for name, value in vars(owner).items():
        if name in _SKIPPED:
            continue
        if _is_moments(value):
            saved[name] = _attributes(value)
        elif _plain(value):
            saved[name] = _copy(value)
    return saved


def _assign(owner: Any, saved: dict[str, Any]) -> None:
    """Set the attributes that ``_attributes`` lists of the live object, and no others: a file
    must not reach whatever else the object has.
    """
    listed = _attributes(owner)
    for name, value in saved.items():
        if name not in listed:
            raise ValueError(
                f"state: expected attributes that {type(owner).__name__} has and that can be "
                f"saved ({', '.join(sorted(listed))}), got {name!r}"
            )
        present = vars(owner)[name]
        if _is_moments(present):
            _assign(present, value)
        elif isinstance(present, deque) and isinstance(value, list):
            setattr(owner, name, deque(_copy(value), maxlen=present.maxlen))
        elif isinstance(present, tuple) and isinstance(value, list):
            setattr(owner, name, tuple(_copy(value)))
        else:
            setattr(owner, name, _copy(value))


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
