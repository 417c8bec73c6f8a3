"""Building an agent's parts from a config and an environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .._base.arguments import fail
from .._base.command_checks import working_device
from .._base.seeds import derive
from ..backends.support import PYTORCH, Support, choose
from ..envs import tensor
from ..envs.actions import ActionMap
from ..envs.engines import make_host
from ..envs.gym.host import HostEnvs
from ..envs.tensor.base import TensorEnvironment
from ..envs.tensor.protocol import check_environment, is_tensor_env, same_place
from ..learner.actor import Actor, ModuleActor
from ..learner.actor_cpu import ACT, NativeActor, act_support
from ..learner.actor_cuda import CudaActor, cuda_act_support
from ..learner.critic import Critic
from ..learner.normalise import ObservationNormaliser, RewardScaler
from ..policy.heads import head_for_space
from ..policy.net import MLPPolicy, drawn_for
from .agent import Agent
from .collect_host import HostCollector
from .collect_tensor import TensorCollector
from .config import Config
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


def make_envs(
    env: Any, config: Config, device: torch.device, options: dict[str, Any]
) -> HostEnvs | TensorEnvironment:
    """Environments in one of the two forms that collectors know."""
    if is_tensor_env(env):
        if not same_place(env.device, device):
            raise fail("device", f"{env.device}, where the environment is", device)
        return env
    if config.engine == "tensor":
        if not isinstance(env, str):
            raise ValueError(f"env: expected the name of a tensor environment, got {env!r}")
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
    )


def spaces_of(envs: HostEnvs | TensorEnvironment) -> tuple[Any, Any]:
    """(observation space, action space) of one copy."""
    if isinstance(envs, HostEnvs):
        return envs.observation_space, envs.action_space
    return envs.single_observation_space, envs.single_action_space


def make_policy(
    envs: HostEnvs | TensorEnvironment, config: Config, device: torch.device
) -> MLPPolicy:
    observations, actions = spaces_of(envs)
    with drawn_for(device):
        head = head_for_space(actions, std=config.std, action_mode=config.action_mode)
    if head.log_std is not None:
        torch.nn.init.constant_(head.log_std, config.initial_log_std)
    size = int(torch.Size(observations.shape).numel())
    shape = (config.hidden, config.activation)
    return MLPPolicy(size, head, *shape, dtype=torch.float32, device=device)


def check_fits(
    policy: MLPPolicy, envs: HostEnvs | TensorEnvironment, config: Config, device: torch.device
) -> None:
    """Environments of the config's number, and a policy of their shapes on the agent's device."""
    if envs.num_envs != config.num_envs:
        raise ValueError(
            f"num_envs: expected the environment's {envs.num_envs}, got {config.num_envs}"
        )
    observations, actions = spaces_of(envs)
    size = int(torch.Size(observations.shape).numel())
    with drawn_for("cpu"):
        head = head_for_space(actions, action_mode=config.action_mode)
    got = (policy.spec.widths[0], policy.head.action_shape, policy.head.nvec)
    fits = got == (size, head.action_shape, head.nvec)
    if not fits or not isinstance(policy.head, type(head)):
        wanted = f"{size} numbers in and the head {head}"
        raise ValueError(f"policy: expected {wanted}, got {got[0]} and {policy.head}")
    device = torch.empty(0, device=device).device  # "cuda" stands for one of several
    kinds = {(p.dtype, p.device) for p in policy.parameters()}
    if kinds != {(torch.float32, device)}:
        raise ValueError(
            f"policy: expected float32 parameters on {device}, got {sorted(map(str, kinds))}"
        )


def make_critic(envs: HostEnvs | TensorEnvironment, config: Config, device: torch.device) -> Critic:
    observations, _ = spaces_of(envs)
    return Critic(
        int(torch.Size(observations.shape).numel()),
        config.critic_hidden,
        config.activation,
        method=config.critic,
        learning_rate=config.critic_learning_rate,
        epochs=config.critic_epochs,
        minibatch=config.critic_minibatch,
        steps=config.critic_steps,
        cg_iterations=config.critic_cg_iterations,
        preconditioner=config.critic_preconditioner,
        damping=config.critic_damping,
        fraction=config.critic_fraction,
        backend=config.backend,
        capture=config.capture,
        dtype=torch.float32,
        device=device,
    )


def make_collector(agent: Agent) -> HostCollector | TensorCollector:
    """The collector for the agent's environments, with buffers on the device where they live."""
    config, envs, policy = agent.config, agent.envs, agent.policy
    observations, actions = spaces_of(envs)
    host = isinstance(envs, HostEnvs)
    device = torch.device("cpu") if host else agent.device
    obs_dim = int(torch.Size(observations.shape).numel())
    masked = host and policy.head.maskable and "action_mask" in envs.reset(agent.start_seed())[1]
    layout = Layout(
        config.steps_per_update,
        config.num_envs,
        obs_dim,
        policy.head.action_shape,
        bool(policy.head.nvec),
        policy.head.outputs if masked else 0,
        device,
    )
    normaliser = None
    if config.normalize_observations:
        normaliser = ObservationNormaliser(obs_dim, clip=config.observation_clip, device=device)
    actor = make_actor(agent, normaliser)
    kind: Any = HostCollector if host else TensorCollector
    return kind(envs, actor, layout, ActionMap(actions, config.action_mode), normaliser)


def make_scaler(agent: Agent) -> RewardScaler | None:
    config = agent.config
    if not config.normalize_rewards:
        return None
    return RewardScaler(config.num_envs, config.gamma, device=agent.collector.layout.device)


def make_actor(agent: Agent, normaliser: ObservationNormaliser | None) -> Actor:
    """One call or one launch, which normalises as well, where it serves; otherwise the torch
    modules.
    """
    nets = (agent.policy, agent.critic)
    kind = ACTORS[choose(agent.config.backend, ACTOR_SUPPORTS, *nets, can=ACT)]
    if kind is ModuleActor:
        return kind(*nets, agent.generator)
    return kind(*nets, agent.generator, normaliser=normaliser)
