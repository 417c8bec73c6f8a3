"""One file per checkpoint: tensors in safetensors, everything else as JSON in its header, no
pickle.

A file under its final name is always whole: a process killed at any moment leaves the checkpoint of
before or the one of after. ``load`` trusts nothing it reads.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._base import files
from .._base.extras import require

NAME = "checkpoint.safetensors"  # in the directory of a run
FORMAT = "trpo_fast checkpoint"
VERSION = 1
MAX_BYTES = 16 * 2**30

# How what JSON cannot hold is written: {MARK: kind, "name": name of the array} for a leaf,
# {MARK: "tuple", "items": list} for a tuple.
_MARK = "__array__"


class CheckpointError(ValueError):
    """A checkpoint that could not be written or must not be used; the sentence says why."""


def save(path: str | os.PathLike[str], tree: dict[str, Any]) -> Path:
    """Write a tree of dicts, lists, tuples, numbers, strings, tensors and arrays under ``path``,
    all or nothing.
    """
    serialise = require("safetensors.numpy", "a checkpoint", "train").save

    path = Path(path)
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_encode(tree, "", arrays))
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "json": text,
        "digest": _digest(text, arrays),
    }
    data = serialise(arrays, metadata=header)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, data)
    except OSError as error:
        raise CheckpointError(
            f"path: could not write the checkpoint {path} ({error.strerror or error}); "
            "the one that was there before is untouched"
        ) from error
    return path


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The tree that ``save`` wrote, tensors on the CPU, from a file or the directory of a run;
    ``CheckpointError`` for anything else.
    """
    safetensors = require("safetensors", "a checkpoint", "train")

    path = _file_of(Path(path))
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(
            f"path: expected at most {MAX_BYTES} bytes, got {path.stat().st_size}"
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            _check_header(path, header)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"path: expected a whole safetensors file, got {path} ({error}): "
            "it is truncated, damaged or not a checkpoint"
        ) from error
    if header.get("digest") != _digest(header["json"], arrays):
        raise CheckpointError(
            f"path: the contents of {path} do not match their digest; it is damaged"
        )
    try:
        tree = _decode(json.loads(header["json"]), arrays)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"path: the header of {path} cannot be read: {error}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"path: expected a dictionary in {path}, got {type(tree).__name__}")
    return tree


def _file_of(path: Path) -> Path:
    """The checkpoint file at ``path``, or in the directory of a run."""
    if path.is_dir():
        if not (path / NAME).is_file():
            raise CheckpointError(
                f"path: expected a checkpoint or the directory of a run, got {path}, a directory "
                f"without {NAME}"
            )
        return path / NAME
    if not path.exists():
        raise CheckpointError(f"path: expected a checkpoint file, got {path}, which does not exist")
    if not path.is_file():
        raise CheckpointError(f"path: expected a checkpoint file, got {path}, which is no file")
    return path


def _check_header(path: Path, header: dict[str, str]) -> None:
    if header.get("format") != FORMAT or "json" not in header:
        raise CheckpointError(f"path: expected a trpo_fast checkpoint, got {path}, a foreign file")
    if header.get("version") != str(VERSION):
        raise CheckpointError(
            f"path: expected checkpoint version {VERSION}, got {header.get('version')} in {path}"
        )


def _digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    total = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {value.dtype.str} {value.shape}".encode())
        total.update(value.tobytes())
    return total.hexdigest()


def _encode(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Tensor | np.ndarray | np.generic):
        kind = "tensor" if isinstance(value, Tensor) else "array"
        kind = "scalar" if isinstance(value, np.generic) else kind
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        # A copy of its own: safetensors refuses arrays that share memory or have strides.
        arrays[name] = np.array(array, order="C")
        return {_MARK: kind, "name": name}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value) or _MARK in value:
            raise CheckpointError(f"tree: expected string keys in {name or 'the root'}")
        return {key: _encode(item, f"{name}/{key}", arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{name}/{i}", arrays) for i, item in enumerate(value)]
        return {_MARK: "tuple", "items": items} if isinstance(value, tuple) else items
    if value is None or isinstance(value, bool | int | float):
        return value
    raise CheckpointError(
        "tree: expected tensors, arrays, numbers, strings, lists and dicts, "
        f"got {type(value).__name__} at {name}"
    )


def _decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if value.get(_MARK) == "tuple":
            return tuple(_decode(item, arrays) for item in value["items"])
        if _MARK in value:
            array = arrays[value["name"]]
            if value[_MARK] == "tensor":
                return torch.from_numpy(array.copy())
            return array[()] if value[_MARK] == "scalar" else array.copy()
        return {key: _decode(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    return value
