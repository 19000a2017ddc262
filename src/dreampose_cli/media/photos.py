"""Photos in: any picture file becomes upright 8-bit RGB, in the colours of sRGB."""

from __future__ import annotations

import functools
import io
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin

from ..errors import MediaError
from .files import require_file

_FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = {
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif",
    ".tiff", ".webp",
}  # fmt: skip
MAX_PIXELS = 64_000_000  # decoded at once: beyond, a JPEG is decoded at half, a quarter or an eighth of its size


@contextmanager
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_photo(path: str | os.PathLike) -> np.ndarray:
    """Read a picture as uint8 (H, W, 3) sRGB: upright (EXIF), transparency on white, 16 bits scaled to 8.

    An ICC profile in the file, such as the Display P3 of phones, is converted from. Of an animation, the first frame.
    A JPEG of more than 64 million pixels comes at half, a quarter or an eighth of its size. Raises MediaError for
    everything that is no whole picture, and for other formats of more pixels than that.
    """
    with open_picture(path) as picture:
        return to_rgb(picture)


@contextmanager
def open_picture(path: str | os.PathLike) -> Iterator[Image.Image]:
    """Open a picture file with Pillow; whatever goes wrong while it is in use becomes a MediaError."""
    require_file(path)
    try:
        with _no_warnings():  # of many pixels: they are refused below
            picture = _opened(path)
        with picture:
            _fit_memory(path, picture)
            yield picture
    except MediaError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except Image.UnidentifiedImageError as error:
        raise MediaError(_why_no_picture(path)) from error
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged files
        raise MediaError(f"{path} cannot be read: the picture is damaged or cut short; save it again.") from error


def _opened(path: str | os.PathLike) -> Image.Image:
    try:
        return Image.open(path, formats=known_formats())
    except Image.DecompressionBombError:
        with open(path, "rb") as file:
            if file.read(2) != b"\xff\xd8":
                raise
        return JpegImagePlugin.JpegImageFile(path)  # of a 200-megapixel phone: it is decoded at a part of its size


def is_picture(path: str | os.PathLike) -> bool:
    """Whether the content of a file is a picture's, whatever its name."""
    try:
        with open_picture(path):
            return True
    except MediaError:
        return False


@functools.cache
def known_formats() -> tuple[str, ...]:
    """The formats that are read, of those this Pillow was built with; it has others, for printers and weather maps."""
    from pillow_heif import register_heif_opener

    Image.init()
    register_heif_opener(thumbnails=False)
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@_no_warnings()
def to_rgb(picture: Image.Image) -> np.ndarray:
    """The current frame of a Pillow picture as uint8 (H, W, 3): upright, on white, 8 bits."""
    picture.load()
    with suppress(SyntaxError, ValueError, KeyError, TypeError, struct.error):  # damaged EXIF is no reason to stop
        picture = ImageOps.exif_transpose(picture)
    picture = _in_srgb(picture)
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


def _in_srgb(picture: Image.Image) -> Image.Image:
    """The picture in the colours of sRGB where it carries a profile of other ones; a damaged profile is ignored."""
    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in ("RGB", "RGBA", "L", "LA", "P", "CMYK"):
        return picture
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if "sRGB" in ImageCms.getProfileDescription(source):
            return picture
        if picture.mode == "P":
            picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
        alpha = picture.getchannel("A") if picture.mode in ("RGBA", "LA") else None
        plain = picture.convert(picture.mode[:-1]) if alpha is not None else picture
        if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space) != plain.mode:
            return picture
        found = cast(Image.Image, ImageCms.profileToProfile(  # None only where it works in place
            plain,
            source,
            _srgb(),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        ))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture
    if alpha is not None:
        found.putalpha(alpha)
    return found


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _from_deep_grey(values: np.ndarray) -> np.ndarray:
    """Grey of 16 or 32 bits, or of floating point, as RGB. Floats are 0..1 or 0..255, integers up to 65535."""
    top = 65535.0
    if values.dtype.kind == "f":
        top = 1.0 if np.nanmax(values, initial=0.0) <= 1.0 else 255.0
    rgb = np.empty((*values.shape, 3), np.uint8)
    for row in range(0, len(values), 256):  # in strips: as float64 the whole would take eight times its memory
        strip = np.nan_to_num(values[row : row + 256].astype(np.float64))
        rgb[row : row + 256] = np.rint(np.clip(strip / top, 0, 1) * 255).astype(np.uint8)[..., None]
    return rgb


def _fit_memory(path: str | os.PathLike, picture: Image.Image) -> None:
    """Have a huge JPEG decoded at a part of its size; MediaError for another picture of so many pixels."""
    if picture.width * picture.height <= MAX_PIXELS:
        return
    for divisor in (2, 4, 8):
        picture.draft(None, (picture.width // divisor, picture.height // divisor))  # of a JPEG; else it does nothing
        if picture.width * picture.height <= MAX_PIXELS:
            return
    raise _too_large(path)


def _too_large(path: str | os.PathLike) -> MediaError:
    return MediaError(
        f"{path} is too large: more than {MAX_PIXELS // 10**6} million pixels are read from a JPEG alone; "
        "make it smaller first."
    )


def _why_no_picture(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        start = file.read(16)
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"mif1", b"heim", b"heis"):
        return f"{path} is a HEIC picture, but damaged or cut short; save it again, or as JPEG."
    if start[4:8] == b"ftyp" or start[:4] in (b"\x1a\x45\xdf\xa3", b"RIFF"):
        return f"{path} is a video, and a photo is needed; give a JPEG or PNG."
    suffix = Path(path).suffix.lower()
    if suffix in SUFFIXES:
        return f"{path} is no {suffix[1:].upper()} picture, whatever its name says, or it is damaged; save it again."
    return f"{path} is no picture; give a JPEG, PNG, WebP or TIFF."
