"""The two recurrent cells over whole sequences, and the derivatives of that, in plain operators.

    GRU   r, z = sigmoid(x_r + a_r), sigmoid(x_z + a_z)     n = tanh(x_n + r a_n)
          h' = n + z (h - n)
    LSTM  i, f, o = sigmoid(x_i + a_i), sigmoid(x_f + a_f), sigmoid(x_o + a_o)
          g = tanh(x_g + a_g)     c' = f c + i g     h' = o tanh(c')

with a = W h + b, and h, c zero in the first row of an episode. What of a derivative does not follow
from the step before is computed for all steps at once, before its loop over steps or after it.

Shapes: T steps, S sequences, H width, G gates; x, a [T, S, G H], w [G H, H], b [G H], keep
[T, S, 1] zero in first rows of episodes and one elsewhere, states [S, H], outputs [T, S, H].
Tangents and what is pulled back may have a leading K.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

STEPS = -3  # the dimension of time


class Slopes(NamedTuple):
    """What the derivatives of a pass need of it."""

    w: Tensor
    keep: Tensor
    before: Tensor  # [T, S, H]: the h that steps began with
    through: Tensor  # [T, S, H]: of h' in h (GRU), of c' in c (LSTM), apart from what passes a
    inward: Tensor  # [T, S, 3, H]: of h' in a_r, a_z, a_n (GRU), of c' in a_i, a_f, a_g (LSTM)
    outward: Tensor  # [T, S, H]: of h' in x_n (GRU), in a_o (LSTM)
    shown: Tensor | None = None  # [T, S, H]: of h' in c' (LSTM)


class ScanRule(Protocol):
    """A cell: how it runs, and its derivatives."""

    gates: int
    parts: int  # tensors of its state, h first

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor, keep: Tensor, *state: Tensor) -> list[Tensor]:
        """The states after every step, each [T, S, H]."""
        ...

    @staticmethod
    def slopes(
        x: Tensor, w: Tensor, b: Tensor, keep: Tensor, state: list[Tensor], outputs: list[Tensor]
    ) -> Slopes: ...

    @staticmethod
    def tangent(s: Slopes, dx: Tensor, da: Tensor, *dstate: Tensor) -> list[Tensor]:
        """Of the outputs [..., T, S, H], for tangents of x, of W and b as they act on the h that
        steps began with (before dW' + db), and of the states.
        """
        ...

    @staticmethod
    def pull(s: Slopes, *given: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """From gradients in the outputs [..., T, S, H] those in x, in a, and in the states."""
        ...


class GruRule:
    gates, parts = 3, 1

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor, keep: Tensor, *state: Tensor) -> list[Tensor]:
        (h,), width = state, state[0].shape[-1]
        gates, fresh = x.split([2 * width, width], -1)
        w_gates, w_fresh = w[: 2 * width].t(), w[2 * width :].t()
        gates, b_fresh, steps = gates + b[: 2 * width], b[2 * width :], []
        for kept, x_rz, x_n in zip(keep.unbind(), gates.unbind(), fresh.unbind(), strict=True):
            h = h * kept
            r, z = torch.addmm(x_rz, h, w_gates).sigmoid().chunk(2, -1)
            n = torch.addcmul(x_n, r, torch.addmm(b_fresh, h, w_fresh)).tanh()
            h = torch.lerp(n, h, z)
            steps.append(h)
        return [torch.stack(steps)]

    @staticmethod
    def slopes(
        x: Tensor, w: Tensor, b: Tensor, keep: Tensor, state: list[Tensor], outputs: list[Tensor]
    ) -> Slopes:
        before = _before(keep, state[0], outputs[0])
        x_r, x_z, x_n = x.chunk(3, -1)
        a_r, a_z, a_n = (before @ w.t() + b).chunk(3, -1)
        r, z = torch.sigmoid(x_r + a_r), torch.sigmoid(x_z + a_z)
        n = torch.tanh(torch.addcmul(x_n, r, a_n))
        in_x = (1.0 - z) * (1.0 - n * n)
        in_n = in_x * r
        in_r, in_z = in_n * a_n * (1.0 - r), (before - n) * z * (1.0 - z)
        return Slopes(w, keep, before, z, torch.stack([in_r, in_z, in_n], -2), in_x)

    @staticmethod
    def tangent(s: Slopes, dx: Tensor, da: Tensor, *dstate: Tensor) -> list[Tensor]:
        both = dx + da
        width = s.before.shape[-1]
        gates = s.inward[..., :2, :] * _blocks(both[..., : 2 * width], 2)
        fresh = s.outward * dx[..., 2 * width :] + s.inward[..., 2, :] * da[..., 2 * width :]
        moved = gates.sum(-2) + fresh
        (dh,), turned, steps = dstate, s.w.t(), []
        through, inward = s.through * s.keep, s.inward * s.keep.unsqueeze(-1)
        for rest, z, slope in zip(
            moved.unbind(STEPS), through.unbind(), inward.unbind(), strict=True
        ):
            dh = torch.addcmul(rest, z, dh) + (slope * _blocks(dh @ turned, 3)).sum(-2)
            steps.append(dh)
        return [torch.stack(steps, STEPS)]

    @staticmethod
    def pull(s: Slopes, *given: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        later, steps = torch.zeros_like(given[0].select(STEPS, 0)), []
        through, inward = s.through * s.keep, s.inward * s.keep.unsqueeze(-1)
        rows = zip(given[0].unbind(STEPS), through.unbind(), inward.unbind(), strict=True)
        for g, z, slope in reversed(list(rows)):
            dh = g + later
            steps.append(dh)
            later = torch.addcmul((slope * dh.unsqueeze(-2)).flatten(-2) @ s.w, z, dh)
        dh = torch.stack(steps[::-1], STEPS)
        in_a = s.inward * dh.unsqueeze(-2)
        gates = in_a[..., :2, :].flatten(-2)
        return torch.cat([gates, s.outward * dh], -1), in_a.flatten(-2), [later]


class LstmRule:
    gates, parts = 4, 2

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor, keep: Tensor, *state: Tensor) -> list[Tensor]:
        h, c = state
        turned, hs, cs = w.t(), [], []
        for kept, driven in zip(keep.unbind(), (x + b).unbind(), strict=True):
            i, f, g, o = torch.addmm(driven, h * kept, turned).chunk(4, -1)
            c = torch.addcmul(f.sigmoid() * (c * kept), i.sigmoid(), g.tanh())
            h = o.sigmoid() * c.tanh()
            hs.append(h)
            cs.append(c)
        return [torch.stack(hs), torch.stack(cs)]

    @staticmethod
    def slopes(
        x: Tensor, w: Tensor, b: Tensor, keep: Tensor, state: list[Tensor], outputs: list[Tensor]
    ) -> Slopes:
        before, held = (_before(keep, *pair) for pair in zip(state, outputs, strict=True))
        i, f, g, o = (x + before @ w.t() + b).chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        shown = outputs[1].tanh()
        inward = torch.stack([g * i * (1.0 - i), held * f * (1.0 - f), i * (1.0 - g * g)], -2)
        outward = shown * o * (1.0 - o)
        return Slopes(w, keep, before, f, inward, outward, o * (1.0 - shown * shown))

    @staticmethod
    def tangent(s: Slopes, dx: Tensor, da: Tensor, *dstate: Tensor) -> list[Tensor]:
        assert s.shown is not None
        (dh, dc), turned, hs, cs = dstate, s.w.t(), [], []
        width = s.before.shape[-1]
        through = s.through * s.keep
        rows = (s.keep, through, s.inward, s.outward, s.shown)
        for moved, (kept, f, slope, in_o, in_c) in zip(
            (dx + da).unbind(STEPS), zip(*(r.unbind() for r in rows), strict=True), strict=True
        ):
            moved = moved + (dh * kept) @ turned
            inner, last = moved.split([3 * width, width], -1)
            dc = torch.addcmul((slope * _blocks(inner, 3)).sum(-2), f, dc)
            dh = torch.addcmul(in_o * last, in_c, dc)
            hs.append(dh)
            cs.append(dc)
        return [torch.stack(hs, STEPS), torch.stack(cs, STEPS)]

    @staticmethod
    def pull(s: Slopes, *given: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        assert s.shown is not None
        dh = dc = torch.zeros_like(given[0].select(STEPS, 0))
        given_h, given_c = (g.unbind(STEPS) for g in given)
        through, steps = s.through * s.keep, []
        rows = (s.keep, through, s.inward, s.outward, s.shown)
        for t, (kept, f, slope, in_o, in_c) in reversed(
            list(enumerate(zip(*(r.unbind() for r in rows), strict=True)))
        ):
            dh = given_h[t] + dh
            dc = torch.addcmul(given_c[t] + dc, in_c, dh)
            moved = torch.cat([(slope * dc.unsqueeze(-2)).flatten(-2), in_o * dh], -1)
            steps.append(moved)
            dh, dc = (moved @ s.w) * kept, f * dc
        moved = torch.stack(steps[::-1], STEPS)
        return moved, moved, [dh, dc]


RULES: dict[str, type[GruRule] | type[LstmRule]] = {"gru": GruRule, "lstm": LstmRule}


def _before(keep: Tensor, first: Tensor, outputs: Tensor) -> Tensor:
    """The states that steps began with [T, S, H]."""
    return torch.cat([first.unsqueeze(0), outputs[:-1]]) * keep


def _blocks(row: Tensor, count: int) -> Tensor:
    """[..., count H] as [..., count, H]."""
    return row.unflatten(-1, (count, -1))
