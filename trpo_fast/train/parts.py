"""An agent's environments, and what steps them, from its config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._base.arguments import fail
from .._base.command_checks import working_device
from .._base.rows import map_rows, parts_of
from .._base.seeds import derive
from ..backends.support import PYTORCH, Support, choose
from ..envs import tensor
from ..envs.actions import ActionMap
from ..envs.engines import make_host
from ..envs.flat import numbers_in
from ..envs.gym.host import HostEnvs
from ..envs.tensor.base import TensorEnvironment
from ..envs.tensor.protocol import (
    CRITIC_SPACE,
    check_environment,
    is_tensor_env,
    same_place,
    try_environment,
)
from ..learner.actor import Actor, ModuleActor
from ..learner.actor_cpu import ACT, NativeActor, act_support
from ..learner.actor_cuda import CudaActor, cuda_act_support
from ..learner.critic import Critic
from ..learner.normalise import (
    KeyedNormaliser,
    Normaliser,
    ObservationNormaliser,
    RewardScaler,
)
from ..learner.recurrent import RecurrentActor
from .agent import Agent
from .collect_host import HostCollector
from .collect_tensor import TensorCollector
from .config import Config
from .critic_view import CriticView
from .nets import parts_of_envs, spaces_of
from .rollout import Layout

ACTORS: dict[str, Callable[..., Actor]] = {
    "cpu": NativeActor,
    "cuda": CudaActor,
    "reference": ModuleActor,
    "autograd": ModuleActor,
}
ACTOR_SUPPORTS: dict[str, Callable[..., Support]] = {
    "cpu": act_support,
    "cuda": cuda_act_support,
    **PYTORCH,
}


def check_tensors(env: Any) -> None:
    """Refuse what is meant as a tensor environment and lacks part of one."""
    if is_tensor_env(env):
        check_environment(env)


def env_name(env: Any) -> str:
    """What the config calls an environment: its id, or the name of the function or class."""
    return env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__)


def pick_device(config: Config, env: Any) -> torch.device:
    """Where policy and critic live. A small net that waits for host environments is fastest
    beside them.
    """
    if config.device != "auto":
        return working_device(config.device)
    if is_tensor_env(env):
        return env.device
    cuda = config.engine == "tensor" and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


def make_envs(agent: Agent) -> HostEnvs | TensorEnvironment:
    """Environments in one of the two forms that collectors know."""
    env: Any = agent.env_source
    config, device, options = agent.config, agent.device, agent.env_options
    tensors = is_tensor_env(env) or config.engine == "tensor"
    if tensors and config.policy == "cnn":
        raise fail("policy", "'auto' or 'mlp' for a tensor environment", "'cnn'")
    if is_tensor_env(env):
        if not same_place(env.device, device):
            raise fail("device", f"{env.device}, where the environment is", device)
        try_environment(env)
        return env
    if config.engine == "tensor":
        if not isinstance(env, str):
            raise ValueError(f"env: expected the name of a tensor environment, got {env!r}")
        if taken := {"num_envs", "device", "seed"} & set(options):
            raise fail("env_options", f"arguments of {env} that are no settings", sorted(taken))
        return tensor.make(
            env, config.num_envs, device=device, seed=derive(config.seed, "batch", 0), **options
        )
    return make_host(
        env,
        config.num_envs,
        engine=config.engine,
        workers=config.workers,
        seed=config.seed,
        options=options,
        structured=agent.structured,
    )


def make_collector(agent: Agent) -> HostCollector | TensorCollector:
    """The collector for the agent's environments, with buffers on the device where they live."""
    config, envs, head = agent.config, agent.envs, agent.head
    observations, actions = spaces_of(envs)
    host = isinstance(envs, HostEnvs)
    device = torch.device("cpu") if host else agent.device
    parts = parts_of_envs(envs)
    obs_dim = 0 if parts is not None else numbers_in(observations)
    action_map = ActionMap(actions, config.action_mode)
    layout = Layout(
        config.steps_per_update,
        config.num_envs,
        obs_dim,
        head.action_shape,
        action_map.discrete,
        agent.mask_width,
        device,
        parts=parts,
    )
    normaliser = make_normaliser(layout, config) if config.normalize_observations else None
    if hasattr(envs, CRITIC_SPACE):
        return _asymmetric_collector(agent, layout, action_map, normaliser)
    actor = make_actor(agent, normaliser)
    kind: Any = HostCollector if host else TensorCollector
    return kind(envs, actor, layout, action_map, normaliser)


def _asymmetric_collector(
    agent: Agent, layout: Layout, action_map: ActionMap, normaliser: Normaliser | None
) -> TensorCollector:
    """The collector of a critic that sees more than the policy, which acts beside a stand-in."""
    envs: Any = agent.envs
    stand_in = Critic(layout.obs_dim, (), dtype=torch.float32, device=layout.device)
    width = numbers_in(getattr(envs, CRITIC_SPACE))
    assert not isinstance(normaliser, KeyedNormaliser)  # tensor environments give vectors
    own = None
    if normaliser is not None:
        own = ObservationNormaliser(width, clip=agent.config.observation_clip, device=layout.device)
    view = CriticView(envs, agent.critic, layout, own)
    actor = make_actor(agent, normaliser, stand_in)
    return TensorCollector(envs, actor, layout, action_map, normaliser, view)


def make_normaliser(layout: Layout, config: Config) -> Normaliser | None:
    """Running statistics of the vectors among the observations; None where there are none."""
    options: dict[str, Any] = {"clip": config.observation_clip, "device": layout.device}
    if layout.parts is None:
        return ObservationNormaliser(layout.obs_dim, **options)
    sizes = map_rows(lambda part: part.size, layout.parts)
    vectors = any(size is not None for _, size in parts_of(sizes))
    return KeyedNormaliser(sizes, **options) if vectors else None


def make_scaler(agent: Agent) -> RewardScaler | None:
    config = agent.config
    if not config.normalize_rewards:
        return None
    return RewardScaler(config.num_envs, config.gamma, device=agent.collector.layout.device)


def make_actor(agent: Agent, normaliser: Normaliser | None, critic: Critic | None = None) -> Actor:
    """One call or one launch, which normalises as well, where it serves; otherwise the torch
    modules.
    """
    nets = (agent.policy, critic or agent.critic)
    own = isinstance(normaliser, ObservationNormaliser) and not isinstance(agent.envs, HostEnvs)
    options: dict[str, Any] = {"capture": agent.config.capture}
    if own:  # of a host's arrays its collector makes what the nets see
        options["normaliser"] = normaliser
    if agent.recurrent is not None:
        return RecurrentActor(agent.recurrent, agent.critic, agent.generator, **options)
    kind = ACTORS[choose(agent.config.backend, ACTOR_SUPPORTS, *nets, can=ACT)]
    if kind is ModuleActor:
        return kind(*nets, agent.generator, **options)
    return kind(*nets, agent.generator, normaliser=normaliser)
