"""dreampose-cli: a fashion photo and a dance become a video, with the method of DreamPose (arXiv 2304.06025)."""

__version__ = "0.1.0"
