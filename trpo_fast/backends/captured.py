"""Work on a device that is recorded once and then replayed on other data, so that the host neither
launches its operators one by one nor waits for any of them.

The first run of some work on some shapes only watches what it does. The second watches again, and
if it did the same, records it and replays the recording on the same inputs; if the results are
those of the run, the third call and all later ones are replays. What cannot be recorded runs
operator by operator for good, and one warning says why.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .._base.reads import ahead
from ..policy.wrappers import tell_once
from .cuda_launch import capturing
from .recorder import RECORDERS
from .recording import Recording, close, copies, recorded, write
from .watch import Call, Watch
from .work import Performed, Work

MOST_RECORDINGS = 16
MOST_KEYS = 128  # of work that is watched, recorded or refused
MOST_EVICTIONS = 3  # of one key's recordings: to make them again and again is no gain
STRANGERS = 8  # calls in a row, each of a key of its own, after which the next are not watched


@dataclass(frozen=True)
class GraphStatistics:
    """The recordings that are held: how many, the bytes of memory they keep, and since the process
    began how often they were replayed and how many had to make room for others.
    """

    graphs: int
    nbytes: int
    replays: int
    evicted: int


@dataclass
class _Known:
    """What is known of one key."""

    calls: list[Call] | None = None  # of the first run
    recording: Recording | None = None
    refusal: str = ""
    evicted: int = 0  # how often its recording had to make room
    busy: threading.Lock = field(default_factory=threading.Lock)


class _State:
    """All that some work writes and draws from, as it is now."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._tensors = copies(work.written)
        self._generators = [generator.get_state() for generator in work.generators]

    def put_back(self) -> None:
        write(self._work.written, self._tensors)
        for generator, state in zip(self._work.generators, self._generators, strict=True):
            generator.set_state(state)

    def since(self, before: _State) -> list[Tensor]:
        """How far what is written has moved."""
        return [t - start for t, start in zip(self._tensors, before._tensors, strict=True)]


class Graphs:
    """What is known of work, by owner and key; the recording that was not used for longest leaves
    first, those of an owner with it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[int, Hashable], _Known] = OrderedDict()
        self._owners: dict[int, weakref.finalize] = {}
        self._strangers: dict[tuple[int, str], tuple[int, Hashable]] = {}  # calls, the last key
        self._gone: list[int] = []  # owners that have died
        self._replays = self._evicted = 0

    def perform(self, work: Work) -> Performed:
        """The results of some work, by a replay where there is a recording."""
        known = self._find(work)
        if known is None:
            reason = f"{STRANGERS} calls in a row had shapes or settings of their own"
            _tell(work, reason)
            return Performed(work.placed(work.run(work.inputs)), False)
        if known.refusal or not known.busy.acquire(blocking=False):
            return Performed(work.placed(work.run(work.inputs)), False)
        try:
            if (recording := known.recording) is not None:  # others may let it go meanwhile
                self._replays += 1
                return Performed(work.placed(recording.replay(work)), True)
            results = work.placed(self._watched(work, known))
        finally:
            known.busy.release()
        if known.refusal:
            _tell(work, known.refusal)
        return Performed(results, False)

    def _watched(self, work: Work, known: _Known) -> Any:
        """A run whose operators are looked at; if it did what the run before did, it is
        recorded.
        """
        known.refusal = work.unrecordable
        if known.evicted == MOST_EVICTIONS:
            known.refusal = f"its graph had to make room for others {known.evicted} times"
        if known.refusal:
            return work.run(work.inputs)
        before = _State(work)
        watch = Watch(work.device, list(work.inputs.values()), work.written, work.generators)
        with ahead(), _whole(), watch:
            results = work.run(work.inputs)
        known.refusal = watch.refusal or work.judged(watch.outside)
        if known.refusal:
            return results
        if known.calls is None:
            known.calls = watch.calls
        elif difference := watch.difference(known.calls):
            known.refusal = f"its second run takes other operators, {difference}"
        else:
            self._record(work, known, before, results, watch.outside)
        return results

    def _record(
        self,
        work: Work,
        known: _Known,
        before: _State,
        results: Any,
        outside: dict[int, Tensor],
    ) -> None:
        """Record the work, replay it from where the run began, compare; what the run wrote is put
        back in any case.
        """
        try:
            after, recorder = _State(work), RECORDERS[work.device.type](work.device)
        except Exception as error:
            known.refusal = _cannot(error)
            return
        kept = before  # after an interrupt, which the caller sees, nothing was done at all
        try:
            before.put_back()
            with _whole():
                recording = recorded(work, outside, recorder)
            before.put_back()
            replayed = recording.replay(replace(work, into=()))
            if not close((replayed, _State(work).since(before)), (results, after.since(before))):
                known.refusal = "a replay gives other results"
            kept = after
        except Exception as error:  # whatever a module or the device says to being recorded
            known.refusal, kept = _cannot(error), after
        finally:
            kept.put_back()
            if recorder.spoiled:
                self._drop(recorder.device)
        if not known.refusal:
            known.calls = None
            known.refusal = self._admit(known, recording)

    def _find(self, work: Work) -> _Known | None:
        """What is known of the work's key; None where nothing is, nor is worth a look, as those
        before never came again.
        """
        key = (id(work.owner), work.key())
        with self._lock:
            self._bury()
            if self._strange(work, key):
                return None
            if key[0] not in self._owners:
                self._owners[key[0]] = weakref.finalize(work.owner, self._died, key[0])
                self._owners[key[0]].atexit = False
            known = self._known.setdefault(key, _Known())
            self._known.move_to_end(key)
            if len(self._known) > MOST_KEYS:
                self._known.popitem(last=False)
            return known

    def _strange(self, work: Work, key: tuple[int, Hashable]) -> bool:
        """Count the calls in a row that nothing was known of; whether they are too many."""
        kind = (key[0], work.name)
        count, last = self._strangers.get(kind, (0, None))
        met = key in self._known or key == last
        count = 0 if met else count + 1
        self._strangers[kind] = (count, key)
        return count > STRANGERS

    def _admit(self, known: _Known, recording: Recording) -> str:
        """Keep a recording, for which others may have to go; why not, where there is no room."""
        device = recording.recorder.device
        room = recording.recorder.room(device)
        if recording.nbytes > room:
            return f"its graph takes {recording.nbytes} bytes, more than the {room} for all graphs"
        with self._lock:
            known.recording = recording
            for other in [k for k in self._known.values() if k.recording is not None]:
                held = self._held()
                here = sum(r.nbytes for r in held if r.recorder.device == device)
                if len(held) <= MOST_RECORDINGS and here <= room:
                    break
                if other is not known:
                    other.recording = None  # it is watched and recorded anew if it comes again
                    other.evicted, self._evicted = other.evicted + 1, self._evicted + 1
        return ""

    def _drop(self, device: torch.device) -> None:
        """Let every recording on a device go; its work is watched and recorded anew."""
        with self._lock:
            for known in self._known.values():
                if known.recording is not None and known.recording.recorder.device == device:
                    known.recording = None

    def _held(self) -> list[Recording]:
        return [k.recording for k in self._known.values() if k.recording is not None]

    def _died(self, owner: int) -> None:
        """An owner's finaliser, which may run within any line of this process."""
        self._gone.append(owner)
        if self._lock.acquire(blocking=False):
            try:
                self._bury()
            finally:
                self._lock.release()

    def _bury(self) -> None:
        while self._gone:
            owner = self._gone.pop()
            self._owners.pop(owner, None)
            for key in [key for key in self._known if key[0] == owner]:
                del self._known[key]
            for kind in [kind for kind in self._strangers if kind[0] == owner]:
                del self._strangers[kind]

    def statistics(self) -> GraphStatistics:
        """What is held now."""
        with self._lock:
            self._bury()
            held = self._held()
            nbytes = sum(recording.nbytes for recording in held)
            return GraphStatistics(len(held), nbytes, self._replays, self._evicted)

    def clear(self) -> None:
        """Let every recording go; work is watched and recorded anew."""
        with self._lock:
            self._known.clear()
            self._strangers.clear()


GRAPHS = Graphs()
_thread = threading.local()


@contextmanager
def _whole() -> Iterator[None]:
    """Work within this thread's is a part of that, and no recording of its own."""
    _thread.within = True
    try:
        yield
    finally:
        _thread.within = False


def _cannot(error: Exception) -> str:
    return f"it cannot be recorded, {type(error).__name__}: {error}"


def _tell(work: Work, reason: str) -> None:
    words = f"capture: {work.name} runs operator by operator, not as a graph, because {reason}; "
    end = "capture=False does so without this warning"
    tell_once(work.owner, words + end, about=f"the capture of {work.name}")


def perform(work: Work, *, capture: bool) -> Performed:
    """The results of some work; with ``capture``, recorded and replayed where the device can."""
    if not capture or not records(work.device):
        return Performed(work.placed(work.run(work.inputs)), False)
    return GRAPHS.perform(work)


def records(device: torch.device) -> bool:
    """Whether work on this device is recorded: there is a way, and nobody is recording already."""
    within = getattr(_thread, "within", False)
    return device.type in RECORDERS and not within and not capturing(device)


def captured_graphs() -> GraphStatistics:
    """How many CUDA graphs of updates, solves and fits are held, and the memory they take."""
    return GRAPHS.statistics()
