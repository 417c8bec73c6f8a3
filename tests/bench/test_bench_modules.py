"""The benchmark of modules of one's own: what its contenders compute, and its table."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from trpo_fast.backends.registry import registry

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("modules")


def test_every_contender_solves_the_same_system(modules, tmp_path, monkeypatch):
    path = tmp_path / "machine" / "modules.json"
    words = ["run", "--case", "11-64-64-3", "gru_cell", "--rows", "32", "--seconds", "0"]
    modules.main([*words, "--threads", "1", "--json", str(path)])
    net, cell = json.loads(path.read_text())["rows"]
    assert all(error < 1e-4 for row in (net, cell) for error in row["rel_err"].values())
    assert set(net["median_us"]) == set(modules.NAMES)
    kernels = bool(registry()["cpu"].machine_support())
    assert (net["backend"], cell["backend"]) == ("cpu" if kernels else "reference", "reference")
    monkeypatch.setattr(modules, "RESULTS", tmp_path)
    assert "| 11-64-64-3 | 32 | 5126 |" in modules.table()


def test_the_page_has_the_table(modules):
    if not modules.RESULTS.exists():
        pytest.skip("recorded results need a checkout")
    page = modules.README.read_text()
    assert modules.fill(page, "modules", modules.table()) == page
