"""Metrics of the figure alone: SSIM against scikit-image's map, texture against pictures whose answer is known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from dreampose_cli.evaluation.figure import figure_mask, figure_ssim, texture


@pytest.fixture(scope="module")
def dressed():
    """A picture (1, 80, 60, 3) of two striped parts of two colours under a light that falls off, and its labels."""
    y, x = np.mgrid[:80, :60]
    parts = np.zeros((80, 60), np.uint8)
    parts[10:40, 15:45], parts[40:75, 18:42] = 2, 9
    stripes = (0.15 * np.sign(np.sin(y * 2 * np.pi / 6)))[..., None] * [1, 0.5, 0]
    colour = np.where((parts == 2)[..., None], [0.6, 0.3, 0.2], [0.2, 0.3, 0.6]) + 0.1 * (x / 60)[..., None]
    picture = np.where((parts > 0)[..., None], np.clip(colour + stripes, 0, 1), 0.9)
    return picture[None], parts[None]


def test_texture_of_the_truth_is_one_and_of_plain_colours_nothing(dressed):
    truth, parts = dressed
    plain = truth.copy()
    for part in (2, 9):
        plain[parts == part] = truth[parts == part].mean(0)
    assert texture(truth, truth, parts) == [pytest.approx(1)]
    assert texture(plain, truth, parts) == [pytest.approx(0, abs=0.02)]
    assert texture(truth, plain, parts) == [None]


def test_texture_does_not_count_colour_light_or_outline(dressed):
    truth, parts = dressed
    light = np.clip(truth + 0.05 + 0.08 * (np.mgrid[:80, :60][0] / 80)[..., None], 0, None) * (parts > 0)[..., None]
    assert texture(np.clip(light, 0, 1), truth, parts)[0] > 0.97


def test_texture_is_lost_by_blur_by_a_shift_and_by_half_the_contrast(dressed):
    truth, parts = dressed
    blurred = np.stack([gaussian_filter(truth[0, ..., c], 2) for c in range(3)], -1)[None]
    assert texture(blurred, truth, parts)[0] < 0.3  # while SSIM and L1 forgive it
    assert texture(np.roll(truth, 3, axis=1), truth, parts)[0] < -0.5  # half a stripe: its opposite
    middle = truth.copy()
    for part in (2, 9):
        middle[parts == part] = (truth[parts == part] + truth[parts == part].mean(0)) / 2
    assert texture(middle, truth, parts)[0] == pytest.approx(0.8, abs=0.03)  # 2 (1/2) / (1 + 1/4)


def test_ssim_of_the_figure_is_the_mean_of_scikit_images_map():
    rng = np.random.default_rng(0)
    a = rng.random((2, 40, 32, 3))
    b = np.clip(a + rng.normal(0, 0.1, a.shape), 0, 1)
    mask = np.zeros((2, 40, 32), bool)
    mask[0, 3:30, 8:20] = True  # some of it nearer to the border than a window reaches
    options = {"channel_axis": -1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, likeness = structural_similarity(a[0], b[0], full=True, data_range=1.0, **options)
    inner = np.zeros_like(mask[0])
    inner[5:-5, 5:-5] = mask[0, 5:-5, 5:-5]
    assert figure_ssim(a, b, mask) == [pytest.approx(likeness[inner].mean(), abs=1e-9), None]


def test_the_figure_is_the_body_and_what_lies_around_it():
    parts = np.zeros((1, 9, 9), np.uint8)
    parts[0, 4, 4] = 7
    assert figure_mask(parts)[0].sum() == 25 and figure_mask(parts)[0, 2:7, 2:7].all()
