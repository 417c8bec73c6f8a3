"""The policy and the critic of an agent, and rows of what they see."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._base.arguments import fail
from .._base.rows import Rows, count_rows, map_rows, one_tensor
from ..envs.flat import numbers_in
from ..envs.gym.host import HostEnvs
from ..envs.observations import spaces_in
from ..envs.tensor.base import TensorEnvironment
from ..envs.tensor.protocol import CRITIC_SPACE
from ..learner.critic import Critic
from ..learner.recurrent import RecurrentCritic
from ..policy.cnn import CNNPolicy, CNNValues
from ..policy.heads import Head, head_for_space
from ..policy.net import MLPPolicy, drawn_for
from ..policy.recurrent import RecurrentPolicy
from ..policy.wrappers import unwrapped
from .agent import Agent
from .config import Config
from .own_nets import check_apart, check_place, head_of_module
from .rules import check_serves


def spaces_of(envs: HostEnvs | TensorEnvironment) -> tuple[Any, Any]:
    """(observation space, action space) of one copy."""
    if isinstance(envs, HostEnvs):
        return envs.observation_space, envs.action_space
    return envs.single_observation_space, envs.single_action_space


def parts_of_envs(envs: HostEnvs | TensorEnvironment) -> Any:
    """The parts of structured observations; None where they are vectors."""
    return envs.parts if isinstance(envs, HostEnvs) else None


def keeps_structure(config: Config, policy: nn.Module | None) -> bool | None:
    """Whether observations stay as they are: for a module of the user's own, not for an MLP or a
    cell.
    """
    if policy is not None:
        return not isinstance(unwrapped(policy), MLPPolicy | RecurrentPolicy)
    return None if config.policy == "auto" else config.policy == "cnn"


def example_rows(agent: Agent) -> tuple[Rows, Tensor | None]:
    """Observations [E, O] as nets may see them, or the parts of them, and a mask [E, Z] that allows
    everything.
    """
    rows, device = agent.config.num_envs, agent.device
    obs = example_obs(agent.envs, rows, torch.Generator().manual_seed(0))
    obs = map_rows(lambda part: part.to(device), obs)
    allowed = torch.ones((rows, agent.mask_width), dtype=torch.bool, device=device)
    return obs, allowed if agent.mask_width else None


def example_obs(envs: HostEnvs | TensorEnvironment, rows: int, generator: torch.Generator) -> Rows:
    """Observations [rows, O], or the parts of them, such as nets may see."""
    space, _ = spaces_of(envs)
    parts = parts_of_envs(envs)
    if parts is None:
        shape = rows, numbers_in(space)
        return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)
    each = iter(spaces_in(space))
    found: Rows = map_rows(lambda part: part.example(next(each), rows, generator), parts)
    return found


def mask_width(agent: Agent) -> int:
    """Z where the environments say which choices are allowed, else 0."""
    if not isinstance(agent.envs, HostEnvs):
        return 0
    with drawn_for("cpu"):
        head = head_for_space(agent.envs.action_space, action_mode="clip")
    given = head.maskable and "action_mask" in agent.envs.reset(agent.start_seed())[1]
    return head.outputs if given else 0


def make_policy(agent: Agent) -> MLPPolicy | CNNPolicy | RecurrentPolicy:
    """The policy of the config for the agent's environments."""
    config = agent.config
    observations, actions = spaces_of(agent.envs)
    with drawn_for(agent.device):
        head = head_for_space(actions, std=config.std, action_mode=config.action_mode)
    if head.log_std is not None:
        torch.nn.init.constant_(head.log_std, config.initial_log_std)
    shape = (config.hidden, config.activation)
    place: dict[str, Any] = {"dtype": torch.float32, "device": agent.device}
    if config.policy == "cnn":
        return CNNPolicy(observations, head, *shape, **convolutions(config), device=agent.device)
    size = numbers_in(observations)
    if config.policy == "gru" or config.policy == "lstm":
        layers: dict[str, Any] = {"encoder": config.encoder, "hidden": config.hidden}
        layers["activation"] = config.activation
        return RecurrentPolicy(size, head, config.policy, config.cell_width, **layers, **place)
    return MLPPolicy(size, head, *shape, **place)


def convolutions(config: Config) -> dict[str, Any]:
    """The arguments of nets for images, which are float32."""
    names = ("channels", "kernels", "strides")
    return {name: getattr(config, f"cnn_{name}") for name in names} | {"dtype": torch.float32}


def head_that_fits(agent: Agent) -> Head:
    """The head of the agent's policy, whose observations and actions are the environments' and
    which lies on the agent's device.
    """
    config, envs, policy = agent.config, agent.envs, unwrapped(agent.policy)
    if envs.num_envs != config.num_envs:
        raise ValueError(
            f"num_envs: expected the environment's {envs.num_envs}, got {config.num_envs}"
        )
    observations, actions = spaces_of(envs)
    if not isinstance(policy, MLPPolicy | RecurrentPolicy):
        check_place("policy", policy, agent.device)
        rows = example_rows(agent)
        found = head_of_module(agent.policy, actions, *rows)
        check_serves(policy, found, config, *rows)
        return found
    size = numbers_in(observations)
    with drawn_for("cpu"):
        head = head_for_space(actions, action_mode=config.action_mode)
    inputs = policy.spec.widths[0] if isinstance(policy, MLPPolicy) else policy.obs_dim
    got = (inputs, policy.head.action_shape, policy.head.nvec)
    fits = got == (size, head.action_shape, head.nvec)
    if not fits or not isinstance(policy.head, type(head)):
        wanted = f"{size} numbers in and the head {head}"
        raise ValueError(f"policy: expected {wanted}, got {got[0]} and {policy.head}")
    check_place("policy", policy, agent.device)
    if isinstance(policy, RecurrentPolicy):
        check_recurrent(config)
        rows = example_rows(agent)
        check_steps(policy, *rows)
        check_serves(policy, policy.head, config, *rows)
    return policy.head


@torch.no_grad()
def check_steps(policy: RecurrentPolicy, obs: Rows, mask: Tensor | None) -> None:
    """Refuse a policy that acts, step by step, by another distribution than updates follow."""
    if not policy.departure():
        return
    rows, state = one_tensor(obs), policy.initial_state(count_rows(obs))
    first, after = policy.step(rows, state, None, mask)
    steps = torch.stack([first, policy.step(rows, after, None, mask)[0]], 1).flatten(0, 1)
    masks = None if mask is None else mask.repeat_interleave(2, 0)
    whole = policy.distribution_params(torch.stack([rows, rows], 1), None, state, masks)
    if whole.shape != steps.shape or not torch.allclose(whole, steps, rtol=1e-4, atol=1e-6):
        wanted = "one whose step gives what distribution_params gives of sequences (override both)"
        raise fail("policy", wanted, "another distribution")


def check_recurrent(config: Config) -> None:
    """Refuse settings that a policy with a memory cannot follow."""
    if config.sampling == "vine":
        wanted = "'path' for a policy with a memory, whose states branches would need as well"
        raise fail("sampling", wanted, "'vine'")
    if config.algorithm == "rat":
        wanted = "another one for a policy with a memory (rat needs every row's own gradient)"
        raise fail("algorithm", wanted, "'rat'")
    steps = config.steps_per_update
    if config.sequence_length is not None and steps % config.sequence_length:
        wanted = f"a divisor of a rollout's {steps} steps"
        raise fail("sequence_length", wanted, config.sequence_length)


def make_critic(agent: Agent, module: nn.Module | None) -> Critic:
    """The critic of the config, or of a module of the user's own."""
    config = agent.config
    options: dict[str, Any] = {
        "method": config.critic,
        "learning_rate": config.critic_learning_rate,
        "epochs": config.critic_epochs,
        "minibatch": config.critic_minibatch,
        "steps": config.critic_steps,
        "cg_iterations": config.critic_cg_iterations,
        "preconditioner": config.critic_preconditioner,
        "damping": config.critic_damping,
        "fraction": config.critic_fraction,
        "backend": config.backend,
        "capture": config.capture,
    }
    own = getattr(agent.envs, CRITIC_SPACE, None)  # observations of the critic's own
    if own is not None and agent.recurrent is not None:
        wanted = "one without a memory where the critic has observations of its own"
        raise fail("policy", wanted, repr(agent.recurrent.kind))
    if module is not None:
        check_place("critic", module, agent.device)
        check_apart(agent.policy, module)
        if own is None:
            rows, _ = example_rows(agent)
        else:
            rows = torch.zeros(config.num_envs, numbers_in(own), device=agent.device)
        return Critic.of_module(module, rows, **options)
    observations, _ = spaces_of(agent.envs)
    if config.policy == "cnn" or parts_of_envs(agent.envs) is not None:
        shape = (config.critic_hidden, config.activation)
        values = CNNValues(observations, *shape, **convolutions(config), device=agent.device)
        return Critic.of_module(values, example_rows(agent)[0], **options)
    size = numbers_in(own or observations)
    options |= {"dtype": torch.float32, "device": agent.device, "activation": config.activation}
    if (policy := agent.recurrent) is None:
        return Critic(size, config.critic_hidden, **options)
    layers: dict[str, Any] = {"encoder": config.encoder, "hidden": config.critic_hidden}
    return RecurrentCritic(size, policy.kind, policy.cell.width, **layers, **options)
