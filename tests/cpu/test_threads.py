"""The CPU core's thread pool, through a C++ driver compiled plain and with ThreadSanitizer."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "tests/native/threads_driver.cpp", ROOT / "csrc/cpu/runtime/threads.cpp"]
CXX = shlex.split(os.environ.get("CXX", "")) or ["g++"]
FLAGS = {"plain": ["-O2"], "tsan": ["-O1", "-g", "-fsanitize=thread"]}

pytestmark = pytest.mark.skipif(shutil.which(CXX[0]) is None, reason=f"no compiler {CXX[0]}")


@pytest.fixture(scope="module", params=FLAGS)
def driver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    program = tmp_path_factory.mktemp("threads") / request.param
    command = [*CXX, "-std=c++20", *FLAGS[request.param], f"-I{ROOT}/csrc", "-pthread"]
    subprocess.run([*command, *map(str, SOURCES), "-o", str(program)], check=True)
    return [str(program)]


def run(command: list[str]) -> str:
    # TSan follows the child of a fork only if told so, and aborts where it cannot map its shadow.
    environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1:die_after_fork=0"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    return result.stdout.strip() + result.stderr.strip()[-4000:]


@pytest.mark.parametrize(
    "scenario", ["phases", "many_lanes", "callers", "nested", "throwing_body", "pauses", "crowded"]
)
def test_scenario(driver: list[str], scenario: str) -> None:
    assert run([*driver, scenario]) == "ok"


def test_fork(driver: list[str]) -> None:
    if driver[0].endswith("tsan"):
        pytest.skip("ThreadSanitizer does not support threads in a forked child")
    assert run([*driver, "forks"]) == "ok"


def test_tsan_sees_a_race(tmp_path: Path) -> None:
    """The sanitizer works here: it must report a lane that writes what another lane writes."""
    source = tmp_path / "race.cpp"
    source.write_text(
        '#include "cpu/runtime/threads.h"\n#include <unistd.h>\nint shared = 0;\nint main() {\n'
        "  auto lane = [](void*, int64_t, int) { ++shared; usleep(200); };\n"
        "  trpo_fast::cpu::parallel_lanes(3, 300, lane, nullptr);\n}\n"
    )
    program = tmp_path / "race"
    command = [*CXX, "-std=c++20", *FLAGS["tsan"], f"-I{ROOT}/csrc", "-pthread"]
    command += [str(source), str(SOURCES[1]), "-o", str(program)]
    subprocess.run(command, check=True)
    assert "data race" in run([str(program)])
