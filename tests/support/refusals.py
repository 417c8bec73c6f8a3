"""What every refused argument has in common: one sentence that names it, and nothing moved."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trpo_fast import MLPPolicy, flat_params


def refuses(argument: str, policy: MLPPolicy, call: Callable[[], Any]) -> None:
    """``call`` raises the sentence for ``argument`` and leaves the policy alone."""
    before = flat_params(policy).clone()
    with pytest.raises(ValueError) as caught:
        call()
    sentence = rf"{argument}: expected .+, got .+"
    assert re.fullmatch(sentence, str(caught.value), re.DOTALL), str(caught.value)
    assert torch.equal(flat_params(policy), before)
