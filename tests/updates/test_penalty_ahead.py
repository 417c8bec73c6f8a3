"""``Penalty`` where the host runs ahead of a device: lambda moves there, and to the same place."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from cases import Case

from trpo_fast import Penalty, flat_params, kl_penalty_update
from trpo_fast._base.reads import ahead
from trpo_fast.updates.multiplier import adjusted, lambda_on


@pytest.mark.parametrize("start", [1e-3, 3.0, 1e4])
@pytest.mark.parametrize("rule", ["fixed", "adaptive", "dual"])
def test_lambda_moves_on_a_device_as_on_the_host(start, rule):
    """``ahead`` is what the host may do beside a GPU: it reads no number in between."""
    policy, twin = Case(rows=129).policy(), Case(rows=129).policy()
    batch = Case(rows=129).batch(policy)
    ours, theirs = (Penalty(start, rule=rule, target_kl=0.01) for _ in range(2))
    for _ in range(3):
        with ahead():
            info = kl_penalty_update(policy, batch, ours, sync=False, backend="reference")
        assert isinstance(vars(ours)["value"], torch.Tensor)
        usual = kl_penalty_update(twin, batch, theirs, backend="reference")
        assert info.reason == usual.reason and info.kl == pytest.approx(usual.kl, rel=1e-7)
        with ahead():
            lambda_on(ours, flat_params(policy))  # a tensor still
        assert ours.value == pytest.approx(theirs.value, rel=1e-9) == ours.state_dict()["value"]
        ours.value = torch.tensor(ours.value, dtype=torch.float64)  # as an update leaves it
        torch.testing.assert_close(flat_params(policy), flat_params(twin), rtol=1e-7, atol=1e-9)
    assert copy.deepcopy(ours) == ours and pickle.loads(pickle.dumps(ours)) == ours
    assert repr(ours).startswith(f"Penalty(value={ours.value}")


@pytest.mark.parametrize("kl", [1e-9, 0.004, 0.01, 0.03, 10.0, math.nan, math.inf])
@pytest.mark.parametrize("rule", ["fixed", "adaptive", "dual"])
def test_the_rule_is_one_on_both(rule, kl):
    host = Penalty(2.0, rule=rule, target_kl=0.01, rate=0.2, max_value=3.0)
    given = [torch.tensor(v, dtype=torch.float64) for v in (2.0, kl, 0.01)]
    found = adjusted(host, *given)
    host.adjust(kl)
    assert float(found) == pytest.approx(host.value, rel=1e-14)
