"""sb3-contrib's own tests of TRPO, run with the class of this package in the place of theirs.

``make sb3-contrib`` fetches them, as they come with its source distribution only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from limits import HANGS

pytest.importorskip("sb3_contrib")

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "build" / "sb3-contrib" / f"sb3_contrib-{metadata.version('sb3-contrib')}"
# File -> the tests of TRPO in it; those over several classes are chosen by their parameter.
SUITE = {
    "test_run.py": "test_trpo or TRPO",
    "test_save_load.py": "TRPO",
    "test_cnn.py": "TRPO",
    "test_dict_env.py": "TRPO",
    "test_identity.py": "TRPO",
    "test_utils.py": "test_trpo_warnings",
}
needs_sources = pytest.mark.skipif(
    not (SOURCES / "tests").is_dir(), reason=f"no {SOURCES}; make sb3-contrib fetches it"
)


@needs_sources
@pytest.mark.slow
@pytest.mark.parametrize("file", SUITE)
def test_their_tests_pass_with_this_class(file: str) -> None:
    paths = (ROOT, ROOT / "tests" / "support")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "sb3_drop_in", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"tests/{file}", "-k", SUITE[file]],
        cwd=SOURCES,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=HANGS,
    )
    said = re.search(r"fused updates: (\d+)\n", done.stdout)
    assert done.returncode == 0 and " passed" in done.stdout and said, done.stdout[-5000:]
    trains = file != "test_utils.py"  # which looks at a constructor's warnings
    assert (int(said[1]) > 0) is trains
