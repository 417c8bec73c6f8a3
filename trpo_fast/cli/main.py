"""The command `trpo-fast`: finds the module that serves a subcommand and hands it the arguments.

A subcommand is one line of COMMANDS: "module:function", the extra it needs, and a line of help.
The function has the signature `function(argv: list[str]) -> int`: it parses argv itself (so its
module is free to use argparse or tyro, and `trpo-fast NAME --help` is its own), and returns the
exit status. Modules are imported when their subcommand is called and not before; an import that
fails for a package of the extra ends in the line that installs it.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

from .._version import __version__
from .failures import UsageError, guarded


@dataclass(frozen=True)
class Command:
    """Where a subcommand lives: target "module:function", and the extra that installs its needs."""

    target: str
    help: str
    extra: str | None = None


COMMANDS = {
    "train": Command("trpo_fast.cli.commands:train", "train a policy on an environment", "train"),
    "eval": Command(
        "trpo_fast.cli.commands:evaluate", "play episodes with a trained policy", "train"
    ),
    "resume": Command(
        "trpo_fast.cli.commands:resume", "go on with a run that ended early", "train"
    ),
    "export": Command(
        "trpo_fast.cli.export:export", "write a policy as a program, with a model card", "train"
    ),
    "tune": Command(
        "trpo_fast.cli.tune:tune", "search for settings that suit an environment", "tune"
    ),
    "plot": Command("trpo_fast.cli.commands:plot", "draw the learning curves of runs", "train"),
    "bench": Command("trpo_fast.bench.cli:main", "time the kernels against other libraries"),
    "doctor": Command("trpo_fast.cli.doctor:main", "say what works on this machine, and why not"),
}

HELP = """usage: trpo-fast COMMAND [ARGUMENTS]

Reinforcement learning by TRPO (trust region policy optimisation).

commands:
{commands}

for example:
  trpo-fast train CartPole-v1 --steps 100000 --out runs/cartpole
  trpo-fast eval runs/cartpole                     how well it plays now
  trpo-fast plot runs/cartpole --out curves.png    how it learned
  trpo-fast train --help                           every setting and its default

trpo-fast COMMAND --help shows the arguments of a command.
"""


class CommandUnavailable(ImportError):
    """The subcommand exists but cannot be served by this installation."""


def usage() -> str:
    """The help text."""
    lines = [f"  {name:<8}{command.help}" for name, command in COMMANDS.items()]
    return HELP.format(commands="\n".join(lines)).rstrip()


def find(name: str) -> Callable[[list[str]], int]:
    """The function that serves subcommand `name`."""
    command = COMMANDS[name]
    module, function = command.target.split(":")
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if missing.partition(".")[0] == "trpo_fast":
            text = f"{name}: {missing} is not part of this installation"
        elif command.extra:
            text = f'{name} needs {missing}: pip install "trpo-fast[{command.extra}]"'
        else:
            text = f"{name} needs {missing}: pip install {missing}"
        raise CommandUnavailable(text) from error


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit status; what fails ends in a sentence."""
    return guarded(lambda: run(sys.argv[1:] if argv is None else argv))


def run(arguments: list[str]) -> int:
    """Run one subcommand; what fails raises."""
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if name == "--version":
        print(f"trpo-fast {__version__}")
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"expected one of the commands {', '.join(COMMANDS)}, got {name!r}{hint}")
    return find(name)(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
