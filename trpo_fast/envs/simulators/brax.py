"""Brax and MuJoCo Playground: environments in JAX, stepped in one compiled call.

Their own automatic reset goes back to the first state of each copy and drops the observation that
an episode ended with. This one resets to new states and keeps it. Tensors are shared with JAX
through dlpack, and nothing is copied to the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..._base.arguments import check_count, fail
from ..._base.extras import require
from ..tensor.base import TensorStep, box, unbounded
from .spaces import device_of


class Brax:
    """``num_envs`` copies of an environment of Brax or MuJoCo Playground, without its wrappers.

    A step takes its action ``action_repeat`` times and adds the rewards up. Episodes are cut once
    ``episode_length`` repetitions were made, which Brax counts as well: with 1000 and an
    ``action_repeat`` of 4 that is after 250 steps. Of observations in a dictionary the policy has
    ``policy``, and the critic ``critic`` where it is there; critic="" has it see what the policy
    sees.
    """

    def __init__(
        self,
        env: Any,
        num_envs: int,
        *,
        episode_length: int = 1000,
        action_repeat: int = 1,
        policy: str = "state",
        critic: str = "privileged_state",
    ) -> None:
        self.jax = require("jax", "Brax", "playground")
        if not all(callable(getattr(env, name, None)) for name in ("reset", "step")):
            raise fail("env", "an environment of Brax or MuJoCo Playground", type(env).__name__)
        self.env, self.num_envs = env, check_count("num_envs", num_envs)
        self.length = check_count("episode_length", episode_length)
        self.repeat = check_count("action_repeat", action_repeat)
        self._step, self._reset = self.jax.jit(self._next), self.jax.jit(self._first)
        self.carry = self._reset(self._keys(0))
        obs = self.carry[0].obs
        self._pick_groups(obs, policy, critic)
        first = _torch(self._of(obs, self.policy))
        self.device = device_of(first.device)
        self.single_observation_space = unbounded(first.shape[1])
        self.single_action_space = box(-1.0, 1.0, int(env.action_size))
        if self.critic is not None:
            width = self._of(obs, self.critic).reshape(self.num_envs, -1).shape[1]
            self.single_critic_observation_space = unbounded(width)
            self.critic_obs = lambda: _torch(self._of(self.carry[0].obs, self.critic))

    def _pick_groups(self, obs: Any, policy: str, critic: str) -> None:
        self.policy: str | None = None
        self.critic: str | None = None
        if hasattr(obs, "keys"):
            if policy not in obs:
                raise fail("policy", f"one of the observations {sorted(obs)}", repr(policy))
            self.policy = policy
            self.critic = critic if critic in obs else None

    def _of(self, obs: Any, name: str | None) -> Any:
        """A group [E, ...] of observations, or all where they are in none."""
        return obs if name is None else obs[name]

    def _keys(self, seed: int) -> Any:
        """A random key for each copy."""
        return self._placed(self.jax.random.split(self.jax.random.PRNGKey(seed), self.num_envs))

    def _placed(self, values: Any) -> Any:
        """Values that belong to the device, as actions do: with others JAX compiles anew."""
        return self.jax.device_put(values, self.jax.local_devices()[0])

    def _first(self, keys: Any) -> Any:
        """(states, steps [E], keys [E, 2]) of new episodes."""
        jax = self.jax
        pairs = jax.vmap(jax.random.split)(keys)
        states = jax.vmap(self.env.reset)(pairs[:, 0])
        steps = jax.numpy.zeros(self.num_envs, jax.numpy.int32)
        carry = states, steps, pairs[:, 1]
        return self._like(carry, carry)

    def _like(self, values: Any, present: Any) -> Any:
        """Values with the types of the present ones, and no weak ones: JAX compiles a call anew for
        other types of its arguments, and what a step gives is what the next one takes.
        """
        jnp, tree_map = self.jax.numpy, self.jax.tree_util.tree_map
        return tree_map(lambda new, old: jnp.asarray(new, old.dtype), values, present)

    def _next(self, carry: Any, actions: Any) -> Any:
        """(carry, what a step gives) after every copy moved, and those that ended began anew."""
        jax, jnp = self.jax, self.jax.numpy
        states, steps, keys = carry
        rewards = jnp.zeros(self.num_envs, jnp.float32)
        over = jnp.zeros(self.num_envs, bool)
        for _ in range(self.repeat):  # rewards of repetitions after an end do not count
            states = jax.vmap(self.env.step)(states, actions)
            rewards = rewards + jnp.where(over, 0.0, states.reward)
            over = over | (states.done > 0.5)
        steps = steps + self.repeat
        late = (steps >= self.length) & ~over
        ended = over | late

        def restart() -> Any:
            fresh = self._first(keys)

            def choose(new: Any, old: Any) -> Any:
                rows = ended.reshape((-1,) + (1,) * (old.ndim - 1))
                return jnp.where(rows, new.astype(old.dtype), old)

            return jax.tree_util.tree_map(choose, fresh, (states, steps, keys))

        # New episodes cost a step or more: they are made in those steps only that need some.
        after = jax.lax.cond(jnp.any(ended), restart, lambda: (states, steps, keys))
        after = self._like(after, carry)
        return after, (rewards, over.astype(jnp.float32), late.astype(jnp.float32), states.obs)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start every copy anew; the policy's observations [E, O]."""
        keys = self.carry[2] if seed is None else self._keys(seed)
        self.carry = self._reset(keys)
        return self._seen()

    def _seen(self) -> Tensor:
        return _torch(self._of(self.carry[0].obs, self.policy))

    def step(self, actions: Tensor) -> TensorStep:
        """Move every copy by its action [E, A], numbers from -1 to 1."""
        given = self.jax.numpy.from_dlpack(actions.detach().float().clone())
        self.carry, (rewards, over, late, reached) = self._step(self.carry, given)
        flags = _torch(over)[:, 0], _torch(late)[:, 0]
        final = _torch(self._of(reached, self.policy))
        own = None if self.critic is None else _torch(self._of(reached, self.critic))
        rows = _torch(rewards)[:, 0]
        return TensorStep(self._seen(), rows, *flags, final, final_critic_obs=own)

    def state(self) -> dict[str, np.ndarray]:
        """Every number of the simulation, as arrays on the host."""
        leaves = self.jax.tree_util.tree_leaves(self.carry)
        return {f"part_{i}": np.array(leaf) for i, leaf in enumerate(leaves)}

    def load_state(self, state: dict[str, np.ndarray]) -> Tensor:
        """Go back to a saved state; the policy's observations [E, O] there."""
        leaves, tree = self.jax.tree_util.tree_flatten(self.carry)
        parts = []
        for i, present in enumerate(leaves):
            saved = state[f"part_{i}"]
            wanted = present.shape, present.dtype
            if not isinstance(saved, np.ndarray) or (saved.shape, saved.dtype) != wanted:
                raise fail(f"state: part_{i}", f"an array {wanted}", type(saved).__name__)
            parts.append(self.jax.numpy.asarray(saved))
        self.carry = self._placed(self.jax.tree_util.tree_unflatten(tree, parts))
        return self._seen()


def _torch(array: Any) -> Tensor:
    """A JAX array [E, ...] as rows [E, O] of a tensor that shares its memory."""
    return torch.from_dlpack(array.reshape(array.shape[0], -1))
