"""What is written stays written: from the system's memory to the disk, before a result takes its place."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

_WINDOWS = sys.platform == "win32"


def to_disk(path: Path) -> None:
    """Wait until a file, or all files in a folder, are on the disk and not only in the system's memory. Raises OSError."""
    files = [path] if path.is_file() else [Path(home, name) for home, _, names in os.walk(path) for name in names]
    for file in files:
        if file.is_symlink():
            continue
        descriptor = os.open(file, os.O_RDWR if _WINDOWS else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of a file system that cannot say
                raise OSError(error.errno, error.strerror, str(file)) from error
        finally:
            os.close(descriptor)
