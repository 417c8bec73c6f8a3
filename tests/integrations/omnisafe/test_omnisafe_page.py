"""``docs/guides/omnisafe.md``: its lines give omnisafe's products and solutions."""

from __future__ import annotations

import importlib.util
from types import MethodType
from typing import Any

import pytest
import torch

if importlib.util.find_spec("omnisafe") is None:
    pytest.skip("could not find omnisafe", allow_module_level=True)

from omnisafe_cases import algorithm, conjugate_gradients, cpo, natural_pg, pcpo, trpo
from pages import BLOCK, DOCS

THEIRS = natural_pg.NaturalPG._fvp


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of the page's blocks; omnisafe is as it was afterwards."""
    monkeypatch.setattr(natural_pg.NaturalPG, "_fvp", THEIRS)
    for module in (natural_pg, trpo, cpo, pcpo):
        monkeypatch.setattr(module, "conjugate_gradients", conjugate_gradients)
    names: dict[str, Any] = {}
    for block in BLOCK.finditer((DOCS / "guides" / "omnisafe.md").read_text()):
        exec(block[1], names)
    return names


def vectors(made: Any, count: int) -> Any:
    size = sum(p.numel() for p in made._actor_critic.actor.parameters())
    return torch.randn(count, size, dtype=torch.float64)


def test_the_product_is_omnisafe_s(page: dict[str, Any]) -> None:
    made = algorithm()
    (v,) = vectors(made, 1)
    torch.testing.assert_close(made._fvp(v), THEIRS(made, v), rtol=1e-9, atol=1e-11)
    first = made._fisher
    made._fvp_obs = made._fvp_obs[::2]
    torch.testing.assert_close(made._fvp(v), THEIRS(made, v), rtol=1e-9, atol=1e-11)
    assert made._fisher is not first


def test_the_solution_is_theirs_without_their_epsilon(page: dict[str, Any]) -> None:
    made = algorithm()
    (g,) = vectors(made, 1)
    for module in (natural_pg, trpo, cpo, pcpo):
        found = module.conjugate_gradients(made._fvp, g, 10)
        wanted = conjugate_gradients(MethodType(THEIRS, made), g, 10, eps=0.0)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)


def test_two_systems_are_solved_at_once(page: dict[str, Any]) -> None:
    made = algorithm()
    pair = vectors(made, 2)
    both = page["solve_both"](made, *pair, 10)
    for found, right in zip(both, pair, strict=True):
        wanted = cpo.conjugate_gradients(made._fvp, right, 10)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)
