"""Photos and videos, in and out. Pictures are numpy uint8 (H, W, 3) RGB everywhere."""

from .atomic import atomic_folder, atomic_path
from .files import require_file
from .metadata import read_metadata
from .photos import open_picture, read_photo, resize
from .results import check_output, output_kind, require_apart, write_frames
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
