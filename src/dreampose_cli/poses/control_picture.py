"""The control picture of the reference-attention family: DensePose part labels in the colours of the viridis map.

detectron2's visualiser of the fine segmentation paints label I with entry int(I * 255 / 24) of the map, background
included, which is why it is purple and not black. U and V take no part.
"""

from __future__ import annotations

import numpy as np

# matplotlib's viridis, rounded to 8 bits, at int(I * 255 / 24) for the labels I = 0 (background) to 24.
VIRIDIS = np.array(
    [
        (68, 1, 84),
        (71, 16, 99), (72, 31, 112), (71, 44, 122), (68, 57, 131), (64, 70, 136), (59, 81, 139),
        (54, 93, 141), (49, 104, 142), (44, 113, 142), (40, 124, 142), (37, 133, 142), (33, 144, 141),
        (31, 154, 138), (32, 163, 134), (39, 173, 129), (53, 183, 121), (70, 192, 111), (92, 200, 99),
        (115, 208, 86), (142, 214, 69), (170, 220, 50), (197, 224, 33), (226, 228, 24), (253, 231, 37),
    ],
    np.uint8,
)  # fmt: skip

NEAR = (
    24  # sum of the differences of red, green and blue up to which a pixel has a colour of the map, after a video codec
)
SHARE = 0.9  # of the pixels of a control picture have one: the rest are edges, which a codec blends


def draw_control_picture(frame: np.ndarray) -> np.ndarray:
    """A pose frame, float (3, H, W) with I in 0..24 as its first plane, as its control picture, uint8 (H, W, 3)."""
    return VIRIDIS[np.rint(frame[0]).astype(np.intp)]


def read_control_picture(picture: np.ndarray) -> np.ndarray | None:
    """The labels, uint8 (H, W), of a picture uint8 (H, W, 3) that is a control picture; None for any other.

    A control picture has hardly a pixel of another colour, and the background's at most of its border.
    """
    table, inverse = np.unique(picture.reshape(-1, 3), axis=0, return_inverse=True)
    distance = np.abs(table[:, None].astype(np.int16) - VIRIDIS.astype(np.int16)).sum(-1)
    labels = distance.argmin(1).astype(np.uint8)[inverse].reshape(picture.shape[:2])
    near = (distance.min(1) <= NEAR)[inverse].reshape(picture.shape[:2])
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    if near.mean() < SHARE or (border == 0).mean() < 0.5:
        return None
    return labels
