"""The options of the updates as a type checker sees them in a user's script."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import torch
from trpo_fast import Batch, FisherOperator, Gaussian, MLPPolicy, Penalty
from trpo_fast import kl_penalty_update, npg_update, pg_update, trpo_update

policy = MLPPolicy(obs_dim=3, head=Gaussian(1))
batch = Batch(torch.randn(8, 3))
reason: str = trpo_update(policy, batch, max_kl=0.02, kl_direction="reverse", chunk_rows=4).reason
npg_update(policy, batch, fisher="empirical", fvp_rows=4)
kl_penalty_update(policy, batch, Penalty(rule="dual"), inner="adam", precision="bf16x3")
pg_update(policy, batch, backend="reference", deterministic=False)
FisherOperator(policy, batch.obs, kl_reduction="mean")
"""
MISTAKES = {
    'kl_direction="backward"': "expected \"Literal['forward', 'reverse']\"",
    'precision="tf32"': "expected \"Literal['fp32', 'bf16x3', 'bf16x6', 'fp16x3']\"",
    "chunk_rows=1.5": 'incompatible type "float"; expected "int | None"',
    "dampening=0.1": 'Unexpected keyword argument "dampening"',
    'backend="gpu"': "expected \"Literal['auto', 'cpu', 'cuda', 'reference', 'autograd']\"",
}


@pytest.mark.slow
def test_a_type_checker_knows_the_options(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    calls = [f"trpo_update(policy, batch, {mistake})" for mistake in MISTAKES]
    script.write_text("\n".join([SCRIPT.strip(), *calls]) + "\n")
    cache = ROOT / ".mypy_cache" / "strict"  # torch takes a minute to read
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-pretty"]
    command += ["--follow-imports=silent", f"--cache-dir={cache}", str(script)]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    errors = [line for line in result.stdout.splitlines() if ": error: " in line]
    assert len(errors) == len(MISTAKES), result.stdout + result.stderr
    first = len(SCRIPT.strip().splitlines()) + 1
    for i, (error, sentence) in enumerate(zip(errors, MISTAKES.values(), strict=True)):
        assert f"script.py:{first + i}: " in error and sentence in error
