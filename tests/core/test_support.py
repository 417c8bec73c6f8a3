"""Who serves: one answer for operators, actors, critics and advantages, and one sentence where a
backend that was named cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from backend_cases import device_of, setting
from cases import Case
from cpu_cases import needs_native

from trpo_fast import BackendUnavailable, FisherOperator, Gaussian, MLPPolicy
from trpo_fast.backends.registry import registry
from trpo_fast.backends.support import SERVES, Support, choose
from trpo_fast.learner.advantage import gae
from trpo_fast.learner.critic import Critic
from trpo_fast.train.parts import make_actor

TOO_WIDE, TOO_OLD = Support("too wide"), Support("too old")


def test_the_first_that_does_not_serve_is_the_answer() -> None:
    assert (SERVES and TOO_WIDE) is TOO_WIDE
    assert (TOO_WIDE and TOO_OLD) is TOO_WIDE
    assert bool(SERVES and SERVES) and (SERVES.status, TOO_OLD.status) == ("ok", "too old")


def test_auto_takes_the_first_that_serves_and_a_name_is_never_replaced() -> None:
    asked: list[str] = []

    def candidate(name: str, answer: Support) -> Callable[[int], Support]:
        return lambda given: (asked.append(f"{name}({given})"), answer)[1]

    candidates = {
        "cpu": candidate("cpu", TOO_WIDE),
        "cuda": candidate("cuda", SERVES),
        "reference": candidate("reference", SERVES),
    }
    assert choose("auto", candidates, 3, can="add") == "cuda"
    assert asked == ["cpu(3)", "cuda(3)"]
    assert choose("reference", candidates, 3, can="add") == "reference"
    with pytest.raises(BackendUnavailable, match=r"^backend='cpu': .* can add, got: too wide$"):
        choose("cpu", candidates, 3, can="add")
    with pytest.raises(BackendUnavailable, match=r"can add, got none: cpu cannot: too wide$"):
        choose("auto", {"cpu": candidates["cpu"]}, 3, can="add")
    with pytest.raises(ValueError, match=r"^backend: expected one of .*'auto'.*, got 'gpu'"):
        choose("gpu", candidates, 3, can="add")


def actor_for(policy: MLPPolicy, backend: str) -> Any:
    agent = SimpleNamespace(
        policy=policy,
        critic=Critic(3, (4,), dtype=next(policy.parameters()).dtype),
        generator=torch.Generator(),
        config=SimpleNamespace(backend=backend, capture=True),
        recurrent=None,
    )
    return make_actor(agent, None)  # type: ignore[arg-type]


def advantages(backend: str, device: str = "cpu") -> torch.Tensor:
    rows = torch.ones(2, 3, device=device)
    return gae(rows, rows, rows, rows.bool(), gamma=0.9, lam=0.5, backend=backend)


ROWS = torch.zeros(2, 3, dtype=torch.float64)
POLICY = MLPPolicy(3, Gaussian(1), (4,)).double()
CALLS: dict[str, Callable[[], Any]] = {
    "serve": lambda: FisherOperator(POLICY, ROWS, backend="cpu"),
    "act for this policy and critic": lambda: actor_for(POLICY, "cpu"),
    "fit this critic": lambda: Critic(3, (4,), backend="cpu").double().fit(ROWS, ROWS[:, 0]),
    "estimate advantages": lambda: advantages("cpu", "meta"),
}


@needs_native
@pytest.mark.parametrize("can", CALLS)
def test_a_named_backend_that_cannot_says_so_in_one_form(can: str) -> None:
    """Acting for such a policy went to PyTorch in silence, and so did advantages."""
    with pytest.raises(BackendUnavailable) as raised:
        CALLS[can]()
    assert str(raised.value).startswith(f"backend='cpu': expected one that can {can}, got: ")


def test_advantages_know_the_names_of_backends() -> None:
    with pytest.raises(ValueError, match=r"^backend: expected one of .*, got 'gpu'"):
        advantages("gpu")
    assert torch.equal(advantages("cpu"), advantages("reference"))


def test_tensors_lie_where_a_backend_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRPO_FAST_EMULATE", raising=False)
    wanted = {name: "cuda" if name == "cuda" else "cpu" for name in registry()}
    assert {name: device_of(name).type for name in registry()} == wanted
    monkeypatch.setenv("TRPO_FAST_EMULATE", "1")
    assert {device_of(name).type for name in registry()} == {"cpu"}
    policy, batch = setting(Case("gaussian", masks=False), "cuda")
    assert next(policy.parameters()).device == batch.obs.device == torch.device("cpu")
