"""The meaning of a video's values, from what ffmpeg says of it, and the filters that make RGB of them.

HDR video holds light far above white; it is mapped to an ordinary screen so that everything up to about half of white
keeps its value, and what is brighter is compressed. White is 203 cd/m2 (ITU-R BT.2408), the top 1000 cd/m2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_HDR = {"smpte2084", "arib-std-b67"}  # PQ and HLG
_WIDE = {"bt2020", "smpte431", "smpte432"}
_LAID_OUT = re.compile(
    r"^\s*Stream #0:\d+.*?: Video: (?!.*\(attached pic\)).*?, (\w+)(?:\(([^)]*)\))?[, ]", re.MULTILINE
)
_RGB = ["format=gbrp", "format=rgb24"]  # the same bytes as rgb24 alone, at half the cost: ffmpeg's fast code is planar


@dataclass(frozen=True)
class Colours:
    """Names as ffmpeg has them, None where the file says nothing. matrix, primaries, transfer: as in "bt2020nc",
    "bt2020", "smpte2084". interlaced: whether a frame holds two moments, a line each. guessed: the matrix to assume."""

    matrix: str | None = None
    primaries: str | None = None
    transfer: str | None = None
    interlaced: bool = False
    guessed: str | None = None

    @classmethod
    def told_by(cls, words: str, height: int) -> Colours:
        """From ffmpeg's description of a file and the height of its pictures: what says nothing of its matrix and is
        of high definition has BT.709's, as players assume."""
        found = _LAID_OUT.search(words.partition("Output #0")[0])
        if not found:
            return cls()
        layout, parts = found[1], [part.strip() for part in (found[2] or "").split(",")]
        known = next(
            (part for part in parts if re.fullmatch(r"[\w-]+(/[\w-]+/[\w-]+)?", part) and _is_colour(part)), ""
        )
        names = known.split("/") * (1 if "/" in known else 3)
        matrix, primaries, transfer = (None if name in ("", "unknown") else name for name in names)
        interlaced = any(part.endswith(("first", "(swapped)")) for part in parts)
        guessed = "bt709" if matrix is None and layout.startswith("yuv") and height >= 720 else None
        return cls(matrix, primaries, transfer, interlaced, guessed)

    @property
    def hdr(self) -> bool:
        return self.transfer in _HDR

    def before_rate(self) -> list[str]:
        """Filters that need the frames as they were decoded."""
        named = [f"setparams=colorspace={self.guessed}"] if self.guessed else []
        return [*named, *(["bwdif=mode=send_frame:deint=interlaced"] if self.interlaced else [])]


def to_rgb_filters(colours: Colours) -> list[str]:
    """Filters from decoded frames to 8-bit RGB with the primaries of BT.709."""
    if not colours.hdr and colours.primaries not in _WIDE:
        return _RGB
    primaries = colours.primaries or "bt2020"
    matrix = colours.matrix or ("bt2020nc" if primaries == "bt2020" else "bt709")
    laid_out = [] if matrix == "gbr" else [f"min={matrix}"]
    source = ":".join([f"pin={primaries}", f"tin={colours.transfer or 'bt709'}", *laid_out])
    mapped = ["tonemap=mobius:peak=5:desat=0"] if colours.hdr else []
    linear = [f"zscale={source}:t=linear:npl=203", "format=gbrpf32le", "zscale=p=bt709"]
    return [*linear, *mapped, "zscale=t=bt709", *_RGB]


def _is_colour(part: str) -> bool:
    return part not in ("tv", "pc", "progressive") and not part.endswith("first")
