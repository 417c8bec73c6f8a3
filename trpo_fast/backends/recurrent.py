"""The Gauss-Newton stages of a ``RecurrentPolicy``, through time, written by hand.

An MLP into the cell, whose last map is the cell's W_ih; the cell's scan over steps; an MLP out of
it. What the products need of a pass forward is kept, so that a product is one loop over the steps
forward and one back.

Shapes: rows run over steps, then sequences, [T S, ...], apart from what comes from a ``Batch`` or
goes to it, where steps of a sequence follow each other. Tangents may have a leading K.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._base.rows import one_tensor
from ..core.batch import Batch
from ..core.preconditioner import Factors, MapFactors
from ..core.reference import activate, with_one
from ..policy.flat import trainable
from ..policy.recurrent import RecurrentPolicy
from ..policy.scans import RULES, Slopes


@dataclass(frozen=True)
class Map:
    """Where a linear map lies in a flat vector."""

    weight: slice
    bias: slice
    outputs: int

    def of(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [..., outputs, inputs] and biases [..., outputs]."""
        return flat[..., self.weight].unflatten(-1, (self.outputs, -1)), flat[..., self.bias]


@dataclass(frozen=True)
class Passed:
    """A map's inputs [N, I], and gradients in its outputs [..., N, outputs]."""

    map: Map
    inputs: Tensor
    deltas: Tensor


class RecurrentModel:
    """The maps of a policy in its flat vector."""

    def __init__(self, policy: nn.Module) -> None:
        assert isinstance(policy, RecurrentPolicy)
        self.policy, self.rule = policy, RULES[policy.kind]
        spans, offset = {}, 0
        for p in trainable(policy):
            spans[id(p)] = slice(offset, offset + p.numel())
            offset += p.numel()

        def place(weight: Tensor, bias: Tensor) -> Map:
            return Map(spans[id(weight)], spans[id(bias)], len(bias))

        cell = policy.cell
        self.into = [place(m.weight, m.bias) for m in policy.encoder if isinstance(m, nn.Linear)]
        self.into.append(place(cell.weight_ih_l0, cell.bias_ih_l0))
        self.recur = place(cell.weight_hh_l0, cell.bias_hh_l0)
        self.out = [place(m.weight, m.bias) for m in policy.net if isinstance(m, nn.Linear)]
        free = policy.head.log_std
        self.free = None if free is None else spans[id(free)]


class Chain:
    """Linear maps with activations between them, run on rows x [N, I]."""

    def __init__(self, maps: list[Map], activation: str, theta: Tensor, x: Tensor) -> None:
        self.maps, self.theta = maps, theta
        self.inputs: list[Tensor] = []
        self.slopes: list[Tensor] = []
        for m in maps:
            if self.inputs:
                x, slope = activate(x, activation)
                self.slopes.append(slope)
            self.inputs.append(x)
            w, b = m.of(theta)
            x = F.linear(x, w, b)
        self.output = x

    def tangent(self, v: Tensor, dx: Tensor | None = None) -> Tensor:
        """Of the output [..., N, Z]: of the maps along v [..., P], of the input along dx."""
        for i, m in enumerate(self.maps):
            dw, db = m.of(v)
            dz = self.inputs[i] @ dw.mT + db.unsqueeze(-2)
            if dx is not None:
                dx = dx if i == 0 else self.slopes[i - 1] * dx
                dz = dz + dx @ m.of(self.theta)[0].mT
            dx = dz
        assert dx is not None
        return dx

    def pull(self, delta: Tensor, passed: list[Passed]) -> Tensor:
        """The gradient in the maps' last inputs on the way back: that of the input, of one map at
        least, is left to the caller as its first map's ``Passed``.
        """
        for i in reversed(range(len(self.maps))):
            passed.append(Passed(self.maps[i], self.inputs[i], delta))
            if i > 0:
                delta = self.slopes[i - 1] * (delta @ self.maps[i].of(self.theta)[0])
        return delta


class RecurrentLinearization:
    """The policy around one theta on whole sequences."""

    def __init__(self, model: RecurrentModel, theta: Tensor, batch: Batch) -> None:
        self.model, self.theta = model, theta
        policy, self.head = model.policy, model.policy.head
        assert batch.sequence_length and batch.starts is not None and batch.state is not None
        self.shape = (len(batch.state), batch.sequence_length)
        obs = one_tensor(batch.finite_obs())
        x = self._timed(obs.reshape(len(batch), -1))
        self._into = Chain(model.into, policy.activation, theta, x.flatten(0, 1))
        self._drive = self._into.output.unflatten(0, x.shape[:2])
        self._keep = (~self._timed(batch.starts.unsqueeze(-1))).to(theta.dtype)
        self._state = batch.state.chunk(model.rule.parts, -1)
        self._outputs = model.rule.forward(
            self._drive, *model.recur.of(theta), self._keep, *self._state
        )
        self._out = Chain(model.out, policy.activation, theta, self._outputs[0].flatten(0, 1))
        z, free = self._rows(self._out.output), model.free
        log_std = None if free is None else theta[free]
        self.params = self.head.distribution_params(z, log_std=log_std, mask=batch.action_mask)
        self._known: Slopes | None = None

    def _timed(self, rows: Tensor) -> Tensor:
        """[S T, ...] as [T, S, ...]."""
        return rows.unflatten(0, self.shape).transpose(0, 1).contiguous()

    def _rows(self, timed: Tensor) -> Tensor:
        """[..., T S, Z] as [..., S T, Z]."""
        return timed.unflatten(-2, self.shape[::-1]).transpose(-3, -2).flatten(-3, -2)

    def _slopes(self) -> Slopes:
        if self._known is None:
            w, b = self.model.recur.of(self.theta)
            self._known = self.model.rule.slopes(
                self._drive, w, b, self._keep, [*self._state], self._outputs
            )
        return self._known

    def jvp(self, v: Tensor) -> Tensor:
        """J v, [..., N, D]."""
        slopes, (steps, sequences) = self._slopes(), self._drive.shape[:2]
        dw, db = self.model.recur.of(v)
        driven = self._into.tangent(v).unflatten(-2, (steps, sequences))
        recurred = slopes.before.flatten(0, 1) @ dw.mT + db.unsqueeze(-2)
        still = [s.new_zeros(*v.shape[:-1], *s.shape) for s in self._state]
        dh = self.model.rule.tangent(
            slopes, driven, recurred.unflatten(-2, (steps, sequences)), *still
        )[0]
        dz = self._rows(self._out.tangent(v, dh.flatten(-3, -2)))
        if self.model.free is None:
            return dz
        return torch.cat([dz, v[..., self.model.free].unsqueeze(-2).expand_as(dz)], -1)

    def metric(self, tangent: Tensor) -> Tensor:
        return self.head.metric(self.params, tangent)

    def _passed(self, delta: Tensor) -> Iterator[Passed]:
        """Of every map, from gradients in what the net gives [..., N, Z]."""
        slopes, (steps, sequences) = self._slopes(), self._drive.shape[:2]
        found: list[Passed] = []
        timed = delta.unflatten(-2, self.shape).transpose(-3, -2).flatten(-3, -2)
        delta = self._out.pull(timed, found)
        dh = (delta @ self.model.out[0].of(self.theta)[0]).unflatten(-2, (steps, sequences))
        silent = [torch.zeros_like(dh)] * (self.model.rule.parts - 1)
        dx, da, _ = self.model.rule.pull(slopes, dh, *silent)
        found.append(Passed(self.model.recur, slopes.before.flatten(0, 1), da.flatten(-3, -2)))
        self._into.pull(dx.flatten(-3, -2), found)
        return iter(found)

    def vjp(self, delta: Tensor) -> Tensor:
        """J' delta summed over rows, [..., P]."""
        g = delta.new_zeros(*delta.shape[:-2], len(self.theta))
        if self.model.free is not None:
            delta, free = delta.chunk(2, -1)
            g[..., self.model.free] = free.sum(-2)
        for passed in self._passed(delta):
            g[..., passed.map.weight] = (passed.deltas.mT @ passed.inputs).flatten(-2)
            g[..., passed.map.bias] = passed.deltas.sum(-2)
        return g

    def factors(self, delta: Tensor, weights: Tensor) -> Factors:
        """What these rows add to K-FAC's factors, where a map of the cell is one that every step
        uses: delta [N, D] is S xi, weights [N] normalised.
        """
        free, scaled = self.model.free, weights.sqrt().unsqueeze(-1) * delta
        z = scaled if free is None else scaled.chunk(2, -1)[0]
        roots = self._timed(weights.sqrt().unsqueeze(-1)).flatten(0, 1)
        maps = []
        for passed in self._passed(z):
            h = roots * with_one(passed.inputs)
            pair = h.T @ h, passed.deltas.T @ passed.deltas
            maps.append(MapFactors(*pair, passed.map.weight, passed.map.bias))
        return Factors(maps, [] if free is None else [(free, 2.0)])

    def nbytes(self) -> int:
        held = [*self._into.inputs, *self._into.slopes, *self._out.inputs, *self._out.slopes]
        held += [self._drive, *self._outputs, self.params]
        held += [t for t in self._known or () if t is not None]
        return sum(t.numel() * t.element_size() for t in held)
