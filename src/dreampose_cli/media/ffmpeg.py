"""One ffmpeg process with its pipes: its words are collected, and it never outlives its `with` block."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO

from imageio_ffmpeg import get_ffmpeg_exe

from ..errors import MediaError

if sys.platform != "win32":
    import fcntl

_CAN_LIMIT_TIME = sys.platform != "win32"
_PIPE_BYTES = 1 << 20  # a picture at once: ffmpeg works ahead while we compute
_KEPT_LINES = 200  # at each end of what ffmpeg says: the header stands first, the reason of a failure last
_STALL_SECONDS = 120.0  # without a byte, while somebody waits for one

# Containers and raw streams that hold their pictures themselves. Playlists and scripts (concat, hls, dash, sdp, imf,
# lavfi) name other files or addresses, which a photo or a dance never should.
_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,ogg,gif,apng,h264,hevc,vvc,m4v,h263,"
    "mjpeg,ivf,obu,av1,dv,mxf,nut,rm,swf,wtv,yuv4mpegpipe"
)


class Ffmpeg:
    """A running ffmpeg. Use as a context manager: leaving the block kills a process that is still at work.

    `arguments` follow `ffmpeg -hide_banner -nostdin -nostats`. With `feed` the process reads `.stdin`; what it
    writes to standard output is read with `read_line` and `read_into`. It ignores Ctrl-C, which is for us to handle.
    `seconds` is the processor time it may take (where the system can limit that: not on Windows), which also ends a
    process whose parent was killed. One that gives no byte for two minutes while it is waited for is killed.
    """

    def __init__(self, *arguments: str, feed: bool = False, seconds: float | None = None) -> None:
        silent = [] if feed else ["-nostdin"]
        limit = ["-timelimit", str(round(seconds))] if seconds is not None and _CAN_LIMIT_TIME else []
        command = [_executable(), "-hide_banner", "-nostats", *silent, *limit, *arguments]
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
        assert self._process.stdout is not None and self._process.stderr is not None  # pipes, as asked for
        self._stdout: IO[bytes] = self._process.stdout
        self._stderr: IO[bytes] = self._process.stderr
        _widen(self._stdout)
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._waiting_since: float | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def stdin(self) -> IO[bytes]:
        """Its input. Only a process made with `feed` has one."""
        assert self._process.stdin is not None
        return self._process.stdin

    def read_line(self) -> bytes:
        """The next line of its output, b"" at the end."""
        self._waiting_since = time.monotonic()
        line = self._stdout.readline()
        self._waiting_since = None
        return line

    def read_into(self, buffer: memoryview) -> int:
        """Fill `buffer` from its output; return how many bytes there were."""
        self._waiting_since = time.monotonic()
        count = self._stdout.readinto(buffer)  # type: ignore[attr-defined]  # a pipe has it, the type IO lacks it
        self._waiting_since = None
        return count

    def read_all(self) -> bytes:
        """All of its output."""
        return b"".join(iter(self.read_line, b""))

    def finish(self) -> int:
        """Close its input, wait for the end, and return the exit status."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.wait()
        self._ended.set()
        self._listener.join()
        return self._process.returncode

    def words(self) -> str:
        """ffmpeg's words on standard error; complete after `finish`."""
        return "\n".join([*self._first, *self._last])

    def __enter__(self) -> Ffmpeg:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._stdout.close()
        self.finish()
        self._stderr.close()

    def _watch(self) -> None:
        """Kill the process when a read of ours has waited too long: a damaged file can make ffmpeg search forever."""
        while not self._ended.wait(min(1.0, _STALL_SECONDS / 4)):
            since = self._waiting_since
            if since is not None and time.monotonic() - since > _STALL_SECONDS:
                self._process.kill()
                return

    def _listen(self) -> None:
        for line in self._stderr:
            kept = self._first if len(self._first) < _KEPT_LINES else self._last
            kept.append(line.decode("utf-8", "replace").rstrip())


def _widen(pipe: IO[bytes]) -> None:
    """A larger pipe where the system has that (Linux), and lets us."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def input_arguments(path: Path) -> list[str]:
    """`-i` with a file of somebody else: only local files are opened, and only as formats that name no others."""
    return ["-protocol_whitelist", "file", "-format_whitelist", _DEMUXERS, "-i", file_argument(path)]


def file_argument(path: Path) -> str:
    """A path as ffmpeg wants it: always a file, whatever colons or dashes the name has."""
    return f"file:{path}"


def _executable() -> str:
    try:
        return get_ffmpeg_exe()
    except RuntimeError as error:
        _require_descriptors()
        raise MediaError(
            "ffmpeg was not found; reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to an ffmpeg of your own."
        ) from error


def _require_descriptors() -> None:
    """Raise OSError where too many files are open to start a process: an ffmpeg that cannot be started is not missing."""
    opened: list[int] = []
    try:
        for _ in range(8):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for descriptor in opened:
            os.close(descriptor)
