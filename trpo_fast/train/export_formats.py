"""The files that a policy is exported to: how a module is written as ``.pt2`` or ``.onnx``, and how
what was written runs.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .._base.arguments import fail
from .._base.rows import dotted_parts, map_rows

Inputs = dict[str, Any]  # "obs": rows of observations, what is remembered, and perhaps "mask"
Program = Callable[[Inputs], Any]  # to the action, or (action, state)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what torch says on every export about itself and about packages that no policy
    needs.
    """

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("torchvision is not installed")

    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    logger.addFilter(wanted)
    try:
        with warnings.catch_warnings():
            text = r"`isinstance\(treespec, LeafSpec\)` is deprecated"
            warnings.filterwarnings("ignore", text, FutureWarning)
            warnings.filterwarnings("ignore", "# The axis name: rows will not be used", UserWarning)
            yield
    finally:
        logger.removeFilter(wanted)


def _dynamic(inputs: Inputs, rows: Any) -> Any:
    """For every input that its first dimension is the number of rows."""
    return None if rows is None else map_rows(lambda _: {0: rows}, inputs)


def _named(inputs: Inputs) -> dict[str, Tensor]:
    """Every tensor by the name that it has in an ONNX model: obs, or obs.camera of a dict."""
    named: dict[str, Tensor] = {}
    for name, rows in inputs.items():
        named |= dotted_parts(rows, name)
    return named


def _write_torch(module: nn.Module, inputs: Inputs, rows: Any) -> bytes:
    shapes = None if rows is None else tuple(_dynamic(inputs, rows).values())
    try:
        program = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=shapes)
    except Exception as error:  # of many kinds, whatever the module makes of what has no values
        raise fail("policy", "a module that torch.export takes", f"the error: {error}") from error
    data = io.BytesIO()
    torch.export.save(program, data)
    return data.getvalue()


def _run_torch(data: bytes) -> Program:
    program = torch.export.load(io.BytesIO(data)).module()
    return lambda inputs: program(*inputs.values())


def as_tuple(found: Any) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def _write_onnx(module: nn.Module, inputs: Inputs, rows: Any) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RuntimeError("export to .onnx needs onnx: pip install trpo-fast[export]") from error
    shapes: Any = _dynamic(inputs, rows)
    program: Any = torch.onnx.export(
        module,
        kwargs=inputs,  # a dict that came last among args would be taken for these
        input_names=list(_named(inputs)),
        output_names=["action", "state"] if "state" in inputs else ["action"],
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
    return program.model_proto.SerializeToString()


def _run_onnx(data: bytes) -> Program:
    """By onnxruntime where it is installed, otherwise by ONNX's own reference evaluator."""
    try:
        import onnxruntime

        runner: Any = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        runner = ReferenceEvaluator(data)

    def program(inputs: Inputs) -> Any:
        arrays = {name: value.numpy() for name, value in _named(inputs).items()}
        found = tuple(map(torch.as_tensor, runner.run(None, arrays)))
        return found if len(found) > 1 else found[0]

    return program


# By ending: what writes a module as bytes, and what makes a function of them.
FORMATS = {".pt2": (_write_torch, _run_torch), ".onnx": (_write_onnx, _run_onnx)}
