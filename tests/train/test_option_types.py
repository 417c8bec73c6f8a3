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
# Of torch, what annotations name: reading all of it takes half a minute.
SETTINGS = """
[mypy]
strict = True
follow_imports = silent
[mypy-numpy.*,gymnasium.*,safetensors.*,tyro.*,matplotlib.*,onnx.*,onnxscript.*,scipy.*,torch.*]
follow_imports = skip
[mypy-torch,torch._tensor,torch._C,torch._C._VariableFunctions,torch.nn,torch.nn.modules.*]
follow_imports = silent
[mypy-jax.*,stable_baselines3.*,sb3_contrib.*,envpool.*,tqdm.*,tensorboard.*,PIL.*]
follow_imports = skip
"""


@pytest.mark.slow
def test_a_type_checker_knows_the_options(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script, settings = tmp_path / "script.py", tmp_path / "mypy.ini"
    calls = [f"trpo_update(policy, batch, {mistake})" for mistake in MISTAKES]
    calls += ["trpo_update(batch, batch)", "rows: int = batch.obs"]
    sentences = [*MISTAKES.values(), 'incompatible type "Batch"', 'expression has type "Tensor"']
    script.write_text("\n".join([SCRIPT.strip(), *calls]) + "\n")
    settings.write_text(SETTINGS)
    command = [sys.executable, "-m", "mypy", f"--config-file={settings}", "--no-pretty"]
    command += [f"--cache-dir={tmp_path / 'cache'}", str(script)]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    errors = [line for line in result.stdout.splitlines() if ": error: " in line]
    assert len(errors) == len(sentences), result.stdout + result.stderr
    first = len(SCRIPT.strip().splitlines()) + 1
    for i, (error, sentence) in enumerate(zip(errors, sentences, strict=True)):
        assert f"script.py:{first + i}: " in error and sentence in error
