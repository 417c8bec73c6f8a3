"""csrc/shared/special.h against scipy: log Gamma and its derivatives from 1 upwards."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

special = pytest.importorskip("scipy.special")

ROOT = Path(__file__).resolve().parents[2]
CXX = shlex.split(os.environ.get("CXX", "")) or ["g++"]
WANTED = {
    "log_gamma": special.gammaln,
    "digamma": special.digamma,
    "trigamma": lambda x: special.polygamma(1, x),
}

pytestmark = pytest.mark.skipif(shutil.which(CXX[0]) is None, reason=f"no compiler {CXX[0]}")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    built = tmp_path_factory.mktemp("special") / "special.so"
    command = [*CXX, *"-std=c++20 -O2 -fPIC -shared".split(), f"-I{ROOT}/csrc", "-o", str(built)]
    subprocess.run([*command, str(ROOT / "tests/native/special_driver.cpp")], check=True)
    return ctypes.CDLL(str(built))


@pytest.mark.parametrize("name", WANTED)
def test_equals_scipy(library: ctypes.CDLL, name: str) -> None:
    x = np.concatenate([np.linspace(1.0, 20.0, 20_001), np.geomspace(1.0, 1e12, 5_000)])
    y = np.empty_like(x)
    entry = getattr(library, name + "_")
    entry.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_long]
    entry(x.ctypes.data, y.ctypes.data, x.size)
    # All but trigamma have zeros in between, where a relative error says nothing.
    np.testing.assert_allclose(
        y, WANTED[name](x), rtol=1e-11, atol=0 if name == "trigamma" else 1e-12
    )
