"""One writer to a run directory: the processes of a killed launcher may write on for seconds after it."""

from __future__ import annotations

import errno
import fcntl
import time
from pathlib import Path

PATIENCE, _LOOK = 20.0, 0.2  # seconds: orphans end sooner; between two looks
_HELD = (errno.EACCES, errno.EAGAIN)


class RunLock:
    """Of this process, until `release` or its end, however it ends. Taken again by the same process it is as before.

    Raises TimeoutError where another process goes on holding it. A file system without locks is trusted.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        end = time.monotonic() + PATIENCE
        while self._held_elsewhere():
            if time.monotonic() > end:
                self.release()
                raise TimeoutError(str(path))
            time.sleep(_LOOK)

    def release(self) -> None:
        """The file stays: were it removed, two could each lock one of that name."""
        self._file.close()

    def _held_elsewhere(self) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in _HELD
        return False
