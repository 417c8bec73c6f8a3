"""The words that settings and arguments take, each list stated once; ``get_args`` reads one."""

from __future__ import annotations

from typing import Literal

Activation = Literal["tanh", "relu", "elu", "silu", "gelu", "identity"]  # of csrc/shared/params.h
Std = Literal["free", "state"]
ActionMode = Literal["clip", "scale", "squash", "beta"]
RecurrentKind = Literal["gru", "lstm"]
PolicyKind = Literal["auto", "mlp", "cnn", RecurrentKind]

Backend = Literal["auto", "cpu", "cuda", "reference", "autograd"]
# How Fisher-vector products are computed. Every backend has fp32; the others split each float32
# into 16-bit numbers for AMX tiles or tensor cores (bf16x3: errors near 4e-6; bf16x6 and fp16x3:
# those of fp32), or round it to tf32 (errors near 3e-4).
Precision = Literal["fp32", "bf16x3", "bf16x6", "fp16x3", "tf32"]

Algorithm = Literal["trpo", "npg", "pg", "kl-penalty", "rat"]
KlReduction = Literal["sum", "mean"]
KlDirection = Literal["forward", "reverse"]
PreconditionerKind = Literal["kfac"]
Constraint = Literal["mean", "max"]
FisherKind = Literal["analytic", "empirical"]
KlRule = Literal["fixed", "gain"]
PenaltyRule = Literal["fixed", "adaptive", "dual"]
PenaltyInner = Literal["natural", "adam"]
CriticMethod = Literal["adam", "gauss_newton"]

AdvantageEstimator = Literal["gae", "returns", "n_step"]

HostEngine = Literal["sync", "workers", "async", "envpool"]
Engine = Literal[HostEngine, "tensor"]
Sampling = Literal["path", "vine"]
VineActions = Literal["policy", "uniform"]
