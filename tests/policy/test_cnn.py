"""``CNNPolicy``: what it makes of observations; its products against the dense Fisher matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium")

from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from pixel_envs import Columns, Mixed
from torch import Tensor

from trpo_fast import (
    Batch,
    Categorical,
    CNNPolicy,
    CNNValues,
    FisherOperator,
    Gaussian,
    Head,
    MultiCategorical,
    distribution_params,
    trpo_update,
)
from trpo_fast._base.rows import map_rows
from trpo_fast.envs.observations import parts_of_space, spaces_in

SMALL: dict[str, Any] = {"channels": (3, 2), "kernels": (3, 2), "strides": (1, 2)}
BOX = spaces.Box(0, 255, (2, 6, 5), np.uint8)
HEADS = {
    "categorical": Categorical(3),
    "gaussian": Gaussian(2),
    "factors": MultiCategorical((2, 3)),
}


def rows_of(space: Any, rows: int, seed: int = 0) -> Any:
    generator, each = torch.Generator().manual_seed(seed), iter(spaces_in(space))
    return map_rows(lambda part: part.example(next(each), rows, generator), parts_of_space(space))


def double(space: Any, head: Head, **options: Any) -> CNNPolicy:
    torch.manual_seed(0)
    policy = CNNPolicy(space, head, (5,), "tanh", output_gain=1.0, **SMALL | options)
    return policy.double()


def dense(policy: CNNPolicy, obs: Any) -> Tensor:
    """The Fisher matrix by autograd: the mean Hessian of the KL in the parameters."""
    parameters = list(policy.parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    sizes = [p.numel() for p in parameters]
    names = [name for name, _ in policy.named_parameters()]
    head = policy.head
    old = policy.distribution_params(obs).detach()

    def kl(theta: Tensor) -> Tensor:
        parts = [t.view(p.shape) for t, p in zip(theta.split(sizes), parameters, strict=True)]
        named = dict(zip(names, parts, strict=True))
        net = {n.removeprefix("net."): p for n, p in named.items() if n.startswith("net.")}
        z = torch.func.functional_call(policy.net, net, (obs,))
        new = head.distribution_params(z, log_std=named.get("head.log_std"))
        return head.kl(old, new).mean()

    return torch.func.hessian(kl)(flat)


@pytest.mark.parametrize("head", HEADS)
def test_products_are_those_of_the_dense_fisher_matrix(head: str) -> None:
    policy, obs = double(BOX, HEADS[head]), rows_of(BOX, 4)
    matrix = dense(policy, obs)
    v = torch.randn(len(matrix), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    F = FisherOperator(policy, obs, damping=0.1)
    torch.testing.assert_close(F @ v, matrix @ v + 0.1 * v, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(
        F.dense(), matrix + 0.1 * torch.eye(len(matrix), dtype=torch.float64), rtol=1e-8, atol=1e-10
    )


def test_dicts_give_the_dense_fisher_matrix_too_whole_weighted_and_in_chunks() -> None:
    space = Mixed().observation_space
    policy, obs = double(space, Categorical(3)), rows_of(space, 5)
    obs = map_rows(lambda part: part.double() if part.is_floating_point() else part, obs)
    matrix = dense(policy, obs)
    v = torch.randn(len(matrix), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for options in ({}, {"chunk_rows": 2}, {"weights": torch.ones(5, dtype=torch.float64)}):
        F = FisherOperator(policy, obs, damping=0.1, **options)
        torch.testing.assert_close(F @ v, matrix @ v + 0.1 * v, rtol=1e-9, atol=1e-11)


def batch_of(space: Any, policy: CNNPolicy, rows: int) -> Batch:
    obs = rows_of(space, rows)
    distribution = policy(obs)
    torch.manual_seed(3)
    actions = distribution.sample()
    advantages = torch.randn(rows)
    return Batch(obs, actions, advantages, distribution.log_prob(actions).detach())


def test_an_update_of_parts_is_that_of_its_rows() -> None:
    """Padding, old parameters and rows of the products, all of a dict."""
    space = Mixed().observation_space
    torch.manual_seed(0)
    policy = CNNPolicy(space, Categorical(3), (8,), **SMALL)
    start = [p.clone() for p in policy.parameters()]
    batch = batch_of(space, policy, 40)
    info = trpo_update(policy, batch, fvp_rows=20)
    assert info.accepted and 0.0 < info.kl <= 0.01
    moved = [p.detach().clone() for p in policy.parameters()]
    for p, q in zip(policy.parameters(), start, strict=True):
        p.data.copy_(q)
    old = distribution_params(policy, batch.obs)
    padded = map_rows(lambda part: torch.cat([part, torch.zeros_like(part[:3])]), batch.obs)
    padded["speed"][-1] = torch.nan  # weight zero: never read
    longer = {
        name: torch.cat([getattr(batch, name), getattr(batch, name)[:3]])
        for name in ("actions", "advantages", "log_probs")
    }
    weights = torch.cat([torch.ones(40), torch.zeros(3)])
    given = Batch(padded, **longer, weights=weights, old_params=torch.cat([old, old[:3]]))
    trpo_update(policy, given, fvp_rows=torch.arange(20) * 2)
    for p, q in zip(policy.parameters(), moved, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


def test_what_a_batch_of_parts_must_be() -> None:
    space = Mixed().observation_space
    policy = CNNPolicy(space, Categorical(3), (8,), **SMALL)
    batch = batch_of(space, policy, 6)
    assert "camera: uint8 [6, 1, 6, 6]" in repr(batch) and len(batch) == 6
    assert len(batch.rows(slice(1, 3))) == 2
    for name, value, message in (
        ("speed", torch.zeros(4, 3), r"obs\['speed'\]: expected 6 rows, as the others have, got 4"),
        (
            "speed",
            torch.full((6, 3), torch.nan),
            r"obs\['speed'\]: expected finite values, got nan",
        ),
        ("gear", None, r"obs\['gear'\]: expected a torch.Tensor, got NoneType"),
        (
            "pair",
            torch.zeros(6),
            r"obs: expected the parts obs\['camera'\], .*, got obs\['camera'\]",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            obs = {**batch.obs, name: value}
            trpo_update(policy, Batch(obs, batch.actions, batch.advantages, batch.log_probs))
    F = FisherOperator(policy, batch.obs)
    batch.obs["speed"].mul_(2.0)
    with pytest.raises(
        RuntimeError, match=r"FisherOperator: obs\['speed'\] has been written since"
    ):
        F @ torch.zeros(F.shape[0])


@pytest.mark.parametrize("shape", [(6, 6, 3), (3, 6, 6), (2, 6, 6, 3), (2, 3, 6, 6)])
def test_images_in_any_order_give_the_same_planes(shape: tuple[int, ...]) -> None:
    """Channels last or first, frames stacked before them: numbers from 0 to 1 in their places."""
    policy = CNNPolicy(spaces.Box(0, 255, shape, np.uint8), Categorical(3), **SMALL)
    image = policy.net.extractor.parts[0].image
    frames = shape[:-3]
    planes = torch.randint(256, (4, *frames, 3, 6, 6), dtype=torch.uint8)
    given = planes.movedim(-3, -1) if shape[-1] == 3 else planes
    wanted = planes.reshape(4, -1, 6, 6) / 255
    assert torch.equal(image.scaled(given, torch.float32), wanted)
    assert policy(given).logits.shape == (4, 3)


def test_floats_are_scaled_by_their_bounds_and_matrices_are_one_plane() -> None:
    policy = CNNPolicy(spaces.Box(-1.0, 1.0, (70, 70)), Categorical(3))
    image = policy.net.extractor.parts[0].image
    obs = torch.rand(2, 70, 70) * 2 - 1
    torch.testing.assert_close(image.scaled(obs, torch.float32), ((obs + 1) / 2)[:, None])
    unbounded = CNNPolicy(spaces.Box(-np.inf, np.inf, (70, 70)), Categorical(3))
    scaled = unbounded.net.extractor.parts[0].image.scaled(obs, torch.float32)
    assert torch.equal(scaled, obs[:, None])


def test_frames_stacked_by_gymnasium_become_channels() -> None:
    env = FrameStackObservation(Columns((6, 6, 1)), 4)
    policy = CNNPolicy(env.observation_space, Categorical(3), **SMALL)
    assert policy.net.extractor.parts[0].image.planes == (4, 6, 6)
    obs, _ = env.reset(seed=0)
    assert policy(torch.from_numpy(np.asarray(obs))[None]).logits.shape == (1, 3)


def test_the_network_is_natures_unless_told_otherwise() -> None:
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    policy = CNNPolicy.for_spaces(space, spaces.Discrete(6))
    sizes = [tuple(p.shape) for p in policy.parameters() if p.ndim > 1]
    assert sizes == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3), (512, 3136), (6, 512)]
    values = CNNValues(space, (7,), "tanh", channels=(2,), kernels=(4,), strides=(4,))
    assert values(torch.zeros(2, 4, 84, 84, dtype=torch.uint8)).shape == (2, 1)
    box = CNNPolicy.for_spaces(space, spaces.Box(-1, 1, (2,)), (8,), action_mode="squash", **SMALL)
    assert type(box.head).__name__ == "SquashedGaussian"


def test_choices_become_indicators() -> None:
    space = spaces.Dict({"gear": spaces.Discrete(3, start=-1), "two": spaces.MultiDiscrete([2, 2])})
    extractor = CNNPolicy(space, Categorical(2)).net.extractor
    obs = {"gear": torch.tensor([-1, 1]), "two": torch.tensor([[0, 1], [1, 0]])}
    found = extractor(obs, torch.float32).tolist()
    assert found == [[1, 0, 0, 1, 0, 0, 1], [0, 0, 1, 0, 1, 1, 0]]


REFUSED: dict[str, tuple[Any, str]] = {
    "small": (
        lambda: CNNPolicy(spaces.Box(0, 255, (1, 21, 21), np.uint8), Categorical(2)),
        r"cnn_kernels: expected kernels that fit an image of 21 x 21, got \(8, 4, 3\) with",
    ),
    "uneven": (
        lambda: CNNPolicy(BOX, Categorical(2), channels=(3,)),
        "cnn_channels: expected as many as cnn_kernels and cnn_strides",
    ),
    "text": (
        lambda: CNNPolicy(spaces.Dict({"words": spaces.Text(3)}), Categorical(2)),
        r"observation_space \(obs\['words'\]\): expected Box, .* got Text",
    ),
    "rank": (
        lambda: CNNPolicy(spaces.Box(0, 255, (2, 2, 2, 3, 3), np.uint8), Categorical(2)),
        "observation_space: expected images of 2 to 4 dimensions",
    ),
    "no image": (
        lambda: CNNPolicy(spaces.Box(0, 255, (36, 36), np.uint8), Categorical(2)),
        r"observation_space: expected an image: uint8 of three .* got uint8 \[36, 36\]",
    ),
    "space": (
        lambda: CNNPolicy(4, Categorical(2)),
        "observation_space: expected a gymnasium space",
    ),
    "head": (lambda: CNNPolicy(BOX, 2), "head: expected a head such as"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_net_can_be_made_of_is_refused(what: str) -> None:
    make, message = REFUSED[what]
    with pytest.raises(ValueError, match=f"^{message}"):
        make()
