"""Policies: spaces, names, initialisation, and the one flat buffer behind the parameters."""

from __future__ import annotations

import copy
import gc
import sys
import threading
import weakref

import pytest
import torch
from cases import HEADS, Case

import trpo_fast
from trpo_fast import FisherOperator, Gaussian, MLPPolicy, flat_params
from trpo_fast.policy import flat as flat_module
from trpo_fast.policy.spec import NetSpec


def small():
    return MLPPolicy(5, Gaussian(3), (8, 7))


def test_a_head_is_shown_as_it_is_made() -> None:
    for text in ("Categorical(2)", "MultiCategorical((3,))", "Gaussian(3)", "Bernoulli(4)"):
        assert repr(eval(text, vars(trpo_fast))) == text


def test_flat_params_of_no_module_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"^module: expected a torch.nn.Module, got Tensor$"):
        flat_params(torch.zeros(3))


def test_flat_params_is_a_view_in_order():
    policy = small()
    flat = flat_params(policy)
    expected = torch.cat([p.detach().reshape(-1) for p in policy.parameters()])
    assert torch.equal(flat, expected) and flat.numel() == policy.spec.size
    flat[-1] = 7.0
    assert policy.head.log_std[-1] == 7.0
    with torch.no_grad():
        policy.net[0].weight[0, 0] = -3.0
    assert flat[0] == -3.0
    assert flat_params(policy).data_ptr() == flat.data_ptr()


@pytest.mark.parametrize("move", [lambda p: p.double(), copy.deepcopy, lambda p: p.to("cpu")])
def test_flat_params_survives_moves(move):
    policy = move(small())
    flat = flat_params(policy)
    flat.zero_()
    assert all((p == 0).all() for p in policy.parameters())


def test_flat_params_is_found_again_and_belongs_to_the_caller():
    policy = small()
    flat_params(policy).requires_grad_()
    flat = flat_params(policy)
    assert not flat.requires_grad
    policy.net[0].bias.data = torch.ones(8)
    assert flat_params(policy).data_ptr() != flat.data_ptr()
    assert (flat_params(policy)[40:48] == 1).all()


def swap(policy):
    policy.net[2].weight = torch.nn.Parameter(torch.full((7, 8), 2.0))


def transpose(policy):
    policy.net[2].weight.data = policy.net[2].weight.data.T.contiguous().T


def transpose_in_place(policy):
    policy.net[2].weight.data = policy.net[2].weight.data.T


def freeze(policy):
    policy.net[0].bias.requires_grad_(False)


@pytest.mark.parametrize("change", [swap, transpose, transpose_in_place, freeze])
def test_flat_params_notices_what_changed_since_it_was_found(change):
    policy = small()
    flat_params(policy)
    change(policy)
    expected = [p.detach().reshape(-1) for p in policy.parameters() if p.requires_grad]
    assert torch.equal(flat_params(policy), torch.cat(expected))


def test_flat_params_found_in_inference_mode_can_be_written_outside():
    net = torch.nn.Linear(2, 1)
    with torch.inference_mode():
        flat_params(net)
    assert not flat_params(net).is_inference()
    flat_params(net).zero_()
    assert (net.weight == 0).all()


def test_threads_that_ask_first_at_once_get_one_buffer():
    interval, both = sys.getswitchinterval(), threading.Barrier(4)
    sys.setswitchinterval(1e-6)

    def ask(policy):
        both.wait()
        flat_params(policy)

    try:
        for _ in range(500):
            policy = small().double().float()  # in pieces of memory of their own
            threads = [threading.Thread(target=ask, args=(policy,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            flat_params(policy).zero_()
            assert all((p == 0).all() for p in policy.parameters())
    finally:
        sys.setswitchinterval(interval)


def test_flat_params_holds_where_a_signals_handler_asks_for_it_meanwhile(monkeypatch):
    policy, lay = small().double(), flat_module._lay_flat
    inner = iter([True])

    def interrupted(parameters):
        flat = lay(parameters)
        if next(inner, False):
            parameters[0].data = parameters[0].data.clone()
            flat_params(policy)
        return flat

    monkeypatch.setattr(flat_module, "_lay_flat", interrupted)
    flat_params(policy).zero_()
    assert all((p == 0).all() for p in policy.parameters())


def test_flat_params_lets_its_module_go():
    policy = small()
    gone = weakref.ref(policy)
    flat_params(policy)
    del policy
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "change",
    [
        lambda p: setattr(p, "extra", torch.nn.Parameter(torch.zeros(1))),
        lambda p: setattr(p, "value", torch.nn.Linear(5, 1)),
        lambda p: setattr(p.net[0], "bias", None),
        lambda p: p.head.log_std.requires_grad_(False),
        lambda p: p.net.__setitem__(1, torch.nn.ReLU()),
    ],
)
def test_a_policy_with_other_parts_goes_to_the_reference(change):
    policy = small()
    assert policy.follows_spec()
    change(policy)
    assert not policy.follows_spec()
    operator = FisherOperator(policy, torch.randn(9, 5))
    assert operator.backend == "reference"
    size = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert operator.solve(torch.randn(size)).x.isfinite().all()


def test_optimizers_and_state_dicts_write_the_buffer():
    policy = small()
    flat = flat_params(policy)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    before = flat.clone()
    policy(torch.randn(4, 5)).log_prob(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(flat, before)
    policy.load_state_dict(small().state_dict())
    assert flat_params(policy).data_ptr() == flat.data_ptr()


def test_names_are_the_fields():
    names = ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]
    names += ["net.4.weight", "net.4.bias", "head.log_std"]
    assert list(small().state_dict()) == names
    assert small().spec == NetSpec((5, 8, 7, 3), "tanh", "gaussian")


def test_orthogonal_initialisation():
    policy = MLPPolicy(64, Gaussian(4), (64, 64))
    weight = policy.net[2].weight.detach()
    assert torch.allclose(weight @ weight.T, 2.0 * torch.eye(64), atol=1e-5)
    assert policy.net[4].weight.detach().norm() == pytest.approx(0.01 * 2, rel=1e-4)
    assert all((policy.net[i].bias == 0).all() for i in (0, 2, 4))


@pytest.mark.parametrize("name", HEADS)
def test_any_module_can_be_flattened(name):
    policy = Case(name).policy()
    assert flat_params(policy).numel() == policy.spec.size
    assert flat_params(torch.nn.Linear(3, 2)).numel() == 8


def test_for_spaces():
    spaces = pytest.importorskip("gymnasium.spaces")
    box = spaces.Box(-1, 1, (2, 3))
    table = {
        "gaussian": box,
        "categorical": spaces.Discrete(4),
        "multicategorical": spaces.MultiDiscrete([2, 3]),
        "bernoulli": spaces.MultiBinary(5),
    }
    observations = spaces.Dict({"a": box, "b": spaces.Tuple([spaces.Discrete(3), box])})
    for kind, space in table.items():
        policy = MLPPolicy.for_spaces(observations, space)
        assert policy.spec.head == kind and policy.spec.widths[0] == 15
    assert MLPPolicy.for_spaces(box, box, std="state").spec.head == "gaussian_state"
    with pytest.raises(ValueError, match="action_space: expected gymnasium's Box, Discrete"):
        MLPPolicy.for_spaces(box, spaces.Text(3))


def test_mixed_dtypes_are_refused():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2).double())
    with pytest.raises(ValueError, match="parameters of one dtype on one device"):
        flat_params(module)
