"""Processes of a ``torch.distributed`` group that compute one thing together: sums over them, and
errors that all of them raise.

Every exchange is an all-reduce, which gloo and nccl have for every device they serve, and which
leaves equal bits on all ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .arguments import fail

T = TypeVar("T")
Kind = TypeVar("Kind", bound=type[Exception])

_SENTENCE = 4096  # bytes of an error that other ranks are told
_DIGEST = 2**52 - 1  # a float64 holds such a number exactly
KINDS: dict[str, type[Exception]] = {k.__name__: k for k in (ValueError, TypeError, RuntimeError)}


def told(kind: Kind) -> Kind:
    """A class of errors that ranks raise as what it is where another rank has met one."""
    KINDS[kind.__name__] = kind
    return kind


class Ranks:
    """The processes of a group, more than one, and this one's rank among them."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._places = _places(group)

    def place(self) -> torch.device:
        """Where numbers of the host are exchanged."""
        return torch.device("cpu" if "cpu" in self._places else self._places[0])

    def check_place(self, theta: Tensor) -> None:
        """Raise where the group cannot sum tensors that lie where theta does."""
        if theta.device.type not in self._places:
            wanted = f"one that sums tensors on {theta.device.type}, where the policy is"
            raise fail("group", wanted, dist.get_backend_config(self.group))

    def sum(self, v: Tensor) -> Tensor:
        """The sum over ranks of tensors of one shape."""
        total = v.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=self.group)
        return total

    def gather(self, values: Tensor) -> Tensor:
        """Every rank's values [K], as [ranks, K]."""
        table = values.new_zeros(self.size, *values.shape)
        table[self.rank] = values
        dist.all_reduce(table, group=self.group)
        return table

    def numbers(self, *values: float) -> list[list[float]]:
        """Every rank's numbers; the host waits for them."""
        mine = torch.tensor(values, dtype=torch.float64, device=self.place())
        table: list[list[float]] = self.gather(mine).tolist()
        return table

    def raise_failure(self, error: Exception | None) -> None:
        """Raise on every rank what the first that met an error has met."""
        self._raise_first([row[0] for row in self.numbers(float(error is not None))], error)

    def together(
        self, make: Callable[[], T], tell: Callable[[T], Sequence[float]] = lambda _: (0.0,)
    ) -> tuple[T, list[list[float]]]:
        """What ``make`` returns here, and as many numbers as ``tell`` gives of it (up to seven)
        from every rank. Where ``make`` raises on one rank, all raise.
        """
        mine, error = [0.0] * 8, None
        try:
            made = make()
            for i, number in enumerate(tell(made)):
                mine[i + 1] = number
        except Exception as caught:
            mine, error = [1.0] + [0.0] * 7, caught
        table = self.numbers(*mine)
        self._raise_first([row[0] for row in table], error)
        return made, [row[1:] for row in table]

    def same(self, argument: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor that ``make`` returns, which has to be the same on every rank."""
        made, table = self.together(make, lambda tensor: (digest(tensor),))
        self.check_same(argument, "the same values on every rank", [row[0] for row in table])
        return made

    def check_same(self, argument: str, expected: str, found: list[float]) -> None:
        """Raise, on every rank, if they do not all have rank 0's number."""
        for rank, number in enumerate(found):
            if number != found[0]:
                raise fail(argument, expected, f"others on rank {rank} than on rank 0")

    def _raise_first(self, failed: list[float], error: Exception | None) -> None:
        if any(failed):
            self._raise(next(rank for rank, flag in enumerate(failed) if flag), error)

    def _raise(self, rank: int, error: Exception | None) -> NoReturn:
        """Raise what this rank has met, on all of them."""
        words = torch.zeros(_SENTENCE, dtype=torch.int32)
        if rank == self.rank:
            assert error is not None
            coded = _sentence(error).encode()[:_SENTENCE]
            words[: len(coded)] = torch.tensor(list(coded), dtype=torch.int32)
        coded = bytes(self.sum(words.to(self.place())).tolist()).rstrip(b"\0")
        kind, _, sentence = coded.decode(errors="replace").partition("\n")
        raise KINDS.get(kind, RuntimeError)(f"rank {rank}: {sentence}") from error


class Together:
    """Sums over ranks of what each computes. One that fails takes part in what remains with NaN, so
    that none waits for it, and all raise its error at the end.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.failure: Exception | None = None

    def attempt(self, run: Callable[[], T]) -> T | None:
        """What ``run`` returns; nothing once something has failed here."""
        if self.failure is not None:
            return None
        try:
            return run()
        except Exception as error:
            self.failure = error
            return None

    def sum(self, part: float, like: Tensor, run: Callable[[], Tensor]) -> Tensor:
        """The sum of every rank's ``part`` of what ``run`` returns there, shaped as ``like``; where
        the part is zero it does not run.
        """
        mine = torch.zeros_like(like)
        if part > 0.0 or self.failure is not None:
            found = self.attempt(run)
            mine = torch.full_like(like, float("nan")) if found is None else part * found
        return self.ranks.sum(mine)

    def raise_failure(self) -> None:
        """The end: raise on all ranks what one has met."""
        failure, self.failure = self.failure, None
        self.ranks.raise_failure(failure)


def members(group: Any) -> Ranks | None:
    """The processes of an option ``group``; None where this process is alone."""
    if group is None:
        return None
    if not isinstance(group, dist.ProcessGroup):
        wanted = "a ProcessGroup of torch.distributed that this process is in, or None"
        raise fail("group", wanted, type(group).__name__)
    return Ranks(group) if dist.get_world_size(group) > 1 else None


def _places(group: Any) -> list[str]:
    """The types of device whose tensors the group sums."""
    return [pair.partition(":")[0] for pair in dist.get_backend_config(group).split(",")]


def _sentence(error: Exception) -> str:
    """The class that other ranks raise, a line's end, what they say."""
    for kind in type(error).__mro__:
        if KINDS.get(kind.__name__) is kind:
            exact = kind is type(error)
            return f"{kind.__name__}\n{error}" if exact else _named(kind.__name__, error)
    return _named(RuntimeError.__name__, error)


def _named(kind: str, error: Exception) -> str:
    return f"{kind}\n{type(error).__name__}: {error}"


def digest(tensor: Tensor) -> float:
    """A number that is another one where a bit of the tensor is, but for rare chances."""
    size = tensor.element_size()
    bits = tensor.detach().contiguous().view(torch.int64 if size == 8 else torch.int32).reshape(-1)
    bits = bits.long()
    bits = bits ^ (bits >> 31)
    odd = 2 * torch.arange(bits.numel(), device=bits.device) + 1
    return float(int((bits * (odd * 0x9E3779B97F4A7C1)).sum()) & _DIGEST)


def digest_of(settings: Any) -> float:
    """A number that is another one for other settings; of a function its name counts."""
    coded = hashlib.sha256(_described(settings).encode()).digest()
    return float(int.from_bytes(coded[:8], "big") & _DIGEST)


def _described(value: Any) -> str:
    if is_dataclass(value) and not isinstance(value, type):
        return _described({f.name: getattr(value, f.name) for f in fields(value)})
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k}={_described(v)}' for k, v in sorted(value.items()))}}}"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_described, value))})"
    if isinstance(value, Tensor):
        return "a tensor"
    return getattr(value, "__qualname__", "a function") if callable(value) else repr(value)
