"""One process at a time writes into a folder."""

import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from posattn.runs.files import make_folder, write_whole

LOCK, OWNER = ".posattn-lock", ".posattn-owner"


class FolderLock:
    """A lock held from ``FolderLock(folder)`` to ``release`` or the end of the process, however it ends.

    Raises:
        BlockingIOError: another process holds it; its host and process id are named.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._made = folder, not folder.exists()
        make_folder(folder)
        self._lock = FileLock(folder / LOCK, timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise BlockingIOError(f"{folder} is in use by {owner(folder)}") from None
        try:
            write_whole(folder / OWNER, f"process {os.getpid()} on {socket.gethostname()}".encode())
        except OSError:
            self.release(remove=True)
            raise

    def release(self, *, remove: bool = False) -> None:
        """Release the folder; with ``remove``, delete it if it was created for the lock and is empty."""
        if not self._lock.is_locked:
            return
        if not (self.folder / OWNER).is_dir():  # else it is not ours
            (self.folder / OWNER).unlink(missing_ok=True)
        if remove and os.name != "nt":  # where it cannot be removed now, and filelock removes it later
            (self.folder / LOCK).unlink(missing_ok=True)
        self._lock.release()
        if remove and self._made and not any(self.folder.iterdir()):
            self.folder.rmdir()


def owner(folder: Path) -> str:
    """The holder of a lock, as text."""
    try:
        return (folder / OWNER).read_text("utf-8") or "another process"
    except OSError:
        return "another process"
