"""Train on an environment of your own whose thousands of copies are rows of a tensor, on a GPU if
there is one.

    python examples/train_tensor_env.py
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trpo_fast import TRPO
from trpo_fast.envs.tensor import TensorEnv
from trpo_fast.envs.tensor.base import box
from trpo_fast.train.loggers import header, line


class Homing(TensorEnv):
    """A point in the plane that is rewarded for being near the origin; actions are velocities."""

    state_size = 2
    max_episode_steps = 50

    @property
    def single_observation_space(self) -> Any:
        return box(-10.0, 10.0, 2)

    @property
    def single_action_space(self) -> Any:
        return box(-0.2, 0.2, 2)

    def initial(self, count: int) -> Tensor:
        return self.uniform(count, -1.0, 1.0, 2)

    def dynamics(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        moved = (state + actions).clamp(-10.0, 10.0)
        return moved, -moved.square().sum(-1), None

    def observe(self, state: Tensor) -> Tensor:
        return state


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    agent = TRPO(Homing(1024, device=device), rows_per_update=51_200, gamma=0.9)
    print(header())
    agent.learn(1_000_000, callbacks=[lambda agent, record: print(line(record))])


if __name__ == "__main__":
    main()
