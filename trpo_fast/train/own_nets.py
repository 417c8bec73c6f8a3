"""Modules of the user's own as policy and critic: whether they fit the environment, found out by a
run on as many rows as there are copies.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from .._base.arguments import fail
from .._base.guards import outside_autocast
from .._base.rows import Rows
from ..core import checks
from ..core.batch import Batch
from ..core.modules import head_of
from ..learner.acting import acting_params
from ..policy.heads import Head, TakenActions, head_for_space, without_head
from ..policy.net import drawn_for
from .config import Config


@outside_autocast
@torch.no_grad()
def head_of_module(policy: nn.Module, space: Any, obs: Rows, mask: Tensor | None) -> Head:
    """The head of a module's actions at rows obs, which fits an action space."""
    module, theta = checks.check_policy(policy)
    try:
        checked = checks.check_rows(module, theta, Batch(obs, action_mask=mask))
        found = head_of(module, checked)
        if isinstance(found, TakenActions):
            raise without_head(repr(found.found))
        head, _ = acting_params(policy, obs, mask)
    except TypeError as error:
        takes = "observations" if mask is None else "observations and an action mask"
        raise fail("policy", f"a module that takes {takes}", f"the error: {error}") from error
    check_head(head, space)
    return head


def check_head(head: Head, space: Any) -> None:
    """Refuse a distribution of other actions than an action space has."""
    with drawn_for("cpu"):
        usual = head_for_space(space)
    numbers, choices = usual.integer_actions, bool(usual.nvec)
    if head.nvec or choices:
        fits = head.nvec == usual.nvec or (not head.nvec and _chooses(head, usual))
    else:
        fits = head.action_dim == usual.action_dim and head.integer_actions == numbers
    if not fits:
        wanted = f"a module with the actions of {space}, such as those of {usual}"
        raise fail("policy", wanted, f"those of {head}")


def _chooses(head: Head, usual: Head) -> bool:
    """Whether a registered head has the integers of a discrete space as actions."""
    return head.integer_actions and head.action_shape == usual.action_shape


def with_action_mode(config: Config, head: Head, given: set[str]) -> Config:
    """The config with the way of mapping actions that a module's head has, unless another one is
    among the settings that were ``given``.
    """
    if config.action_mode in head.action_modes:
        return config
    if "action_mode" in given or len(head.action_modes) != 1:
        modes = " or ".join(map(repr, head.action_modes))
        wanted = f"{modes} for a policy with the head {type(head).__name__}"
        raise fail("action_mode", wanted, repr(config.action_mode))
    return dataclasses.replace(config, action_mode=head.action_modes[0])  # type: ignore[arg-type]


def check_place(name: str, module: nn.Module, device: torch.device) -> None:
    """Refuse a net whose parameters are not float32 on the agent's device."""
    device = torch.empty(0, device=device).device  # "cuda" stands for one of several
    kinds = {(p.dtype, p.device) for p in module.parameters()}
    if kinds != {(torch.float32, device)}:
        wanted = f"float32 parameters on {device}"
        raise fail(name, wanted, sorted(map(str, kinds)))


def check_apart(policy: nn.Module, critic: nn.Module) -> None:
    """Refuse a critic that has parameters of the policy: its fit would move the policy."""
    if not {id(p) for p in policy.parameters()}.isdisjoint(map(id, critic.parameters())):
        raise fail("critic", "parameters of its own", "some that are the policy's")
