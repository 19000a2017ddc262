"""dreampose-cli: a fashion photo and a dance become a video, with the method of DreamPose (arXiv 2304.06025)."""

from .version import __version__

__all__ = ["__version__"]
