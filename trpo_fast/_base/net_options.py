"""The options of policies and critics, their nets and how a critic is fitted: type, range, default
and description of each, stated here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typing_extensions import Doc

from .choices import (
    ActionMode,
    Activation,
    CriticMethod,
    CriticSchedule,
    PolicyKind,
    PreconditionerKind,
    Std,
)
from .options import COUNT, LONG
from .settings import Above, AtLeast, AtMost, OfPolicies

WITH_MEMORY = OfPolicies(("gru", "lstm"))
WITH_IMAGES = OfPolicies(("cnn",))


@dataclass
class PolicySettings:
    """The policy's net and the distribution of its actions."""

    policy: Annotated[
        PolicyKind,
        Doc(
            "layers on flat observations (mlp), or convolutions for images before them (cnn), or a "
            "cell that remembers (gru, lstm), which the critic has too; "
            "auto: cnn where there is an image. With cnn, hidden and critic_hidden are (512,) and "
            "the activation is relu unless chosen"
        ),
    ] = "auto"
    hidden: Annotated[tuple[int, ...], Doc("widths of the policy's hidden layers")] = (64, 64)
    activation: Annotated[Activation, Doc("between the layers of policy and critic")] = "tanh"
    std: Annotated[
        Std,
        Doc("standard deviation of continuous actions: a free parameter, or an output of the net"),
    ] = "free"
    cell_width: Annotated[
        int,
        AtLeast(1),
        COUNT,
        WITH_MEMORY,
        Doc("gru, lstm: width of the cell, of policy and critic"),
    ] = 64
    encoder: Annotated[
        tuple[int, ...], WITH_MEMORY, Doc("gru, lstm: widths of layers before the cell")
    ] = ()
    initial_log_std: Annotated[
        float,
        AtLeast(-20.0),
        AtMost(20.0),
        Doc("logarithm of the standard deviation that training begins with"),
    ] = 0.0
    action_mode: Annotated[
        ActionMode,
        Doc(
            "continuous actions: clip to the box; clip to [-1, 1] and scale to it; tanh and "
            "scale; or a Beta distribution over the box"
        ),
    ] = "scale"
    cnn_channels: Annotated[
        tuple[int, ...], WITH_IMAGES, Doc("cnn: channels of each convolution, of policy and critic")
    ] = (32, 64, 64)
    cnn_kernels: Annotated[tuple[int, ...], WITH_IMAGES, Doc("cnn: width of each kernel")] = (
        8,
        4,
        3,
    )
    cnn_strides: Annotated[tuple[int, ...], WITH_IMAGES, Doc("cnn: step of each kernel")] = (
        4,
        2,
        1,
    )


@dataclass
class CriticSettings:
    """The critic's net, and how it is fitted to the returns of every rollout."""

    critic: Annotated[
        CriticMethod, Doc("fit by Adam over minibatches, or by Gauss-Newton over all rows")
    ] = "adam"
    critic_hidden: Annotated[tuple[int, ...], Doc("widths of the critic's hidden layers")] = (
        64,
        64,
    )
    critic_learning_rate: Annotated[float, Above(0.0), Doc("adam: the rate of its steps")] = 4e-3
    critic_schedule: Annotated[
        CriticSchedule,
        Doc("adam: the rate stays, or goes to zero in a line or half a cosine"),
    ] = "constant"
    critic_schedule_steps: Annotated[
        int, AtLeast(1), LONG, Doc("environment steps at which a rate that falls has reached zero")
    ] = 1_000_000
    critic_epochs: Annotated[
        int, AtLeast(1), COUNT, Doc("adam: passes over the rows per update")
    ] = 10
    critic_minibatch: Annotated[int, AtLeast(1), COUNT, Doc("adam: rows of one step")] = 1024
    critic_rows: Annotated[
        float,
        Above(0.0),
        AtMost(1.0),
        Doc("share of the rows that the critic is fitted to, drawn anew for every update"),
    ] = 1.0
    critic_steps: Annotated[
        int, AtLeast(1), COUNT, Doc("gauss_newton: second-order steps per update")
    ] = 3
    critic_cg_iterations: Annotated[
        int,
        AtLeast(1),
        COUNT,
        Doc("gauss_newton: iterations of conjugate gradient in each, at most"),
    ] = 10
    critic_damping: Annotated[
        float, AtLeast(0.0), Doc("gauss_newton: multiple of the identity added to the curvature")
    ] = 0.01
    critic_fraction: Annotated[
        float,
        Above(0.0),
        AtMost(1.0),
        Doc("gauss_newton: share of the rows that curvature uses"),
    ] = 0.2
    critic_preconditioner: Annotated[
        PreconditionerKind | None,
        Doc("gauss_newton: conjugate gradient with K-FAC's factors"),
    ] = None
