"""Products, solves and updates of a ``RecurrentPolicy`` through time."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.support.cases import HEADS, UPDATES
from tests.support.exactness import relative_error
from tests.support.recurrent_cases import (
    OBS,
    SEQUENCES,
    STEPS,
    StepByStep,
    recurrent_policy,
    sequences,
)
from trpo_fast import (
    Batch,
    FisherOperator,
    Gaussian,
    MLPPolicy,
    NaturalGradient,
    RecurrentPolicy,
    distribution_params,
    flat_params,
    trpo_update,
)

CELLS = ("gru", "lstm")


def operator(policy, batch, **options):
    return FisherOperator(
        policy,
        batch.obs,
        damping=0.1,
        weights=batch.weights,
        sequence_length=batch.sequence_length,
        starts=batch.starts,
        state=batch.state,
        **options,
    )


def dense_by_torchs_cells(policy, batch):
    """F + damping I of the rows from torch's own cells and autograd, nothing of the package's."""
    twin, rows = StepByStep(policy), (SEQUENCES, STEPS)
    given = batch.obs.view(*rows, -1), batch.starts.view(rows), batch.state
    leaves = [p for p in twin.encoder.parameters()]
    leaves += [twin.cell.weight_ih, twin.cell.weight_hh, twin.cell.bias_ih, twin.cell.bias_hh]
    leaves += [*twin.net.parameters(), *twin.head.parameters()]
    params = twin(*given)
    weights, width = batch.weights / batch.weights.sum(), params.shape[-1]
    fisher = 0.1 * torch.eye(flat_params(policy).numel(), dtype=torch.float64)
    for n, row in enumerate(params):
        gradients = [
            torch.autograd.grad(d, leaves, retain_graph=True, materialize_grads=True) for d in row
        ]
        jacobian = torch.stack([torch.cat([g.flatten() for g in each]) for each in gradients])
        each = torch.eye(width, dtype=torch.float64)
        metric = policy.head.metric(row.detach().expand(width, -1), each)
        fisher += weights[n] * jacobian.T @ metric @ jacobian
    return fisher


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"encoder": (5,), "hidden": (6,), "activation": "silu"}])
def test_a_product_through_time_is_the_dense_fisher_of_torchs_own_cells(cell, options):
    policy = recurrent_policy("gaussian_one", cell, **options)
    batch = sequences(policy)
    v = torch.randn(flat_params(policy).numel(), dtype=torch.float64)
    wanted = dense_by_torchs_cells(policy, batch) @ v
    assert relative_error(operator(policy, batch) @ v, wanted) < 1e-14


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cell", CELLS)
def test_products_of_every_head_with_weights_chunks_and_several_columns(cell, head):
    policy = recurrent_policy(head, cell, encoder=(5,))
    batch = sequences(policy)
    fisher = operator(policy, batch)
    v = torch.randn(fisher.shape[0], 3, dtype=torch.float64)
    wanted = fisher.dense() @ v
    assert relative_error(fisher @ v, wanted) < 1e-14
    assert relative_error(operator(policy, batch, chunk_rows=25) @ v, wanted) < 1e-14
    assert relative_error(operator(policy, batch, backend="autograd") @ v, wanted) < 1e-14


@pytest.mark.parametrize("cell", CELLS)
def test_a_changed_policy_runs_as_a_module_with_the_same_products(cell):
    policy = recurrent_policy("gaussian", cell, hidden=(5,))
    batch = sequences(policy)
    wanted = operator(policy, batch).dense()
    v = torch.randn(len(wanted), dtype=torch.float64)
    policy.net[0].register_forward_hook(lambda *given: None)
    assert relative_error(operator(policy, batch) @ v, wanted @ v) < 1e-14


def test_rows_of_products_are_whole_sequences():
    policy = recurrent_policy("gaussian", "gru")
    batch = sequences(policy)
    v = torch.randn(flat_params(policy).numel(), dtype=torch.float64)
    part = batch.rows(torch.arange(2 * STEPS))
    wanted = operator(policy, part) @ v
    assert relative_error(operator(policy, batch, fvp_rows=STEPS + 1) @ v, wanted) < 1e-14
    assert torch.equal(part.state, batch.state[:2])
    rows = torch.arange(2 * STEPS)
    assert relative_error(operator(policy, batch, fvp_rows=rows) @ v, wanted) < 1e-14
    assert relative_error(operator(policy, batch, fvp_rows=rows, chunk_rows=1) @ v, wanted) < 1e-14
    for bad, words in ((rows[1:], "whole sequences"), (rows + 1, "begin at multiples")):
        with pytest.raises(ValueError, match=f"fvp_rows: expected .*{words}"):
            operator(policy, batch, fvp_rows=bad)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("head", ["gaussian", "categorical"])
def test_kfac_solves_the_same_system_whatever_the_chunks(cell, head):
    policy = recurrent_policy(head, cell, encoder=(5,), hidden=(6,))
    batch = sequences(policy, sequences=8)
    fisher, g = operator(policy, batch), torch.randn(flat_params(policy).numel()).double()
    found = fisher.solve(g, iterations=300, tol=1e-10, preconditioner="kfac")
    assert relative_error(fisher.dense() @ found.x, g) < 1e-8
    assert found.restarts == 0
    assert found.scaled_blocks == 0
    chunked = operator(policy, batch, chunk_rows=30).solve(g, iterations=2, preconditioner="kfac")
    whole = fisher.solve(g, iterations=2, preconditioner="kfac")
    assert relative_error(chunked.x, whole.x) < 1e-10


@pytest.mark.parametrize("name", [name for name in UPDATES if name != "rat_update"])
def test_every_update_improves_the_surrogate(name):
    policy = recurrent_policy("gaussian", "gru", hidden=(5,))
    batch = sequences(policy)
    before = flat_params(policy).clone()
    info = UPDATES[name](policy, batch)
    assert info.accepted
    assert info.surrogate_after > info.surrogate_before
    assert not torch.equal(flat_params(policy), before)


def test_an_update_is_the_same_by_hand_by_torch_and_in_chunks():
    results = []
    for options in ({}, {"backend": "autograd"}, {"chunk_rows": 20}):
        policy = recurrent_policy("gaussian", "lstm")
        trpo_update(policy, sequences(policy), **options)
        results.append(flat_params(policy).clone())
    assert relative_error(results[1], results[0]) < 1e-10
    assert relative_error(results[2], results[0]) < 1e-10


def test_distribution_params_are_what_an_update_measures_kl_from():
    policy = recurrent_policy("gaussian", "gru")
    batch = sequences(policy)
    given = {name: getattr(batch, name) for name in ("sequence_length", "starts", "state")}
    old = distribution_params(policy, batch.obs, **given)
    info = trpo_update(policy, replace(batch, old_params=old), max_kl=0.01)
    assert info.accepted
    assert 0 < info.kl <= 0.01


def test_rows_of_weight_zero_count_nothing_but_are_remembered():
    policy = recurrent_policy("gaussian", "gru")
    batch = sequences(policy)
    assert batch.weights[5] == 0
    for name in ("advantages", "log_probs", "actions"):
        getattr(batch, name)[5] = torch.nan
    assert trpo_update(policy, batch).accepted
    v = torch.randn(flat_params(policy).numel(), dtype=torch.float64)
    first = operator(policy, batch) @ v
    batch.obs[5] += 1.0
    assert not torch.allclose(operator(policy, batch) @ v, first)
    batch.obs[5] = torch.nan  # nothing to remember
    assert torch.isfinite(operator(policy, batch) @ v).all()


def test_an_own_loop_is_called_on_sequences():
    policy = recurrent_policy("gaussian", "gru")
    batch = replace(sequences(policy), weights=None)
    shape = (SEQUENCES, STEPS)
    inputs = batch.obs.view(*shape, -1), batch.starts.view(shape), batch.state

    def loss(distribution):
        ratio = (distribution.log_prob(batch.actions) - batch.log_probs).exp()
        return -(ratio * batch.advantages).mean()

    twin = copy.deepcopy(policy)
    info = NaturalGradient(policy, max_kl=0.01, damping=0.1).step(loss, *inputs)
    wanted = trpo_update(twin, batch, max_kl=0.01, damping=0.1)
    assert info.accepted
    assert wanted.accepted
    assert info.kl == pytest.approx(wanted.kl, rel=1e-6)
    assert relative_error(flat_params(policy), flat_params(twin)) < 1e-8


def test_a_module_of_ones_own_takes_sequences():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = recurrent_policy("gaussian", "gru")

        def forward(self, obs, starts, state):
            return self.inner(obs, starts, state)

    module = Own()
    batch = sequences(module.inner)
    v = torch.randn(flat_params(module).numel(), dtype=torch.float64)
    assert relative_error(operator(module, batch) @ v, operator(module.inner, batch) @ v) < 1e-13
    with pytest.raises(ValueError, match="state: expected the states of 3 sequences"):
        trpo_update(module, replace(batch, state=None))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sequence_length": None}, "sequence_length: expected how many consecutive rows"),
        ({"sequence_length": 7}, "sequence_length: expected a divisor of the 60 rows, got 7"),
        ({"sequence_length": 0}, "sequence_length: expected an integer of at least 1"),
        ({"group_size": 2}, "group_size: expected None for rows that are sequences"),
        ({"starts": torch.zeros(60)}, "starts: expected dtype torch.bool"),
        ({"starts": torch.zeros(3, dtype=torch.bool)}, r"starts: expected shape \[60\]"),
        ({"state": torch.zeros(2, 4).double()}, r"state: expected shape \[3, 4\]"),
        ({"state": torch.full((3, 4), torch.nan).double()}, "state: expected finite values"),
    ],
)
def test_sequences_that_do_not_fit_are_refused(change, sentence):
    policy = recurrent_policy("gaussian", "gru")
    batch = sequences(policy)
    before = flat_params(policy).clone()
    with pytest.raises(ValueError, match=sentence):
        trpo_update(policy, replace(batch, **change))
    assert torch.equal(flat_params(policy), before)


def test_a_policy_without_a_memory_takes_no_sequences():
    policy = MLPPolicy(OBS, Gaussian(2))
    obs = torch.zeros(4, OBS)
    with pytest.raises(ValueError, match="sequence_length: expected None for an MLPPolicy"):
        distribution_params(policy, obs, sequence_length=2)
    with pytest.raises(ValueError, match="sequence_length: expected a number beside starts"):
        distribution_params(policy, obs, starts=torch.zeros(4, dtype=torch.bool))


def test_states_and_starts_that_were_not_given_are_zero():
    torch.manual_seed(0)
    policy = RecurrentPolicy(OBS, Gaussian(2), "gru", 4)
    obs = torch.randn(6, OBS)
    found = distribution_params(policy, obs, sequence_length=3)
    wanted = policy.distribution_params(obs.view(2, 3, OBS))
    assert relative_error(found, wanted) < 1e-6
    assert "sequence_length=3" in repr(Batch(obs, sequence_length=3))


def test_open_slices_take_the_states_of_their_sequences():
    batch = Batch(torch.arange(12.0)[:, None], sequence_length=3, state=torch.arange(4.0)[:, None])
    assert batch.rows(slice(None, 6)).state.flatten().tolist() == [0.0, 1.0]
    assert batch.rows(slice(-6, None)).state.flatten().tolist() == [2.0, 3.0]
