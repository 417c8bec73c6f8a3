"""The subcommand export of ``trpo-fast``: a run's policy as a file, with a model card."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import tyro

from .._base.arguments import fail
from .._base.command_checks import check_size
from ..train.evaluate import evaluate
from ..train.export import export as export_agent
from ..train.export_formats import FORMATS
from ..train.trainer import TRPO
from . import flags
from .failures import UsageError
from .runs import checkpoint_of


@dataclass
class ExportOptions:
    """Write the policy of RUN, a run's directory or a checkpoint file, to FILE, a program for
    torch (.pt2) or, with the extra "export", for ONNX (.onnx).
    """

    single: bool = False
    """for one observation in place of a batch"""
    card: str | None = None
    """write a model card of this name beside it, such as README.md"""
    episodes: int = 10
    """that the card's return is the mean of"""
    seed: int = 10_000
    """of the first episode"""
    trust_env: bool = False
    """import the module of a "module:Id" that the checkpoint names, take all options of its env"""


def export(argv: list[str]) -> int:
    """``trpo-fast export RUN FILE [--single] [--card README.md]``"""
    usage = "trpo-fast export RUN FILE"
    words, found = flags.split(argv, ExportOptions)
    options = tyro.cli(ExportOptions, args=words, prog=usage)
    if len(found) != 2:
        got = " ".join(found) or "nothing"
        wanted = f"a run and a file that ends in {' or '.join(FORMATS)}"
        raise UsageError(f"RUN FILE: expected {wanted}, as in {usage}, got {got}")
    check_size("episodes", options.episodes)
    check_size("seed", options.seed, least=0)
    path = Path(found[1])
    if path.suffix not in FORMATS:
        raise fail("FILE", f"an ending of {' or '.join(FORMATS)}", path.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that training episodes start anew does not matter here
        agent = TRPO.load(checkpoint_of(found[:1], usage), trust_env=options.trust_env)
    played = None
    if options.card is not None:
        played = evaluate(agent, options.episodes, seed=options.seed)
        print(played, file=sys.stderr)
    export_agent(agent, path, single=options.single, card=options.card, evaluation=played)
    print(path)
    agent.close()
    return 0
