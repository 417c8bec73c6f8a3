"""Every check a user can fail, and the sentences they read: the argument, what was expected, what
came.

Structure (rank, shape, dtype, device, ranges of numbers) is checked before anything runs. Values
inside tensors are looked at only where the host waits anyway: ``raise_for_values`` names the
culprit once a backend has raised its flag.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import check_choice as check_choice
from .arguments import check_count as check_count
from .arguments import check_number as check_number
from .arguments import check_tensor as check_tensor
from .arguments import fail as fail
from .backend import Problem, UpdateConfig
from .heads import Head
from .module_function import head_of
from .policy import MLPPolicy, flat_params
from .surrogate import Batch
from .wrappers import unwrapped

CHOICE_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_search(
    max_kl: Any, cg_iterations: Any, cg_tol: Any, backtrack_ratio: Any, backtrack_steps: Any
) -> UpdateConfig:
    """The settings of a trust-region step with its line search."""
    return UpdateConfig(
        max_kl=check_number("max_kl", max_kl, above=0.0),
        cg_iterations=check_count("cg_iterations", cg_iterations),
        cg_tol=check_number("cg_tol", cg_tol, least=0.0, below=1.0),
        backtrack_ratio=check_number("backtrack_ratio", backtrack_ratio, above=0.0, below=1.0),
        backtrack_steps=check_count("backtrack_steps", backtrack_steps),
    )


def check_policy(policy: Any) -> tuple[nn.Module, Tensor]:
    """The policy, out of its wrappers, and its flat parameters [P], float32 or float64."""
    if not isinstance(policy, nn.Module):
        raise fail("policy", "a torch.nn.Module", type(policy).__name__)
    policy = unwrapped(policy)
    theta = flat_params(policy)
    if theta.dtype not in (torch.float32, torch.float64):
        raise fail("policy", "float32 or float64 parameters", theta.dtype)
    return policy, theta


def check_optimizer(policy: nn.Module, optimizer: Any) -> None:
    """An optimiser that would move something of the policy."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise fail("optimizer", "a torch.optim.Optimizer", type(optimizer).__name__)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in policy.parameters()):
        raise fail("optimizer", "one that holds the policy's parameters", "one of others")


def check_rows(policy: nn.Module, theta: Tensor, batch: Batch) -> Batch:
    """The parts of a batch that say where the policy is evaluated: obs, weights, action_mask."""
    if not isinstance(batch.obs, Tensor):
        raise fail("obs", "a torch.Tensor", type(batch.obs).__name__)
    if batch.obs.ndim == 0 or batch.obs.shape[0] == 0:
        raise fail("obs", "at least one row", f"shape {list(batch.obs.shape)}")
    rows = batch.obs.shape[0]
    if isinstance(policy, MLPPolicy):
        obs = check_tensor("obs", batch.obs, theta, (None, policy.spec.widths[0]))
    elif batch.obs.device != theta.device:
        raise fail(
            "obs", f"a tensor on {theta.device}, where the policy is", f"one on {batch.obs.device}"
        )
    else:
        obs = batch.obs.detach()
    weights = batch.weights
    if weights is not None:
        weights = check_tensor("weights", weights, theta, (rows,))
    mask = batch.action_mask
    if mask is not None:
        mask = _check_mask("action_mask", policy, theta, mask, rows)
    if batch.group_size is not None:
        check_count("group_size", batch.group_size)
        if rows % batch.group_size:
            raise fail("group_size", f"a divisor of the {rows} rows", batch.group_size)
    return Batch(obs, weights=weights, action_mask=mask, group_size=batch.group_size)


def _check_mask(argument: str, policy: nn.Module, theta: Tensor, mask: Tensor, rows: int) -> Tensor:
    width: int | None = None
    if isinstance(policy, MLPPolicy):
        if not policy.head.maskable:
            raise fail(argument, "None for a head without choices", type(policy.head).__name__)
        width = policy.head.outputs
    return check_tensor(argument, mask, theta, (rows, width), dtypes=(torch.bool,))


def check_batch(policy: nn.Module, theta: Tensor, batch: Any) -> Batch:
    """A whole batch for an update."""
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
    return Batch(
        checked.obs,
        check_actions(policy, theta, batch.actions, checked),
        advantages,
        log_probs,
        checked.weights,
        checked.action_mask,
        checked.group_size,
    )


def check_actions(policy: nn.Module, theta: Tensor, actions: Any, batch: Batch) -> Tensor:
    """The actions of a checked batch's rows, in the form that the head's formulas take."""
    rows = len(batch)
    if actions is None:
        raise fail("actions", f"a tensor with {rows} rows", "None")
    head = head_of(policy, batch)
    shape = (rows, *head.action_shape)
    # A module's own distribution may shape a row's action differently, say [N] for one number.
    own = not isinstance(policy, MLPPolicy) and isinstance(actions, Tensor)
    if own and actions.shape[:1] == (rows,) and actions.numel() == math.prod(shape):
        actions = actions.reshape(shape)
    if head.nvec:
        return check_tensor("actions", actions, theta, shape, dtypes=CHOICE_DTYPES).long()
    if head.kind == "bernoulli":
        dtypes = (theta.dtype, torch.bool, *CHOICE_DTYPES)
        return check_tensor("actions", actions, theta, shape, dtypes=dtypes).to(theta.dtype)
    return check_tensor("actions", actions, theta, shape)


def check_vector(argument: str, value: Any, theta: Tensor, *, columns: bool) -> Tensor:
    """A vector [P], or [P, K] where several right-hand sides make sense."""
    if columns and isinstance(value, Tensor) and value.ndim == 2:
        return check_tensor(argument, value, theta, (theta.numel(), None))
    return check_tensor(argument, value, theta, (theta.numel(),))


def check_fvp_rows(fvp_rows: Any, theta: Tensor, rows: int, *, look: bool = True) -> Tensor | None:
    """Row indices for the Fisher-vector products: an int asks for that many, evenly strided.
    Without ``look`` the values of given indices are left to the kernels, which flag what is none.
    """
    if fvp_rows is None:
        return None
    if isinstance(fvp_rows, Tensor):
        index = check_tensor("fvp_rows", fvp_rows, theta, (None,), dtypes=(torch.int64,))
        if index.numel() == 0:
            raise fail("fvp_rows", "at least one row index", "none")
        if not look:
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
    return torch.arange(count, device=theta.device) * rows // count


def kl_scale(policy: nn.Module, kl_reduction: str, batch: Batch) -> float:
    """1 for a sum over action dimensions, 1 / A for the mean that sb3-contrib and omnisafe
    report.
    """
    check_choice("kl_reduction", kl_reduction, ("sum", "mean"))
    if kl_reduction == "sum":
        return 1.0
    return head_of(policy, batch).mean_scale()


def all_finite(value: Tensor) -> bool:
    """Whether no element is NaN or infinite. One pass: either would be in the sum, and a sum that
    only overflowed is looked at again.
    """
    total = value.sum() if value.ndim else value
    return math.isfinite(float(total)) or bool(torch.isfinite(value).all())


def raise_for_values(problem: Problem) -> None:
    """Look at every value on the host and raise for the first that no update can use."""
    raw, clean = problem.batch, problem.batch.without_padding()
    if raw.weights is not None:
        _raise_for_weights(raw.weights)
        if problem.fvp_rows is not None and not bool((raw.weights[problem.fvp_rows] > 0).any()):
            raise fail("fvp_rows", "at least one row with a positive weight", "none")
    for name in ("obs", "actions", "advantages", "log_probs"):
        value = getattr(clean, name)
        if value is not None and value.is_floating_point() and not all_finite(value):
            where = tuple(int(i) for i in (~torch.isfinite(value)).nonzero()[0])
            raise fail(name, "finite values", f"{float(value[where])} at index {list(where)}")
    _raise_for_choices(head_of(problem.policy, clean), clean)


def _raise_for_weights(weights: Tensor) -> None:
    if not bool((weights >= 0).all()) or not bool(torch.isfinite(weights).all()):
        row = int((~(weights >= 0) | ~torch.isfinite(weights)).nonzero()[0])
        raise fail("weights", "finite values of at least 0", f"{float(weights[row])} at row {row}")
    if not bool((weights > 0).any()):
        raise fail("weights", "a positive total", "all zeros")


def _raise_for_choices(head: Head, batch: Batch) -> None:
    """Masks that forbid everything, choices out of range or forbidden, yes/no actions that are
    neither.
    """
    if batch.action_mask is not None:
        for part in batch.action_mask.split(list(head.nvec), dim=-1):
            if not bool(part.any(-1).all()):
                row = int((~part.any(-1)).nonzero()[0])
                raise fail(
                    "action_mask", "at least one allowed action in every row", f"none in row {row}"
                )
    if batch.actions is None:
        return
    if head.kind == "bernoulli" and not bool(((batch.actions == 0) | (batch.actions == 1)).all()):
        raise fail("actions", "zeros and ones", "other values")
    if not head.nvec:
        return
    choices = batch.actions.reshape(len(batch), -1)
    limits = torch.tensor(head.nvec, device=choices.device)
    if bool(((choices < 0) | (choices >= limits)).any()):
        raise fail(
            "actions",
            f"choices from 0 to below {head.nvec}",
            f"{int(choices.min())} to {int(choices.max())}",
        )
    if batch.action_mask is not None:
        starts = limits.cumsum(0) - limits
        allowed = batch.action_mask.gather(-1, choices + starts)
        if not bool(allowed.all()):
            row = int((~allowed.all(-1)).nonzero()[0])
            raise fail(
                "actions", "choices that action_mask allows", f"a forbidden one in row {row}"
            )


def check_acting(
    policy: MLPPolicy,
    theta: Tensor,
    obs: Tensor,
    mask: Tensor | None,
    actions: Tensor,
    log_probs: Tensor,
    values: Tensor,
    seen: Tensor | None,
) -> None:
    """The tensors that a native actor reads and writes: each in one piece."""
    head = policy.head
    check_tensor("obs", obs, theta, (None, policy.spec.widths[0]))
    rows = obs.shape[0]
    if mask is not None:
        _check_mask("mask", policy, theta, mask, rows)
    kind = (torch.int64,) if head.nvec else (theta.dtype,)
    check_tensor("actions", actions, theta, (rows, *head.action_shape), dtypes=kind)
    check_tensor("log_probs", log_probs, theta, (rows,))
    check_tensor("values", values, theta, (rows,))
    if seen is not None:
        check_tensor("seen", seen, theta, tuple(obs.shape))
    names = ("obs", "mask", "actions", "log_probs", "values", "seen")
    for name, value in zip(names, (obs, mask, actions, log_probs, values, seen), strict=True):
        if value is not None and not value.is_contiguous():
            raise fail(name, "a contiguous tensor", f"strides {list(value.stride())}")


def check_critic_batch(
    theta: Tensor, obs_dim: int, obs: Any, targets: Any, weights: Any, *, values: bool = True
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A critic's rows; rows of weight zero are left out and may hold anything. Without ``values``
    the targets are not looked at.
    """
    obs = check_tensor("obs", obs, theta, (None, obs_dim))
    if obs.shape[0] == 0:
        raise fail("obs", "at least one row", f"shape {list(obs.shape)}")
    targets = check_tensor("targets", targets, theta, (obs.shape[0],))
    if weights is not None:
        weights = check_tensor("weights", weights, theta, (obs.shape[0],))
        if not bool((weights >= 0).all() & weights.isfinite().all()):
            raise fail("weights", "finite values of at least zero", "others")
        kept = weights > 0
        if not bool(kept.any()):
            raise fail("weights", "a positive total", 0.0)
        obs, targets, weights = obs[kept], targets[kept], weights[kept]
    if values and not bool(targets.isfinite().all()):
        bad = int((~targets.isfinite()).nonzero()[0])
        raise fail("targets", "finite values", f"{float(targets[bad])} in row {bad}")
    return obs, targets, weights
