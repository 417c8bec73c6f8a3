"""A policy that is run as a module: its distribution parameters as a function of its flat
parameters.

    theta [P] -> (head, distribution parameters [N, D])

Any module will do whose rows' distributions depend on its parameters and the rows alone. One that
draws random numbers or writes its buffers as it runs does not, nor one whose parameters cannot be
substituted; its first run shows. A module may return a tuple that begins with the distribution.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .._base.arguments import describe, fail
from .._base.guards import outside_autocast
from .._base.reads import may_read, unvalidated
from .._base.rows import Rows, map_rows, parts_of
from ..policy.distributions import distribution_in, from_validation, without_validation
from ..policy.flat import every_parameter, trainable
from ..policy.heads import Head, TakenActions, head_of_distribution
from ..policy.net import MLPPolicy
from ..policy.recurrent import RecurrentPolicy, packaged_head
from ..policy.substitute import Substitution
from .batch import Batch
from .convolutions import twice_differentiable
from .graph import reaches_others
from .module_checks import STEADY, check_modules
from .preconditioner import Factors
from .taps import Taps

Params = Callable[[Tensor], tuple[Head, Tensor]]


class InvalidDistribution(ValueError):
    """The module's outputs, NaN perhaps, are no parameters of its distribution, which looks."""


class Refused(ValueError):
    """Torch refused the rows inside of the module."""


@contextlib.contextmanager
def _explained(inputs: tuple[Rows, ...]) -> Iterator[None]:
    """What torch says within a module about shapes and dtypes, as a sentence about the policy."""
    try:
        yield
    except (torch.OutOfMemoryError, NotImplementedError):
        raise
    except RuntimeError as error:
        given = " and ".join(describe(part) for rows in inputs for _, part in parts_of(rows))
        takes = f"a module that takes {given}"
        raise Refused(str(fail("policy", takes, f"the error: {error}"))) from error


class Run(NamedTuple):
    """Distribution parameters [N, D] with their graph, from the leaf ``theta`` [P]."""

    head: Head
    params: Tensor
    theta: Tensor


@outside_autocast
def head_of(policy: nn.Module, batch: Batch, chunk_rows: int | None = None) -> Head:
    """A policy's head: its own, of one of this package, otherwise the one that the distribution of
    the rows obeys, or of the first ``chunk_rows`` where no more are to be run at a time.
    """
    if (head := packaged_head(policy)) is not None:
        return head
    return ModuleFunction(policy, next(batch.chunks(chunk_rows))).head


@outside_autocast
@torch.no_grad()
def check_distributions(
    policy: nn.Module, theta: Tensor, batch: Batch, chunk_rows: int | None
) -> None:
    """Raise for rows whose distributions have no finite parameters, which distributions themselves
    do only as long as nothing has told them not to: torch.compile does.
    """
    for piece in batch.chunks(chunk_rows):
        head, params = ModuleFunction(policy, piece).on(piece)(theta)
        if not isinstance(head, TakenActions) and not bool(params.isfinite().all()):
            got = "one whose parameters are not finite"
            raise InvalidDistribution(f"policy: expected a distribution in every row, got: {got}")


def functional_params(policy: nn.Module, batch: Batch) -> Params:
    """theta [P] -> (head, distribution parameters [N, D]), differentiable in theta."""
    return ModuleFunction(policy, batch).on(batch)


class ModuleFunction:
    """The function of a policy, of which the first run is on the rows of ``batch``."""

    def __init__(self, policy: nn.Module, batch: Batch) -> None:
        self.policy, self._batch = policy, batch
        self._trainable = trainable(policy)
        self._sizes = [p.numel() for p in self._trainable]
        self._direct = packaged_head(policy) is not None
        self._call: Tensor | None = None  # the parameters that KL is measured from without a head
        self._called: tuple[Batch, Distribution] | None = None
        self._head: Head | None = None
        if isinstance(policy, MLPPolicy | RecurrentPolicy) and not policy.departure():
            self._head = policy.head
        else:
            check_modules(policy)

    @property
    def shapes(self) -> list[torch.Size]:
        """Of the parameters that theta is made of, in its order."""
        return [p.shape for p in self._trainable]

    @property
    def head(self) -> Head:
        """The one that its distributions obey."""
        if self._head is None:
            theta = torch.cat([p.detach().reshape(-1) for p in self._trainable])
            self._first(theta, self._batch.without_padding())
        assert self._head is not None
        return self._head

    @torch.inference_mode(False)
    @torch.enable_grad()
    def run(self, theta: Tensor, batch: Batch) -> Run:
        """One run on these rows, whose derivative can be differentiated again."""
        leaf = theta.clone().requires_grad_()
        with twice_differentiable(self.policy):
            return Run(*self.on(batch.tracked())(leaf), leaf)

    def on(self, batch: Batch) -> Params:
        """theta [P] -> (head, distribution parameters [N, D]) on these rows."""
        rows = batch if self._direct else _without_bad_rows(batch)

        def params(theta: Tensor) -> tuple[Head, Tensor]:
            if self._head is None:
                found = self._first(theta, batch)
                if self._call is None:
                    return found
            return self._run(Substitution(self._tensors(theta)), rows)

        return params

    @torch.inference_mode(False)
    @torch.enable_grad()
    def factors(self, theta: Tensor, batch: Batch, delta: Tensor, weights: Tensor) -> Factors:
        """What these rows add to K-FAC's factors: delta [N, D] is S xi, weights [N] normalised."""
        rows = batch.tracked() if self._direct else _without_bad_rows(batch.tracked())
        leaf = theta.clone().requires_grad_()
        taps, substitution = Taps(self.policy, self._trainable), Substitution(self._tensors(leaf))
        taps.attach(substitution)
        return taps.factors(leaf, self._run(substitution, rows)[1], delta, weights)

    def _tensors(self, theta: Tensor) -> dict[int, Tensor]:
        """What stands for the policy's tensors, by their id."""
        parts = zip(self._trainable, theta.split(self._sizes), strict=True)
        tensors = {id(p): part.view(p.shape) for p, part in parts}
        for t in (*every_parameter(self.policy), *self.policy.buffers()):
            if id(t) not in tensors and t.is_floating_point() and t.dtype != theta.dtype:
                tensors[id(t)] = t.detach().to(theta.dtype)
        return tensors

    def distribution(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Distribution]:
        """Distribution parameters [N, D] of these rows, and the distribution that has them."""
        head, params, found = self._found(Substitution(self._tensors(theta)), batch)
        return params, head.distribution(params) if found is None else found

    def _run(self, substitution: Substitution, batch: Batch) -> tuple[Head, Tensor]:
        return self._found(substitution, batch)[:2]

    def _found(
        self, substitution: Substitution, batch: Batch
    ) -> tuple[Head, Tensor, Distribution | None]:
        """The head, distribution parameters [N, D], and what the module itself returned."""
        policy = substitution.module(self.policy)
        if self._direct:
            params = policy.distribution_params(*_inputs(batch))
            return self.policy.head, params, None  # type: ignore[return-value]
        inputs = _inputs(batch)
        try:
            with _explained(inputs), unvalidated(batch.device):
                found = distribution_in(policy(*inputs))
                known = head_of_distribution(found) or self._taken(found, substitution, batch)
                return *known, found
        except ValueError as error:
            if not from_validation(error):
                raise
            raise InvalidDistribution(
                f"policy: expected a distribution in every row, got: {error}"
            ) from error

    def _taken(
        self, found: Distribution, substitution: Substitution, batch: Batch
    ) -> tuple[Head, Tensor]:
        """What stands in for a head, and the numbers of the batch's actions [N, 4]."""
        head = TakenActions(found)
        if self._call is None or batch.actions is None:
            return head, head.probed()
        if self._called is None or self._called[0] is not batch:
            dtype = substitution.tensors[id(self._trainable[0])].dtype
            policy = Substitution(self._tensors(self._call.to(dtype))).module(self.policy)
            with torch.no_grad(), unvalidated(batch.device):
                found = distribution_in(policy(*_inputs(batch)))
                self._called = (batch, without_validation(found))
        return head, head.measured(self._called[1], batch.actions)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _first(self, theta: Tensor, batch: Batch) -> tuple[Head, Tensor]:
        """The first run, which shows the head, and whether the module is a function at all."""
        rows = batch.tracked()
        rows = rows if self._direct else _without_bad_rows(rows)
        tensors = self._tensors(theta)
        buffers = {id(b): tensors.get(id(b), b).clone() for b in self.policy.buffers()}
        substitution = Substitution({**tensors, **buffers})
        drawn = torch.get_rng_state() if may_read(theta.device) else None
        head, params = self._run(substitution, rows)
        for name in self._written(substitution, buffers):
            raise fail(
                "policy",
                "modules that write no buffers as they run (BatchNorm and spectral_norm do in "
                "training mode; call policy.eval() before)",
                f"a write to {name}",
            )
        if reaches_others(params, theta):
            raise fail(
                "policy",
                "modules and hooks that reach parameters through self or their arguments",
                "a function that holds others (a forward or a hook that was set on the instance "
                "and refers to it; override the method in a subclass)",
            )
        if drawn is not None and not torch.equal(drawn, torch.get_rng_state()):
            with torch.no_grad():
                again = self._run(Substitution(tensors), rows)[1]
            if not torch.equal(params.nan_to_num(), again.nan_to_num()):
                raise fail("policy", STEADY, "other distributions at a second run")
        if isinstance(head, TakenActions):
            self._call = torch.cat([p.detach().reshape(-1) for p in self._trainable])
        self._head = head
        return head, params

    def _written(self, substitution: Substitution, buffers: dict[int, Tensor]) -> Iterator[str]:
        """Names of the buffers that a run wrote or replaced."""
        for prefix, module in self.policy.named_modules():
            held = substitution.module(module)._buffers
            for name, buffer in module._buffers.items():
                if buffer is None:
                    continue
                copy = buffers[id(buffer)]
                if held.get(name) is not copy or copy._version:
                    yield f"{prefix}.{name}" if prefix else name


def _inputs(batch: Batch) -> tuple[Rows, ...]:
    """What a module is called on: obs [N, ...], or of sequences (obs [S, T, ...], starts [S, T],
    state [S, K]); after that a mask, where there is one.
    """
    mask = () if batch.action_mask is None else (batch.action_mask,)
    if batch.sequence_length is None:
        return (batch.obs, *mask)
    assert batch.starts is not None and batch.state is not None
    shape = (-1, batch.sequence_length)
    obs = map_rows(lambda part: part.unflatten(0, shape), batch.obs)
    return obs, batch.starts.view(shape), batch.state, *mask


def _without_bad_rows(batch: Batch) -> Batch:
    """Zeros for observations that are not finite, everything allowed where nothing is: such rows
    make an update fail, and distributions that look at their parameters would raise before.
    """
    obs, mask = batch.finite_obs(), batch.action_mask
    if mask is not None:
        mask = mask | ~mask.any(-1, keepdim=True)
    return replace(batch, obs=obs, action_mask=mask)
