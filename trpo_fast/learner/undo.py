"""A fit as one step: the critic has moved by all of it, or, where its values are not finite or it
did not end, not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._base.arguments import fail
from ..policy.flat import flat_params, mark_written

Fitting = Callable[[], tuple[Tensor, int | Tensor]]  # to the loss, 0-d, and the steps taken


def finite_or_undone(
    critic: nn.Module, net: nn.Module, fitting: Fitting, *, sync: bool
) -> tuple[Tensor, int | Tensor]:
    """The loss, 0-d, and the steps of a fit, which leaves the critic as it was if its values are
    not finite: the loss is NaN then, or with ``sync`` a ``ValueError``.
    """
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    try:
        loss, steps = fitting()
        finite = loss.isfinite() & flat_params(net).isfinite().all()
        if sync and not bool(finite):
            raise fail("obs", "finite values", f"a loss of {float(loss)}")
        if not sync:
            _keep_where(finite, critic, before)
            loss = torch.where(finite, loss, torch.nan)
    except BaseException:  # Ctrl-C in the middle of a fit as well
        critic.load_state_dict(before)
        raise
    finally:
        mark_written(net)
    return loss, steps


@torch.no_grad()
def _keep_where(finite: Tensor, critic: nn.Module, before: dict[str, Any]) -> None:
    """What is there where ``finite`` (0-d) holds, what was there before otherwise. The counts of
    steps and fits, which live on the host, go on.
    """
    for name, value in critic.state_dict(keep_vars=True).items():
        if isinstance(value, nn.Parameter) or name in critic._buffers:
            value.copy_(torch.where(finite, value, before[name]))
