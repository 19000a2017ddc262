"""One ffmpeg process with its pipes: its words are collected, and it never outlives its `with` block."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections import deque
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from imageio_ffmpeg import get_ffmpeg_exe

from ..errors import MediaError

_PIPE_BYTES = 1 << 20  # a picture at once: ffmpeg works ahead while we compute
_KEPT_LINES = 200  # at each end of what ffmpeg says: the header stands first, the reason of a failure last


class Ffmpeg:
    """A running ffmpeg. Use as a context manager: leaving the block kills a process that is still at work.

    `arguments` follow `ffmpeg -hide_banner -nostdin -nostats`. With `feed` the process reads `.stdin`; what it
    writes to standard output is read from `.stdout`. It ignores Ctrl-C, which is for us to handle.
    """

    def __init__(self, *arguments: str, feed: bool = False) -> None:
        silent = [] if feed else ["-nostdin"]
        command = [_executable(), "-hide_banner", "-nostats", *silent, *arguments]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise MediaError(f"ffmpeg cannot be started: {error.strerror}; reinstall imageio-ffmpeg.") from error
        _widen(self._process.stdout)
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def stdin(self) -> BinaryIO:
        return self._process.stdin

    @property
    def stdout(self) -> BinaryIO:
        return self._process.stdout

    def finish(self) -> int:
        """Close its input, wait for the end, and return the exit status."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.wait()
        self._listener.join()
        return self._process.returncode

    def words(self) -> str:
        """What ffmpeg said on standard error; complete after `finish`."""
        return "\n".join([*self._first, *self._last])

    def __enter__(self) -> Ffmpeg:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.stdout.close()
        self.finish()
        self._process.stderr.close()

    def _listen(self) -> None:
        for line in self._process.stderr:
            kept = self._first if len(self._first) < _KEPT_LINES else self._last
            kept.append(line.decode("utf-8", "replace").rstrip())


def _widen(pipe: BinaryIO) -> None:
    """A larger pipe where the system has that (Linux), and lets us."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def file_argument(path: Path) -> str:
    """A path as ffmpeg wants it: always a file, whatever colons or dashes the name has."""
    return f"file:{path}"


def _executable() -> str:
    try:
        return get_ffmpeg_exe()
    except RuntimeError as error:
        raise MediaError(
            "ffmpeg was not found; reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to an ffmpeg of your own."
        ) from error
