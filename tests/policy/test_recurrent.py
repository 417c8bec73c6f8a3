"""``RecurrentPolicy``: torch's cells, resets, states, steps, and what it refuses."""

import copy

import pytest
import torch
from torch import nn

from tests.support.exactness import relative_error
from tests.support.recurrent_cases import OBS, StepByStep, recurrent_policy, sequences
from trpo_fast import Categorical, Gaussian, RecurrentPolicy, flat_params
from trpo_fast.policy.cells import GRU, LSTM

CELLS = ("gru", "lstm")
STOCK = {"gru": (GRU, nn.GRU), "lstm": (LSTM, nn.LSTM)}


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_loads_the_weights_of_torchs_and_gives_what_it_gives(cell):
    torch.manual_seed(0)
    kind, stock = STOCK[cell]
    theirs = stock(OBS, 6).double()
    ours = kind(OBS, 6, torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x, state = torch.randn(9, 3, OBS).double(), torch.randn(3, ours.state_size).double()
    parts = tuple(part[None].contiguous() for part in state.chunk(ours.rule.parts, -1))
    wanted, last = theirs(x, parts if cell == "lstm" else parts[0])
    found, after = ours(x, torch.zeros(9, 3, dtype=torch.bool), state)
    last = torch.cat([part[0] for part in last], -1) if cell == "lstm" else last[0]
    assert relative_error(found, wanted) < 1e-15
    assert relative_error(after, last) < 1e-15
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("cell", CELLS)
def test_both_derivatives_of_a_cell_and_the_second_are_right(cell):
    torch.manual_seed(1)
    ours = STOCK[cell][0](1, 2, torch.float64)
    names = [name for name, _ in ours.named_parameters()]
    starts = torch.tensor([[False, True], [False, False], [True, False]])
    x, state = torch.randn(3, 2, 1).double(), torch.randn(2, ours.state_size).double()
    leaves = [t.detach().requires_grad_() for t in (x, state, *ours.parameters())]

    def run(x, state, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(ours, given, (x, starts, state))

    assert torch.autograd.gradcheck(run, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, leaves)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"encoder": (5,), "hidden": (6,), "activation": "elu"}])
def test_sequences_are_what_torchs_cells_give_step_by_step(cell, options):
    policy = recurrent_policy("gaussian", cell, **options)
    batch = sequences(policy)
    shape = (3, 20)
    given = batch.obs.view(*shape, -1), batch.starts.view(shape), batch.state
    wanted = StepByStep(policy)(*given)
    assert relative_error(policy.distribution_params(*given), wanted) < 1e-14
    assert policy(*given).mean.shape == (60, 3)


@pytest.mark.parametrize("cell", CELLS)
def test_steps_one_by_one_are_the_sequence(cell):
    policy = recurrent_policy("categorical", cell, hidden=(5,))
    obs, starts = torch.randn(2, 7, OBS).double(), torch.rand(2, 7) < 0.3
    wanted, last = policy.outputs(obs, starts)
    state, rows = policy.initial_state(2), []
    for t in range(7):
        params, state = policy.step(obs[:, t], state, starts[:, t])
        rows.append(params)
    assert relative_error(torch.stack(rows, 1).flatten(0, 1), wanted) < 1e-14
    assert relative_error(state, last) < 1e-14


def test_what_came_before_a_start_is_forgotten():
    policy = recurrent_policy("gaussian", "lstm")
    obs, starts = torch.randn(1, 6, OBS).double(), torch.zeros(1, 6, dtype=torch.bool)
    starts[0, 3] = True
    other = obs.clone()
    other[:, :3] += 1.0
    first, second = (
        policy.distribution_params(obs, starts),
        policy.distribution_params(other, starts),
    )
    assert torch.equal(first[3:], second[3:])
    assert not torch.equal(first[:3], second[:3])


def test_gradients_end_at_the_state_that_was_given():
    policy = recurrent_policy("gaussian", "gru")
    state = policy.initial_state(1).requires_grad_()
    policy.distribution_params(torch.randn(1, 2, OBS).double(), None, state).sum().backward()
    assert state.grad is None


def test_the_same_seed_draws_the_same_policy_in_either_dtype_and_copies_keep_it():
    torch.manual_seed(3)
    single = RecurrentPolicy(OBS, Gaussian(2), "lstm", 5, encoder=(4,))
    torch.manual_seed(3)
    double = RecurrentPolicy(OBS, Gaussian(2), "lstm", 5, encoder=(4,), dtype=torch.float64)
    assert torch.equal(flat_params(single).double(), flat_params(double))
    assert copy.deepcopy(single).departure() == ""


def test_what_was_changed_of_a_policy_is_found():
    assert recurrent_policy("gaussian", "gru").departure() == ""

    class Own(RecurrentPolicy):
        def outputs(self, obs, starts=None, state=None):
            z, last = super().outputs(obs, starts, state)
            return 2.0 * z, last

    assert "Own" in Own(OBS, Gaussian(2)).departure()
    for change, words in (
        (lambda p: p.net.append(nn.Identity()), "layers"),
        (lambda p: p.net[0].register_forward_hook(lambda *a: None), "hooks"),
        (lambda p: p.cell.bias_hh_l0.requires_grad_(False), "frozen"),
        (lambda p: p.cell.register_parameter("bias_ih_l0", p.cell.bias_hh_l0), "tied"),
    ):
        policy = RecurrentPolicy(OBS, Gaussian(2), "gru", 4)
        change(policy)
        assert words in policy.departure()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cell": "rnn"}, "cell: expected one of"),
        ({"width": 0}, "width: expected an integer of at least 1"),
        ({"encoder": 3}, "encoder: expected a sequence"),
        ({"hidden": (0,)}, "hidden: expected a sequence"),
        ({"head": 3}, "head: expected a head"),
        ({"obs_dim": -1}, "obs_dim: expected an integer"),
    ],
)
def test_arguments_out_of_range_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        RecurrentPolicy(**({"obs_dim": 4, "head": Categorical(2)} | options))


def test_rows_without_steps_are_refused():
    policy = recurrent_policy("gaussian", "gru")
    with pytest.raises(ValueError, match=r"obs: expected sequences \[S, T, ...\], got shape"):
        policy(torch.zeros(5, OBS).double())
