"""One action for one observation: an agent as whoever deploys it sees it."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .._base.arguments import fail
from .._base.rows import count_rows, map_rows, parts_of
from .._base.seeds import derive
from ..core.checks import all_finite
from ..envs.observations import Part
from .agent import Agent
from .nets import spaces_of


class ActingAgent(Agent):
    """An agent that can be asked for actions."""

    @overload
    def predict(
        self,
        obs: Tensor,
        *,
        state: Any = ...,
        episode_start: Any = ...,
        deterministic: bool = ...,
        action_mask: Any = ...,
    ) -> Tensor: ...
    @overload
    def predict(
        self,
        obs: ArrayLike,
        *,
        state: Any = ...,
        episode_start: Any = ...,
        deterministic: bool = ...,
        action_mask: Any = ...,
    ) -> np.ndarray: ...
    def predict(
        self,
        obs: Any,
        *,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = True,
        action_mask: Any = None,
    ) -> Any:
        """The action for one observation [O], or for each of [N, O], as the environment takes it;
        action_mask [Z] or [N, Z]. Tensors give tensors on their device, anything else gives arrays.

        A policy with a memory gives (action, state). It takes the state [K] or [N, K] of the step
        before, None in the first, and episode_start, a bool or [N], where an episode has begun
        since.
        """
        options: dict[str, Any] = {"deterministic": deterministic, "action_mask": action_mask}
        if self.recurrent is not None:
            return predict_remembering(self, obs, state, episode_start, **options)
        for name, given in (("state", state), ("episode_start", episode_start)):
            if given is not None:
                raise fail(name, "None for a policy without a memory", type(given).__name__)
        return predict(self, obs, **options)


@torch.no_grad()
def predict(
    agent: Agent, obs: Any, *, deterministic: bool, action_mask: Any
) -> np.ndarray | Tensor:
    """The action for one observation, or one for each of a batch, in the environment's units."""
    rows, mask, single = _seen(agent, obs, action_mask)
    actions = _actions(agent, obs, agent.params(rows, mask), deterministic)
    return actions[0] if single else actions


@torch.no_grad()
def predict_remembering(
    agent: Agent, obs: Any, state: Any, episode_start: Any, *, deterministic: bool, action_mask: Any
) -> tuple[Any, Any]:
    """The same of a policy with a memory, and the state [K] or [N, K] after the step; state and
    episode_start as ``ActingAgent.predict`` takes them.
    """
    policy = agent.recurrent
    assert policy is not None
    rows, mask, single = _seen(agent, obs, action_mask)
    before = policy.initial_state(len(rows))
    if state is not None:
        before = _given("state", state, tuple(before.shape), rows)
        if rows.device.type == "cpu" and not all_finite(before):
            raise fail("state", "finite numbers", "NaN or infinity")
    starts = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    if episode_start is not None:
        starts = _given("episode_start", episode_start, (len(rows),), starts)
    params, after = policy.step(rows, before, starts, mask)
    actions = _actions(agent, obs, params, deterministic)
    kept: Any = after.to(obs.device) if isinstance(obs, Tensor) else after.cpu().numpy()
    return (actions[0], kept[0]) if single else (actions, kept)


class Player:
    """Acts for copies of an environment [N], and remembers where the policy does."""

    def __init__(self, agent: Agent, deterministic: bool) -> None:
        self.agent, self.deterministic = agent, deterministic
        self._state: Any = None
        self._started: Any = None

    def actions(self, obs: Any, action_mask: Any = None) -> Any:
        """Actions for observations [N, O], or for one [O]."""
        options: dict[str, Any] = {"deterministic": self.deterministic, "action_mask": action_mask}
        if self.agent.recurrent is None:
            return predict(self.agent, obs, **options)
        actions, self._state = predict_remembering(
            self.agent, obs, self._state, self._started, **options
        )
        return actions

    def ended(self, over: Any) -> None:
        """Episodes that ended [N] with the step; the next ones begin."""
        self._started = over


def _given(name: str, value: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """What was given as a tensor of this shape, or of the shape of one of its rows."""
    try:
        given = value if isinstance(value, Tensor) else np.asarray(value)
        found = torch.as_tensor(given, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError):
        raise fail(name, f"numbers {list(shape)}", type(value).__name__) from None
    if tuple(found.shape) != shape and not (shape[0] == 1 and tuple(found.shape) == shape[1:]):
        raise fail(name, f"shape {list(shape)}", list(found.shape))
    return found.reshape(shape)


def _seen(agent: Agent, obs: Any, action_mask: Any) -> tuple[Tensor, Tensor | None, bool]:
    """Rows [N, O] as nets see them, their masks [N, Z], and whether it was one observation."""
    rows, single = _rows(agent, obs)
    if agent.normaliser is not None:  # it lives where rollouts do, the policy may not
        place = agent.normaliser.device
        rows = agent.normaliser(map_rows(lambda part: part.to(place), rows))
    rows = map_rows(lambda part: part.to(agent.device), rows)
    mask = None if action_mask is None else _mask(agent, action_mask, count_rows(rows))
    return rows, mask, single


def _actions(agent: Agent, obs: Any, params: Tensor, deterministic: bool) -> Any:
    """Actions of rows with distribution parameters [N, D], of the kind of the observations."""
    head, to_units = agent.head, agent.collector.action_map
    stored = head.mode(params) if deterministic else head.sample(params, agent.sampler)
    first = next(parts_of(obs))[1]
    if isinstance(first, Tensor):
        return to_units.device(stored).to(first.device)
    return to_units.host(stored.cpu().numpy())


def sampler(seed: int, device: torch.device, use: str = "predict") -> torch.Generator:
    """Noise for actions that train nothing: drawing from it leaves training as it was."""
    return torch.Generator(device).manual_seed(derive(seed, use))


def _rows(agent: Agent, obs: Any) -> tuple[Any, bool]:
    """Observations [N, O] as float32, or the parts of them, and whether it was one without a batch
    around it.
    """
    if agent.collector.layout.parts is not None:
        return _parts(agent.collector.layout.parts, obs)
    if isinstance(obs, dict):
        raise ValueError("obs: expected what gymnasium.spaces.flatten makes of it, got a dict")
    try:
        given = obs if isinstance(obs, Tensor) else np.asarray(obs)
        device = obs.device if isinstance(obs, Tensor) else "cpu"
        rows = torch.as_tensor(given, dtype=torch.float32, device=device)
    except (TypeError, ValueError):  # such as gymnasium's (observation, info)
        raise fail("obs", "an array of numbers", type(obs).__name__) from None
    dim = agent.collector.layout.obs_dim
    shapes = (tuple(spaces_of(agent.envs)[0].shape), (dim,))
    single = tuple(rows.shape) in shapes
    if rows.numel() == 0 or not (single or tuple(rows.shape[1:]) in shapes):
        wanted = f"one observation of shape {list(shapes[0])}, or several"
        raise ValueError(f"obs: expected {wanted}, got shape {list(rows.shape)}")
    # Values on a device are not looked at: that would wait for it.
    if rows.device.type == "cpu" and not all_finite(rows):
        where = [int(i) for i in (~torch.isfinite(rows)).nonzero()[0]]
        raise fail("obs", "finite numbers", f"{float(rows[tuple(where)])} at index {where}")
    return rows.reshape(-1, dim), single


def _parts(parts: Any, obs: Any) -> tuple[Any, bool]:
    """Observations of parts [N, ...], and whether it was one without a batch around it."""
    singles: set[bool] = set()
    names = iter([name for name, _ in parts_of(parts)])

    def taken(part: Part, value: Any) -> Tensor:
        name = next(names)
        try:
            given = value if isinstance(value, Tensor) else np.asarray(value)
            whole = torch.as_tensor(given)
            tensor = whole.to(part.kind)
        except (TypeError, ValueError):
            raise fail(name, "an array of numbers", type(value).__name__) from None
        exact = tensor.is_floating_point() or tensor.device.type != "cpu"
        if not exact and not torch.equal(tensor.to(whole.dtype), whole):  # an image in [0, 1], say
            wanted = f"numbers of {str(part.kind).removeprefix('torch.')}"
            raise fail(name, wanted, f"others, of {str(whole.dtype).removeprefix('torch.')}")
        singles.add(tuple(tensor.shape) == part.shape)
        if part.shape not in (tuple(tensor.shape), tuple(tensor.shape[1:])):
            wanted = f"one observation of shape {list(part.shape)}, or several"
            raise fail(name, wanted, f"shape {list(tensor.shape)}")
        if tensor.device.type != "cpu":
            return tensor  # its values are not looked at: that would wait for the device
        if not all_finite(tensor):
            raise fail(name, "finite numbers", "others")
        rows = tensor if tensor.ndim > len(part.shape) else tensor[None]
        if wrong := part.not_a_choice(rows.numpy()):
            raise fail(name, "one of its choices", wrong[1])
        return tensor

    try:
        rows = map_rows(taken, parts, obs)
    except (KeyError, IndexError, TypeError) as error:
        wanted = f"the parts {', '.join(name for name, _ in parts_of(parts))}"
        raise fail("obs", wanted, type(obs).__name__) from error
    if len(singles) != 1:
        raise fail("obs", "one observation, or several of every part", "both")
    if True in singles:
        rows = map_rows(lambda part: part[None], rows)
    counts = sorted({len(part) for _, part in parts_of(rows)})
    if len(counts) != 1 or counts[0] == 0:
        raise fail("obs", "as many rows of every part, one at least", counts)
    return rows, True in singles


def _mask(agent: Agent, given: Any, rows: int) -> Tensor:
    """Allowed choices [N, Z] on the policy's device."""
    head = agent.head
    if not head.maskable:
        raise fail("action_mask", "None for a head without choices", f"one for {head}")
    wanted = f"{head.outputs} choices for each of {rows} observations"
    try:
        mask = torch.as_tensor(np.asarray(given) if isinstance(given, list) else given).bool()
    except (TypeError, ValueError, RuntimeError):
        raise fail("action_mask", wanted, type(given).__name__) from None
    if mask.numel() != rows * head.outputs:
        raise fail("action_mask", wanted, f"shape {list(mask.shape)}")
    mask = mask.reshape(rows, head.outputs)
    parts = mask.split(list(head.nvec), dim=1) if mask.device.type == "cpu" else ()
    if not all(bool(part.any(1).all()) for part in parts):
        raise fail("action_mask", "at least one allowed choice for every observation", "none")
    return mask.to(agent.device)
