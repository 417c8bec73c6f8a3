"""The critic: a net for normalised returns, fitted by Adam over minibatches or by Gauss-Newton.

    V(s) = mean + std v(s),     v is fitted to (R - mean) / std

mean and std follow the targets; when they move, the last layer is rescaled so that V does not. The
net is a Gaussian policy of unit variance, so its Gauss-Newton matrix is that policy's Fisher matrix
and the policy's kernels solve it. A module of the user's own is one as well; if its values are no
outputs of a Linear, V moves with mean and std, a tenth of the way of the targets before each fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from .._base.choices import Activation, Backend, CriticMethod, PreconditionerKind
from .._base.guards import outside_autocast
from .._base.net_options import CriticSettings, PolicySettings
from .._base.options import KernelSettings
from .._base.ranks import members
from .._base.rows import Rows, count_rows
from .._base.settings import declared
from .._base.threads import OneThread
from ..backends.cuda_launch import capturing
from ..backends.fallback import or_reference
from ..backends.support import choose
from ..core import checks
from ..policy.flat import flat_params
from ..policy.heads import Gaussian
from ..policy.net import MLPPolicy, drawn_for
from ..policy.recurrent import RecurrentPolicy
from .fit_backends import SUPPORTS, adam, gauss_newton, make_fit
from .fits import Fit, Targets
from .input_checks import check_critic_batch
from .rank_fits import fit_together
from .undo import finite_or_undone
from .value_net import ValueNet, check_fits, check_steady, output_layer, values_of

SETTINGS, KERNELS = declared(CriticSettings), declared(KernelSettings)
TARGET_RATE = 0.1  # of the running mean and deviation of the targets, per fit
SMALLEST_STD = 1e-4


@dataclass(frozen=True)
class CriticInfo:
    """What a fit reports. ``loss`` is in normalised units, 0-d on the critic's device: the mean of
    the last epoch's minibatches for Adam, on every row for Gauss-Newton.
    """

    loss: Tensor
    taken: int | Tensor
    backend: str  # "cpu", "cuda": by kernels; the others: plain PyTorch

    @property
    def steps(self) -> int:
        """Steps of Adam, or of Gauss-Newton that were accepted."""
        return int(self.taken)

    def __float__(self) -> float:
        """The loss."""
        return float(self.loss)


class Critic(nn.Module):
    """A value function with its optimiser and target statistics; ``state_dict`` holds all of it.

    >>> critic = Critic(11, hidden=(64, 64))
    >>> info = critic.fit(torch.randn(256, 11), torch.randn(256))
    >>> critic.values(torch.randn(5, 11)).shape
    torch.Size([5])
    """

    capture: bool = KernelSettings.capture  # of critics that were saved before there was one
    mean: Tensor
    std: Tensor
    moments: Tensor
    taken: Tensor
    net: Any  # an MLPPolicy, a RecurrentPolicy or a ValueNet

    def __init__(
        self,
        obs_dim: int,
        hidden: Sequence[int] = CriticSettings.critic_hidden,
        activation: Activation = PolicySettings.activation,
        *,
        method: CriticMethod = CriticSettings.critic,
        learning_rate: float = CriticSettings.critic_learning_rate,
        epochs: int = CriticSettings.critic_epochs,
        minibatch: int = CriticSettings.critic_minibatch,
        steps: int = CriticSettings.critic_steps,
        cg_iterations: int = CriticSettings.critic_cg_iterations,
        damping: float = CriticSettings.critic_damping,
        fraction: float = CriticSettings.critic_fraction,
        preconditioner: PreconditionerKind | None = CriticSettings.critic_preconditioner,
        backend: Backend = KernelSettings.backend,
        capture: bool = KernelSettings.capture,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.method: CriticMethod = SETTINGS["critic"].check(method)
        self.backend: Backend = KERNELS["backend"].check(backend)
        self.capture = KERNELS["capture"].check(capture)
        self.learning_rate = SETTINGS["critic_learning_rate"].check(learning_rate, "learning_rate")
        self.epochs = SETTINGS["critic_epochs"].check(epochs, "epochs")
        self.minibatch = SETTINGS["critic_minibatch"].check(minibatch, "minibatch")
        self.steps = SETTINGS["critic_steps"].check(steps, "steps")
        self.cg_iterations = SETTINGS["critic_cg_iterations"].check(cg_iterations, "cg_iterations")
        self.damping = SETTINGS["critic_damping"].check(damping, "damping")
        self.fraction = SETTINGS["critic_fraction"].check(fraction, "fraction")
        self.preconditioner: PreconditionerKind | None = SETTINGS["critic_preconditioner"].check(
            preconditioner, "preconditioner"
        )
        with drawn_for(device):
            head = Gaussian(1)
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        self._hold(MLPPolicy(obs_dim, head, hidden, activation, output_gain=1.0, **options))

    @classmethod
    def of_module(cls, module: nn.Module, obs: Rows, **options: Any) -> Critic:
        """The critic of a module that returns values [N] or [N, 1] for rows like obs; ``options``
        are those of how it is fitted.
        """
        if not isinstance(module, nn.Module) or isinstance(module, Critic):
            raise checks.fail("critic", "a torch.nn.Module of values", type(module).__name__)
        check_steady(module)
        critic = cls(1, (), **options)
        net = ValueNet(module)
        net.find_output(obs)
        critic._hold(net)
        return critic

    def _hold(self, net: MLPPolicy | RecurrentPolicy | ValueNet) -> None:
        """Take a net, with an optimiser that has not made a step."""
        self.net = net
        theta = flat_params(net)
        self.register_buffer("moments", theta.new_zeros(2, theta.numel()))
        self.register_buffer("mean", theta.new_zeros(()))
        self.register_buffer("std", theta.new_ones(()))
        taken = torch.zeros(1, dtype=torch.int64, device=theta.device)
        self.register_buffer("taken", taken, persistent=False)  # adam_steps, for a device's fits
        self.adam_steps = 0
        self.fits = 0

    @property
    def theta(self) -> Tensor:
        """The flat parameters [P] of the net, a view."""
        return flat_params(self.net)

    def forward(self, obs: Rows) -> Tensor:
        """Predicted returns [N] for observations [N, O], with gradients."""
        return torch.addcmul(self.mean, values_of(self.net, obs), self.std)

    if TYPE_CHECKING:  # torch calls forward, and says Any

        def __call__(self, obs: Rows) -> Tensor: ...

    @outside_autocast
    @torch.no_grad()
    def values(self, obs: Rows) -> Tensor:
        """Predicted returns [N] for observations [N, O]."""
        return self(obs)

    @property
    def state_size(self) -> int:
        """Numbers that it remembers of a sequence: none."""
        return 0

    def step(
        self, obs: Tensor, state: Tensor, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(predicted returns [N], the states after the step [N, K]) for observations [N, O] of N
        sequences in states [N, K], starts [N] bool.
        """
        return self.values(obs), state

    @outside_autocast
    def fit(
        self,
        obs: Rows,
        targets: Tensor,
        weights: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        sync: bool = True,
        group: ProcessGroup | None = None,
    ) -> CriticInfo:
        """Move the values at obs [N, O] towards targets [N], rows counted with weights [N] >= 0.

        Values that are not finite leave the critic as it was and raise ``ValueError``; with
        ``sync=False``, which reads nothing from a device (except weights), the loss is NaN.

        With ``sync=False`` and without weights a CUDA graph can capture a fit, any but the first.
        Adam's steps are then counted on the device, ``state_dict`` holds those of the calls alone.
        A ``generator`` must be registered with the graph before.

        With a ``group``, the rows are those of all its processes, which make the same call: sums
        over ranks, minibatches made of a part of every rank's rows, the same critic on all.
        """
        check_fits(self.net)
        if (ranks := members(group)) is not None:
            given = (obs, targets, weights)
            return CriticInfo(*fit_together(self, ranks, given, generator, sync=sync))
        chosen = choose(self.backend, SUPPORTS, self.net, self.method, can="fit this critic")
        with OneThread() if chosen in ("cpu", "cuda") else nullcontext():
            return or_reference(
                self.backend,
                chosen,
                lambda name: self._fit(obs, targets, weights, name, generator, sync),
                self,
                self.theta,
            )

    def _fit(
        self,
        obs: Rows,
        targets: Tensor,
        weights: Tensor | None,
        chosen: str,
        generator: torch.Generator | None,
        sync: bool,
    ) -> CriticInfo:
        if not self.fits and capturing(self.theta.device):
            raise RuntimeError(
                "critic: the first fit, which sets the scale of the targets, cannot be captured in "
                "a CUDA graph; fit once before"
            )
        obs, targets, weights = check_critic_batch(
            self.net, self.theta, obs, targets, weights, values=sync
        )

        def run() -> tuple[Tensor, int | Tensor]:
            self._renormalise(targets, weights)
            normalised = Targets(obs, (targets - self.mean) / self.std, weights)
            fit = make_fit(chosen, self.net, normalised, self.method, capture=self.capture)
            return self._run(fit, normalised, generator)

        return CriticInfo(*finite_or_undone(self, self.net, run, sync=sync), chosen)

    def _run(
        self, fit: Fit, targets: Targets, generator: torch.Generator | None
    ) -> tuple[Tensor, int | Tensor]:
        if self.method == "gauss_newton":
            options: dict[str, Any] = {
                "steps": self.steps,
                "cg_iterations": self.cg_iterations,
                "damping": self.damping,
                "fraction": self.fraction,
                "preconditioner": self.preconditioner,
                "generator": generator,
                "capture": self.capture,
            }
            return gauss_newton(fit, self.net, targets, self.backend, **options)
        steps = -(-count_rows(targets.obs) // self.minibatch)
        return adam(fit, self, targets.obs, generator, steps)

    @torch.no_grad()
    def _renormalise(self, targets: Tensor, weights: Tensor | None = None) -> None:
        share = 1.0 / len(targets) if weights is None else weights / weights.sum()
        centre = (share * targets).sum()
        self.renormalise(centre, (share * (targets - centre).square()).sum().sqrt())

    @torch.no_grad()
    def renormalise(self, centre: Tensor, spread: Tensor) -> None:
        """Let mean and std follow those of targets, centre and spread (0-d), and rescale the output
        so that V stays as it was.
        """
        rate = TARGET_RATE if self.fits else 1.0
        mean = torch.lerp(self.mean, centre, rate)
        std = torch.lerp(self.std, spread.clamp_min(SMALLEST_STD), rate)
        last = output_layer(self.net)
        if self.fits and last is not None:
            last.weight.mul_(self.std / std)
            last.bias.mul_(self.std / std).add_((self.mean - mean) / std)
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.fits += 1

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.adam_steps, self.fits], dtype=torch.int64, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        self.adam_steps, self.fits = (int(count) for count in state)
        self.taken.fill_(self.adam_steps)
