"""GAE(lambda) in one launch: the scan of ``advantage.gae``, affine maps composed on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends.cuda_launch import connected, current_stream, device_index, explained, place
from ..backends.cuda_machine import machine_support
from ..backends.native import readable
from ..backends.support import Support


def cuda_gae_support(rewards: Tensor) -> Support:
    """Whether the kernel estimates advantages from these rewards."""
    answer = machine_support()
    if answer and (rewards.device.type, rewards.dtype) != (place(), torch.float32):
        got = f"{rewards.dtype} on {rewards.device}"
        return Support(f"rewards: expected torch.float32 on a {place()} device, got {got}")
    return answer


def cuda_gae(
    rewards: Tensor, values: Tensor, following: Tensor, done: Tensor, *, gamma: float, lam: float
) -> Tensor:
    """Advantages [T, E] from [T, E] arguments on one device; nothing waits for it."""
    shape, device = rewards.shape, rewards.device
    inputs = [rewards, values, following, done]
    wanted = [torch.float32, torch.float32, torch.float32, torch.bool]
    got = [(t.shape, t.dtype, t.device) for t in inputs]
    if len(shape) != 2 or got != [(shape, dtype, device) for dtype in wanted]:
        raise ValueError(f"gae: expected float32 [T, E] and bool done on {device}, got {got}")
    rows = [readable(tensor) for tensor in inputs]
    with explained(device):
        advantages = torch.empty_like(rewards, memory_format=torch.contiguous_format)
        if not advantages.numel():
            return advantages
        connected().cuda_gae(
            rewards=rows[0].data_ptr(),
            values=rows[1].data_ptr(),
            following=rows[2].data_ptr(),
            done=rows[3].data_ptr(),
            advantages=advantages.data_ptr(),
            steps=shape[0],
            envs=shape[1],
            gamma=gamma,
            decay=gamma * lam,
            device=device_index(device),
            stream=current_stream(device),
        )
    return advantages
