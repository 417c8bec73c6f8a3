"""Checkpoints: everything comes back bit for bit; bad files, full disks and kills are survived."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from campaign import numbers
from limits import HANGS

from trpo_fast.train import checkpoint
from trpo_fast.train.checkpoint import CheckpointError, load, save

pytestmark = pytest.mark.attack

pytest.importorskip("safetensors")

TREE = {
    "policy": {"w": torch.randn(3, 5), "empty": torch.zeros(0, 2), "scalar": torch.tensor(2.5)},
    "mask": torch.tensor([True, False]),
    "generator": torch.Generator().get_state(),
    "counts": {"steps": 7, "rate": 0.1, "name": "CartPole-v1", "none": None, "flag": True},
    "random": {"state": 2**127 + 1, "key": np.arange(5, dtype=np.uint32)},
    "limits": [float("inf"), -1.5, np.float32(0.1)],
    "cells": [(0, 1), (), {"corner": (2, [3.0, np.zeros(2)])}],
}


def same(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return (
            type(a) is type(b)
            and len(a) == len(b)
            and all(same(x, y) for x, y in zip(a, b, strict=True))
        )
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


def test_a_tree_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = save(tmp_path / "runs" / "a.safetensors", TREE)
    assert same(load(path), TREE)
    assert os.listdir(path.parent) == ["a.safetensors"]


def test_shared_and_strided_memory_is_copied(tmp_path: Path) -> None:
    flat = torch.arange(12.0)
    tree = {"flat": flat, "view": flat.view(3, 4), "turned": flat.view(3, 4).T}
    assert same(load(save(tmp_path / "a", tree)), tree)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = save(tmp_path / "a", TREE)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="expected a whole safetensors file"):
        load(path)


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "a", TREE)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="digest"):
        load(path)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("detonated",)


def foreign_files() -> dict[str, bytes]:
    from safetensors.numpy import save as serialise

    arrays = {"w": np.zeros(3)}
    deep = "[" * 100_000 + "]" * 100_000
    header = {"format": checkpoint.FORMAT, "version": "1"}

    def ours(text: str) -> bytes:
        digest = checkpoint._digest(text, arrays)
        return serialise(arrays, metadata={**header, "json": text, "digest": digest})

    return {
        "pickle": pickle.dumps(Bomb()),
        "torch": b"PK\x03\x04" + bytes(200),
        "huge header": (2**63).to_bytes(8, "little") + b"{}",
        "foreign safetensors": serialise(arrays),
        "future": serialise(arrays, metadata={**header, "version": "99", "json": "{}"}),
        "no digest": serialise(arrays, metadata={**header, "json": "{}"}),
        "not json": ours("{"),
        "too deep": ours(deep),
        "a list": ours("[]"),
        "dangling name": ours(json.dumps({"a": {"__array__": "tensor", "name": "x"}})),
    }


@pytest.mark.parametrize("kind", sorted(foreign_files()))
def test_foreign_and_malicious_files_are_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").write_bytes(foreign_files()[kind])
    with pytest.raises(CheckpointError, match="path: "):
        load("a")
    assert not Path("detonated").exists()


def test_missing_files_and_unsupported_leaves_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load(tmp_path / "none")
    with pytest.raises(CheckpointError, match="got object at /a/b"):
        save(tmp_path / "a", {"a": {"b": object()}})


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_keeps_the_old_checkpoint(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a", {"step": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, {"write": "fdopen"}.get(call, call), full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(path, {"step": 2})
    monkeypatch.undo()
    assert load(path) == {"step": 1} and os.listdir(tmp_path) == ["a"]


def save_forever(path: Path, ready: object) -> None:
    step = 0
    while True:
        save(path, {"step": step, "rows": np.full(200_000, step)})
        ready.set()
        step += 1


def test_kill_at_random_moments_never_corrupts(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    path, draw = tmp_path / "a", random.Random(0)
    for _ in numbers(30):
        ready = fork.Event()
        child = fork.Process(target=save_forever, args=(path, ready), daemon=True)
        child.start()
        assert ready.wait(HANGS)
        time.sleep(draw.uniform(0, 0.01))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        tree = load(path)
        assert (tree["rows"] == tree["step"]).all()
