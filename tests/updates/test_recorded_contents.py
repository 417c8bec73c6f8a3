"""A replay never uses what its functions no longer hold: numbers under modules, classes, functions
and keys that changed, tensors of another layout, and those that are reached by a second way.
"""

from __future__ import annotations

import copy
import functools
import types
import warnings
from dataclasses import dataclass

import pytest
import torch
from host_recorder import recording  # noqa: F401
from loop_cases import Plain

from trpo_fast import NaturalGradient, flat_params

SETTINGS = types.ModuleType("settings_of_a_caller")
SCALE = 1.0


@pytest.fixture(autouse=True)
def recorded(recording):  # noqa: F811
    yield recording


class Args:
    scale = 1.0
    more = types.SimpleNamespace(scale=1.0)
    rows = torch.ones(30, dtype=torch.float64)

    @staticmethod
    def scaled(x):
        return x * SCALE


@dataclass
class Rows:
    advantages: torch.Tensor

    @functools.cached_property
    def kept(self):
        return self.advantages * SCALE

    @property
    def read(self):
        return self.advantages * SCALE

    def asked(self):
        return self.advantages * SCALE

    def __neg__(self):
        return -self.advantages * SCALE


class Number(float):
    """A number that has more than its value."""


def module_attribute(rows, scale):
    SETTINGS.scale = scale
    return lambda pi: rows(pi) * SETTINGS.scale


def module_function(rows, scale):
    SETTINGS.scale = scale
    exec("def scaled(x): return x * scale", SETTINGS.__dict__)
    return lambda pi: SETTINGS.scaled(rows(pi))


def class_attribute(rows, scale):
    Args.scale = scale
    return lambda pi: rows(pi) * Args.scale


def by_getattr(rows, scale):
    Args.scale = scale
    return lambda pi: rows(pi) * getattr(Args, "scale")  # noqa: B009


def nested_attribute(rows, scale):
    Args.more = types.SimpleNamespace(scale=scale)
    return lambda pi: rows(pi) * Args.more.scale


def static_method(rows, scale):
    global SCALE
    SCALE = scale
    return lambda pi: Args.scaled(rows(pi))


def dataclass_code(name):
    def make(rows, scale):
        global SCALE
        SCALE = scale
        held = Rows(rows.advantages)
        ways = {
            "asked": lambda pi: -(rows.log_prob(pi) * held.asked()).mean(),
            "read": lambda pi: -(rows.log_prob(pi) * held.read).mean(),
            "kept": lambda pi: -(rows.log_prob(pi) * held.kept).mean(),
            "negative": lambda pi: (rows.log_prob(pi) * -held).mean(),
        }
        return ways[name]

    make.__name__ = f"dataclass_{name}"
    return make


def function_attribute(rows, scale):
    def loss(pi):
        return rows(pi) * loss.scale

    loss.scale = scale
    return loss


def key_of_a_dict(rows, scale):
    table = {1000.0 * scale: None}
    return lambda pi: rows(pi) * next(iter(table)) / 1000.0


def shared_cell(rows, scale):
    found = None

    def first(pi):
        nonlocal found
        found = rows(pi) * scale

    def loss(pi):
        first(pi)
        return found

    return loss


def number_with_attributes(rows, scale):
    number = Number(1.0)
    number.scale = scale
    return lambda pi: rows(pi) * number.scale


def tensor_with_attributes(rows, scale):
    advantages = rows.advantages
    if scale < 0:
        advantages.scale = scale
    times = lambda: getattr(advantages, "scale", 1.0)  # noqa: E731
    return lambda pi: -(rows.log_prob(pi) * advantages).mean() * times()


def other_strides(rows, scale):
    a = rows.advantages
    a = a if scale > 0 else torch.stack([a, -a], 1)[:, 0]
    return lambda pi: -(rows.log_prob(pi) * a.as_strided((30,), (1,), 0)).mean()


def second_way(rows, scale):
    Args.rows = rows.advantages
    return lambda pi: -(rows.log_prob(pi) * Args.rows).mean() + 0.0 * rows.advantages.mean()


def sparse_elsewhere(rows, scale):
    Args.rows = torch.diag(rows.advantages).to_sparse()
    return lambda pi: -torch.sparse.mm(Args.rows, rows.log_prob(pi)[:, None]).mean()


def nested_deeply(rows, scale):
    held = []
    for _ in range(2000):
        held = [held]
    return lambda pi: rows(pi) * scale * len(held)


RECORDED = [
    module_attribute,
    module_function,
    class_attribute,
    by_getattr,
    nested_attribute,
    static_method,
    *map(dataclass_code, ("asked", "read", "negative")),
    function_attribute,
    key_of_a_dict,
    shared_cell,
]
REFUSED = {
    number_with_attributes: "hold a Number",
    tensor_with_attributes: "",  # recorded until the tensor has any
    other_strides: "",  # recorded until they are others
    second_way: "is read from elsewhere as well",
    dataclass_code("kept"): "is read from elsewhere as well",
    sparse_elsewhere: "hold a sparse tensor",
    nested_deeply: "nested too deeply",
}


class Batch:
    """The rows of one call, as closures of a loss."""

    def __init__(self, i):
        draw = torch.Generator().manual_seed(i)
        self.obs = torch.randn(30, 4, dtype=torch.float64, generator=draw)
        actions = torch.randint(0, 2, (30,), generator=draw)
        self.advantages = advantages = torch.randn(30, dtype=torch.float64, generator=draw)
        self.log_prob = log_prob = lambda pi: pi.log_prob(actions)
        self.loss = lambda pi: -(log_prob(pi) * advantages).mean()


def functions(i):
    """A batch's functions, which hold their tensors themselves and not by the batch."""
    batch = Batch(i)

    def rows(pi):
        return loss(pi)

    loss = batch.loss
    return rows, batch.log_prob, batch.advantages, batch.obs


def made(make, i, scale):
    rows, log_prob, advantages, obs = functions(i)
    rows.log_prob, rows.advantages = log_prob, advantages
    return make(rows, scale), obs


def steps(make):
    """Which of six steps were replays, whose number changes after the third, and what was told."""
    torch.manual_seed(0)
    module = Plain().double()
    other = copy.deepcopy(module)
    few = {"cg_iterations": 3, "backtrack_steps": 4}
    ours, theirs = (NaturalGradient(m, capture=m is module, **few) for m in (module, other))
    seen = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for i in range(6):
            scale = 1.0 if i < 3 else -0.5
            info = ours.step(*made(make, i, scale))
            assert info.reason == theirs.step(*made(make, i, scale)).reason == "accepted"
            torch.testing.assert_close(
                flat_params(module), flat_params(other), rtol=1e-7, atol=1e-9
            )
            seen.append(info.captured)
    return seen, [str(w.message) for w in told if "capture" in str(w.message)]


@pytest.mark.parametrize("make", RECORDED, ids=lambda make: make.__name__)
def test_another_number_is_another_recording(make):
    assert steps(make) == ([False, False, True, False, False, True], [])


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_is_not_followed_is_not_replayed(make):
    seen, told = steps(make)
    assert not any(seen[3:]) and len(told) == 1
    assert REFUSED[make] in told[0] and (not REFUSED[make] or not any(seen))


def test_a_module_that_a_loss_imports_is_not_replayed():
    def imports(rows, scale):
        def loss(pi):
            import loop_cases

            return rows(pi) * scale * bool(loop_cases)

        return loss

    seen, told = steps(imports)
    assert not any(seen) and "import loop_cases when they run" in told[0]
