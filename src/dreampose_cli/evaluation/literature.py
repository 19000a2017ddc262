"""Published figures on the UBC Fashion test set, for orientation: each row by its own authors' protocol and data.

DreamPose's protocol (arXiv 2304.06025): 100 test videos, 256 pixels, 50 frames of each at least 50 frames after the input
frame. The ablation (its Table 2) is over 100 frames of each of the 100 videos.
"""

from __future__ import annotations

COLUMNS = ("l1", "ssim", "lpips", "vgg", "fid", "fvd", "aed")

# L1, SSIM, LPIPS, VGG, FID, FVD, AED, as printed; None where nothing was published
ROWS: tuple[tuple[str, tuple[float | None, ...]], ...] = (
    ("MRAA", (0.0857, 0.749, 0.212, 0.534, 23.42, 253.65, 0.0139)),
    ("TPSMM", (0.0858, 0.746, 0.213, 0.547, 22.87, 247.55, 0.0137)),
    ("PIDM", (0.1098, 0.713, 0.288, 0.629, 30.28, 1197.39, 0.0155)),
    ("DreamPose, tuned on the subject", (0.0256, 0.885, 0.068, 0.235, 13.04, 238.75, 0.0110)),
    ("DreamPose, untuned (measured by others)", (None, 0.879, 0.111, None, None, 279.6, None)),
    ("SD + ControlNet + IP-Adapter + AnimateDiff", (None, 0.894, 0.095, None, None, 175.4, None)),
    ("AnimateAnyone", (None, 0.931, 0.044, None, None, 81.6, None)),
    ("UniAnimate", (None, 0.940, 0.031, None, None, 68.1, None)),
    ("Animate-X", (None, 0.940, 0.030, None, None, 79.4, None)),
)

# The paper's Table 2: L1, SSIM, VGG, LPIPS
ABLATION: dict[str, tuple[float, float, float, float]] = {
    "clip-only": (0.025, 0.882, 0.247, 0.070),
    "no-decoder": (0.025, 0.897, 0.210, 0.057),
    "one-pose": (0.019, 0.899, 0.208, 0.056),
    "smoothed": (0.767, 0.758, 0.502, 0.202),
    "full": (0.019, 0.900, 0.207, 0.056),
}
