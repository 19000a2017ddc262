"""Photos and videos, in and out. Pictures are numpy uint8 (H, W, 3) RGB everywhere.

Names are imported when they are first used: whether a result may be written where it is asked for (`outputs`) can be told
without the libraries that read and write pictures.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .atomic import atomic_folder, atomic_path
    from .files import require_file
    from .metadata import read_metadata
    from .outputs import check_output, output_kind, require_apart
    from .photos import open_picture, read_photo, resize
    from .results import write_frames
    from .sources import FrameSource, open_frames
    from .videos import VideoInfo, probe_video, read_video

__all__ = [
    "FrameSource",
    "VideoInfo",
    "atomic_folder",
    "atomic_path",
    "check_output",
    "open_frames",
    "open_picture",
    "output_kind",
    "probe_video",
    "read_metadata",
    "read_photo",
    "read_video",
    "require_apart",
    "require_file",
    "resize",
    "write_frames",
]

_HOMES = {
    "FrameSource": "sources",
    "VideoInfo": "videos",
    "atomic_folder": "atomic",
    "atomic_path": "atomic",
    "check_output": "outputs",
    "open_frames": "sources",
    "open_picture": "photos",
    "output_kind": "outputs",
    "probe_video": "videos",
    "read_metadata": "metadata",
    "read_photo": "photos",
    "read_video": "videos",
    "require_apart": "outputs",
    "require_file": "files",
    "resize": "photos",
    "write_frames": "results",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return value
