"""The whole loop over a tensor environment with ``backend="cuda"``: on a GPU where there is one,
otherwise with the CUDA kernels emulated on the host.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("gymnasium")

from cuda_support import DEVICE, kernels  # noqa: F401 (an autouse fixture)

from trpo_fast.policy import flat_params
from trpo_fast.trainer import TRPO

SMALL: dict[str, Any] = {
    "engine": "tensor",
    "device": str(DEVICE),
    "num_envs": 4,
    "rows_per_update": 64,
    "hidden": (16,),
    "critic_hidden": (16,),
    "cg_iterations": 3,
    "fvp_fraction": 1.0,
    "critic_rows": 1.0,
    "seed": 1,
}


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_an_update_follows_the_reference(env: str) -> None:
    ours, theirs = (TRPO(env, backend=name, **SMALL) for name in ("cuda", "reference"))
    record, wanted = ours.train_once(), theirs.train_once()
    assert (record["backend"], record["reason"]) == ("cuda", wanted["reason"])
    assert record["kl"] == pytest.approx(wanted["kl"], rel=1e-3)
    torch.testing.assert_close(
        flat_params(ours.policy), flat_params(theirs.policy), rtol=1e-3, atol=1e-4
    )


def test_gauss_newton_fits_the_critic_there() -> None:
    agent = TRPO("LQR-v0", backend="cuda", critic="gauss_newton", **SMALL)
    first, second = agent.train_once(), agent.train_once()
    assert second["reason"] == "accepted" and second["critic_loss"] < 2 * first["critic_loss"]
    assert agent.steps == 128 and torch.isfinite(flat_params(agent.policy)).all()
