"""Critics that are too wide for the resident kernels, fitted by Gauss-Newton."""

from __future__ import annotations

import pytest
import torch
from cuda_support import DEVICE, EMULATED
from exactness import STEP, no_worse
from wide_support import needs_triton

from trpo_fast import Critic
from trpo_fast.learner.critic import CriticInfo

pytestmark = needs_triton


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    if EMULATED:
        monkeypatch.setenv("TRPO_FAST_EMULATE", "1")


def fitted(backend: str, dtype: torch.dtype = torch.float32) -> tuple[CriticInfo, torch.Tensor]:
    """What a fit reports, and the critic's parameters after it. Every row has a part in the
    curvature, so that what is drawn matters for the order of sums alone.
    """
    device = torch.device("cpu") if dtype == torch.float64 else DEVICE
    torch.manual_seed(1)
    critic = Critic(5, (129, 16), method="gauss_newton", backend=backend, steps=2, fraction=1.0)
    obs, returns = torch.randn(70, 5), torch.randn(70)
    critic = critic.to(device, dtype)
    info = critic.fit(obs.to(device, dtype), returns.to(device, dtype))
    return info, critic.theta.detach().cpu().clone()


def test_its_solves_are_those_of_the_kernels_for_wide_nets(monkeypatch):
    from trpo_fast.backends.wide import operator

    made = []

    class Watched(operator.WideOperator):
        def __init__(self, *given, **named) -> None:
            made.append(self)
            super().__init__(*given, **named)

    monkeypatch.setattr(operator, "WideOperator", Watched)
    ours, theta = fitted("cuda")
    assert ours.backend == "cuda" and ours.steps == len(made) == 2
    its, single = fitted("reference")
    truth, exact = fitted("reference", torch.float64)
    assert its.steps == truth.steps == 2 and len(made) == 2
    no_worse(theta, single, exact, STEP, "parameters")
    assert float(ours) == pytest.approx(float(truth), rel=1e-4)


def test_adam_of_such_a_critic_is_not_theirs():
    from trpo_fast.learner.fits_cuda import solves_as_wide

    wide, narrow = Critic(5, (129,)), Critic(5, (128,))
    assert solves_as_wide(wide.net, "gauss_newton") and not solves_as_wide(wide.net, "adam")
    assert not solves_as_wide(narrow.net, "gauss_newton")
