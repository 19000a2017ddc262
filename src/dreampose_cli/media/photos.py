"""Photos in: any picture file becomes upright 8-bit RGB."""

from __future__ import annotations

import functools
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import MediaError
from .files import require_file

_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
MAX_PIXELS = 178_956_970  # where Pillow itself speaks of a decompression bomb


@contextmanager
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_photo(path: str | os.PathLike) -> np.ndarray:
    """Read a picture as uint8 (H, W, 3) RGB: upright (EXIF), transparency on white, 16 bits scaled to 8.

    Of an animation, the first frame. Raises MediaError for everything that is no whole picture.
    """
    with open_picture(path) as picture:
        return to_rgb(picture)


@contextmanager
def open_picture(path: str | os.PathLike) -> Iterator[Image.Image]:
    """Open a picture file with Pillow; whatever goes wrong while it is in use becomes a MediaError."""
    require_file(path)
    try:
        with _no_warnings():  # of many pixels: they are refused below
            picture = Image.open(path, formats=known_formats())
        with picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise _too_large(path)
            yield picture
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except Image.UnidentifiedImageError as error:
        raise MediaError(_why_no_picture(path)) from error
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged files
        raise MediaError(f"{path} cannot be read: the picture is damaged or cut short; save it again.") from error


@functools.cache
def known_formats() -> tuple[str, ...]:
    """The formats that are read, of those this Pillow was built with; it has others, for printers and weather maps."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@_no_warnings()
def to_rgb(picture: Image.Image) -> np.ndarray:
    """The current frame of a Pillow picture as uint8 (H, W, 3): upright, on white, 8 bits."""
    picture.load()
    with suppress(SyntaxError, ValueError, KeyError, TypeError, struct.error):  # damaged EXIF is no reason to stop
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I;16", "I;16L", "I;16B", "I", "F"):
        return _from_deep_grey(np.asarray(picture))
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        picture = Image.alpha_composite(white, layer)
    return np.array(picture.convert("RGB"))


def resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture (uint8, (H, W, 3)) at another size (height, width); bicubic, over the whole area when it shrinks."""
    height, width = size
    if picture.shape[:2] == (height, width):
        return picture
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def _from_deep_grey(values: np.ndarray) -> np.ndarray:
    """Grey of 16 or 32 bits, or of floating point, as RGB. Floats are 0..1 or 0..255, integers up to 65535."""
    top = 65535.0
    if values.dtype.kind == "f":
        top = 1.0 if np.nanmax(values, initial=0.0) <= 1.0 else 255.0
    grey = np.rint(np.clip(np.nan_to_num(values.astype(np.float64)) / top, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _too_large(path: str | os.PathLike) -> MediaError:
    return MediaError(f"{path} is too large: more than {MAX_PIXELS // 10**6} million pixels; make it smaller first.")


def _why_no_picture(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        start = file.read(16)
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"mif1", b"heim", b"heis"):
        return f"{path} is a HEIC picture, which cannot be read here; save it as JPEG or PNG."
    if start[4:8] == b"ftyp" or start[:4] in (b"\x1a\x45\xdf\xa3", b"RIFF"):
        return f"{path} is a video, and a photo is needed; give a JPEG or PNG."
    suffix = Path(path).suffix.lower()
    if suffix in SUFFIXES:
        return f"{path} is no {suffix[1:].upper()} picture, whatever its name says, or it is damaged; save it again."
    return f"{path} is no picture; give a JPEG, PNG, WebP or TIFF."
