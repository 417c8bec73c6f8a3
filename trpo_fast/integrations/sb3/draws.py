"""The generators that sb3's ``train()`` draws from, to begin it anew."""

from __future__ import annotations

import numpy as np
import torch


class Generators:
    """The states of NumPy's global generator and of torch's on the CPU and a device."""

    def __init__(self, device: torch.device) -> None:
        self._numpy = np.random.get_state()
        self._torch = torch.get_rng_state()
        self._device = device
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Put them back."""
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)
