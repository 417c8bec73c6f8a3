"""One thread for torch, since the tests are small and the machine may be shared; the emulated
kernels as the sources have them; Triton's interpreter where there is no device; names for what
pytest would number; and Ctrl-C as in a terminal.
"""

from __future__ import annotations

import os
import signal

import pytest
import torch
from emulation import build

from trpo_fast._base import extension

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read once, when Triton is first imported


def pytest_sessionstart(session):
    """TRPO_FAST_EMULATE=1 finds the library where ``make emulation`` leaves it. With a device
    nothing is emulated.
    """
    native = None if torch.cuda.is_available() else extension.module()
    if native is not None and "cuda" in native.families and build.available():
        build.build("library")  # a moment where nothing has changed


def pytest_make_parametrize_id(config, val, argname):
    """64x64 for widths and shapes, fvp_rows=20 for settings; pytest names the rest."""
    plain = (str, int, float, bool, tuple, type(None))
    if isinstance(val, tuple) and all(type(each) is int for each in val):
        return "x".join(map(str, val)) or "none"
    if isinstance(val, tuple) and all(isinstance(each, int | float) for each in val):
        return ",".join(map(str, val))
    if isinstance(val, dict) and all(isinstance(each, plain) for each in val.values()):
        return ",".join(f"{name}={each}" for name, each in val.items()) or "defaults"
    return None


@pytest.fixture(autouse=True)
def python_handles_ctrl_c():
    """As in a terminal: a shell's background jobs inherit an ignored SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)
