"""The module for rl-baselines3-zoo's ``--gym-packages``."""

from __future__ import annotations

import importlib
import sys
import types

import pytest

pytest.importorskip("sb3_contrib")

from sb3_contrib.trpo.trpo import TRPO as Sb3TRPO

from trpo_fast.integrations.sb3 import TRPO

NAME = "trpo_fast.integrations.rl_zoo"


def test_importing_it_replaces_the_zoo_s_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a table of algorithms such as the zoo has."""
    zoo = types.ModuleType("rl_zoo3")
    zoo.ALGOS = {"trpo": Sb3TRPO, "ppo": object}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rl_zoo3", zoo)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    importlib.import_module(NAME)
    assert zoo.ALGOS["trpo"] is TRPO and zoo.ALGOS["ppo"] is object
    monkeypatch.delitem(sys.modules, NAME)


def test_without_the_zoo_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    with pytest.raises(ImportError, match=r"needs rl_zoo3"):
        importlib.import_module(NAME)
