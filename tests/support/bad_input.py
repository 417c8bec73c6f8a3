"""What the tests of bad input share."""

from __future__ import annotations

import re

import pytest
import torch

from trpo_fast import (
    flat_params,
)


def refuses(argument, policy, call):
    """``call`` raises the sentence for ``argument`` and leaves the policy alone."""
    before = flat_params(policy).clone()
    with pytest.raises(ValueError) as caught:
        call()
    sentence = rf"{argument}: expected .+, got .+"
    assert re.fullmatch(sentence, str(caught.value), re.DOTALL), str(caught.value)
    assert torch.equal(flat_params(policy), before)
