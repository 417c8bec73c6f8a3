"""skrl's stochastic models as what an update takes: a net for the kernels that holds the model's
own layers, or the model as a module.
"""

from __future__ import annotations

from typing import Any

import torch
from skrl.models.torch import CategoricalMixin, GaussianMixin
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from ...policy.flat import trainable
from ...policy.heads import Categorical as CategoricalHead
from ...policy.heads import Gaussian, Head
from ...policy.net import MLPPolicy
from ..traced import layers_of

ROLE = "policy"
Inputs = dict[str, Tensor]  # "observations" and, where there are any, "states", each [N, ...]


class ActorModule(nn.Module):
    """A model as a module from its inputs side by side [N, O] to a distribution."""

    def __init__(self, model: Any, inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        self.widths = {key: value.shape[1] for key, value in inputs.items()}

    def packed(self, inputs: Inputs) -> Tensor:
        """The inputs side by side [N, O]."""
        return torch.cat([inputs[key] for key in self.widths], dim=1)

    def forward(self, obs: Tensor) -> Distribution:
        parts = obs.split([*self.widths.values()], dim=1)
        model = self.model
        found, outputs = model.compute(dict(zip(self.widths, parts, strict=True)), ROLE)
        if isinstance(model, CategoricalMixin):
            kind = "logits" if model._c_unnormalized_log_prob else "probs"
            return Categorical(**{kind: found})
        log_std = outputs["log_std"]
        if model._g_clip_mean_actions:
            found = found.clamp(model._g_min_actions, model._g_max_actions)
        if model._g_clip_log_std:
            log_std = log_std.clamp(model._g_min_log_std, model._g_max_log_std)
        return Independent(Normal(found, log_std.exp()), 1)


class ActorNet:
    """A model's net with its head for the kernels."""

    def __init__(self, model: Any, policy: MLPPolicy, key: str) -> None:
        self.model, self.policy, self.key = model, policy, key

    def packed(self, inputs: Inputs) -> Tensor:
        """What the net sees [N, O]."""
        return inputs[self.key]

    def within_limits(self) -> bool:
        """Whether the model's limits leave the standard deviations as they are."""
        log_std, model = self.policy.head.log_std, self.model
        if log_std is None or not model._g_clip_log_std:
            return True
        with torch.no_grad():
            low, high = model._g_min_log_std, model._g_max_log_std
            return bool(((log_std > low) & (log_std < high)).all())


def is_known(model: Any) -> bool:
    """Whether the model's distributions are those that its mixin of skrl makes."""
    kind = type(model)
    if isinstance(model, GaussianMixin):
        return kind.act is GaussianMixin.act and model._g_reduction is torch.sum
    return isinstance(model, CategoricalMixin) and kind.act is CategoricalMixin.act


def actor_of(model: Any, inputs: Inputs) -> ActorNet | None:
    """The model's actor for the kernels; None where it is more than an MLPPolicy. ``inputs`` are
    rows to run it on.
    """
    if isinstance(model, GaussianMixin) and model._g_clip_mean_actions:
        return None
    if isinstance(model, CategoricalMixin) and not model._c_unnormalized_log_prob:
        return None
    for key, given in inputs.items():
        outputs: dict[str, Any] = {}

        def call(outputs: dict[str, Any] = outputs) -> Tensor:
            found, others = model.compute(dict(inputs), ROLE)
            outputs.update(others)
            mean: Tensor = found
            return mean

        layers = layers_of(call, given, model.modules())
        head = None if layers is None else _head(model, layers[-1:], outputs)
        if layers is None or head is None:
            continue
        try:
            policy = MLPPolicy.of_layers(layers, head)
        except ValueError:  # two activations in turn, say
            continue
        held = {id(p) for p in trainable(policy)}
        if not policy.departure() and held == {id(p) for p in trainable(model)}:
            return ActorNet(model, policy, key)
    return None


def _head(model: Any, last: list[nn.Module], outputs: dict[str, Any]) -> Head | None:
    if not last or not isinstance(last[0], nn.Linear):
        return None
    width = last[0].out_features
    if isinstance(model, CategoricalMixin):
        return CategoricalHead(width)
    log_std = outputs.get("log_std")
    if type(log_std) is not nn.Parameter or log_std.shape != (width,):
        return None
    head = Gaussian(width)
    head.log_std = log_std
    return head
