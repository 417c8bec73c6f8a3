"""A plugin of pytest: ``sb3_contrib.TRPO`` is the class of this package before tests are read."""

from __future__ import annotations

from typing import Any

import pytest
import sb3_contrib

from trpo_fast.integrations.sb3 import TRPO
from trpo_fast.integrations.sb3 import trpo as module

sb3_contrib.TRPO = TRPO
_step, _taken = module.policy_step, []


def _counted(*given: Any) -> Any:
    _taken.append(1)
    return _step(*given)


module.policy_step = _counted


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"fused updates: {len(_taken)}")
