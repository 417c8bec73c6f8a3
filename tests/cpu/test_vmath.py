"""csrc/cpu/kernels/vmath.h against float64, for each instruction set of this CPU and each length of
a vector.

The sweep takes every 4001st float of all there are (denormals, infinities and NaN among them) and a
dense grid where the activations live.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

special = pytest.importorskip("scipy.special")

ROOT = Path(__file__).resolve().parents[2]
CXX = shlex.split(os.environ.get("CXX", "")) or ["g++"]
FLAGS = "-std=c++20 -O2 -fPIC -shared -fno-math-errno -fno-trapping-math -ffp-contract=fast".split()
# name -> vector length, flags (those of setup.py), CPU features in /proc/cpuinfo
BUILDS: dict[str, tuple[int, list[str], str]] = {
    "one": (1, [], ""),
    "base": (4, [], ""),
    "avx2": (8, ["-march=x86-64-v3"], "avx2"),
    "avx512": (16, ["-march=x86-64-v4", "-mprefer-vector-width=512"], "avx512vl"),
}
Function = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]

pytestmark = pytest.mark.skipif(shutil.which(CXX[0]) is None, reason=f"no compiler {CXX[0]}")


@pytest.fixture(scope="module", params=BUILDS)
def load(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Function]:
    width, flags, feature = BUILDS[request.param]
    if feature not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"this CPU has no {feature}")
    built = tmp_path_factory.mktemp("vmath") / "vmath.so"
    command = [*CXX, *FLAGS, *flags, f"-DW={width}", f"-I{ROOT}/csrc"]
    source = ROOT / "tests/native/vmath_driver.cpp"
    subprocess.run([*command, str(source), "-o", str(built)], check=True)
    weak = subprocess.run(["nm", "-C", str(built)], capture_output=True, text=True).stdout
    assert " W trpo_fast" not in weak and " V trpo_fast" not in weak
    library = ctypes.CDLL(str(built))

    def named(name: str) -> Function:
        entry = getattr(library, name + "_")
        entry.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_long]

        def call(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            value, slope = np.empty_like(x), np.empty_like(x)
            entry(x.ctypes.data, value.ctypes.data, slope.ctypes.data, x.size)
            return value, slope

        return call

    return named


@pytest.fixture(scope="module")
def sweep() -> NDArray[np.float32]:
    every = np.arange(0, 2**32, 4001, dtype=np.uint32).view(np.float32)
    grids = [np.linspace(-r, r, 60_000, dtype=np.float32) for r in (1, 20, 110)]
    edges = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, -1.0], np.float32)
    x = np.concatenate([every, *grids, edges])
    return np.concatenate([x, np.zeros(-x.size % 16, np.float32)])


def elu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(x > 0, x, np.expm1(x))


VALUES: dict[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float, float]] = {
    # name -> float64 twin, bound in units in the last place, absolute floor of the tail
    "exp": (np.exp, 1.0, 0.0),
    "expm1": (np.expm1, 1.5, 0.0),
    "log": (np.log, 1.0, 0.0),
    "log1p": (np.log1p, 1.5, 0.0),
    "sigmoid": (special.expit, 2.5, 0.0),
    "normal_cdf": (special.ndtr, 7.0, 1e-43),
    "tanh": (np.tanh, 2.5, 0.0),
    "relu": (lambda x: np.where(x < 0, 0, x), 0.0, 0.0),
    "elu": (elu, 1.5, 0.0),
    "silu": (lambda x: x * special.expit(x), 3.5, 1e-43),
    "gelu": (lambda x: x * special.ndtr(x), 8.0, 1e-43),
    "identity": (lambda x: x, 0.0, 0.0),
}
SLOPES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "tanh": lambda x: 1 / np.cosh(np.clip(x, -50, 50)) ** 2,
    "relu": lambda x: 1.0 * (x > 0),
    "elu": lambda x: np.where(x > 0, 1, np.exp(np.minimum(x, 0))),
    "silu": lambda x: special.expit(x) * (1 + x * special.expit(-x)),
    "gelu": lambda x: special.ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi),
    "identity": np.ones_like,
}


def ulp_error(value: NDArray[np.float32], want: NDArray[np.float64]) -> NDArray[np.float64]:
    """|value - want| in float32 units in the last place of want; 0 where both are the same limit,
    infinite where only one of them is."""
    rounded = want.astype(np.float32)
    same = (value == rounded) | (np.isnan(value) & np.isnan(rounded))
    size = np.exp2(np.floor(np.log2(np.maximum(np.abs(want), 2.0**-126))) - 23)
    error = np.abs(value.astype(np.float64) - want) / size
    return np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", VALUES)
def test_values(load: Callable[[str], Function], sweep: NDArray[np.float32], name: str) -> None:
    twin, bound, floor = VALUES[name]
    value, _ = load(name)(sweep)
    want = twin(sweep.astype(np.float64))
    error = ulp_error(value, want)
    error[np.abs(value - want) <= floor] = 0.0
    worst = int(error.argmax())
    print(f"{name}: {error[worst]:.2f} ulp at {sweep[worst]!r}")
    assert error[worst] <= bound


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", SLOPES)
def test_slopes(load: Callable[[str], Function], sweep: NDArray[np.float32], name: str) -> None:
    x = sweep[np.isfinite(sweep)]
    x = x[: x.size // 16 * 16]
    _, slope = load(name)(x)
    error = np.abs(slope - SLOPES[name](x.astype(np.float64)))
    print(f"{name}': {error.max():.2e} at {x[error.argmax()]!r}")
    assert error.max() <= 2.5e-7


@pytest.mark.parametrize("name", ["tanh", "elu", "silu", "gelu"])
def test_slope_keeps_nan(load: Callable[[str], Function], name: str) -> None:
    assert np.isnan(load(name)(np.full(16, np.nan, np.float32))[1]).all()
