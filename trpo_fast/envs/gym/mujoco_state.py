"""The exact state of a MuJoCo environment's simulator: its data, and what of its model may change.

Environments write to their model as they go (masses drawn anew in every episode, friction, gravity,
terrain), so its numbers and flags are saved with every state, as one array, and its integers as
another. Of the integers only settings come back (``_SETTINGS``); a state with others than those of
the present model is refused, as a file must not reach addresses. Left out are meshes, skins and
textures, which are large and taken for fixed, and where things lie in memory.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

# What MuJoCo derives during a step and environments read afterwards (or before the next one): the
# integration state alone would repeat the physics but not the rewards and observations made from
# these.
DERIVED = (
    "qacc xpos xquat xmat xipos ximat geom_xpos geom_xmat site_xpos site_xmat subtree_com "
    "cinert cvel cacc cfrc_int cfrc_ext qfrc_actuator qfrc_constraint qfrc_bias qfrc_passive "
    "actuator_force actuator_length actuator_velocity ten_length ten_velocity sensordata"
).split()

_FIXED = ("mesh_", "skin_", "tex_")
# Integers of the model that are sets of bits: any value is one.
_BITS = set(
    "geom_contype geom_conaffinity body_contype body_conaffinity "
    "disableflags enableflags disableactuator".split()
)
# Other integers that a restore may change, and what they may be.
_SETTINGS: dict[str, Container[int]] = {
    "integrator": range(4),
    "cone": range(2),
    "jacobian": range(3),
    "solver": range(3),
    "iterations": range(100_001),
    "ls_iterations": range(100_001),
    "noslip_iterations": range(100_001),
    "geom_condim": (1, 3, 4, 6),
    "geom_priority": range(-(2**31), 2**31),
}
# Integers that MuJoCo's compiler makes: sparse matrices' layout, and where names are.
_LAYOUT = ("B_", "D_", "M_", "map", "name")


def is_mujoco(core: Any) -> bool:
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(core).__mro__}
    return "gymnasium.envs.mujoco.mujoco_env.MujocoEnv" in kinds


def simulator_state(core: Any) -> dict[str, np.ndarray]:
    """Everything that the simulator's future depends on, as arrays."""
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(core.model, kind))
    mujoco.mj_getState(core.model, core.data, state, kind)
    derived = {
        name: getattr(core.data, name).copy() for name in DERIVED if hasattr(core.data, name)
    }
    variables = _variables(core)
    model = {"model": variables.read(), "integers": variables.read_integers()}
    return {"integration": state, **derived, **model}


def load_simulator(core: Any, saved: dict[str, np.ndarray]) -> None:
    """Bring the simulator of an environment of the same kind to a saved state."""
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    size = mujoco.mj_stateSize(core.model, kind)
    if saved["integration"].shape != (size,):
        raise ValueError(
            f"state: expected {size} numbers of MuJoCo state, got {saved['integration'].shape}"
        )
    if "integers" in saved:  # not in the states of earlier versions
        _variables(core).write_integers(saved["integers"])
    if "model" in saved:  # not in the states of earlier versions
        _variables(core).write(saved["model"])
    mujoco.mj_setState(core.model, core.data, saved["integration"], kind)
    for name in DERIVED:  # the file names nothing: what it holds beyond these stays unread
        if name in saved:
            getattr(core.data, name)[:] = saved[name]


class _Variables:
    """What of a model an environment may change: views of its memory, and single numbers."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.arrays: list[np.ndarray] = []  # [size] each
        self.numbers: list[tuple[Any, str]] = []  # (owner, name)
        self.integers: list[tuple[str, np.ndarray]] = []  # (name, [size])
        self.options: list[tuple[Any, str]] = []  # (owner, name) of integers
        for owner in (model, model.opt, model.stat):
            for name in dir(owner):
                if name.startswith(("_", *_FIXED)):
                    continue
                value = getattr(owner, name)
                if isinstance(value, np.ndarray):
                    if value.size and (value.dtype.kind in "fb" or name in _BITS):
                        self.arrays.append(value.reshape(-1))
                    elif value.size and value.dtype.kind in "iu" and not name.startswith(_LAYOUT):
                        self.integers.append((name, value.reshape(-1)))
                elif isinstance(value, float) or name in _BITS:
                    self.numbers.append((owner, name))
                elif isinstance(value, int) and owner is not model:  # the model's are its sizes
                    self.options.append((owner, name))

    def read(self) -> np.ndarray:
        """Float64 [V]; exact, as everything is float64, float32, a flag or 32 bits."""
        numbers = [getattr(owner, name) for owner, name in self.numbers]
        return np.concatenate([*self.arrays, numbers], dtype=np.float64)

    def write(self, saved: np.ndarray) -> None:
        present = self.read()
        if saved.shape != present.shape:
            raise ValueError(
                f"state: expected {len(present)} numbers of a MuJoCo model, got {list(saved.shape)}"
            )
        if np.array_equal(saved, present):
            return
        first = 0
        for array in self.arrays:
            array[:] = saved[first : first + array.size]
            first += array.size
        for (owner, name), value in zip(self.numbers, saved[first:], strict=True):
            setattr(owner, name, type(getattr(owner, name))(value))

    def read_integers(self) -> np.ndarray:
        """Int64 [I]."""
        options = [getattr(owner, name) for owner, name in self.options]
        arrays = [array for _, array in self.integers]
        return np.concatenate([*arrays, options], dtype=np.int64, casting="unsafe")

    def write_integers(self, saved: np.ndarray) -> None:
        """All or none."""
        present = self.read_integers()
        if np.array_equal(saved, present):
            return
        if saved.shape != present.shape:
            raise ValueError(
                f"state: expected {len(present)} integers of a MuJoCo model, "
                f"got {list(saved.shape)}"
            )
        names = [name for name, array in self.integers for _ in array]
        names += [name for _, name in self.options]
        for i in np.flatnonzero(saved != present):
            if int(saved[i]) not in _SETTINGS.get(names[i], ()):  # NumPy's would be searched for
                raise ValueError(
                    f"state: expected {names[i]} of the MuJoCo model to be {present[i]} as it is "
                    f"here, got {saved[i]}, which cannot be restored"
                )
        first = 0
        for _, array in self.integers:
            array[:] = saved[first : first + array.size]
            first += array.size
        for (owner, name), value in zip(self.options, saved[first:], strict=True):
            setattr(owner, name, int(value))


# By the data, which goes when its environment does: the views would keep a model alive.
_known: WeakKeyDictionary[Any, _Variables] = WeakKeyDictionary()


def _variables(core: Any) -> _Variables:
    """Looked for once, which takes milliseconds."""
    known = _known.get(core.data)
    if known is None or known.model is not core.model:
        known = _known[core.data] = _Variables(core.model)
    return known
