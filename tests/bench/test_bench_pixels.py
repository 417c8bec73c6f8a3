"""The benchmark of updates on frames: both contenders take the same step."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("gymnasium")

from trpo_fast import Batch, flat_params

ROOT = Path(__file__).resolve().parents[2]
NET = {"channels": (4, 4), "kernels": (4, 3), "strides": (2, 2), "hidden": (16,)}


@pytest.fixture
def pixels(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("pixels")


def test_both_take_the_same_step(pixels, monkeypatch) -> None:
    monkeypatch.setattr(pixels, "PRODUCTS", 4)  # more multiply what the products differ by
    policy, single = pixels.work(24, (2, 16, 16), **NET)
    policy = policy.double()
    log_probs = policy(single.obs).log_prob(single.actions).detach()
    batch = Batch(single.obs, single.actions, single.advantages.double(), log_probs)
    theta, start = flat_params(policy), flat_params(policy).clone()
    kl = pixels.double_backward(policy, batch)
    by_hand = theta.clone()
    theta.copy_(start)
    assert 0.0 < kl <= pixels.MAX_KL and pixels.ours(policy, batch) == pytest.approx(kl, rel=1e-9)
    torch.testing.assert_close(theta, by_hand, rtol=1e-8, atol=1e-10)


def test_what_is_written(pixels, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pixels, "FRAMES", (1, 40, 40))
    work = pixels.work
    monkeypatch.setattr(pixels, "work", lambda rows: work(rows, (1, 40, 40), hidden=(8,)))
    path = tmp_path / "pixels.json"
    pixels.main(["--rows", "8", "--repeats", "1", "--threads", "1", "--json", str(path)])
    found = json.loads(path.read_text())
    assert found["rows"] == 8 and set(found["median_us"]) == {"double_backward", "trpo_fast"}
