"""The two operators of torchvision in plain PyTorch, against brute force written from their definitions."""

import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from dreampose_cli.poses import torchvision_ops as operators
from dreampose_cli.poses.torchvision_ops import ensure_torchvision_operators, nms, roi_align


def slow_nms(boxes, scores, threshold):
    """Greedy suppression with two loops, in the boxes' own precision."""
    order = sorted(range(len(boxes)), key=lambda i: -scores[i])  # stable
    kept = []
    for i in order:
        for j in kept:
            a, b = boxes[j], boxes[i]
            width = max(a.dtype.type(0), min(a[2], b[2]) - max(a[0], b[0]))
            height = max(a.dtype.type(0), min(a[3], b[3]) - max(a[1], b[1]))
            shared = width * height
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
            if float(shared / union) > threshold:
                break
        else:
            kept.append(i)
    return kept


def bilinear(plane, y, x):
    height, width = plane.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = int(y), int(x)
    if top >= height - 1:
        top = bottom = height - 1
        y = float(top)
    else:
        bottom = top + 1
    if left >= width - 1:
        left = right = width - 1
        x = float(left)
    else:
        right = left + 1
    dy, dx = y - top, x - left
    above = plane[top, left] * (1 - dx) + plane[top, right] * dx
    below = plane[bottom, left] * (1 - dx) + plane[bottom, right] * dx
    return above * (1 - dy) + below * dy


def slow_roi_align(input, rois, scale, pooled_height, pooled_width, ratio, aligned):
    """Each output value as the mean of its samples, one by one, in double precision."""
    result = np.zeros((len(rois), input.shape[1], pooled_height, pooled_width))
    shift = 0.5 if aligned else 0.0
    for k, (image, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (c * scale - shift for c in corners)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        bin_height, bin_width = height / pooled_height, width / pooled_width
        down = ratio if ratio > 0 else math.ceil(bin_height)
        across = ratio if ratio > 0 else math.ceil(bin_width)
        for c, plane in enumerate(input[int(image)]):
            for i in range(pooled_height):
                for j in range(pooled_width):
                    total = 0.0
                    for a in range(down):
                        y = y1 + i * bin_height + (a + 0.5) * bin_height / down
                        for b in range(across):
                            x = x1 + j * bin_width + (b + 0.5) * bin_width / across
                            total += bilinear(plane, y, x)
                    result[k, c, i, j] = total / max(down * across, 1)
    return result


def some_boxes(count, seed):
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(0, 40, (count, 2))], axis=1)
    return boxes, np.round(generator.uniform(0, 1, count), 1)  # rounded: many equal scores


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_nms_is_greedy_suppression(dtype, threshold):
    boxes, scores = some_boxes(120, 1)
    boxes = torch.from_numpy(boxes).to(dtype)
    kept = nms(boxes, torch.from_numpy(scores).to(dtype), threshold)
    assert kept.dtype == torch.int64
    assert kept.tolist() == slow_nms(boxes.numpy(), scores, threshold)


def test_nms_at_the_edges(monkeypatch):
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)
    assert nms(torch.zeros(3, 4), torch.tensor([0.1, 0.3, 0.2]), 0.5).tolist() == [1, 2, 0]  # 0 / 0 exceeds nothing
    halves = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10]])
    assert nms(halves, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 1]  # exactly the threshold stays
    thirds = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 3]])
    assert nms(thirds, torch.tensor([0.9, 0.8]), 0.3).tolist() == [0]  # 0.3 in float32 is more than 0.3
    boxes, scores = some_boxes(100, 2)
    whole = nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.4)
    monkeypatch.setattr(operators, "_ROWS", 7)  # in blocks, as for thousands
    assert torch.equal(nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.4), whole)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, -1, 1, 2, 3])
def test_roi_align_is_the_mean_of_its_samples(aligned, ratio):
    generator = np.random.default_rng(3)
    input = generator.normal(size=(2, 3, 9, 12))
    rois = [
        [0, 2, 3, 20, 11],
        [1, -6, -7, 9, 5],  # over the edge
        [1, 20, 14, 40, 60],
        [0, 100, 100, 140, 120],  # outside
        [0, 5.3, 4.1, 5.4, 4.2],  # within one pixel
        [1, 8, 8, 4, 3],  # inside out
        [0, -2, -2, 26, 20],
    ]
    expected = slow_roi_align(input, rois, 0.5, 3, 2, ratio, aligned)
    exact = roi_align(torch.from_numpy(input), torch.tensor(rois, dtype=torch.float64), 0.5, 3, 2, ratio, aligned)
    assert exact.dtype == torch.float64
    assert np.abs(exact.numpy() - expected).max() < 1e-12
    single = roi_align(torch.from_numpy(input).float(), torch.tensor(rois), 0.5, 3, 2, ratio, aligned)
    assert single.dtype == torch.float32
    assert np.abs(single.numpy() - expected).max() < 4e-6


def test_roi_align_at_the_edges(monkeypatch):
    input = torch.rand(1, 2, 5, 5, dtype=torch.float64)
    assert roi_align(input, torch.zeros(0, 5, dtype=torch.float64), 1.0, 7, 7, 0, True).shape == (0, 2, 7, 7)
    assert roi_align(input[:, :0], torch.zeros(1, 5, dtype=torch.float64), 1.0, 2, 2, 0, True).shape == (1, 0, 2, 2)
    one = roi_align(torch.full((1, 1, 1, 1), 3.0), torch.tensor([[0.0, 0, 0, 1, 1]]), 1.0, 1, 1, 2, True)
    assert one.item() == 3.0
    rois = torch.tensor([[0, 0.2, 0.3, 4.0, 4.5]] * 9, dtype=torch.float64)
    whole = roi_align(input, rois, 1.0, 3, 3, 0, True)
    monkeypatch.setattr(operators, "_SAMPLES", 150)  # in parts, as for thousands
    assert torch.equal(roi_align(input, rois, 1.0, 3, 3, 0, True), whole)


def test_the_operators_are_registered_once():
    ensure_torchvision_operators()
    library = operators._library
    ensure_torchvision_operators()
    assert operators._library is library
    boxes, scores = some_boxes(30, 4)
    boxes, scores = torch.from_numpy(boxes), torch.from_numpy(scores)
    assert torch.equal(torch.ops.torchvision.nms(boxes, scores, 0.5), nms(boxes, scores, 0.5))


MAKE = """
    import sys, warnings
    import torch
    from dreampose_cli.poses.torchvision_ops import ensure_torchvision_operators
    ensure_torchvision_operators()

    class Module(torch.nn.Module):
        def forward(self, boxes: torch.Tensor, scores: torch.Tensor, picture: torch.Tensor):
            kept = torch.ops.torchvision.nms(boxes, scores, 0.5)
            rois = torch.cat([torch.zeros(len(kept), 1), boxes[kept]], dim=1)
            return kept, torch.ops.torchvision.roi_align(picture, rois, 1.0, 2, 2, 0, True)

    warnings.simplefilter("ignore")
    torch.jit.save(torch.jit.script(Module()), sys.argv[1])
"""
LOAD = """
    import sys, warnings
    import torch
    if sys.argv[2] == "broken":  # a torchvision for another torch fails while it is imported
        class Finder:
            def find_spec(self, name, *rest):
                if name == "torchvision":
                    raise RuntimeError("operator torchvision::nms does not exist")
        sys.meta_path.insert(0, Finder())
    warnings.simplefilter("ignore")
    try:
        torch.jit.load(sys.argv[1])
    except RuntimeError as error:
        assert "torchvision::nms" in str(error), error
    from dreampose_cli.poses.torchvision_ops import ensure_torchvision_operators
    ensure_torchvision_operators()
    module = torch.jit.load(sys.argv[1])
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3.9], [5, 5, 8, 8]])
    with torch.inference_mode():
        kept, bins = module(boxes, torch.tensor([0.5, 0.9, 0.7]), torch.ones(1, 3, 9, 9))
    assert kept.tolist() == [1, 2] and bins.shape == (2, 3, 2, 2) and bins.eq(1).all(), (kept, bins)
    print("same")
"""


def test_a_scripted_module_runs_in_a_fresh_process(tmp_path):
    def process(script, *words):
        file = tmp_path / "script.py"  # TorchScript reads sources
        file.write_text(textwrap.dedent(script))
        done = subprocess.run(
            [sys.executable, str(file), str(tmp_path / "m.torchscript"), *words],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    process(MAKE)
    assert process(LOAD, "broken") == "same"
