"""The origin of a result, as JSON inside the result itself: written by `write_frames`, read back by `read_metadata`.

Where the metadata's "notice" says that an AI made it, the result also carries the IPTC digital source type in XMP, which
platforms and search engines read (https://iptc.org/std/photometadata, "Digital Source Type").
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from PIL import Image, PngImagePlugin

from ..errors import MediaError
from .ffmpeg import Ffmpeg, input_arguments
from .files import require_file
from .photos import known_formats

KEY = "dreampose"
NOTICE = "AI-generated"
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
_XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # the UUID of XMP in an .mp4 (XMP specification, part 3)
_XMP_TRAILER = b"\x01" + bytes(range(255, -1, -1)) + b"\x00"  # of XMP in a .gif: readers that skip blocks end here
_IMAGE_DESCRIPTION = 0x010E  # the EXIF tag


def to_text(metadata: dict) -> str:
    """The JSON that is embedded: one line of ASCII, wrapped in our key so that foreign comments are told apart."""
    return json.dumps({KEY: metadata}, ensure_ascii=True, separators=(",", ":"))


def xmp(metadata: dict | None) -> bytes | None:
    """The XMP packet of a result that an AI made, None for others."""
    return _XMP.encode() if metadata is not None and metadata.get("notice") == NOTICE else None


def png_chunk(metadata: dict | None, *, first: bool = True) -> PngImagePlugin.PngInfo | None:
    """The chunks of a picture: all of the metadata in the first of a folder, the mark of an AI in every one."""
    if metadata is None:
        return None
    info = PngImagePlugin.PngInfo()
    if first:
        info.add_text(KEY, to_text(metadata))
    if packet := xmp(metadata):
        info.add_itxt("XML:com.adobe.xmp", packet.decode())
    return info


def mp4_box(metadata: dict | None) -> bytes:
    """A box to append to an .mp4, b"" where an AI did not make it."""
    packet = xmp(metadata)
    return b"" if packet is None else (24 + len(packet)).to_bytes(4, "big") + b"uuid" + _XMP_BOX + packet


def exif(metadata: dict) -> bytes:
    tags = Image.Exif()
    tags[_IMAGE_DESCRIPTION] = to_text(metadata)
    return tags.tobytes()


def with_gif_comment(gif: bytes, metadata: dict) -> bytes:
    """A GIF file with a comment extension, and XMP where an AI made it, before its first picture."""
    text = to_text(metadata).encode("ascii")
    blocks = b"".join(bytes([len(text[i : i + 255])]) + text[i : i + 255] for i in range(0, len(text), 255))
    flags = gif[10]
    start = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)  # after the header and the global palette
    packet = xmp(metadata)
    mark = b"" if packet is None else b"\x21\xff\x0bXMP DataXMP" + packet + _XMP_TRAILER
    return gif[:start] + b"\x21\xfe" + blocks + b"\x00" + mark + gif[start:]


def read_metadata(path: str | os.PathLike) -> dict | None:
    """The metadata `write_frames` put into a video, picture or folder of frames; None where there is none of ours.

    Raises MediaError if the file does not exist or cannot be opened at all.
    """
    file = Path(path)
    if file.is_dir():
        pictures = sorted(name for name in os.listdir(file) if name.endswith(".png"))
        return read_metadata(file / pictures[0]) if pictures else None
    require_file(file)
    try:
        with Image.open(file, formats=known_formats()) as picture:
            text = _of_picture(picture)
    except OSError:
        text = _of_video(file)
    except Exception as error:  # Pillow's plugins raise nearly every type on damaged files
        raise MediaError(f"{path} cannot be read: the picture is damaged.") from error
    return _parse(text)


def _of_picture(picture: Image.Image) -> str | None:
    if picture.format == "PNG":
        return picture.info.get(KEY)
    if picture.format == "GIF":
        comment = picture.info.get("comment")
        return comment.decode("ascii", "replace") if comment else None
    return picture.getexif().get(_IMAGE_DESCRIPTION)


def _of_video(file: Path) -> str | None:
    with Ffmpeg("-loglevel", "error", *input_arguments(file), "-f", "ffmetadata", "-", seconds=60) as ffmpeg:
        text = ffmpeg.read_all().decode("utf-8", "replace")
        if ffmpeg.finish() != 0:
            raise MediaError(f"{file} cannot be read: it is no video or picture, or it is damaged.")
    found = re.search(r"^comment=((?:[^\\\n]|\\.)*)", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL) if found else None


def _parse(text: str | None) -> dict | None:
    try:
        document = json.loads(text) if text else None
    except ValueError:
        return None
    metadata = document.get(KEY) if isinstance(document, dict) else None
    return metadata if isinstance(metadata, dict) else None
