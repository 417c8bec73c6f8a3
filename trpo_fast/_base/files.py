"""Files that are whole under their name at every moment, and one writer for a directory.

``write`` makes a temporary file beside the target, syncs it, renames it over the target and syncs
the directory: a process killed at any moment leaves the file of before or the one of after. Every
writer has a temporary file of its own, locked while it is in use; those that a kill left behind
are not, and go with the next write of the same name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import warnings
from collections.abc import Iterator
from pathlib import Path

LOCK = ".lock"  # in a directory with one writer
# A file of our own making: never one that is there already, nor where a link points to.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_held: set[int] = set()  # descriptors of locked directories


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace what is at ``path`` by ``data``, all or nothing; an ``OSError`` names ``path``. A
    device or a pipe is written to as it is.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
        else:
            _replace(path, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _replace(path: Path, data: bytes) -> None:
    _remove_leftovers(path)
    temporary, handle = _create(path)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)  # before the file is closed, which ends its lock
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_directory(path.parent)


def _create(path: Path) -> tuple[Path, int]:
    """A new locked file beside ``path``, and its descriptor."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        handle = os.open(temporary, _NEW, 0o666)
        _lock(handle)
        if os.fstat(handle).st_nlink:
            return temporary, handle
        os.close(handle)  # another writer took it for a leftover before it was locked


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files for ``path`` that no process has locked."""
    begin, end = f".{path.name}.", ".tmp"
    size = len(begin) + 16 + len(end)
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if name.startswith(begin) and name.endswith(end) and len(name) == size:
                _remove_unlocked(path.with_name(name))


def _remove_unlocked(path: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(handle)


def _lock(handle: int) -> bool:
    """Wait for a file's lock; False where the file system has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _sync_directory(path: Path) -> None:
    """Make the rename itself durable; some file systems cannot, and lose at most the newest one."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def only_writer(directory: Path, argument: str) -> Iterator[None]:
    """Hold the directory's lock, or raise a ``ValueError`` about ``argument`` where another process
    does. The kernel gives it back when this process ends, however it ends.
    """
    path = directory / LOCK
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            os.close(handle)
            raise ValueError(
                f"{argument}: expected a run that no other process trains, got {directory}, "
                f"whose {LOCK} is held by one"
            ) from error
        warnings.warn(
            f"{directory}: its file system has no locks, so nothing keeps a second process out",
            stacklevel=3,
        )
    _held.add(handle)
    try:
        yield
    finally:
        _held.discard(handle)
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _close_locks() -> None:
    """Close the locks in a forked child, which would keep them beyond this process."""
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


os.register_at_fork(after_in_child=_close_locks)
