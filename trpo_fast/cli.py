"""The command `trpo-fast`: finds the module that serves a subcommand and hands it the arguments.

A subcommand is one line of COMMANDS: "module:function", the extra it needs, and a line of help.
The function has the signature `function(argv: list[str]) -> int`: it parses argv itself (so its
module is free to use argparse or tyro, and `trpo-fast NAME --help` is its own), and returns the
exit status. Modules are imported when their subcommand is called and not before; an import that
fails for a package of the extra ends in the line that installs it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

from trpo_fast._version import __version__


@dataclass(frozen=True)
class Command:
    """Where a subcommand lives: target "module:function", and the extra that installs its needs."""

    target: str
    help: str
    extra: str | None = None


COMMANDS = {
    "train": Command("trpo_fast.commands:train", "train a policy on an environment", "train"),
    "eval": Command("trpo_fast.commands:evaluate", "run a saved policy, record a video", "train"),
    "resume": Command("trpo_fast.commands:resume", "continue a run from its checkpoint", "train"),
    "plot": Command("trpo_fast.commands:plot", "draw curves of one or more runs", "train"),
    "bench": Command("trpo_fast.bench.cli:main", "time the kernels against other libraries"),
    "doctor": Command("trpo_fast.doctor:main", "say what works on this machine, and why not"),
}


class CommandUnavailable(RuntimeError):
    """The subcommand exists but cannot be served by this installation."""


def usage() -> str:
    """The help text: one line a subcommand."""
    lines = ["usage: trpo-fast COMMAND [ARGUMENTS]", ""]
    lines += [f"  {name:<8}{command.help}" for name, command in COMMANDS.items()]
    lines += ["", "trpo-fast COMMAND --help shows the arguments of a command."]
    return "\n".join(lines)


def find(name: str) -> Callable[[list[str]], int]:
    """The function that serves subcommand `name`."""
    command = COMMANDS[name]
    module, function = command.target.split(":")
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if missing.partition(".")[0] == "trpo_fast":
            text = f"trpo-fast {name}: {missing} is not part of this installation"
        elif command.extra:
            text = f'trpo-fast {name} needs {missing}: pip install "trpo-fast[{command.extra}]"'
        else:
            text = f"trpo-fast {name} needs {missing}: pip install {missing}"
        raise CommandUnavailable(text) from error


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if name == "--version":
        print(f"trpo-fast {__version__}")
        return 0
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"trpo-fast: expected a command of {known}, got {name!r}", file=sys.stderr)
        return 2
    try:
        serve = find(name)
    except CommandUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    return serve(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
