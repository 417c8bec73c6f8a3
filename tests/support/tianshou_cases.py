"""tianshou's NPG and TRPO, or others in their place, and a batch as their updates get it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from tianshou.algorithm.modelfree.reinforce import DiscreteActorPolicy, ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch
from tianshou.utils.net.common import MLP, Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from tianshou.utils.net.discrete import DiscreteActor
from torch import nn
from torch.distributions import Categorical, Distribution, Independent, Normal

ROWS, OBS, ACTIONS = 96, 5, 2
BOX = gymnasium.spaces.Box(-1.0, 1.0, (ACTIONS,))
CHOICE = gymnasium.spaces.Discrete(3)


def in_their_dtype(self: MLP, obs: Any) -> torch.Tensor:
    """``MLP.forward`` without its conversion to float32, which no float64 net survives."""
    like = next(self.parameters())
    return self.model(torch.as_tensor(obs, dtype=like.dtype).flatten(1))


def gaussian(found: Any) -> Distribution:
    return Independent(Normal(*found), 1)


def net(activation: type = nn.Tanh, **options: Any) -> Net:
    return Net(state_shape=(OBS,), hidden_sizes=[8, 6], activation=activation, **options)


def continuous(dist_fn: Any = gaussian, **options: Any) -> Any:
    options = {"unbounded": True, "preprocess_net": net(), **options}
    actor = ContinuousActorProbabilistic(action_shape=(ACTIONS,), **options)
    if not actor._c_sigma:
        nn.init.constant_(actor.sigma_param, -0.3)
    return ProbabilisticActorPolicy(
        actor=actor, dist_fn=dist_fn, action_space=BOX, action_scaling=False
    )


def discrete(dist_fn: Any = Categorical, **options: Any) -> Any:
    actor = DiscreteActor(preprocess_net=net(), action_shape=(3,), **options)
    return DiscreteActorPolicy(actor=actor, dist_fn=dist_fn, action_space=CHOICE)


def algorithm(kind: type, policy: Any, **options: Any) -> Any:
    """An algorithm in float64; ``policy`` makes its policy."""
    torch.manual_seed(0)
    return kind(
        policy=policy().double(),
        critic=ContinuousCritic(preprocess_net=net()).double(),
        optim=AdamOptimizerFactory(lr=1e-3),
        **options,
    )


def batch(made: Any, rows: int = ROWS) -> Any:
    """Rows whose actions the algorithm's policy has chosen."""
    draws = torch.Generator().manual_seed(1)
    obs = torch.randn(rows, OBS, generator=draws, dtype=torch.float64).numpy()
    torch.manual_seed(2)
    with torch.no_grad():
        found = made.policy(Batch(obs=obs, info={}))
        act, logp_old = found.act, found.dist.log_prob(found.act)
    advantages = torch.randn(rows, generator=draws, dtype=torch.float64)
    returns = torch.randn(rows, generator=draws, dtype=torch.float64)
    advantages = (advantages - advantages.mean()) / advantages.std()
    act = act.double()  # as tianshou's _preprocess_batch has it, choices included
    return Batch(obs=obs, act=act, adv=advantages, returns=returns, logp_old=logp_old, info=Batch())


def updated(
    kind: type, policy: Any, batch_size: int | None = None, repeat: int = 1, **options: Any
) -> Any:
    """The algorithm after an update, and its statistics; ``info`` has them."""
    made = algorithm(kind, policy, **options)
    rows = batch(made)
    np.random.seed(3)
    made.info = made._update_with_batch(rows, batch_size, repeat)
    return made
