"""How the arguments of ``TRPO`` become its config: the settings, the environment's preset, and what
a policy that was given decides.

A checkpoint holds the config and the weights, and loading makes the policy anew from the config: so
the config of an agent always describes the policy it has.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from .._base.arguments import fail
from ..policy.net import MLPPolicy
from ..policy.recurrent import RecurrentPolicy
from ..policy.wrappers import unwrapped
from .config import Config, check_used, make_config
from .parts import env_name
from .presets import IMAGES

# Settings that say nothing of a policy or a critic that was given as a module of any kind.
OF_POLICY = (
    "hidden",
    "std",
    "initial_log_std",
    "cnn_channels",
    "cnn_kernels",
    "cnn_strides",
    "cell_width",
    "encoder",
)
OF_CRITIC = ("critic_hidden",)


def agent_config(
    env: Any,
    config: Config | None,
    policy: nn.Module | str | None,
    critic: nn.Module | str | None,
    settings: dict[str, Any],
) -> Config:
    """The config of an agent: the given one, or the settings over the environment's preset. Words
    for policy and critic are added to the settings.
    """
    nets = {"policy": policy, "critic": critic}
    settings |= {name: net for name, net in nets.items() if isinstance(net, str)}
    if config is not None and settings:
        raise ValueError(f"config: expected a Config or settings, got both ({sorted(settings)})")
    if isinstance(policy, nn.Module):
        policy = unwrapped(policy)
    stock = isinstance(policy, MLPPolicy | RecurrentPolicy)
    _refuse("policy", policy, ("initial_log_std",) if stock else OF_POLICY, settings)
    _refuse("critic", critic, OF_CRITIC, settings)
    given = chosen_names(config, settings)
    if config is None:
        if hasattr(env, "num_envs"):
            chosen = settings.setdefault("num_envs", env.num_envs)
            if chosen != env.num_envs:
                raise fail("num_envs", f"the environment's {env.num_envs}", chosen)
        config = make_config(env_name(env), **settings)
    if isinstance(policy, nn.Module) and not isinstance(policy, RecurrentPolicy):
        config = dataclasses.replace(config, policy="auto")  # it says what policy there is
    if isinstance(policy, MLPPolicy | RecurrentPolicy):
        return _as_the_policy(config, given, policy)
    return config


def chosen_names(config: Config | None, settings: Any) -> set[str]:
    """Names of the settings that someone chose."""
    return set(settings) if config is None else _changed(config)


def check_nets(config: Config, own: nn.Module | None) -> None:
    """Refuse settings that were chosen and that no net of the agent uses, once it is known which
    nets there are; ``own``: the policy that was given.
    """
    if config.policy != "auto":
        return  # a config knows these itself
    kind = net_kind(config.policy, own)
    words = {"mlp": "an MLPPolicy", "own": "a policy without a memory"}
    policy = "policy='auto' without an image" if own is None else words[kind]
    check_used(config, kind, policy)


def net_kind(policy: str, own: nn.Module | None) -> str:
    """The kind of net, a word of ``policy`` or "own", where a config has this word and perhaps a
    module was given.
    """
    if policy != "auto":
        return policy
    return "mlp" if own is None or isinstance(unwrapped(own), MLPPolicy) else "own"


def with_images(config: Config, given: set[str]) -> Config:
    """The config with the policy and critic that images get, as far as nobody chose others."""
    return dataclasses.replace(
        config, policy="cnn", **{n: v for n, v in IMAGES.items() if n not in given}
    )


def _refuse(
    name: str, net: nn.Module | str | None, without: tuple[str, ...], settings: dict[str, Any]
) -> None:
    """Refuse what is no module, and settings that it leaves nothing to say."""
    if net is None or isinstance(net, str):
        return
    if not isinstance(net, nn.Module):
        raise fail(name, "a torch.nn.Module", type(net).__name__)
    for setting in without:
        if setting in settings:
            raise fail(setting, f"none beside a {name}, which has its own", "both")


def _changed(config: Config) -> set[str]:
    """Names of the settings that are not the default, which were chosen then."""
    fields = dataclasses.fields(config)
    return {field.name for field in fields if getattr(config, field.name) != field.default}


def _as_the_policy(config: Config, given: set[str], policy: MLPPolicy | RecurrentPolicy) -> Config:
    """The config with the policy's own settings; a chosen one that disagrees is refused."""
    for name, value in settings_of(policy).items():
        chosen = getattr(config, name)
        if name in given and chosen != value:
            raise fail(name, f"{value!r} as in the policy that was given", repr(chosen))
        config = dataclasses.replace(config, **{name: value})
    head, mode = policy.head, config.action_mode
    if mode not in head.action_modes:
        modes = " or ".join(map(repr, head.action_modes))
        raise fail("action_mode", f"{modes} for a policy with the head {type(head).__name__}", mode)
    return config


def settings_of(policy: MLPPolicy | RecurrentPolicy) -> dict[str, Any]:
    """The settings that a policy decides, by name."""
    if isinstance(policy, RecurrentPolicy):
        cell = {"policy": policy.kind, "cell_width": policy.cell.width}
        layers = {**cell, "encoder": policy.encoder_widths, "hidden": policy.hidden}
        return {**layers, "activation": policy.activation, **policy.head.settings()}
    spec = policy.spec
    net: dict[str, Any] = {"hidden": spec.widths[1:-1], "activation": spec.activation}
    return {**net, **policy.head.settings()}
