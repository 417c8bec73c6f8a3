"""The CPU kernels for a module that is a net they know: what ``backend="auto"`` tries.

Products and solves are the kernels', of the net that recognised.py found in the module's graph, on
the rows as they reach its first map. That net holds at theta and on these rows: whatever happens
elsewhere, gradients of surrogates and line searches included, is computed by the module itself.

Before the net is believed its outputs are compared with the module's in every row, and J' u, by
which a hook on a gradient would show, with the module's for one u.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .._base.guards import outside_autocast
from .._base.reads import may_read
from ..core.batch import Batch
from ..core.cg import CgResult
from ..core.operator import Operator
from ..core.preconditioner import signs
from ..core.problem import CgConfig, Problem
from ..policy.heads import Categorical
from ..policy.net import MLPPolicy
from ..policy.spec import NetSpec
from .base import Backend
from .cpu import CpuBackend, CpuOperator
from .module import ModuleLinearization
from .recognised import Recognised, recognise
from .reference import ReferenceBackend, ReferenceOperator
from .support import SERVES, Support

_VALUE = 1e-4  # of the largest, by which the two may differ: far above rounding, below any change
_GRADIENT = 1e-3
_IMPOSSIBLE = -1e3  # the logarithm of a probability that is zero in float32


class NetKernels:
    """The kernels' operator of a net within a module's parameters."""

    def __init__(self, found: Recognised, problem: Problem, rows: Batch, sizes: list[int]) -> None:
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self._spans = [slice(ends[i] - sizes[i], ends[i]) for i in found.order]
        self._sizes = [sizes[i] for i in found.order]
        self.complete = len(found.order) == len(sizes)
        self.found = found
        self.problem = Problem(
            policy=_net(found.spec),
            theta=self.gathered(problem.theta),
            batch=Batch(found.rows, weights=rows.weights, action_mask=found.allowed),
            damping=problem.damping,
            kl_scale=problem.kl_scale,
            reverse_kl=problem.reverse_kl,
        )

    @functools.cached_property
    def operator(self) -> CpuOperator:
        """The kernels' own."""
        return CpuBackend().operator(self.problem)

    def gathered(self, v: Tensor) -> Tensor:
        """The net's share of vectors [..., P], in its order."""
        return torch.cat([v[..., span] for span in self._spans], dim=-1)

    def scattered(self, found: Tensor, onto: Tensor) -> Tensor:
        """The net's share put back, the rest being ``onto``."""
        for span, part in zip(self._spans, found.split(self._sizes, dim=-1), strict=True):
            onto[..., span] = part
        return onto

    def agrees(self, lin: ModuleLinearization) -> bool:
        """Whether outputs and one J' u are those of the module."""
        weights = self.problem.batch.weights
        rows = torch.arange(len(lin.params))
        used = torch.ones_like(lin.params[:, :1]) if weights is None else weights.gt(0).unsqueeze(1)
        ours, theirs = self.operator.forward(), lin.params
        if isinstance(lin.head, Categorical):
            allowed = self.found.allowed
            if allowed is None:
                allowed = torch.ones_like(ours, dtype=torch.bool)
            elif bool((theirs > _IMPOSSIBLE)[~allowed].any()) or not bool(allowed.any(-1).all()):
                return False
            ours = ours.where(allowed, -torch.inf).log_softmax(-1).where(allowed, 0.0)
            theirs = theirs.where(allowed, 0.0)
        if not _close(ours * used, theirs * used, _VALUE):
            return False
        delta = lin.metric(signs(rows, lin.params.shape[1], lin.params.dtype)) * used
        ours, theirs = self.operator.vjp(delta), self.gathered(lin.vjp(delta))
        pairs = zip(ours.split(self._sizes), theirs.split(self._sizes), strict=True)
        floor = 1e-6 * float(theirs.norm())
        return all(_close(a, b, _GRADIENT, floor) for a, b in pairs)


def _close(a: Tensor, b: Tensor, share: float, floor: float = 1e-6) -> bool:
    """Whether no element differs by more than a share of the largest; NaN is close to nothing."""
    return bool(((a - b).abs() <= share * b.abs().max() + floor).all())


@functools.lru_cache(maxsize=64)
def _net(spec: NetSpec) -> MLPPolicy:
    return MLPPolicy.of_spec(spec)


class ModuleOperator(ReferenceOperator):
    """The reference's, with the kernels for products and solves where the module is a net."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.kernels = self._kernels()

    @outside_autocast
    def _kernels(self) -> NetKernels | None:
        lin = self._cached if self._fisher_cached is None else self._fisher_cached
        if not isinstance(lin, ModuleLinearization):  # a policy with a memory
            return None
        assert self.module is not None
        shapes = self.module.shapes
        found = recognise(lin.run, shapes)
        if found is None or len(found.rows) != len(self._fisher_batch):
            return None
        made = NetKernels(found, self.problem, self._fisher_batch, [s.numel() for s in shapes])
        served = CpuBackend().support(made.problem)
        return made if served and made.agrees(lin) else None

    def fvp(self, v: Tensor) -> Tensor:
        if self.kernels is None:
            return super().fvp(v)
        found = self.kernels.operator.fvp(self.kernels.gathered(v))
        return self.kernels.scattered(found, self.problem.damping * v)

    def solve(self, g: Tensor, config: CgConfig) -> CgResult:
        net = self.kernels
        if net is None or not net.complete or callable(config.preconditioner):
            return super().solve(g, config)
        found = net.operator.solve(net.gathered(g), config)
        return found._replace(x=net.scattered(found.x, torch.empty_like(g)))

    @property
    def scratch_bytes(self) -> int:
        held = 0 if self.kernels is None else self.kernels.operator.scratch_bytes
        return super().scratch_bytes + held


class ModuleBackend(Backend):
    """The kernels where the module turns out to be a net, otherwise the reference."""

    def __init__(self) -> None:
        self._reference = ReferenceBackend()
        self.name = self._reference.name

    @staticmethod
    def tries(problem: Problem) -> bool:
        """Whether the run of the module is worth a look: the kernels could serve a net here."""
        if isinstance(problem.policy, MLPPolicy) or problem.chunk_rows is not None:
            return False
        if problem.batch.sequence_length is not None:  # no net of layers remembers
            return False
        place = may_read(problem.theta.device) and problem.theta.dtype == torch.float32
        return place and problem.fisher == "analytic" and bool(CpuBackend().machine_support())

    def problem_support(self, problem: Problem) -> Support:
        return SERVES

    def operator(self, problem: Problem) -> Operator:
        made = ModuleOperator(problem)
        self.name = self._reference.name if made.kernels is None else CpuBackend.name
        return made
