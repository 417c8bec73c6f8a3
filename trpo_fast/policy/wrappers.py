"""Modules that hold a policy and compute what it computes: torch.compile, data parallelism."""

from __future__ import annotations

import sys
import warnings
import weakref
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from .._base.arguments import fail
from .net import MLPPolicy

_told: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def unwrapped(policy: nn.Module) -> nn.Module:
    """The policy inside of what computes the same: a compiled module, DataParallel, and
    DistributedDataParallel of one rank. A wrapper that adds to it is refused.
    """
    while not isinstance(policy, MLPPolicy):
        inner = _inner(policy)
        if inner is None:
            break
        if policy._forward_hooks or policy._forward_pre_hooks or policy._backward_hooks:
            kind = type(policy).__name__
            raise fail("policy", f"hooks on the module inside of {kind}", "some on the wrapper")
        policy = inner
    return policy


def _inner(policy: nn.Module) -> nn.Module | None:
    """What a wrapper holds; None if the module is none."""
    if isinstance(policy, DistributedDataParallel):
        _check_one_rank(policy)
    elif not isinstance(policy, DataParallel):
        return _compiled(policy)
    inner: nn.Module = policy.module
    return inner


def _compiled(policy: nn.Module) -> nn.Module | None:
    """The module of torch.compile's wrapper, whose class exists only once it has been used."""
    frame = sys.modules.get("torch._dynamo.eval_frame")
    if frame is None or not isinstance(policy, frame.OptimizedModule):
        return None
    inner: nn.Module = policy._orig_mod
    if not isinstance(inner, (MLPPolicy, DataParallel, DistributedDataParallel)):
        tell_once(inner, "policy: the compiled module runs as it was before torch.compile")
    return inner


def _check_one_rank(policy: DistributedDataParallel) -> None:
    ranks = torch.distributed.get_world_size(policy.process_group)
    if ranks > 1:
        raise fail(
            "policy",
            "the module inside of DistributedDataParallel, policy.module, and an update's own "
            "group=torch.distributed.group.WORLD for rows that lie on several ranks",
            f"DistributedDataParallel over {ranks} ranks",
        )
    if policy.mixed_precision is not None:
        raise fail("policy", "DistributedDataParallel without mixed_precision", "one with it")


def tell_once(policy: Any, words: str, *, about: str = "") -> None:
    """Warn where the package was called, once for each policy (or what else is at work) and words,
    or what they are about.
    """
    told = _told.setdefault(policy, set())
    if (about or words) in told:
        return
    warnings.warn(words, stacklevel=_levels_to_caller())
    told.add(about or words)


def _levels_to_caller() -> int:
    """``stacklevel`` for ``tell_once`` that names the first line outside of this package."""
    package = __name__.partition(".")[0] + "."
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(package):
        level, frame = level + 1, frame.f_back
    return level
