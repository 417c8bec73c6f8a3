"""rsl_rl's models as what an update takes: nets for the kernels that hold the very ``nn.Linear``
objects of the model, or the model as a module. Normalisation of observations lies before either.

rsl_rl's standard deviations are parameters themselves unless ``std_type="log"``; the kernels' are
logarithms. A net of the first kind has the logarithms in a parameter of its own, read before an
update and written back after it: the step is then one in log std, and no std is ever negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rsl_rl.models import MLPModel
from rsl_rl.modules import MLP
from rsl_rl.modules.distribution import (
    BetaDistribution,
    GaussianDistribution,
    HeteroscedasticGaussianDistribution,
)
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from ..._base.arguments import fail
from ...policy.flat import flat_params, mark_written, trainable
from ...policy.heads import Beta, Gaussian, Head
from ...policy.net import MLPPolicy

SMALLEST_ACTION = 1e-6  # as far inside of (0, 1) rsl_rl's Beta moves its actions


class ActorModule(nn.Module):
    """A model as a module from observations, the groups side by side [N, O], to a distribution."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.shapes: dict[str, torch.Size] = {}

    def packed(self, observations: Mapping[str, Tensor]) -> Tensor:
        """The groups that the model sees, side by side [N, O]."""
        model = self.model
        groups = [*model.obs_groups, *getattr(model, "obs_groups_2d", ())]
        self.shapes = {group: observations[group].shape[1:] for group in groups}
        return torch.cat([observations[group].flatten(1) for group in self.shapes], dim=1)

    def forward(self, obs: Tensor) -> Distribution:
        parts = obs.split([shape.numel() for shape in self.shapes.values()], dim=1)
        groups = {
            group: part.unflatten(1, shape)
            for (group, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        model = self.model
        model.distribution.update(model.mlp(model.get_latent(groups)))
        return Independent(model.distribution._distribution, 1)


class ActorNet:
    """A model's net with its head for the kernels, and what lies around it."""

    def __init__(self, model: Any, policy: MLPPolicy) -> None:
        self.model, self.policy = model, policy

    @torch.no_grad()
    def packed(self, observations: Any) -> Tensor:
        """What the net sees [N, O]."""
        seen: Tensor = self.model.get_latent(observations)
        return seen

    @torch.no_grad()
    def read(self, seen: Tensor) -> bool:
        """Take the standard deviations from the model; whether its limits leave all as they are."""
        known, head = self.model.distribution, follow(self.policy).head
        if isinstance(head, Gaussian) and head.std == "free" and known.std_type == "scalar":
            assert head.log_std is not None
            head.log_std.copy_(known.std_param.clamp_min(0.0).log())
            mark_written(self.policy)
        return self._within(seen)

    @torch.no_grad()
    def write(self, seen: Tensor) -> bool:
        """Give the model the standard deviations; whether its limits leave all as they are."""
        known, head = self.model.distribution, self.policy.head
        if isinstance(head, Gaussian) and head.std == "free" and known.std_type == "scalar":
            assert head.log_std is not None
            known.std_param.copy_(head.log_std.exp())
        return self._within(seen)

    def _within(self, seen: Tensor) -> bool:
        head = self.policy.head
        if not isinstance(head, Gaussian):
            return True
        low, high = self.model.distribution.log_std_range
        log_std = head.log_std
        if log_std is None:
            log_std = self.policy.net(seen)[:, head.action_dim :]
        return bool(((log_std > low) & (log_std < high)).all())


def follow(net: MLPPolicy) -> MLPPolicy:
    """The net, with what its head has of its own where the model's layers are by now."""
    net.head.to(next(net.net.parameters()))
    return net


def check_actor(model: Any) -> None:
    """Raise ``ValueError`` for a model that no update here can take."""
    if model.is_recurrent:
        raise fail("actor", "a model without memory", f"the recurrent {type(model).__name__}")
    if model.distribution is None:
        raise fail("actor", "a model with a distribution_cfg", "one without")


def actor_of(model: Any) -> ActorNet | None:
    """The model's actor for the kernels; None where it is more than an MLPPolicy."""
    head = _head_of(model.distribution)
    if head is None or not _is_mlp(model):
        return None
    layers = [*model.mlp]
    if type(layers[-1]) is nn.Unflatten:  # into (mean, log std) or (alpha, beta): the heads' order
        layers.pop()
    policy = _net(layers, head.to(layers[0].weight))
    return None if policy is None else ActorNet(model, policy)


def critic_of(model: Any) -> MLPPolicy | None:
    """The model's value net over what ``get_latent`` gives [N, O], as means of a Gaussian."""
    if model.is_recurrent or model.distribution is not None or not _is_mlp(model):
        return None
    layers = [*model.mlp]
    return _net(layers, Gaussian(1).to(layers[0].weight))


def actions_of(model: Any, actions: Tensor) -> Tensor:
    """Actions [N, A] as the distribution within the model's has them."""
    known = model.distribution
    if type(known) is not BetaDistribution:
        return actions
    unit = (actions - known._range_offset) / known._range_scale
    return unit.clamp(SMALLEST_ACTION, 1.0 - SMALLEST_ACTION)


def _head_of(known: Any) -> Head | None:
    kind = type(known)
    if kind is GaussianDistribution:
        head = Gaussian(known.output_dim)
        if known.std_type == "log":
            head.log_std = known.log_std_param
            return head
        return head if known.std_param.requires_grad else None
    if kind is HeteroscedasticGaussianDistribution and known.std_type == "log":
        return Gaussian(known.output_dim, "state")
    return Beta(known.output_dim) if kind is BetaDistribution else None


def _is_mlp(model: Any) -> bool:
    """Whether the model is its ``mlp`` behind something without parameters."""
    if type(model).forward is not MLPModel.forward or type(model.mlp) is not MLP:
        return False
    parts = (model.mlp, model.distribution)
    inner = {id(p) for part in parts if part is not None for p in part.parameters()}
    modules = (model, *parts)
    return all(id(p) in inner for p in trainable(model)) and not any(map(_altered, modules))


def _altered(module: nn.Module | None) -> bool:
    if module is None:
        return False
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks
    return "forward" in vars(module) or any(hooks)


def _net(layers: list[nn.Module], head: Head) -> MLPPolicy | None:
    try:
        net = MLPPolicy.of_layers(layers, head)
    except ValueError:  # layers of other kinds
        return None
    if net.departure():
        return None
    flat_params(net)
    return net
