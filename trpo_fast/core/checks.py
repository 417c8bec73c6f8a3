"""Every check a user can fail, and the sentences they read: the argument, what was expected, what
came.

Structure (rank, shape, dtype, device, ranges of numbers) is checked before anything runs. Values
inside tensors are looked at only where the host waits anyway: ``raise_for_values`` names the
culprit once a backend has raised its flag.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .._base.arguments import check_choice as check_choice
from .._base.arguments import check_count as check_count
from .._base.arguments import check_memory as check_memory
from .._base.arguments import check_number as check_number
from .._base.arguments import check_tensor as check_tensor
from .._base.arguments import fail as fail
from .._base.options import UpdateSettings
from .._base.rows import Rows, count_rows, map_rows, parts_of
from .._base.settings import declared
from ..policy.flat import flat_params
from ..policy.heads import TakenActions
from ..policy.net import MLPPolicy
from ..policy.recurrent import packaged_head
from ..policy.wrappers import unwrapped
from .bad_values import Judged, raise_for
from .batch import Batch
from .modules import check_distributions, head_of
from .problem import Problem
from .sequences import check_sequences, rows_of, whole_sequences

UPDATE = declared(UpdateSettings)
CHOICE_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_policy(policy: Any, name: str = "policy") -> tuple[nn.Module, Tensor]:
    """The policy, out of its wrappers, and its flat parameters [P], float32 or float64."""
    if not isinstance(policy, nn.Module):
        raise fail(name, "a torch.nn.Module", type(policy).__name__)
    policy = unwrapped(policy)
    theta = flat_params(policy)
    if theta.dtype not in (torch.float32, torch.float64):
        raise fail(name, "float32 or float64 parameters", theta.dtype)
    check_memory(name, theta)
    return policy, theta


def check_optimizer(policy: nn.Module, optimizer: Any) -> None:
    """An optimiser that would move something of the policy."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise fail("optimizer", "a torch.optim.Optimizer", type(optimizer).__name__)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in policy.parameters()):
        raise fail("optimizer", "one that holds the policy's parameters", "one of others")


def check_obs(net: nn.Module, theta: Tensor, obs: Any) -> Rows:
    """Observations of at least one row: [N, O] for layers; for another module tensors, or dicts and
    tuples of them, each with N rows, where the module is.
    """
    if isinstance(net, MLPPolicy):
        check_memory("obs", obs)
        if obs.ndim == 0 or obs.shape[0] == 0:
            raise fail("obs", "at least one row", f"shape {list(obs.shape)}")
        return check_tensor("obs", obs, theta, (None, net.spec.widths[0]))
    rows: int | None = None
    for name, part in parts_of(obs):
        check_memory(name, part)
        if part.ndim == 0 or part.shape[0] == 0:
            raise fail(name, "at least one row", f"shape {list(part.shape)}")
        if part.device != theta.device:
            place = f"a tensor on {theta.device}, where the policy is"
            raise fail(name, place, f"one on {part.device}")
        rows = part.shape[0] if rows is None else rows
        if part.shape[0] != rows:
            raise fail(name, f"{rows} rows, as the others have", part.shape[0])
    if rows is None:
        raise fail("obs", "at least one tensor", "none")
    return map_rows(torch.Tensor.detach, obs)


def check_rows(policy: nn.Module, theta: Tensor, batch: Batch) -> Batch:
    """The parts of a batch that say where the policy is evaluated: obs, weights, action_mask."""
    obs = check_obs(policy, theta, batch.obs)
    rows = count_rows(obs)
    weights = batch.weights
    if weights is not None:
        weights = check_tensor("weights", weights, theta, (rows,))
    mask = batch.action_mask
    if mask is not None:
        mask = check_mask("action_mask", policy, theta, mask, rows)
    if batch.group_size is not None:
        check_count("group_size", batch.group_size)
        if rows % batch.group_size:
            raise fail("group_size", f"a divisor of the {rows} rows", batch.group_size)
    fields = check_sequences(policy, theta, batch)
    return Batch(obs, weights=weights, action_mask=mask, group_size=batch.group_size, **fields)


def check_mask(argument: str, policy: nn.Module, theta: Tensor, mask: Tensor, rows: int) -> Tensor:
    """Allowed choices [N, Z] of a policy whose head has choices."""
    width: int | None = None
    if (head := packaged_head(policy)) is not None:
        if not head.maskable:
            raise fail(argument, "None for a head without choices", type(head).__name__)
        width = head.outputs
    return check_tensor(argument, mask, theta, (rows, width), dtypes=(torch.bool,))


def check_batch(
    policy: nn.Module, theta: Tensor, batch: Any, chunk_rows: int | None = None
) -> Batch:
    """A whole batch for an update, of which ``chunk_rows`` are run at a time."""
    if not isinstance(batch, Batch):
        raise fail("batch", "a trpo_fast.Batch", type(batch).__name__)
    checked = check_rows(policy, theta, batch)
    rows = len(checked)
    if batch.advantages is None:
        raise fail("advantages", f"a tensor of shape [{rows}]", "None")
    advantages = check_tensor("advantages", batch.advantages, theta, (rows,))
    log_probs = batch.log_probs
    if log_probs is not None:
        log_probs = check_tensor("log_probs", log_probs, theta, (rows,))
    return replace(
        checked,
        actions=check_actions(policy, theta, batch.actions, checked, chunk_rows),
        advantages=advantages,
        log_probs=log_probs,
        old_params=check_old_params(policy, theta, batch.old_params, checked, chunk_rows),
    )


def check_old_params(
    policy: nn.Module,
    theta: Tensor,
    old_params: Any,
    batch: Batch,
    chunk_rows: int | None = None,
) -> Tensor | None:
    """Distribution parameters [N, D] that a checked batch's rows were sampled with. A net's mask
    forbids the same of them as of its own outputs.
    """
    if old_params is None:
        return None
    head = head_of(policy, batch, chunk_rows)
    if isinstance(head, TakenActions):
        raise fail("old_params", "None for a distribution without a head", "a tensor")
    width = head.parameters_per_row
    checked = check_tensor("old_params", old_params, theta, (len(batch), width))
    if batch.action_mask is None or packaged_head(policy) is None:
        return checked
    return head.distribution_params(checked, mask=batch.action_mask)


def check_actions(
    policy: nn.Module,
    theta: Tensor,
    actions: Any,
    batch: Batch,
    chunk_rows: int | None = None,
) -> Tensor:
    """The actions of a checked batch's rows, in the form that the head's formulas take."""
    rows = len(batch)
    if actions is None:
        raise fail("actions", f"a tensor with {rows} rows", "None")
    head = head_of(policy, batch, chunk_rows)
    shape = (rows, *head.action_shape)
    # A module's own distribution may shape a row's action differently, say [N] for one number.
    own = packaged_head(policy) is None and isinstance(actions, Tensor)
    if own and actions.shape[:1] == (rows,) and actions.numel() == math.prod(shape):
        actions = actions.reshape(shape)
    if head.nvec:
        return check_tensor("actions", actions, theta, shape, dtypes=CHOICE_DTYPES).long()
    if head.integer_actions:
        dtypes = (theta.dtype, torch.bool, *CHOICE_DTYPES)
        return check_tensor("actions", actions, theta, shape, dtypes=dtypes).to(theta.dtype)
    return check_tensor("actions", actions, theta, shape)


def check_vector(argument: str, v: Any, theta: Tensor) -> Tensor:
    """v [P] as an operator takes it; of several right-hand sides [P, K] the rows [K, P]."""
    if isinstance(v, Tensor) and v.ndim == 2:
        return check_tensor(argument, v, theta, (theta.numel(), None)).T.contiguous()
    return check_tensor(argument, v, theta, (theta.numel(),)).contiguous()


def in_one_place(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of a fake kernel, which torch runs as well where only some tensors are on the
    meta device: what it makes beside the others would be memory that nobody has written.
    """
    held = [x for x in (*given, *named.values()) if isinstance(x, Tensor)]
    if len(places := sorted({str(x.device) for x in held})) > 1:
        raise fail("theta", "tensors on one device", " and ".join(places))
    return given


def check_fvp_rows(
    fvp_rows: Any,
    theta: Tensor,
    rows: int,
    *,
    check_values: bool = True,
    sequence_length: int | None = None,
) -> Tensor | None:
    """Row indices for the Fisher-vector products: an int asks for that many, evenly strided, or for
    as many whole sequences as hold them. Without ``check_values`` those of given indices are left
    to the kernels, which flag bad ones.
    """
    if fvp_rows is None:
        return None
    if sequence_length is not None:
        check_fvp_rows(fvp_rows, theta, rows)
        chosen = whole_sequences(fvp_rows, sequence_length, rows)
        found = check_fvp_rows(chosen, theta, rows // sequence_length)
        assert found is not None
        return rows_of(found, sequence_length)
    if isinstance(fvp_rows, Tensor):
        index = check_tensor("fvp_rows", fvp_rows, theta, (None,), dtypes=(torch.int64,))
        if index.numel() == 0:
            raise fail("fvp_rows", "at least one row index", "none")
        if not check_values:
            return index
        low, high = int(index.min()), int(index.max())
        if low < 0 or high >= rows:
            raise fail("fvp_rows", f"indices from 0 to {rows - 1}", f"{low} to {high}")
        if index.numel() > 1 and not bool((index.diff() > 0).all()):
            raise fail("fvp_rows", "strictly increasing indices", "others")
        return index
    count = check_count("fvp_rows", fvp_rows)
    if count > rows:
        raise fail("fvp_rows", f"at most the {rows} rows of the batch", count)
    return torch.arange(count, dtype=torch.int64, device=theta.device) * rows // count


def kl_scale(
    policy: nn.Module, kl_reduction: str, batch: Batch, chunk_rows: int | None = None
) -> float:
    """1 for a sum over action dimensions, 1 / A for the mean that sb3-contrib and omnisafe
    report.
    """
    UPDATE["kl_reduction"].check(kl_reduction)
    if kl_reduction == "sum":
        return 1.0
    return head_of(policy, batch, chunk_rows).mean_scale()


def all_finite(value: Tensor) -> bool:
    """Whether no element is NaN or infinite. One pass: either would be in the sum, and a sum that
    only overflowed is looked at again.
    """
    total = value.sum() if value.ndim else value
    return math.isfinite(float(total)) or bool(torch.isfinite(value).all())


def judged(problem: Problem) -> Judged:
    """The rows of a problem as the table of bad values sees them."""
    raw, clean, share = problem.batch, problem.batch.without_padding(), problem.share
    head = head_of(problem.policy, clean, problem.chunk_rows)
    if share is None:
        return Judged(head, raw, clean, problem.fvp_rows, policy=problem.policy)
    totals = (share.total, share.fisher_total)
    known = (head, raw, clean, problem.fvp_rows, totals)
    return Judged(*known, share.own > 0.0, problem.policy)


def raise_for_values(problem: Problem) -> None:
    """Look at every value on the host and raise for the first that no update can use; of several
    ranks all raise.
    """
    if problem.share is None:
        _raise_for_values(problem)
    else:
        problem.share.ranks.together(lambda: _raise_for_values(problem))


def _raise_for_values(problem: Problem) -> None:
    rows = judged(problem)
    raise_for(rows)
    if rows.counted and not isinstance(problem.policy, MLPPolicy):
        check_distributions(problem.policy, problem.theta, rows.clean, problem.chunk_rows)
