"""Only regular files are read: a pipe without a writer would block for ever, a device need not end."""

from __future__ import annotations

import errno
import os
import stat

SPECIAL = "a pipe or a device, which is read only once; save it as a file first"


def require_regular(path: str | os.PathLike[str]) -> None:
    """Raise OSError for a pipe, a socket or a device, without opening it, and for what does not exist."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of a folder, opening says what it is
        raise OSError(errno.EINVAL, f"it is {SPECIAL}", os.fspath(path))


def read_regular_text(path: str | os.PathLike[str]) -> str:
    """The text of a UTF-8 file. Raises OSError and UnicodeDecodeError."""
    require_regular(path)
    with open(path, encoding="utf-8") as file:
        return file.read()
