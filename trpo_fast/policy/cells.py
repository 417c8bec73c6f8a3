"""Recurrent layers over whole sequences, with the weights of ``nn.GRU`` and ``nn.LSTM``, whose
states are zeroed where episodes begin. torch's own have no forward-mode derivative, and on CUDA no
second one.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .scans import GruRule, LstmRule, ScanRule


def _function(rule: type[ScanRule]) -> type[torch.autograd.Function]:
    """(x, w, b, keep, *state) -> the states after every step, differentiable in either mode."""

    class Scan(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*inputs: Tensor) -> tuple[Tensor, ...]:
            return tuple(rule.forward(*inputs))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
            ctx.save_for_backward(*inputs, *output)
            ctx.save_for_forward(*inputs, *output)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
            x, w, b, keep, *others = ctx.saved_tensors
            state, outputs = others[: rule.parts], others[rule.parts :]
            s = rule.slopes(x, w, b, keep, state, outputs)
            given = (x, w, b, keep, *state)
            dx, dw, db, _, *dstate = (
                torch.zeros_like(value) if d is None else d
                for value, d in zip(given, tangents, strict=True)
            )
            return tuple(rule.tangent(s, dx, s.before @ dw.t() + db, *dstate))

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            x, w, b, keep, *others = ctx.saved_tensors
            state, outputs = others[: rule.parts], others[rule.parts :]
            s = rule.slopes(x, w, b, keep, state, outputs)
            dx, da, dstate = rule.pull(s, *gradients)
            da = da.flatten(0, 1)
            return dx, da.t() @ s.before.flatten(0, 1), da.sum(0), None, *dstate

    return Scan


class RecurrentCell(nn.Module):
    """A recurrent layer with the parameters of a one-layer ``nn.GRU`` or ``nn.LSTM``, whose
    ``state_dict`` it loads. Its state is one tensor [S, K]: h, for LSTM h and c side by side.
    """

    rule: ClassVar[type[ScanRule]]
    function: ClassVar[Any]

    weight_ih_l0: nn.Parameter
    weight_hh_l0: nn.Parameter
    bias_ih_l0: nn.Parameter
    bias_hh_l0: nn.Parameter

    def __init__(self, inputs: int, width: int, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.inputs, self.width = inputs, width
        rows, bound = self.rule.gates * width, 1.0 / math.sqrt(width)
        for name, shape in (
            ("weight_ih_l0", (rows, inputs)),
            ("weight_hh_l0", (rows, width)),
            ("bias_ih_l0", (rows,)),
            ("bias_hh_l0", (rows,)),
        ):
            drawn = torch.empty(shape, dtype=dtype).uniform_(-bound, bound)
            self.register_parameter(name, nn.Parameter(drawn))

    @property
    def state_size(self) -> int:
        """K."""
        return self.rule.parts * self.width

    def forward(self, x: Tensor, starts: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(h of every step [T, S, H], the state after the last one [S, K]) for inputs x [T, S, I],
        starts [T, S] bool where the state is zeroed before the step, state [S, K].
        """
        keep = (~starts).to(x.dtype).unsqueeze(-1)
        drive = F.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        outputs = self.function.apply(
            drive, self.weight_hh_l0, self.bias_hh_l0, keep, *state.chunk(self.rule.parts, -1)
        )
        return outputs[0], torch.cat([states[-1] for states in outputs], -1)

    def step(self, x: Tensor, starts: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(h [S, H], the state [S, K]) after one step, for x [S, I], starts [S], state [S, K]; in
        torch's operators alone.
        """
        keep = (~starts).to(x.dtype).unsqueeze(-1)
        drive = F.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        after = self.rule.forward(
            drive.unsqueeze(0),
            self.weight_hh_l0,
            self.bias_hh_l0,
            keep.unsqueeze(0),
            *state.chunk(self.rule.parts, -1),
        )
        return after[0][0], torch.cat([states[0] for states in after], -1)

    def extra_repr(self) -> str:
        return f"{self.inputs}, {self.width}"


class GRU(RecurrentCell):
    """torch's GRU, of one layer."""

    rule, function = GruRule, _function(GruRule)


class LSTM(RecurrentCell):
    """torch's LSTM, of one layer."""

    rule, function = LstmRule, _function(LstmRule)


CELLS: dict[str, type[RecurrentCell]] = {"gru": GRU, "lstm": LSTM}
