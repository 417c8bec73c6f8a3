"""What the reference says of a name: its signature and the first sentence of its docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from reference_sources import Found, Sources, defined

from trpo_fast.train.config import Config

OPERATORS = ("__matmul__", "__call__", "__len__", "__float__")
WIDTH = 100


def first_sentence(text: str | None) -> str:
    words = " ".join((text or "").split("\n\n")[0].split())
    found = re.match(r".+?[.!?](?=$| [A-Z`(\"'\[])", words)
    return (found[0] if found else words).replace("``", "`")


class Writer:
    """The entries of names."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources

    def entry(self, name: str, found: Found) -> str:
        """Heading, signature, first sentence; of a class its methods."""
        node, lines = found.node, [f"### {name}\n"]
        if isinstance(node, ast.ClassDef):
            lines += [code(self.class_signature(found)), self.sentence(found)]
            methods = "\n".join(self.methods(found))
            lines += [f"\n{methods}"] if methods else []
        elif isinstance(node, ast.FunctionDef):
            lines += [code(self.signature(node.name, found.module, node)), self.sentence(found)]
        else:
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            hint = f": {ast.unparse(node.annotation)}" if isinstance(node, ast.AnnAssign) else ""
            lines.append(code(f"{defined(node)[0]}{hint}"))
        return "\n".join(line for line in lines if line) + "\n"

    def sentence(self, found: Found) -> str:
        places = [found]
        if isinstance(found.node, ast.ClassDef):
            places = list(self.sources.bases(found))
        texts = (ast.get_docstring(one.node) for one in places)  # type: ignore[arg-type]
        return first_sentence(next((text for text in texts if text), ""))

    def signature(self, name: str, module: str, node: ast.FunctionDef, *, own: bool = False) -> str:
        """``name(arguments) -> result``; ``own``: a method, without its first argument."""
        kinds = decorators(node)
        if own and kinds & {"property", "cached_property"}:
            return f"{name}{result(node)}"
        args, skipped = node.args, own and "staticmethod" not in kinds
        plain = [*args.posonlyargs, *args.args]
        given = [None] * (len(plain) - len(args.defaults)) + list(args.defaults)
        found = [self.argument(module, *pair) for pair in zip(plain, given, strict=True)]
        found = found[skipped:]
        if args.vararg is not None and not never(args.vararg):
            found.append(f"*{self.argument(module, args.vararg, None)}")
        elif args.kwonlyargs:
            found.append("*")
        pairs = zip(args.kwonlyargs, args.kw_defaults, strict=True)
        found += [self.argument(module, *pair) for pair in pairs]
        if args.kwarg is not None and not never(args.kwarg):
            found.append(f"**{self.argument(module, args.kwarg, None)}")
        return call(name, found, "" if node.name == "__init__" else result(node))

    def argument(self, module: str, arg: ast.arg, default: ast.expr | None) -> str:
        hint = f": {ast.unparse(arg.annotation)}" if arg.annotation else ""
        if default is None:
            return f"{arg.arg}{hint}"
        value = self.value(module, default)
        return f"{arg.arg}{hint} = {value}" if hint else f"{arg.arg}={value}"

    def value(self, module: str, node: ast.expr) -> str:
        """A default as it is written, names of settings and constants as what they stand for."""
        if isinstance(node, ast.Name) and node.id.isupper():
            found = self.sources.find(module, node.id)
            return ast.unparse(self.sources.value(found.module, node.id))
        text = ast.unparse(node)
        setting = re.fullmatch(r"\w+(Settings|DEFAULTS)\.(\w+)", text)
        return repr(getattr(Config, setting[2])) if setting else text

    def class_signature(self, found: Found) -> str:
        """A class as it is called: by ``__init__``, or by its fields."""
        assert isinstance(found.node, ast.ClassDef)
        for place in self.sources.bases(found):
            assert isinstance(place.node, ast.ClassDef)
            for node in place.node.body:
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    return self.signature(found.node.name, place.module, node, own=True)
        names = {part for place in self.sources.bases(found) for part in of_class(place.node)}
        if not names & {"dataclass", "NamedTuple", "TypedDict"}:
            return f"class {found.node.name}"
        if len(list(self.sources.bases(found))) > 1:
            return f"{found.node.name}(**settings)"
        fields = [node for node in found.node.body if isinstance(node, ast.AnnAssign)]
        return call(found.node.name, [self.field(found.module, node) for node in fields], "")

    def field(self, module: str, node: ast.AnnAssign) -> str:
        """A field; of one that a private descriptor holds, what this is made with."""
        hint, value, name = node.annotation, node.value, ast.unparse(node.target)
        if isinstance(hint, ast.Subscript) and ast.unparse(hint.value) == "Annotated":
            assert isinstance(hint.slice, ast.Tuple)
            hint = hint.slice.elts[0]
        if isinstance(value, ast.Call) and ast.unparse(value.func).startswith("_"):
            return f"{name}={self.value(module, value.args[0])}"
        text = f"{name}: {ast.unparse(hint)}"
        return text if value is None else f"{text} = {self.value(module, value)}"

    def methods(self, found: Found) -> Iterator[str]:
        """A line for each public method and property, those of base classes after a class's own;
        one without a docstring has that of the method it overrides.
        """
        lines: dict[str, str] = {}
        for place, node in self.functions(found):
            shown = not node.name.startswith("_") or node.name in OPERATORS
            if not shown or node.name in lines:
                continue
            every = (inner for _, inner in self.functions(found) if inner.name == node.name)
            text = next(filter(None, map(ast.get_docstring, every)), None)
            if text:
                words = " ".join(self.signature(node.name, place.module, node, own=True).split())
                words = words.replace("( ", "(").replace(", )", ")")
                lines[node.name] = f"- `{words}`: {first_sentence(text)}"
        yield from lines.values()

    def functions(self, found: Found) -> Iterator[tuple[Found, ast.FunctionDef]]:
        """The methods of a class and of its bases, without declarations of overloads."""
        for place in self.sources.bases(found):
            assert isinstance(place.node, ast.ClassDef)
            for node in place.node.body:
                if isinstance(node, ast.FunctionDef) and "overload" not in decorators(node):
                    yield place, node


def decorators(node: ast.FunctionDef) -> set[str]:
    """Their names, without the modules that they are from."""
    return {ast.unparse(kind).split(".")[-1] for kind in node.decorator_list}


def never(arg: ast.arg) -> bool:
    return arg.annotation is not None and ast.unparse(arg.annotation) == "Never"


def of_class(node: ast.stmt) -> set[str]:
    """The names of a class's decorators and bases."""
    assert isinstance(node, ast.ClassDef)
    words = " ".join(map(ast.unparse, [*node.decorator_list, *node.bases]))
    return set(re.findall(r"\w+", words))


def result(node: ast.FunctionDef) -> str:
    return f" -> {ast.unparse(node.returns)}" if node.returns else ""


def call(name: str, arguments: list[str], end: str) -> str:
    """On one line, or where that is too long with a line for each argument."""
    line = f"{name}({', '.join(arguments)}){end}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {argument}," for argument in arguments), f"){end}"])


def code(text: str) -> str:
    return f"```python\n{text}\n```\n"
