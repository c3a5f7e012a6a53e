"""One process at a time writes into a folder."""

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

LOCK, OWNER = ".posattn-lock", ".posattn-owner"


class FolderLock:
    """A lock held from ``FolderLock(folder)`` to ``release`` or the end of the process, however it ends.

    Raises:
        BlockingIOError: another process holds it; its host and process id are named.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._made = folder, not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / LOCK, timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise BlockingIOError(f"{folder} is in use by {owner(folder)}") from None
        (folder / OWNER).write_text(f"process {os.getpid()} on {socket.gethostname()}")

    def release(self, *, remove: bool = False) -> None:
        """Release the folder; with ``remove``, delete it if it was created for the lock and is empty."""
        if not self._lock.is_locked:
            return
        (self.folder / OWNER).unlink(missing_ok=True)
        if remove:
            (self.folder / LOCK).unlink(missing_ok=True)
        self._lock.release()
        if remove and self._made and not any(self.folder.iterdir()):
            self.folder.rmdir()


def owner(folder: Path) -> str:
    """The holder of a lock, as text."""
    try:
        return (folder / OWNER).read_text() or "another process"
    except OSError:
        return "another process"
