"""One thread for torch, since the tests are small and the machine may be shared; the emulated
kernels as the sources have them; and Ctrl-C as in a terminal.
"""

from __future__ import annotations

import signal

import pytest
import torch
from emulation import build

from trpo_fast._base import extension


def pytest_sessionstart(session):
    """TRPO_FAST_EMULATE=1 finds the library where ``make emulation`` leaves it."""
    native = extension.module()
    if native is not None and "cuda" in native.families and build.available():
        build.build("library")  # a moment where nothing has changed


@pytest.fixture(autouse=True)
def python_handles_ctrl_c():
    """As in a terminal: a shell's background jobs inherit an ignored SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)
