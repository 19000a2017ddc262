"""Results out: frames to a video, an animation, a picture or a folder of pictures, whole or not at all."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import MediaError, OutputError, OutputExistsError, UsageError
from . import metadata as embedded
from .atomic import atomic_folder, atomic_path
from .credentials import SigningKey, sign
from .ffmpeg import Ffmpeg, file_argument, input_arguments
from .outputs import check_output, disk_full, is_frame_name, output_kind
from .videos import probe_video

_SCALE_FLAGS = "flags=bicubic+accurate_rnd+full_chroma_int"


def write_frames(
    path: str | os.PathLike,
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    metadata: dict | None = None,
    audio_from: str | os.PathLike | None = None,
    audio_start: float = 0.0,
    overwrite: bool = False,
    signing_key: SigningKey | None = None,
) -> Path:
    """Write pictures (uint8 (H, W, 3) RGB, all of one size) at `fps` frames a second; return the path.

    The format follows from the name (`output_kind`). Nothing is left behind if anything fails, be it the iterator of
    frames. Memory stays flat, except for .webp. `metadata` is embedded as JSON. `audio_from` takes the sound of
    another video from `audio_start` seconds on (only for .mp4; a video without sound gives none), cut or padded with
    silence to the length of the frames. `signing_key` signs a manifest of Content Credentials into the file, or into
    every picture of a folder.

    An .mp4 is H.264 at crf 12, yuv420p in BT.709; odd sizes gain one column or row, a copy of the edge.
    Raises UsageError (unknown suffix, several frames for a .png, sound for a format without), OutputError and
    OutputExistsError (see `check_output`), MediaError (no frames at all, unreadable sound).
    """
    kind = output_kind(path)
    if not 0.01 <= fps <= 1000:
        raise UsageError(f"{path}: {fps} is no frame rate for a video; give a number from 0.01 to 1000.")
    check_output(path, overwrite)
    if audio_from is not None and kind != "mp4":
        raise UsageError(f"{path}: only an .mp4 can carry sound; write an .mp4 or leave the sound out.")
    pictures = _uniform(path, frames)
    if kind == "folder":
        with atomic_folder(path, overwrite, owned=is_frame_name) as part:
            for index, picture in enumerate(pictures):
                info = embedded.png_chunk(metadata, first=index == 0)
                Image.fromarray(picture).save(part / f"{index:05d}.png", pnginfo=info)
                if signing_key is not None:
                    sign(part / f"{index:05d}.png", signing_key, f"{index:05d}.png")
        return Path(path)
    if kind == "png":
        pictures = iter(_only(path, pictures))
    with atomic_path(path) as part:
        if kind == "mp4":
            _write_mp4(path, part, pictures, fps, metadata, audio_from, audio_start)
        elif kind == "gif":
            _write_gif(path, part, pictures, fps, metadata)
        elif kind == "webp":
            _write_webp(part, pictures, fps, metadata)
        else:
            Image.fromarray(next(pictures)).save(part, pnginfo=embedded.png_chunk(metadata))
        if signing_key is not None:
            sign(part, signing_key, Path(path).name)
        if not overwrite and Path(path).exists():  # somebody else was faster
            raise OutputExistsError.at(path)
    return Path(path)


def _uniform(path: str | os.PathLike, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames, each checked: uint8 (H, W, 3), the size of the first, at least one."""
    shape = None
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"frame {index} is {frame.dtype} {frame.shape}, not uint8 (H, W, 3)")
        shape = shape or frame.shape
        if frame.shape != shape:
            raise MediaError(
                f"{path} cannot be written: frame {index} is {frame.shape[1]}x{frame.shape[0]}, the first "
                f"{shape[1]}x{shape[0]}; all frames of a video need one size."
            )
        yield np.ascontiguousarray(frame)
    if shape is None:
        raise MediaError(f"{path} cannot be written: there are no frames.")


def _only(path: str | os.PathLike, pictures: Iterator[np.ndarray]) -> list[np.ndarray]:
    found = list(itertools.islice(pictures, 2))
    if len(found) > 1:
        raise UsageError(f"{path}: a .png holds one frame and there are more; use .mp4, .gif, .webp or a folder.")
    return found


def _write_mp4(path, part, pictures, fps, metadata, audio_from, audio_start) -> None:
    """The sound, if there is any, is added afterwards: how long it must be is known when all frames are there. Cut by ffmpeg
    while they came, it once ran on for .4 s on a busy machine."""
    sound = _sound(audio_from, audio_start)
    comment = ["-metadata", f"comment={embedded.to_text(metadata)}"] if metadata is not None else []
    finish = [*comment, "-movflags", "+faststart", "-f", "mp4"]
    # as properties of the frames: the encoder takes primaries and transfer from there, not from options of its own
    tags = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
    encode = [
        "-vf", f"scale=out_color_matrix=bt709:out_range=tv:{_SCALE_FLAGS},format=yuv420p,{tags}",
        "-c:v", "libx264", "-preset", "medium", "-crf", "12",
    ]  # fmt: skip
    silent = part.with_suffix(".silent.mp4") if sound else part
    count = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal count
        for picture in pictures:
            count += 1
            yield _even(picture)

    try:
        _encode(path, silent, counted(), fps, [*encode, *finish])
        if sound:
            mix = ["-map", "0:v:0", "-map", "1:a:0", "-c:v", "copy", "-af", "apad", "-c:a", "aac", "-b:a", "192k"]
            _convert(path, ["-i", file_argument(silent), *sound, *mix, "-t", f"{count / fps:.6f}", *finish], part)
    finally:
        if sound:
            silent.unlink(missing_ok=True)
    with part.open("ab") as file:
        file.write(embedded.mp4_box(metadata))


def _even(picture: np.ndarray) -> np.ndarray:
    """The picture with its last row or column repeated where height or width is odd, as yuv420p needs."""
    height, width, _ = picture.shape
    if height % 2 == 0 and width % 2 == 0:
        return picture
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _sound(audio_from: str | os.PathLike | None, audio_start: float) -> list[str]:
    """The input that the sound is taken from; nothing where there is none."""
    if audio_from is None or not probe_video(audio_from).has_audio:
        return []
    return ["-ss", f"{audio_start:.6f}", *input_arguments(Path(audio_from))]


def _write_gif(path, part, pictures, fps, metadata) -> None:
    """One palette for the whole clip, so that colours do not flicker; by way of a lossless file, so memory is flat."""
    lossless, palette = part.with_suffix(".mkv"), part.with_suffix(".palette.png")
    try:
        _encode(path, lossless, pictures, fps, ["-c:v", "libx264rgb", "-preset", "ultrafast", "-qp", "0"])
        clip = ["-i", file_argument(lossless)]
        _convert(path, [*clip, "-vf", "palettegen=stats_mode=full", "-frames:v", "1", "-update", "1"], palette)
        dither = "paletteuse=dither=sierra2_4a:diff_mode=rectangle"
        _convert(path, [*clip, "-i", file_argument(palette), "-lavfi", dither, "-loop", "0", "-f", "gif"], part)
        if metadata is not None:
            part.write_bytes(embedded.with_gif_comment(part.read_bytes(), metadata))
    finally:
        lossless.unlink(missing_ok=True)
        palette.unlink(missing_ok=True)


def _write_webp(part, pictures, fps, metadata) -> None:
    first, *others = [Image.fromarray(picture) for picture in pictures]
    ticks = [round(1000 * i / fps) for i in range(len(others) + 2)]  # rounded sums, so that nothing drifts
    durations = [max(1, after - before) for before, after in itertools.pairwise(ticks)]
    animation: dict[str, Any] = {"save_all": True, "append_images": others, "duration": durations, "loop": 0} if others else {}
    tags: dict[str, Any] = {"exif": embedded.exif(metadata)} if metadata is not None else {}
    if packet := embedded.xmp(metadata):
        tags["xmp"] = packet
    first.save(part, quality=95, method=4, **animation, **tags)


def _encode(path, part: Path, pictures: Iterator[np.ndarray], fps: float, arguments: list[str]) -> None:
    """Feed pictures to ffmpeg, which writes `part`."""
    first = next(pictures)
    height, width = first.shape[:2]
    rate = str(Fraction(fps).limit_denominator(1001))
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "pipe:0"]
    with Ffmpeg("-loglevel", "error", "-y", *raw, *arguments, file_argument(part), feed=True) as ffmpeg:
        for picture in itertools.chain([first], pictures):
            try:
                ffmpeg.stdin.write(picture.data)
            except OSError:  # ffmpeg is gone: it says why below
                break
        _require_success(path, ffmpeg)


def _convert(path, arguments: list[str], part: Path) -> None:
    with Ffmpeg("-loglevel", "error", "-y", *arguments, file_argument(part)) as ffmpeg:
        _require_success(path, ffmpeg)


def _require_success(path, ffmpeg: Ffmpeg) -> None:
    if ffmpeg.finish() == 0:
        return
    words = ffmpeg.words()
    if "No space left on device" in words or "Disk quota exceeded" in words:
        raise disk_full(path)
    reason = words.strip().splitlines()[-1] if words.strip() else "no reason given"
    raise OutputError(f"{path} cannot be written: ffmpeg stopped ({reason}); choose another -o.")
