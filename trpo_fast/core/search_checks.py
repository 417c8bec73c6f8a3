"""Checks of what a step is found with: conjugate gradient and the line search."""

from __future__ import annotations

from typing import Any

from .checks import UPDATE
from .problem import CgConfig, UpdateConfig

# The settings of CG, and their names in CgConfig.
CG = {
    "cg_iterations": "iterations",
    "cg_tol": "tol",
    "cg_gain_tol": "gain_tol",
    "preconditioner": "preconditioner",
    "factor_fraction": "fraction",
}


def check_search(**search: Any) -> UpdateConfig:
    """A trust-region step with its line search, from the settings of these names."""
    solving = {name: search.pop(name) for name in CG if name in search}
    checked = {name: UPDATE[name].check(value) for name, value in search.items()}
    return UpdateConfig(cg=check_cg(**solving), **checked)


def check_cg(**solving: Any) -> CgConfig:
    """How to solve, from the settings of these names; a preconditioner may be a callable, too."""
    checked = {}
    for name, value in solving.items():
        check = checked_preconditioner if name == "preconditioner" else UPDATE[name].check
        checked[CG[name]] = check(value)
    return CgConfig(**checked)


def checked_preconditioner(value: Any) -> Any:
    """A preconditioner's name, a callable, or None."""
    return value if callable(value) else UPDATE["preconditioner"].check(value)


def check_solve(
    iterations: Any, tol: Any, gain_tol: Any, preconditioner: Any, fraction: Any
) -> CgConfig:
    """How to solve, from the arguments of ``FisherOperator.solve``."""
    return CgConfig(
        UPDATE["cg_iterations"].check(iterations, "iterations"),
        UPDATE["cg_tol"].check(tol, "tol"),
        UPDATE["cg_gain_tol"].check(gain_tol, "gain_tol"),
        checked_preconditioner(preconditioner),
        UPDATE["factor_fraction"].check(fraction),
    )
