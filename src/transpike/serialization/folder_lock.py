"""A folder that one process at a time works in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transpike.errors import OutputError


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds a folder, which is made if it is not there; the system lets it go when the process dies.

    Args:
        folder: to work in; it gets a file ``.lock``.
        wait: until another process lets it go, instead of raising.

    Raises:
        OutputError: another process works in it; or it cannot be made.
    """
    if os.name != "posix":  # elsewhere there is no flock
        folder.mkdir(parents=True, exist_ok=True)
        yield
        return
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(
            f"the folder cannot be written: {error.strerror}", where=str(folder), fix="choose another -o"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise OutputError(
                "another process works in this folder", where=str(folder), fix="wait until it ends, or stop it"
            ) from error
        yield
    finally:
        os.close(handle)
