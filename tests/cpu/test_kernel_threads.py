"""Torch on one thread, the kernels on all: OpenMP's threads would spin beside the kernels' own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from trpo_fast._base import extension
from trpo_fast._base.threads import OneThread, kernel_threads
from trpo_fast.backends.registry import registry
from trpo_fast.learner.critic import Critic


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_kernels_keep_what_torch_gives_up(three_threads):
    with OneThread():
        assert torch.get_num_threads() == 1 and kernel_threads() == 3
        with OneThread():
            assert torch.get_num_threads() == 1 and kernel_threads() == 3
        assert torch.get_num_threads() == 1 and kernel_threads() == 3
    with pytest.raises(ValueError), OneThread():
        raise ValueError
    assert torch.get_num_threads() == kernel_threads() == 3


@pytest.mark.skipif(not registry()["cpu"].machine_support(), reason="no native code here")
@pytest.mark.parametrize("method", ["adam", "gauss_newton"])
def test_a_fit_leaves_the_cores_to_the_kernels(method, three_threads, monkeypatch):
    native: Any = extension.module()
    seen = []

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*arguments: Any, **named: Any) -> Any:
            seen.append((torch.get_num_threads(), named["threads"]))
            return call(*arguments, **named)

        return watch

    for holder, name in (
        (native, "critic_loss"),
        (native, "critic_adam"),
        (native.CpuOperator, "solve"),
    ):
        monkeypatch.setattr(holder, name, watched(getattr(holder, name)))
    Critic(5, method=method).fit(torch.randn(300, 5), torch.randn(300))
    assert len(seen) == 1 if method == "adam" else len(seen) > 3
    assert set(seen) == {(1, 3)}
