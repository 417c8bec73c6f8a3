"""sb3's TRPO with its policy's step and its critic's fit by the CUDA kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sb3_contrib")

from cuda_support import DEVICE
from cuda_support import kernels as kernels
from sb3_cases import ACTIONS, fill, model, parameters
from sb3_contrib.trpo.trpo import TRPO as Sb3TRPO

from trpo_fast.integrations.sb3 import TRPO
from trpo_fast.learner.fits_cuda import CudaFit


class OnCuda(TRPO):
    backend = "cuda"


class OnReference(TRPO):
    backend = "reference"


def trained(kind: type, actions: str, batch_size: int) -> Any:
    """A model after two updates on the same rows."""
    options = {"policy_kwargs": {"net_arch": [16]}, "n_critic_updates": 2, "cg_max_steps": 5}
    made = model(kind, ACTIONS[actions], device=DEVICE, batch_size=batch_size, **options)
    for seed in range(2):
        fill(made, model(Sb3TRPO, ACTIONS[actions], **options))
        torch.manual_seed(seed)
        np.random.seed(seed)
        made.train()
    return made


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("actions, batch_size", [("box", 24), ("multidiscrete", 36)])
def test_train_is_the_reference_s(
    monkeypatch: pytest.MonkeyPatch, actions: str, batch_size: int
) -> None:
    used: list[str] = []
    adam = CudaFit.adam

    def counted(self: CudaFit, *given: Any) -> torch.Tensor:
        used.append("adam")
        return adam(self, *given)

    monkeypatch.setattr(CudaFit, "adam", counted)
    wanted = trained(OnReference, actions, batch_size)
    assert not used
    found = trained(OnCuda, actions, batch_size)
    assert len(used) == (4 if batch_size == 24 else 8)  # a whole epoch, or it and its rest
    for part in ("actor", "critic"):
        values = parameters(found, part), parameters(wanted, part)
        torch.testing.assert_close(*values, rtol=1e-4, atol=1e-5)
    logs = [made.logger.name_to_value for made in (found, wanted)]
    for key, value in logs[1].items():
        assert logs[0][key] == pytest.approx(value, rel=1e-3, abs=1e-5), key
