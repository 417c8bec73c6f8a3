"""Policies that torch.save wrote with version 0.1.0, whose modules had other names, still load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trpo_fast import Batch, MLPPolicy, flat_params, trpo_update
from trpo_fast.policy import cnn, extractor, heads

SAVED = Path(__file__).with_name("policies_of_0_1_0.pt")
NAMES = {
    "Gaussianfree": (heads.Gaussian, "gaussian"),
    "Gaussianstate": (heads.Gaussian, "gaussian_state"),
    "SquashedGaussianfree": (heads.SquashedGaussian, "gaussian"),
    "Categorical": (heads.Categorical, "categorical"),
    "MultiCategorical": (heads.MultiCategorical, "multicategorical"),
    "Bernoulli": (heads.Bernoulli, "bernoulli"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_policy_loads_and_learns(name: str) -> None:
    policy = torch.load(SAVED, weights_only=False)[name]
    kind, words = NAMES[name]
    assert type(policy) is MLPPolicy and type(policy.head) is kind
    assert policy.spec.head == policy.head.kind == words and policy.departure() == ""
    assert flat_params(policy).numel() == policy.spec.size

    generator = torch.Generator().manual_seed(1)
    obs = torch.randn(200, 3, generator=generator)
    with torch.no_grad():
        params = policy.distribution_params(obs)
        actions = policy.head.sample(params, generator)
        log_probs = policy.head.log_prob(params, actions)
    advantages = torch.randn(200, generator=generator)
    assert trpo_update(policy, Batch(obs, actions, advantages, log_probs)).accepted


def test_what_saved_policies_have_of_images_is_where_it_was() -> None:
    for name in ("Convolutions", "OneHot", "Numbers", "Extractor"):
        assert getattr(cnn, name) is getattr(extractor, name)


@pytest.mark.parametrize("imports", ["torch", "trpo_fast, torch"])
def test_they_load_in_a_process_of_their_own(imports: str) -> None:
    program = f"import {imports}\nprint(*torch.load({str(SAVED)!r}, weights_only=False))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == [*NAMES], done.stderr
