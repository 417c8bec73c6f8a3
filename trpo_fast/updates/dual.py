"""The dual problem of one batch, for ``Penalty(rule="dual")``: theta and lambda take turns until
the KL of the step for lambda is the target. The KL falls with lambda.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .multiplier import Penalty, adjusted
from .proposals import Multiplier, Proposal

BLIND_STEP = 100.0  # of lambda, where every step was too long and another turn follows
Propose = Callable[[Multiplier], Proposal]


def alternate(
    propose: Propose, proposal: Proposal, penalty: Penalty, rounds: int, tolerance: float
) -> Proposal:
    """The proposal whose KL came nearest target_kl; moves the penalty's lambda.

    A step of lambda beyond one whose KL was already seen on that side of target_kl is replaced by
    the middle, in log lambda, of the nearest two.
    """
    best, least = proposal, math.inf
    low, high = penalty.min_value, penalty.max_value
    for turn in range(rounds):
        kl = float(proposal.known_kl)
        distance = abs(kl / penalty.target_kl - 1.0)
        if distance < least:
            best, least = proposal, distance
        if least <= tolerance or turn == rounds - 1:
            break
        tried = penalty.value
        low, high = (tried, high) if kl > penalty.target_kl else (low, tried)
        if math.isfinite(kl):
            penalty.adjust(kl)
        else:  # every step was too long: nothing is known of how far off lambda is
            penalty.value = min(BLIND_STEP * penalty.value, penalty.max_value)
        if not low < penalty.value < high:
            penalty.value = math.sqrt(low * high)
        if penalty.value in (tried, low, high):  # at its bounds, or nothing lies between
            break
        proposal = propose(penalty.value)
    return best


def alternate_ahead(
    propose: Propose,
    proposal: Proposal,
    penalty: Penalty,
    multiplier: Tensor,
    target_kl: Tensor,
    going: Tensor,
    rounds: int,
    tolerance: float,
) -> tuple[Proposal, Tensor]:
    """The same where the host may not read a KL, and where lambda is then, all of it 0-d float64 on
    the device: every turn is computed, and those after the last one change nothing. ``going`` is
    whether there are turns at all.
    """
    best, least = proposal, torch.full_like(multiplier, math.inf)
    low, high = (torch.full_like(multiplier, v) for v in (penalty.min_value, penalty.max_value))
    for turn in range(rounds):
        kl = proposal.known_kl
        distance = (kl / target_kl - 1.0).abs()
        nearer = going & (distance < least)
        best, least = proposal.where(nearer, best), torch.where(nearer, distance, least)
        going = going & (least > tolerance)
        if turn == rounds - 1:
            break
        tried = multiplier
        low = torch.where(going & (kl > target_kl), tried, low)
        high = torch.where(going & ~(kl > target_kl), tried, high)
        blind = (BLIND_STEP * tried).clamp_max(penalty.max_value)
        moved = torch.where(torch.isfinite(kl), adjusted(penalty, tried, kl, target_kl), blind)
        moved = torch.where((low < moved) & (moved < high), moved, (low * high).sqrt())
        multiplier = torch.where(going, moved, multiplier)
        going = going & (moved != tried) & (moved != low) & (moved != high)
        proposal = propose(multiplier)
    return best, multiplier
