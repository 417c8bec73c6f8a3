"""Small recurrent policies with sequences to match, for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.support.cases import HEADS
from trpo_fast import Batch, RecurrentPolicy

SEQUENCES, STEPS, OBS = 3, 20, 4


def recurrent_policy(head: str, cell: str, **options: Any) -> RecurrentPolicy:
    """A policy of width 4 in float64, every parameter away from where it begins."""
    torch.manual_seed(0)
    policy = RecurrentPolicy(OBS, HEADS[head](), cell, 4, output_gain=0.8, **options)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return policy.double()


def sequences(policy: RecurrentPolicy, *, sequences: int = SEQUENCES, steps: int = STEPS) -> Batch:
    """Rows with resets inside, a weight of zero among them."""
    rows, dtype = sequences * steps, torch.float64
    obs = torch.randn(rows, OBS, dtype=dtype)
    starts = torch.rand(rows) < 0.15
    state = torch.randn(sequences, policy.state_size, dtype=dtype)
    weights = torch.rand(rows, dtype=dtype)
    weights[5] = 0.0
    shape = (sequences, steps)
    params = policy.distribution_params(obs.view(*shape, -1), starts.view(shape), state)
    actions = policy.head.sample(params.detach())
    return Batch(
        obs,
        actions,
        torch.randn(rows, dtype=dtype),
        policy.head.log_prob(params, actions).detach(),
        weights,
        sequence_length=steps,
        starts=starts,
        state=state,
    )


class StepByStep(nn.Module):
    """A ``RecurrentPolicy``'s function by torch's own cells, one step after the other."""

    def __init__(self, policy: RecurrentPolicy) -> None:
        super().__init__()
        kind = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}[policy.kind]
        self.cell = kind(policy.cell.inputs, policy.cell.width).double()
        names = {f"{n}_l0": p for n, p in self.cell.named_parameters()}
        with torch.no_grad():
            for name, p in policy.cell.named_parameters():
                names[name].copy_(p)
        self.encoder, self.net, self.head = policy.encoder, policy.net, policy.head

    def forward(self, obs: Tensor, starts: Tensor, state: Tensor) -> Tensor:
        """Distribution parameters [S T, D]."""
        rows, lstm = [], isinstance(self.cell, nn.LSTMCell)
        for t in range(obs.shape[1]):
            state = torch.where(starts[:, t, None], 0.0, state)
            x = self.encoder(obs[:, t])
            after = self.cell(x, state.chunk(2, -1)) if lstm else self.cell(x, state)
            state = torch.cat(after, -1) if lstm else after
            rows.append(self.net(state[:, : self.cell.hidden_size]))
        return self.head.distribution_params(torch.stack(rows, 1).flatten(0, 1))
