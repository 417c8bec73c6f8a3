"""What a policy is on its rows before anything moves it, for a KL to the policy that sampled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._base.guards import outside_autocast
from .._base.rows import Rows
from ..core import checks
from ..core.batch import Batch
from ..core.modules import functional_params
from ..policy.heads import TakenActions, without_head


@outside_autocast
@torch.no_grad()
def distribution_params(
    policy: nn.Module,
    obs: Rows,
    action_mask: Tensor | None = None,
    *,
    sequence_length: int | None = None,
    starts: Tensor | None = None,
    state: Tensor | None = None,
) -> Tensor:
    """Distribution parameters [N, D] of the policy on rows obs [N, O], for ``Batch.old_params``:
    means and log standard deviations, logits, or whatever the rows' distributions obey. The last
    three are those of a ``Batch``, for a policy with a memory.
    """
    policy, theta = checks.check_policy(policy)
    rows = Batch(
        obs,
        action_mask=action_mask,
        sequence_length=sequence_length,
        starts=starts,
        state=state,
    )
    batch = checks.check_rows(policy, theta, rows)
    head, params = functional_params(policy, batch)(theta)
    if isinstance(head, TakenActions):
        raise without_head(repr(head.found))
    return params
