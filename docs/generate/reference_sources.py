"""The package as syntax trees: where an exported name is defined, behind all imports."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Found(NamedTuple):
    """What a name is: the module that defines it, and its node there."""

    module: str
    node: ast.stmt


class Sources:
    """The package as syntax trees, by the dotted names of its modules."""

    def __init__(self) -> None:
        self._trees: dict[str, ast.Module] = {}

    def is_module(self, module: str) -> bool:
        return self._path(module) is not None

    def _path(self, module: str) -> Path | None:
        stem = ROOT.joinpath(*module.split("."))
        tried = (stem.with_suffix(".py"), stem / "__init__.py")
        return next((path for path in tried if path.exists()), None)

    def tree(self, module: str) -> ast.Module:
        if module not in self._trees:
            path = self._path(module)
            assert path is not None, module
            self._trees[module] = ast.parse(path.read_text())
        return self._trees[module]

    def exported(self, module: str) -> list[str]:
        """The names in a module's ``__all__``."""
        return ast.literal_eval(self.value(module, "__all__"))

    def value(self, module: str, name: str) -> ast.expr:
        node = self.find(module, name).node
        assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None, name
        return node.value

    def find(self, module: str, name: str) -> Found:
        """Where a name of a module is defined, behind all imports."""
        if (found := self.look(module, name)) is None:
            raise LookupError(f"{module} has no {name}")
        return found

    def look(self, module: str, name: str) -> Found | None:
        for node in reversed(list(statements(self.tree(module).body))):
            if name in defined(node):
                return Found(module, node)
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        source = self._source(module, node)
                        inside = f"{source}.{alias.name}"
                        if self.is_module(source) and not self.is_module(inside):
                            return self.look(source, alias.name)
        return None

    def _source(self, module: str, node: ast.ImportFrom) -> str:
        path = self._path(module)
        assert path is not None
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        base = package[: len(package) + 1 - node.level] if node.level else []
        return ".".join([*base, *([node.module] if node.module else [])])

    def bases(self, found: Found) -> Iterator[Found]:
        """A class and those of the package that it inherits from."""
        yield found
        assert isinstance(found.node, ast.ClassDef)
        for base in found.node.bases:
            inner = self.look(found.module, base.id) if isinstance(base, ast.Name) else None
            if inner is not None and isinstance(inner.node, ast.ClassDef):
                yield from self.bases(inner)


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements, those under a condition as well."""
    for node in body:
        if isinstance(node, ast.If):
            yield from statements(node.body)
        else:
            yield node


def defined(node: ast.stmt) -> list[str]:
    """The names that a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    return [target.id for target in targets if isinstance(target, ast.Name)]
