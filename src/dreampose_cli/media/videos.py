"""Videos in: what a video is (`probe_video`) and its pictures, one after the other (`read_video`), by way of ffmpeg.

ffmpeg hands over PPM pictures, each with its own width and height, so rotation and pixel shape are settled by ffmpeg
alone; what the container says is only ever used for the frame rate and the length.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..errors import MediaError
from .colours import Colours, to_rgb_filters
from .ffmpeg import Ffmpeg, input_arguments
from .files import first_index, require_file, require_frames, require_range, resampled_length
from .photos import MAX_PIXELS, is_picture

MAX_FRAMES = 1_000_000  # of one video: nine hours at 30 frames a second
_PICTURES = ["-map", "0:V:0", "-an", "-sn", "-dn"]  # V: cover pictures of music files are no video
_COMPLAINT = re.compile(r"\[(error|fatal)\]|corrupt", flags=re.IGNORECASE)
_CUT = re.compile(r"partial file|ended prematurely|corrupt", flags=re.IGNORECASE)
_UNSET = -(1 << 63)  # ffmpeg's "no time stamp"
_SLOWEST = Fraction(1, 100)  # frames a second, below which time stamps are no longer believed
# Processor seconds: what no sound file needs, so that a damaged one cannot keep ffmpeg searching for ever.
_PROBE_SECONDS = 900
_SECONDS_PER_FRAME = 10
_STANDARD_RATES = [Fraction(n) for n in (8, 10, 12, 15, 16, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 240)] + [
    Fraction(n * 1000, 1001) for n in (24, 30, 60, 120)
]


@dataclass(frozen=True)
class VideoInfo:
    """A video as it is shown: upright, with square pixels, at a constant rate.

    width, height: pixels. fps: frames per second; of a video with a variable rate, the rate it is made constant at.
    frames: how many `read_video` gives at that rate, exact for constant rates; None where it cannot be told without
    decoding. duration: seconds of pictures, or None. has_audio: whether there is sound. seekable: whether the frames
    have time stamps; raw streams have none and are read from their beginning. colours: how its values are to be
    understood; `read_video` gives 8-bit RGB for an ordinary screen, whatever they were.
    """

    width: int
    height: int
    fps: float
    frames: int | None
    duration: float | None
    has_audio: bool
    seekable: bool = True
    colours: Colours = Colours()


def probe_video(path: str | os.PathLike) -> VideoInfo:
    """Read what a video is, and its first picture. Raises MediaError if it is no video or nothing can be decoded."""
    require_file(path)
    packets = _count_packets(path)
    width, height, nominal = _first_picture(path)
    fps = _constant_rate(nominal, packets)
    if fps < _SLOWEST:
        raise MediaError(
            f"{path} has damaged time stamps ({packets.count} pictures in {float(packets.seconds or 0):.0f} s); convert it "
            "with another program first, or export its frames and give the folder."
        )
    duration: Fraction | float = packets.seconds or packets.count / fps
    if packets.announced and _CUT.search(packets.words):
        duration = max(float(duration), packets.announced)  # so that the loss is noticed when it is read
    return VideoInfo(
        width,
        height,
        float(fps),
        frames=max(1, round(duration * fps)) if duration else None,
        duration=float(duration) or None,
        has_audio=" Audio: " in packets.words,
        seekable=packets.seconds is not None,
        colours=Colours.told_by(packets.words, height),
    )


def read_video(
    path: str | os.PathLike, *, fps: float | None = None, start: float | None = None, end: float | None = None
) -> Generator[np.ndarray]:
    """The pictures of a video, uint8 (H, W, 3) RGB, streamed with constant memory at a constant rate.

    fps: pictures per second, None for the video's own rate; picture n is the one shown at n / fps. start, end:
    seconds; the first picture is the first at or after `start`, `end` is exclusive. Closing the iterator stops
    ffmpeg. Raises UsageError for an impossible range and MediaError for an unreadable file at once; MediaError while
    iterating if the video turns out to be cut short, after the pictures that could be read.
    """
    return decode(path, probe_video(path), fps=fps, start=start, end=end)


def decode(
    path: str | os.PathLike, info: VideoInfo, *, fps: float | None, start: float | None, end: float | None
) -> Generator[np.ndarray]:
    """`read_video` for a video that was probed already."""
    require_range(path, fps, start, end, info.duration)
    require_frames(path, length_of(info, fps, start, end), start, end)
    return _pictures(path, info, fps, start, end)


def length_of(info: VideoInfo, fps: float | None, start: float | None, end: float | None) -> int | None:
    """The number of pictures that `read_video` gives for these arguments; None if the video does not tell its length."""
    if info.frames is None:
        return None
    return resampled_length(info.fps, info.frames, fps, start, end)


def _pictures(path, info: VideoInfo, fps: float | None, start: float | None, end: float | None) -> Generator[np.ndarray]:
    first, seek, rates = first_index(info.fps, start), [], [f"fps={_ratio(info.fps)}"]
    if first and info.seekable:
        seek = ["-ss", f"{(first - 0.25) / info.fps:.6f}"]  # a quarter frame early: time stamps are rounded
    elif first:
        rates.append(f"trim=start_frame={first},setpts=PTS-STARTPTS")
    announced = length_of(info, fps, start, end)
    limit = _frame_limit(info, fps, start, end)
    if fps is not None and _ratio(fps) != _ratio(info.fps):
        rates.append(f"fps={_ratio(fps)}:round=up")  # picture n is the one shown at n / fps
    square = "scale=round(iw*sar):ih:flags=bicubic+accurate_rnd+full_chroma_int,setsar=1"
    filters = ",".join([*info.colours.before_rate(), *rates, square, *to_rgb_filters(info.colours)])
    arguments = [*seek, *input_arguments(Path(path)), *_PICTURES, "-vf", filters, "-frames:v", str(limit + 1)]
    seconds = _PROBE_SECONDS + _SECONDS_PER_FRAME * max(limit, info.frames or 0)
    output = ["-c:v", "ppm", "-f", "image2pipe", "-"]
    count, whole = 0, True
    with Ffmpeg("-loglevel", "level+warning", *arguments, *output, seconds=seconds) as ffmpeg:
        while ffmpeg.read_line() == b"P6\n":
            width, height = map(int, ffmpeg.read_line().split())
            ffmpeg.read_line()  # 255
            if end is not None and count == announced:
                break  # as many as were asked for
            if count == limit:
                raise MediaError(
                    f"{path} is damaged: it announces {announced or 'no'} frames and does not end after {limit}; convert "
                    "it with another program first, or use only its first part (--end)."
                )
            picture = np.empty((height, width, 3), np.uint8)
            whole = ffmpeg.read_into(picture.data.cast("B")) == picture.size
            if not whole:
                break
            count += 1
            yield picture
        complained = ffmpeg.finish() != 0 or not whole or _COMPLAINT.search(ffmpeg.words())
    if complained and announced is not None and count < announced - 1:
        raise MediaError(
            f"{path} is cut short or damaged: only {count} of about {announced} frames could be read; copy or "
            "download it again, or use only its first part."
        )
    if count == 0:
        raise MediaError(f"{path} has no picture that can be decoded there; check the file in a video player.")


def _frame_limit(info: VideoInfo, fps: float | None, start: float | None, end: float | None) -> int:
    """The largest number of pictures that are read: with `end` that many, else well beyond what the file announces."""
    if end is not None:
        return resampled_length(info.fps, math.inf, fps, start, end)
    announced = length_of(info, fps, start, end)
    return MAX_FRAMES if announced is None else min(MAX_FRAMES, 2 * announced + 250)


@dataclass(frozen=True)
class _Packets:
    """The contents of a file, without decoding: the packets of the video, and the seconds they cover if they have time
    stamps; the seconds the file announces; and what ffmpeg says about it."""

    count: int
    seconds: Fraction | None
    announced: float | None
    words: str


def _count_packets(path: str | os.PathLike) -> _Packets:
    limit = ["-frames:v", str(MAX_FRAMES + 1)]
    copy = [*input_arguments(Path(path)), *_PICTURES, "-c", "copy", *limit, "-f", "framecrc", "-"]
    base, count = Fraction(0), 0
    first: int | None = None
    last = _UNSET
    with Ffmpeg("-loglevel", "info", *copy, seconds=_PROBE_SECONDS) as ffmpeg:
        for line in iter(ffmpeg.read_line, b""):
            if line.startswith(b"#tb 0:"):
                base = Fraction(line.split(b":", 1)[1].decode().strip())
            elif not line.startswith(b"#"):
                count += 1
                shown, lasting = (int(field) for field in line.split(b",")[2:4])
                first, last = shown if first is None else min(first, shown), max(last, shown + lasting)
        ffmpeg.finish()
        words = ffmpeg.words()
    _require_video(path, words)
    if count > MAX_FRAMES:
        raise MediaError(f"{path} has more than {MAX_FRAMES:,} frames; cut it into shorter videos first.")
    seconds = (last - first) * base if first not in (None, _UNSET) else None
    clock = re.search(r"Duration: (\d+):(\d\d):(\d\d\.\d+)", words)
    announced = int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3]) if clock else None
    return _Packets(count, seconds, announced, words)


def _require_video(path: str | os.PathLike, words: str) -> None:
    if "moov atom not found" in words and not _is_playlist(path):
        raise MediaError(f"{path} is no whole video: its index is missing; copy or download it again.")
    if re.search(r"^Input #0, ", words, flags=re.MULTILINE) is None:
        if is_picture(path):
            raise MediaError(f"{path} is a picture, and a video is needed.")
        if _is_playlist(path):
            raise MediaError(f"{path} is a list of other files, which is not followed; give the video itself.")
        raise MediaError(f"{path} is no video that can be read; give an .mp4, .mov, .webm, .mkv, .avi or .gif.")
    if "matches no streams" in words:
        raise MediaError(f"{path} has no video in it, only sound or data; give an .mp4, .mov, .webm, .mkv or .avi.")


def _is_playlist(path: str | os.PathLike) -> bool:
    with open(path, "rb") as file:
        start = file.read(4096).lstrip(b"\xef\xbb\xbf \r\n\t")
    return (
        start.startswith((b"ffconcat", b"file ", b"#EXTM3U", b"v=0", b"[playlist]", b"[Reference]")) or b"<MPD" in start
    )


def _first_picture(path: str | os.PathLike) -> tuple[int, int, Fraction | None]:
    """Width and height of the first picture as it is shown, and the frame rate that ffmpeg takes for the video."""
    square = "scale=round(iw*sar):ih,setsar=1,format=yuv444p"
    arguments = ["-loglevel", "error", *input_arguments(Path(path)), *_PICTURES, "-vf", square, "-frames:v", "1"]
    with Ffmpeg(*arguments, "-strict", "-1", "-f", "yuv4mpegpipe", "-", seconds=_PROBE_SECONDS) as ffmpeg:
        header = ffmpeg.read_line().decode("ascii", "replace")
        body = ffmpeg.read_line()
    found = re.match(r"YUV4MPEG2 W(\d+) H(\d+) F(\d+):(\d+)", header)
    if not found or not body:
        raise MediaError(f"{path} has no picture that can be decoded; it may be damaged or cut short.")
    width, height, over, under = map(int, found.groups())
    if width * height > MAX_PIXELS:
        raise MediaError(f"{path} has frames of {width}x{height}, too many pixels to work with; make it smaller first.")
    return width, height, Fraction(over, under) if over and under else None


def _constant_rate(nominal: Fraction | None, packets: _Packets) -> Fraction:
    """The rate to make a video constant at: the nominal one, unless that is only the fineness of its time stamps."""
    average = packets.count / packets.seconds if packets.seconds and packets.count > 1 else None
    if nominal and nominal <= (2.5 * average if average else 240):
        return nominal
    if not average:
        return Fraction(30)
    standard = min(_STANDARD_RATES, key=lambda rate: abs(rate - average))
    return standard if abs(standard - average) < 0.01 * average else average.limit_denominator(1001)


def _ratio(fps: float) -> str:
    return str(Fraction(fps).limit_denominator(1001))
