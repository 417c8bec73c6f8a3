"""What every action head provides: the closed forms of an action distribution, in the order the
stages use them, and what the rest of the package has to know of it.

A head turns the last layer's outputs ``z [N, Z]`` into distribution parameters ``params [N, D]``
and knows, for one row of them, the Fisher metric, the KL divergence, the log-probability and its
gradient, and the entropy. A block of ``csrc/shared`` holds the same formulas for the kernels.
Leading dimensions before ``[N, D]`` (several right-hand sides) broadcast.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from ..._base.arguments import fail
from ..._base.choices import ActionMode


class Head(nn.Module):
    """An action distribution: what every head provides. Its net has Z = ``outputs`` outputs, a row
    D = ``parameters_per_row`` distribution parameters and A = ``action_dim`` action columns.
    """

    # Names of its forms for the kernels: entries of enum Head in csrc/shared/params.h.
    kinds: ClassVar[tuple[str, ...]] = ()
    # Which action_mode maps its actions to an environment's; all, where there is nothing to map.
    action_modes: ClassVar[tuple[str, ...]] = get_args(ActionMode)
    # What a module may return that this head's formulas hold for, in words.
    distributions: ClassVar[tuple[str, ...]] = ()
    # What ``choose`` makes an action from: numbers of this distribution, or nothing of fixed size.
    noise: ClassVar[Literal["normal", "uniform", "none"]] = "none"
    # Whether bools and integers are taken as actions, too.
    integer_actions: ClassVar[bool] = False
    # Whether the CUDA kernels have its formulas.
    on_cuda: ClassVar[bool] = True

    kind: str
    outputs: int
    action_dim: int
    parameters_per_row: int
    nvec: tuple[int, ...] = ()
    log_std: nn.Parameter | None

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("log_std", None)

    @classmethod
    def of_kind(cls, kind: str, outputs: int, nvec: tuple[int, ...]) -> Head:
        """The head that a ``NetSpec`` of one of ``kinds`` describes."""
        raise NotImplementedError

    @classmethod
    def free_of(cls, kind: str, outputs: int) -> int:
        """Parameters (log_std) that follow the net's in the flat vector, in number."""
        return 0

    @classmethod
    def for_space(cls, space: Any, std: str) -> Head | None:
        """The head for a gymnasium action space, None if it is not for spaces of that class."""
        return None

    @classmethod
    def of_distribution(cls, distribution: Distribution) -> tuple[Head, Tensor] | None:
        """The head whose formulas a module's distribution obeys, and its distribution parameters
        [N, D]; None if it is another head's.
        """
        return None

    def settings(self) -> dict[str, str]:
        """The trainer's settings that this head decides, by name."""
        return {}

    @property
    def maskable(self) -> bool:
        """Whether actions can be forbidden by a mask."""
        return bool(self.nvec)

    @property
    def alternatives(self) -> int:
        """Number of different actions where they can be tried one by one with the probabilities
        softmax(params), otherwise 0.
        """
        return 0

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one row's action: () for Categorical, [A] or [factors] otherwise."""
        return (self.action_dim,)

    def mean_scale(self) -> float:
        """The factor that turns a sum over action dimensions into the mean sb3 and omnisafe
        report.
        """
        return 1.0 / self.action_dim

    def distribution_params(
        self, z: Tensor, *, log_std: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Distribution parameters [N, D] from net outputs z [N, Z]."""
        raise NotImplementedError

    def distribution(self, params: Tensor) -> Distribution:
        """The torch distribution of rows with distribution parameters [N, D]."""
        raise NotImplementedError

    def metric(self, params: Tensor, tangent: Tensor) -> Tensor:
        """Fisher information of one row's distribution, times a tangent [..., N, D]."""
        raise NotImplementedError

    def metric_root(self, params: Tensor, signs: Tensor) -> Tensor:
        """S signs [N, D], where S S' is the Fisher information of one row's distribution: over
        independent signs its products with itself average to that.
        """
        raise NotImplementedError

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old || new) [N], summed over action dimensions."""
        raise NotImplementedError

    def log_prob(self, params: Tensor, actions: Tensor) -> Tensor:
        """log pi(a | s) [N] of actions [N, *action_shape], summed over action dimensions."""
        raise NotImplementedError

    def score(self, params: Tensor, actions: Tensor) -> Tensor:
        """Gradient of log_prob in the distribution parameters [N, D]."""
        raise NotImplementedError

    def entropy(self, params: Tensor) -> Tensor:
        """Entropy [N], summed over action dimensions."""
        raise NotImplementedError

    @property
    def expected_actions(self) -> str:
        """What every action has to be, in words."""
        return "finite values"

    def unusable(self, actions: Tensor) -> Tensor:
        """Where in ``actions`` no update can use what stands there, bool of the same shape."""
        return ~torch.isfinite(actions)

    def without_choice(self, mask: Tensor) -> Tensor:
        """Rows [N] in which a mask [N, Z] leaves some factor nothing to choose."""
        raise NotImplementedError

    def forbidden(self, actions: Tensor, mask: Tensor) -> Tensor:
        """Choices [N, factors] that a mask [N, Z] does not allow."""
        raise NotImplementedError

    @property
    def discrete(self) -> bool:
        """Whether its actions are finitely many, so that all can be equally likely."""
        return False

    def uniform_params(self, params: Tensor) -> Tensor:
        """Distribution parameters [N, D] that make each action equally likely which those of
        ``params`` do not mask; of a ``discrete`` head.
        """
        raise NotImplementedError

    @property
    def noise_width(self) -> int:
        """Numbers of noise for one action."""
        return self.action_dim if self.noise == "normal" else self.outputs

    def draw_noise(
        self, *rows: int, like: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """[*rows, noise_width] of what ``choose`` makes actions from, in the type of ``like``."""
        noise = like.new_empty(*rows, self.noise_width)
        if self.noise == "normal":
            return noise.normal_(generator=generator)
        return noise.uniform_(generator=generator)

    def choose(self, params: Tensor, noise: Tensor) -> Tensor:
        """One action a row [N, *action_shape] from given noise: the same noise and parameters give
        the same action.
        """
        raise NotImplementedError

    def sample(self, params: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One action a row [N, *action_shape]; for a squashed Gaussian the one before tanh."""
        noise = self.draw_noise(*params.shape[:-1], like=params, generator=generator)
        return self.choose(params, noise)

    def mode(self, params: Tensor) -> Tensor:
        """The most likely action of each row [N, *action_shape], in the form of ``sample``."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.nvec if self.nvec else self.action_dim}"


def check_is_head(head: Any) -> None:
    """Refuse what is no head: its class, say, or a number of actions."""
    if not isinstance(head, Head):
        raise fail("head", "a head such as Gaussian(3)", repr(head))


def within(distribution: Distribution) -> Distribution:
    """What an ``Independent`` wraps, or the distribution itself."""
    return distribution.base_dist if isinstance(distribution, Independent) else distribution
