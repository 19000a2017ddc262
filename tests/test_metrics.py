"""The metrics against scikit-image, closed forms and hand-made clips."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from dreampose_cli.evaluation import metrics


def reference_ssim(a, b):
    return structural_similarity(
        a, b, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
    )


def pictures(kind, size=(61, 47), frames=3):
    """Pairs of clips (N, H, W, 3) in [0, 1] of many sorts."""
    rng = np.random.default_rng(sum(kind.encode()))
    height, width = size
    y, x = np.mgrid[:height, :width]
    if kind == "noise":
        a = rng.random((frames, height, width, 3))
        return a, rng.random(a.shape)
    if kind == "near":
        a = rng.random((frames, height, width, 3))
        return a, np.clip(a + rng.normal(0, 0.02, a.shape), 0, 1)
    if kind == "smooth":
        a = np.stack([0.5 + 0.5 * np.sin((x + 3 * i) / 9)[..., None] * [0.9, 0.5, 0.1] for i in range(frames)])
        return a, np.roll(a, 2, axis=2)
    if kind == "flat":  # where float32 and no centring would lose SSIM's small variances
        a = np.zeros((frames, height, width, 3))
        a[:, :, width // 2 :] = 1
        return a, np.clip(a + 0.1 * ((x + y) % 2)[..., None] * (1 - 2 * a), 0, 1)
    raise AssertionError(kind)


KINDS = ("noise", "near", "smooth", "flat")


@pytest.mark.parametrize("kind", KINDS)
def test_ssim_and_psnr_are_those_of_scikit_image(kind):
    a, b = pictures(kind)
    assert metrics.ssim(a, b) == pytest.approx([reference_ssim(p, q) for p, q in zip(a, b, strict=True)], abs=1e-9)
    expected = [peak_signal_noise_ratio(q, p, data_range=1.0) for p, q in zip(a, b, strict=True)]
    assert metrics.psnr(a, b) == pytest.approx(expected, abs=1e-9)
    assert metrics.l1(a, b) == pytest.approx(np.abs(a - b).mean((1, 2, 3)), abs=1e-12)


@pytest.mark.parametrize("where", [(0, 0), (39, 31), (0, 31), (20, 16), (11, 30)])
def test_ssim_where_little_differs(where):
    a = np.random.default_rng(1).integers(0, 256, (40, 32, 3), dtype=np.uint8)
    b = a.copy()
    b[where] = 255 - b[where]
    assert metrics.ssim(a, b) == pytest.approx([reference_ssim(a / 255, b / 255)], abs=1e-9)


@pytest.mark.parametrize("size", [(11, 11), (11, 30), (40, 12), (160, 128)])
def test_ssim_at_any_size(size):
    a, b = pictures("near", size, frames=1)
    assert metrics.ssim(a, b) == pytest.approx([reference_ssim(a[0], b[0])], abs=1e-9)


@pytest.mark.parametrize("size", [(10, 30), (30, 10)])
def test_ssim_needs_room_for_its_window(size):
    a, b = pictures("near", size, frames=1)
    with pytest.raises(ValueError, match="11 pixels a side"):
        metrics.ssim(a, b)


def test_equal_pictures_give_the_ideal_values():
    a, _ = pictures("smooth")
    mask = np.ones(a.shape[:3], bool)
    assert metrics.ssim(a, a) == pytest.approx([1] * 3, abs=1e-12)
    assert metrics.l1(a, a) == [0] * 3
    assert metrics.psnr(a, a) == [None] * 3
    assert metrics.sharpness(a, a) == [1] * 3
    assert metrics.figure_l1(a, a, mask) == [0] * 3
    assert metrics.flicker(a, a) == 1


def test_a_constant_offset_has_known_values():
    a = np.full((2, 20, 20, 3), 0.5)
    b = a + 0.1
    assert metrics.l1(a, b) == pytest.approx([0.1] * 2)
    assert metrics.psnr(a, b) == pytest.approx([20.0] * 2)
    luminance = (2 * 0.5 * 0.6 + 1e-4) / (0.25 + 0.36 + 1e-4)
    assert metrics.ssim(a, b) == pytest.approx([luminance] * 2)


def test_black_against_white():
    black, white = np.zeros((1, 16, 16, 3)), np.ones((1, 16, 16, 3))
    assert metrics.l1(black, white) == [1]
    assert metrics.psnr(black, white) == [0]
    assert metrics.ssim(black, white) == pytest.approx([1e-4 / 1.0001])


def test_bytes_are_converted_before_anything_is_subtracted():
    dark, light = np.full((1, 16, 16, 3), 10, np.uint8), np.full((1, 16, 16, 3), 20, np.uint8)
    assert (dark - light).mean() == 246  # the overflow behind published PSNRs of 28 to 38
    assert metrics.l1(dark, light) == metrics.l1(light, dark) == pytest.approx([10 / 255])
    assert metrics.psnr(dark, light) == pytest.approx([20 * math.log10(25.5)])
    a, b = ((clip * 255).round().astype(np.uint8) for clip in pictures("near"))
    for measure in (metrics.l1, metrics.psnr, metrics.ssim, metrics.sharpness):
        assert measure(a, b) == pytest.approx(measure(a / 255, b / 255), abs=1e-12)
    assert metrics.flicker(a, b) == pytest.approx(metrics.flicker(a / 255, b / 255))


@pytest.mark.parametrize(
    "wrong",
    [
        np.full((16, 16, 3), 128),  # int64
        np.full((16, 16, 3), 128, np.int16),
        np.ones((16, 16, 3), bool),
        np.full((16, 16, 3), 128.0),  # 0..255 as floats
        np.full((16, 16, 3), -0.5),  # [-1, 1]
        np.full((16, 16, 3), np.nan),
        np.zeros((16, 16, 4)),  # transparency
        np.zeros((16, 16)),
        np.zeros((3, 16, 16)),
        np.zeros((0, 16, 16, 3)),
    ],
)
def test_what_is_no_picture_is_refused(wrong):
    for measure in (metrics.l1, metrics.psnr, metrics.ssim, metrics.sharpness, metrics.flicker):
        with pytest.raises(ValueError):
            measure(wrong, wrong)


def test_different_shapes_are_refused():
    a, b = pictures("noise")
    for measure in (metrics.l1, metrics.psnr, metrics.ssim, metrics.sharpness, metrics.flicker):
        with pytest.raises(ValueError, match="one shape"):
            measure(a, b[:, 1:])
        with pytest.raises(ValueError, match="one shape"):
            measure(a, b[:2])


def test_numpy_torch_one_picture_and_a_batch_are_alike():
    a, b = (clip.astype(np.float32) for clip in pictures("near"))
    before = a.copy(), b.copy()
    for measure in (metrics.l1, metrics.psnr, metrics.ssim, metrics.sharpness):
        batch = measure(a, b)
        assert batch == [measure(p, q)[0] for p, q in zip(a, b, strict=True)]
        assert batch == measure(torch.from_numpy(a), torch.from_numpy(b))
    assert (a == before[0]).all() and (b == before[1]).all()  # the inputs are left as they are


def test_read_only_and_mirrored_arrays_are_read():
    a, b = pictures("near")
    expected = metrics.l1(a, b)
    assert metrics.l1(a[:, :, ::-1], b[:, :, ::-1]) == pytest.approx(expected)
    a.flags.writeable = False
    mask = np.broadcast_to(np.True_, a.shape[:3])
    assert metrics.figure_l1(a, b, mask) == pytest.approx(expected)
    still = np.broadcast_to(a[0], a.shape)
    assert metrics.flicker(still, b) == 0


def test_figure_l1_sees_the_figure_alone():
    a = np.zeros((3, 16, 16, 3))
    b = a.copy()
    b[:, 4:8, 4:8] = 0.3
    b[:, 0, 0] = 1.0
    mask = np.zeros((3, 16, 16), bool)
    mask[0, 4:8, 4:8] = True
    mask[1, 4:8, 4:12] = True
    assert metrics.figure_l1(a, b, mask) == [pytest.approx(0.3), pytest.approx(0.15), None]
    assert metrics.figure_l1(a[0], b[0], torch.from_numpy(mask[0])) == [pytest.approx(0.3)]
    with pytest.raises(ValueError, match="mask"):
        metrics.figure_l1(a, b, mask[:2])
    with pytest.raises(ValueError, match="mask"):
        metrics.figure_l1(a, b, mask.astype(np.uint8))


def test_sharpness_tells_blur_from_noise():
    rng = np.random.default_rng(5)
    truth = 0.25 + 0.5 * rng.random((1, 40, 40, 3))
    half = 0.5 + 0.5 * (truth - 0.5)
    assert metrics.sharpness(half, truth) == pytest.approx([0.25])  # half the contrast, a quarter of the energy
    blurred = (truth + np.roll(truth, 1, 1)) / 2
    assert metrics.sharpness(blurred, truth)[0] < 0.8
    assert metrics.sharpness(np.clip(truth + rng.normal(0, 0.1, truth.shape), 0, 1), truth)[0] > 1.05
    assert metrics.sharpness(truth, np.full_like(truth, 0.5)) == [None]


def test_gradient_energy_of_a_ramp():
    ramp = torch.linspace(0, 1, 11, dtype=torch.float64)[None, :, None].expand(7, 11, 3)
    assert metrics.gradient_energy(ramp) == pytest.approx(0.01 * 10 / 11)


def test_flicker_of_clips_made_by_hand():
    rng = np.random.default_rng(6)
    truth = np.linspace(0.2, 0.8, 6)[:, None, None, None] * np.ones((6, 12, 12, 3))
    assert metrics.flicker(truth[:1].repeat(6, 0), truth) == 0  # the copied photo does not move
    assert metrics.flicker(truth[::-1], truth) == pytest.approx(1)
    doubled = 0.2 + (truth - 0.2) / 2
    assert metrics.flicker(doubled, truth) == pytest.approx(0.25)
    alternating = truth + np.where(np.arange(6) % 2, 0.12, -0.12)[:, None, None, None]  # steps of 0.12 +- 0.24
    assert metrics.flicker(alternating, truth) == pytest.approx((3 * 0.36**2 + 2 * 0.12**2) / (5 * 0.12**2))
    noisy = np.clip(truth + rng.normal(0, 0.05, truth.shape), 0, 1)
    assert metrics.flicker(noisy, truth) > 1.2
    assert metrics.flicker(truth[0], truth[0]) is None
    assert metrics.flicker(noisy, truth[:1].repeat(6, 0)) is None


def test_flicker_of_a_stream_is_that_of_the_clip():
    a, b = pictures("near", frames=7)
    meter = metrics.Flicker()
    assert meter.value is None
    for piece in (slice(0, 1), slice(1, 4), slice(4, 7)):
        meter.add(a[piece], b[piece])
    assert meter.value == pytest.approx(metrics.flicker(a, b), rel=1e-12)
    with pytest.raises(ValueError, match="two sizes"):
        meter.add(a[0, 1:], b[0, 1:])


def test_mean_leaves_out_what_is_undefined():
    assert metrics.mean([1.0, None, 3.0]) == 2
    assert metrics.mean([None]) is None
