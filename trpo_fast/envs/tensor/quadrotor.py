"""A quadrotor as a batch of tensors: a rigid body with four rotors that flies to the origin and
hovers there.

State (p, v, q, w): position and velocity in the world, attitude as a unit quaternion (real part
first) that turns body into world, angular velocity in the body. Actions [E, 4] in [-1, 1] are the
rotors' thrusts f_k = (1 + a_k) m g / 4; rotors stand on the axes +x, +y, -x, -y of the body and
push along its z.

    p' = v                     v' = R(q) e3 sum(f) / m - g e3 - DRAG v / m
    q' = q (0, w) / 2          J w' = tau - w x J w
    tau = (ARM (f_2 - f_4), ARM (f_3 - f_1), TURN (f_1 - f_2 + f_3 - f_4))

One Runge-Kutta step of order 4 a step, thrusts constant, then q is scaled back to length 1. The
reward of a step is that of the state it leads to:

    exp(-|p|) + 0.2 (R e3).e3 - 0.01 |w|^2 - 0.01 |a|^2
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import TensorEnv, box, columns, unbounded

MASS, GRAVITY, DRAG, ARM, TURN = 0.5, 9.81, 0.1, 0.17, 0.016
INERTIA = (3.2e-3, 3.2e-3, 5.5e-3)  # J is diagonal
DT = 0.02
MAX_DISTANCE, MAX_SPIN = 3.0, 20.0  # an episode ends beyond these


def rates(state: list[Tensor], thrust: Tensor, torque: tuple[Tensor, ...]) -> list[Tensor]:
    """Time derivative of the 13 columns [E] of the state."""
    vx, vy, vz, qw, qx, qy, qz, wx, wy, wz = state[3:]
    lift, drag = thrust / MASS, DRAG / MASS
    jx, jy, jz = INERTIA
    return [
        vx,
        vy,
        vz,
        lift * (2.0 * (qx * qz + qw * qy)) - drag * vx,
        lift * (2.0 * (qy * qz - qw * qx)) - drag * vy,
        lift * (qw * qw - qx * qx - qy * qy + qz * qz) - drag * vz - GRAVITY,
        0.5 * (-qx * wx - qy * wy - qz * wz),
        0.5 * (qw * wx + qy * wz - qz * wy),
        0.5 * (qw * wy + qz * wx - qx * wz),
        0.5 * (qw * wz + qx * wy - qy * wx),
        (torque[0] + (jy - jz) * wy * wz) / jx,
        (torque[1] + (jz - jx) * wz * wx) / jy,
        (torque[2] + (jx - jy) * wx * wy) / jz,
    ]


class Quadrotor(TensorEnv):
    """Fly to the origin and hover: about 1.2 a step there; ends too far out, or spinning."""

    state_size = 13
    max_episode_steps = 300

    @property
    def single_observation_space(self) -> Any:
        return unbounded(18)

    @property
    def single_action_space(self) -> Any:
        return box(-1.0, 1.0, 4)

    def initial(self, count: int) -> Tensor:
        """Start states [count, 13] within a metre of the origin on each axis, moving and tilted a
        little.
        """
        unit = self.uniform(count, -1.0, 1.0, 12).unbind(1)
        place, rest = unit[:3], [0.3 * column for column in unit[3:]]
        attitude = torch.stack([torch.ones_like(unit[0]), *rest[3:6]])
        attitude = attitude / attitude.square().sum(0).sqrt()
        return columns(*place, *rest[:3], *attitude, *rest[6:])

    def dynamics(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        given = actions.to(state.dtype).clamp(-1.0, 1.0)
        f1, f2, f3, f4 = ((1.0 + given) * (MASS * GRAVITY / 4.0)).unbind(1)
        thrust = f1 + f2 + f3 + f4
        torque = ARM * (f2 - f4), ARM * (f3 - f1), TURN * (f1 - f2 + f3 - f4)
        new = _runge_kutta(list(state.unbind(1)), thrust, torque)
        px, py, pz, _, _, _, qw, qx, qy, qz, wx, wy, wz = new
        length = (qw * qw + qx * qx + qy * qy + qz * qz).sqrt()
        new[6:10] = [part / length for part in (qw, qx, qy, qz)]
        distance = (px * px + py * py + pz * pz).sqrt()
        spin = wx * wx + wy * wy + wz * wz
        upright = 1.0 - 2.0 * (new[7].square() + new[8].square())
        effort = given.square().sum(1)
        rewards = torch.exp(-distance) + 0.2 * upright - 0.01 * spin - 0.01 * effort
        terminated = (distance > MAX_DISTANCE) | (spin > MAX_SPIN**2)
        return columns(*new), rewards, terminated

    def observe(self, state: Tensor) -> Tensor:
        """(p, v, rows of R(q), w / 5) [E, 18] of states [E, 13]: an attitude has two quaternions,
        but one matrix.
        """
        px, py, pz, vx, vy, vz, qw, qx, qy, qz, wx, wy, wz = state.unbind(1)
        matrix = (
            1.0 - 2.0 * (qy * qy + qz * qz),
            2.0 * (qx * qy - qw * qz),
            2.0 * (qx * qz + qw * qy),
            2.0 * (qx * qy + qw * qz),
            1.0 - 2.0 * (qx * qx + qz * qz),
            2.0 * (qy * qz - qw * qx),
            2.0 * (qx * qz - qw * qy),
            2.0 * (qy * qz + qw * qx),
            1.0 - 2.0 * (qx * qx + qy * qy),
        )
        return columns(px, py, pz, vx, vy, vz, *matrix, 0.2 * wx, 0.2 * wy, 0.2 * wz)


def _runge_kutta(state: list[Tensor], thrust: Tensor, torque: tuple[Tensor, ...]) -> list[Tensor]:
    """The state one step of DT later."""

    def ahead(slope: list[Tensor], share: float) -> list[Tensor]:
        return [s + share * DT * k for s, k in zip(state, slope, strict=True)]

    k1 = rates(state, thrust, torque)
    k2 = rates(ahead(k1, 0.5), thrust, torque)
    k3 = rates(ahead(k2, 0.5), thrust, torque)
    k4 = rates(ahead(k3, 1.0), thrust, torque)
    return [
        s + DT / 6.0 * (a + 2.0 * b + 2.0 * c + d)
        for s, a, b, c, d in zip(state, k1, k2, k3, k4, strict=True)
    ]
