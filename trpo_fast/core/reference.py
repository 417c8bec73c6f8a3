"""The reference: one policy update in plain PyTorch, stage by stage, in the order the data flows.

Every kernel is tested against this page, and it is what runs where no kernel can. Float32 or
float64, any device. The Fisher-vector product is the Gauss-Newton form J' M J v: a tangent forward
through the cached activations (``jvp``), the closed-form Fisher information of each row's action
distribution (``metric``), and one pass back (``vjp``). At the parameters the batch was sampled
with, the gradient of the KL is zero, so this product is its Hessian.

Shapes: N rows, P parameters, H hidden width, Z net outputs, D distribution parameters, K right-hand
sides (optional, leading).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._base.reads import may_read
from ..policy.heads import Head
from ..policy.spec import NetSpec


class Activations(NamedTuple):
    """What ``forward`` leaves for the products."""

    inputs: list[Tensor]  # h_0 = obs, h_1, ..., h_{L-1}: [N, H_l]
    slopes: list[Tensor]  # act'(z_l) for l = 1 .. L-1: [N, H_l]
    params: Tensor  # distribution parameters [N, D]


class Layers(NamedTuple):
    """Views of a flat vector [..., P] as the layers of the net."""

    weights: list[Tensor]  # [..., H_l, H_{l-1}]
    biases: list[Tensor]  # [..., H_l]
    log_std: Tensor | None  # [..., A]


class MapInverses(NamedTuple):
    """The inverses of one map's factors, and where the map lies in a flat vector."""

    inputs: Tensor  # A^-1 [H_{l-1} + 1, H_{l-1} + 1]; without a bias [H_{l-1}, H_{l-1}]
    outputs: Tensor  # G^-1 [H_l, H_l]
    weight: slice
    bias: slice | None


class Inverses(NamedTuple):
    """M^-1: a pair for every map whose factors are known, a number for all else."""

    pairs: list[MapInverses]
    scale: Tensor  # [P], one where a pair is


def unflatten(flat: Tensor, spec: NetSpec) -> Layers:
    weights, biases, offset = [], [], 0
    lead = flat.shape[:-1]
    for fan_in, fan_out in pairwise(spec.widths):
        end = offset + fan_in * fan_out
        weights.append(flat[..., offset:end].reshape(*lead, fan_out, fan_in))
        biases.append(flat[..., end : end + fan_out])
        offset = end + fan_out
    return Layers(weights, biases, flat[..., offset:] if spec.free else None)


def activate(z: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """act(z) and act'(z), the latter from the activation's value where it determines it."""
    if activation == "tanh":
        h = torch.tanh(z)
        return h, 1.0 - h * h
    if activation == "relu":
        return F.relu(z), (z > 0).to(z.dtype)
    if activation == "elu":
        h = F.elu(z)
        return h, torch.where(h > 0, torch.ones_like(h), h + 1.0)
    if activation == "silu":
        s = torch.sigmoid(z)
        return z * s, s * (1.0 + z * (1.0 - s))
    if activation == "gelu":
        cdf = 0.5 * torch.erfc(-z * math.sqrt(0.5))
        return z * cdf, cdf + z * torch.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return z, torch.ones_like(z)


def forward(
    theta: Tensor, spec: NetSpec, head: Head, obs: Tensor, mask: Tensor | None = None
) -> Activations:
    """h_l = act(W_l h_{l-1} + b_l), once per update."""
    layers = unflatten(theta, spec)
    inputs, slopes = [obs], []
    for i, (w, b) in enumerate(zip(layers.weights, layers.biases, strict=True)):
        z = torch.addmm(b, inputs[-1], w.T)
        if i < spec.maps - 1:
            h, slope = activate(z, spec.activation)
            inputs.append(h)
            slopes.append(slope)
    return Activations(
        inputs, slopes, head.distribution_params(z, log_std=layers.log_std, mask=mask)
    )


def jvp(theta: Tensor, spec: NetSpec, acts: Activations, v: Tensor) -> Tensor:
    """dh_l = act' * (W_l dh_{l-1} + V_l h_{l-1} + v_l): J v, [..., N, D]."""
    layers, tangents = unflatten(theta, spec), unflatten(v, spec)
    dh: Tensor | None = None
    for i in range(spec.maps):
        dz = acts.inputs[i] @ tangents.weights[i].mT + tangents.biases[i].unsqueeze(-2)
        if dh is not None:
            dz = dz + dh @ layers.weights[i].T
        dh = acts.slopes[i] * dz if i < spec.maps - 1 else dz
    assert dh is not None
    if tangents.log_std is None:
        return dh
    return torch.cat([dh, tangents.log_std.unsqueeze(-2).expand_as(dh)], dim=-1)


def metric(head: Head, acts: Activations, tangent: Tensor) -> Tensor:
    """Fisher of the action distribution in its own parameters: M J v, [..., N, D]."""
    return head.metric(acts.params, tangent)


def vjp(theta: Tensor, spec: NetSpec, acts: Activations, delta: Tensor) -> Tensor:
    """J' delta summed over rows; delta [..., N, D] carries the row weights already. [..., P]."""
    gradients: list[Tensor] = []
    free_std: list[Tensor] = []
    if spec.free:
        delta, delta_log_std = delta.chunk(2, dim=-1)
        free_std = [delta_log_std.sum(-2)]
    for i, back in deltas(theta, spec, acts, delta):
        gradients[:0] = [(back.mT @ acts.inputs[i]).flatten(-2), back.sum(-2)]
    return torch.cat([*gradients, *free_std], dim=-1)


def deltas(
    theta: Tensor, spec: NetSpec, acts: Activations, delta: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """delta_{l-1} = act' * (W_l' delta_l) from the net's outputs [..., N, Z] back: (i, gradient in
    what map i gives [..., N, H_{i+1}]) for each map, the last first.
    """
    layers = unflatten(theta, spec)
    for i in reversed(range(spec.maps)):
        yield i, delta
        if i > 0:
            delta = acts.slopes[i - 1] * (delta @ layers.weights[i])


def with_one(h: Tensor) -> Tensor:
    """(h, 1) [..., H + 1]: a map's inputs and the one that its bias multiplies."""
    return torch.cat([h, torch.ones_like(h[..., :1])], dim=-1)


def factors(
    theta: Tensor, spec: NetSpec, acts: Activations, delta: Tensor, weights: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """For every map A = sum_n w_n (h, 1)(h, 1)' [H_{l-1} + 1, H_{l-1} + 1] of its inputs and G =
    sum_n w_n d d' [H_l, H_l] of the deltas of its outputs, by one pass back from delta [N, D].
    """
    weights = weights.unsqueeze(-1)
    pairs = []
    for i, d in deltas(theta, spec, acts, delta[..., : spec.widths[-1]]):
        h = with_one(acts.inputs[i])
        pairs.append(((weights * h).T @ h, (weights * d).T @ d))
    return pairs[::-1]


def precondition(r: Tensor, inverses: Inverses) -> Tensor:
    """z = M^-1 r, [..., P]: G^-1 R A^-1 for a map's gradient R = (W, b) [H_l, H_{l-1} + 1], a
    number times what belongs to no map.
    """
    z = r * inverses.scale
    for pair in inverses.pairs:
        block = r[..., pair.weight].unflatten(-1, (pair.outputs.shape[0], -1))
        inputs = block.shape[-1]
        if pair.bias is not None:
            block = torch.cat([block, r[..., pair.bias].unsqueeze(-1)], dim=-1)
        block = pair.outputs @ block @ pair.inputs
        z[..., pair.weight] = block[..., :inputs].flatten(-2)
        if pair.bias is not None:
            z[..., pair.bias] = block[..., inputs]
    return z


def step(quad: Tensor, max_kl: float | Tensor, kl: Tensor | None = None) -> Tensor:
    """beta = sqrt(2 max_kl / x'Ax) with A = F + damping I. The quadratic model of the KL, x'Fx / 2,
    reaches max_kl at beta x without damping and stays below with it.

    Where ``kl`` is what the call is away from the policy that sampled its rows, the rest of max_kl:
    beta = (sqrt(max_kl) - sqrt(kl)) sqrt(2 / x'Ax), as lengths, square roots of KLs, add up.
    """
    if kl is None:
        return (2.0 * max_kl / quad).sqrt()
    limit = max_kl.sqrt() if isinstance(max_kl, Tensor) else math.sqrt(max_kl)
    return (limit - kl.double().clamp_min(0.0).sqrt()) * (2.0 / quad).sqrt()


def line_search(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    theta: Tensor,
    full_step: Tensor,
    *,
    max_kl: float | Tensor,
    before: Tensor,
    ratio: float,
    steps: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """theta + c^j step for the first j with KL <= max_kl and a surrogate above ``before``, all of
    them finite.

    ``evaluate(theta)`` returns (KL, surrogate). Returns (j, theta_j, found); on a GPU every
    candidate is evaluated so that the host never waits, and j is ``steps`` where none was
    acceptable.
    """
    chosen = torch.full((), steps, dtype=torch.int64, device=theta.device)
    accepted = theta.clone()
    for j in range(steps):
        candidate = theta + ratio**j * full_step
        kl, surrogate = evaluate(candidate)
        finite = torch.isfinite(candidate).all() & torch.isfinite(kl) & torch.isfinite(surrogate)
        good = finite & (kl <= max_kl) & (surrogate > before) & (chosen == steps)
        chosen = torch.where(good, j, chosen)
        accepted = torch.where(good, candidate, accepted)
        if may_read(theta.device) and bool(good):
            break
    return chosen, accepted, chosen < steps
