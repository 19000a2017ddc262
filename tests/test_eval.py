"""`dreampose eval`: pairs, protocol, exact values, limits, and what bad input is told."""

import csv
import json
import math
import sys

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from dreampose_cli import media
from dreampose_cli.__main__ import main
from dreampose_cli.errors import EvaluationError, MediaError, UsageError
from dreampose_cli.evaluation import metrics as pixels
from dreampose_cli.evaluation.frame_pairs import AlignedFrames, resize, scored_size
from dreampose_cli.evaluation.metric_registry import (
    METRICS,
    NETWORK_METRICS,
    POSE_METRICS,
    parse_limits,
    parse_metrics,
    parse_size,
)
from dreampose_cli.evaluation.pairing import find_pairs
from dreampose_cli.evaluation.scoring import evaluate
from dreampose_cli.evaluation.warping import warp_errors
from dreampose_cli.poses.files import PoseWriter

KEYS = [
    "l1",
    "psnr",
    "ssim",
    "figure_l1",
    "figure_ssim",
    "texture",
    "lpips_alex",
    "lpips_vgg",
    "vgg",
    "fid",
    "fvd",
    "aed",
    "clip",
    "clip_photo",
    "clip_text",
    "sharpness",
    "flicker",
    "warp",
]


def write(path, frames, fps=12.0):
    """Frames as a video, or losslessly as a folder where the name has no suffix."""
    return media.write_frames(f"{path}/" if not path.suffix else path, list(frames), fps=fps)


def noise(seed=0, frames=5, size=(40, 32)):
    """A clip that moves: a smooth pattern with noise, uint8 (N, H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [128 + 60 * np.sin((x + 2 * t) / 4)[..., None] * [1, 0.5, 0.2] for t in range(frames)]
    return np.clip(np.stack(waves) + rng.normal(0, 12, (frames, *size, 3)), 0, 255).astype(np.uint8)


def run(*words, capsys):
    code = main(["eval", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def pair(tmp_path):
    """Two folders of frames, and what is in them."""
    a, b = noise(1), noise(2)
    return write(tmp_path / "a", a), write(tmp_path / "b", b), a, b


# ---- values


def test_values_are_those_of_scikit_image(pair):
    left, right, a, b = pair
    found = evaluate(left, right, keep_frames=True)
    ssim = [
        structural_similarity(
            p / 255,
            q / 255,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
        )
        for p, q in zip(a, b, strict=True)
    ]
    psnr = [peak_signal_noise_ratio(q / 255, p / 255, data_range=1) for p, q in zip(a, b, strict=True)]
    frames = found.clips[0].per_frame
    assert list(frames["ssim"]) == pytest.approx(ssim, abs=1e-9)
    assert list(frames["psnr"]) == pytest.approx(psnr, abs=1e-9)
    assert list(frames["l1"]) == pytest.approx(np.abs(a / 255 - b / 255).mean((1, 2, 3)), abs=1e-12)
    assert list(frames["sharpness"]) == pytest.approx(pixels.sharpness(a, b), rel=1e-12)
    assert found.metrics["ssim"] == pytest.approx(np.mean(ssim), abs=1e-9)
    assert found.metrics["psnr"] == pytest.approx(np.mean(psnr), abs=1e-9)
    assert found.metrics["flicker"] == pytest.approx(pixels.flicker(a, b), rel=1e-12)


@pytest.mark.parametrize("name", ["clip", "clip.mp4"])
def test_a_clip_against_itself_is_ideal(name, tmp_path, capsys):
    path = write(tmp_path / name, noise())
    code, out, _ = run(path, path, "--json", capsys=capsys)
    document = json.loads(out)
    assert code == 0
    found = document["metrics"]
    assert (found["l1"], found["ssim"], found["sharpness"], found["flicker"]) == (0, 1, 1, 1)
    assert found["psnr"] is None
    assert document["reasons"]["psnr"] == "identical"


def test_known_degradations_have_their_known_values(tmp_path):
    truth = np.repeat(np.linspace(60, 160, 6)[:, None], 900, 1).reshape(6, 30, 30)[..., None].repeat(3, -1)
    truth = truth.astype(np.uint8)
    reference = write(tmp_path / "truth", truth)
    brighter = evaluate(write(tmp_path / "brighter", truth + 51), reference).metrics  # a fifth of the range
    assert brighter["l1"] == pytest.approx(0.2, abs=1e-12)
    assert brighter["psnr"] == pytest.approx(-20 * math.log10(0.2), abs=1e-9)
    assert brighter["flicker"] == 1
    steps = np.diff(truth[:, 0, 0, 0].astype(int))
    jumping = truth + np.where(np.arange(6) % 2, 10, 0)[:, None, None, None].astype(np.uint8)
    signs = np.where(np.arange(5) % 2, -10, 10)
    expected = ((steps + signs) ** 2).sum() / (steps**2).sum()
    assert evaluate(write(tmp_path / "jumping", jumping), reference).metrics["flicker"] == pytest.approx(expected)
    still = evaluate(write(tmp_path / "still", truth[:1].repeat(6, 0)), reference).metrics
    assert still["flicker"] == 0
    assert still["sharpness"] is None


def test_bytes_do_not_overflow(tmp_path):
    dark = write(tmp_path / "dark", np.full((2, 16, 16, 3), 10, np.uint8))
    light = write(tmp_path / "light", np.full((2, 16, 16, 3), 20, np.uint8))
    for one, other in ((dark, light), (light, dark)):
        found = evaluate(one, other).metrics
        assert found["l1"] == pytest.approx(10 / 255)
        assert found["psnr"] == pytest.approx(20 * math.log10(25.5))


def test_the_mean_is_over_frames_then_over_clips(tmp_path):
    for name, clip, shift in (("x", noise(1, 3), 0), ("y", noise(2, 6), 8)):
        (tmp_path / "truth").mkdir(exist_ok=True)
        (tmp_path / "made").mkdir(exist_ok=True)
        write(tmp_path / "truth" / name, clip)
        write(tmp_path / "made" / name, np.clip(clip.astype(int) + shift, 0, 255).astype(np.uint8))
    found = evaluate(tmp_path / "made", tmp_path / "truth")
    alone = [evaluate(tmp_path / "made" / name, tmp_path / "truth" / name).metrics["l1"] for name in "xy"]
    assert [clip.metrics["l1"] for clip in found.clips] == alone
    assert found.metrics["l1"] == pytest.approx(np.mean(alone))
    assert found.spread["l1"] == {"std": pytest.approx(np.std(alone, ddof=1)), "min": 0, "max": alone[1]}
    assert (found.protocol["frames"], found.protocol["clips"]) == (9, 2)
    assert found.metrics["psnr"] is not None  # of the clip that is not identical


# ---- the protocol


@pytest.mark.parametrize(
    ("source", "size", "scored"),
    [
        ((640, 512), 256, (320, 256)),
        ((512, 640), 256, (256, 320)),
        ((160, 128), 256, (160, 128)),
        ((160, 128), None, (160, 128)),
        ((640, 512), None, (640, 512)),
        ((1001, 501), 256, (511, 256)),
    ],
)
def test_the_shorter_side_is_resized_and_never_enlarged(source, size, scored):
    assert scored_size(source, size) == scored


@pytest.mark.parametrize(("size", "share"), [((320, 256), 1e-4), ((160, 64), 1e-3), ((333, 256), 0), ((700, 600), 0)])
def test_resizing_is_pillows_but_for_rounding(size, share):
    picture = noise(5, 1, (640, 512))[0]
    apart = np.abs(resize(picture, size).astype(int) - media.resize(picture, size))
    assert apart.max() <= 1 and (apart > 0).mean() <= share


def test_both_are_resized_alike(tmp_path):
    a, b = noise(1, 2, (80, 64)), noise(2, 2, (80, 64))
    left, right = write(tmp_path / "a", a), write(tmp_path / "b", b)
    found = evaluate(left, right, size=32)
    small = [np.stack([resize(f, (40, 32)) for f in clip]) for clip in (a, b)]
    assert found.metrics["ssim"] == pytest.approx(np.mean(pixels.ssim(*small)), abs=1e-12)
    assert found.protocol["sizes"] == [{"width": 32, "height": 40}]
    assert found.metrics["l1"] != evaluate(left, right, size=None).metrics["l1"]


def test_a_prediction_of_another_size_is_brought_to_the_references(tmp_path):
    truth = noise(1, 2, (40, 32))
    right = write(tmp_path / "b", truth)
    half = np.stack([media.resize(frame, (20, 16)) for frame in truth])
    found = evaluate(write(tmp_path / "a", half), right)
    assert found.protocol["sizes"] == [{"width": 32, "height": 40}]
    assert found.warnings == []
    assert evaluate(write(tmp_path / "c", half[:, :, :8]), right).warnings == [
        "the prediction is 8x20 and the reference 32x40: it is stretched to the reference's shape"
    ]


def test_the_padding_of_an_odd_size_is_cut_off(tmp_path):
    odd = noise(3, 2, (31, 41))
    reference = write(tmp_path / "b", odd)
    padded = np.pad(odd, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    assert evaluate(write(tmp_path / "a", padded), reference).metrics["l1"] == 0


def test_different_lengths_are_compared_as_far_as_both_go(tmp_path, capsys):
    clip = noise(1, 6)
    long, short = write(tmp_path / "long", clip), write(tmp_path / "short", clip[:4])
    code, out, err = run(short, long, "--json", capsys=capsys)
    assert code == 0
    assert json.loads(out)["protocol"]["frames"] == 4
    assert json.loads(out)["warnings"] == ["the reference has 6 frames; the 4 that both have are compared"]
    assert "warning: the reference has 6 frames" in err
    assert evaluate(long, short).warnings == ["the prediction has 6 frames; the 4 that both have are compared"]


def test_frames_go_by_index_or_by_time(tmp_path):
    clip = noise(4, 12)
    fast, slow = write(tmp_path / "fast.mp4", clip, fps=24), write(tmp_path / "slow.mp4", clip[::2], fps=12)
    by_time = evaluate(fast, slow, align_by="time")
    assert (by_time.protocol["frames"], by_time.warnings) == (6, [])
    by_index = evaluate(fast, slow)
    assert by_time.metrics["l1"] < 0.5 * by_index.metrics["l1"]
    assert any("--align-by time" in text for text in by_index.warnings)
    folder = write(tmp_path / "folder", clip[::2])
    assert evaluate(folder, slow, align_by="time").protocol["frames"] == 6


def test_a_variable_frame_rate_is_made_constant(tmp_path):
    clip = noise(5, 4)
    pictures = [Image.fromarray(frame) for frame in clip]
    path = tmp_path / "variable.png"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100, 100, 300, 100])
    shown = clip[[0, 1, 2, 2, 2, 3]]  # at ten frames a second
    found = evaluate(path, write(tmp_path / "shown", shown))
    assert (found.protocol["frames"], found.metrics["l1"]) == (6, 0)


def test_transparency_is_put_on_white(tmp_path):
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[4:12, 4:12] = (200, 10, 10, 255)
    flat = np.where(rgba[..., 3:] > 0, rgba[..., :3], 255).astype(np.uint8)
    for name, picture in (("clear", rgba), ("flat", flat)):
        (tmp_path / name).mkdir()
        Image.fromarray(picture).save(tmp_path / name / "0.png")
    assert evaluate(tmp_path / "clear", tmp_path / "flat").metrics["l1"] == 0


def test_the_stream_stops_where_the_first_clip_ends(pair):
    left, right, a, _ = pair
    with AlignedFrames(left, right, size=None, align_by="index") as frames:
        first = next(iter(frames))
    assert (first[0] == a[0]).all()


def test_memory_does_not_grow_with_the_clip(tmp_path):
    import tracemalloc

    peaks = []
    for count in (6, 36):
        clip = noise(6, count, (64, 64))
        left, right = write(tmp_path / f"a{count}", clip), write(tmp_path / f"b{count}", clip[::-1])
        del clip
        tracemalloc.start()
        evaluate(left, right)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 12 * 64 * 64 * 3


# ---- what is missing, and why


def test_every_key_is_always_there(pair, capsys):
    left, right, *_ = pair
    code, out, err = run(left, right, "--json", capsys=capsys)
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert list(document)[:3] == ["metrics", "reasons", "protocol"]
    assert list(document["metrics"]) == KEYS == list(METRICS)
    missing = {key for key, value in document["metrics"].items() if value is None}
    assert set(document["reasons"]) == missing
    assert missing == {*NETWORK_METRICS, *POSE_METRICS, "aed"}
    assert "no maintained library" in document["reasons"]["aed"]
    assert all("--metrics all" in document["reasons"][key] for key in NETWORK_METRICS if key not in ("clip_photo", "clip_text"))
    assert document["reasons"]["clip_photo"] == "no photo; give it with --photo"
    assert document["reasons"]["clip_text"] == "no prompt; give it with --prompt"
    assert all("--poses" in document["reasons"][key] for key in POSE_METRICS)


def test_without_a_network_metrics_are_missing_and_the_others_come(pair, capsys):
    left, right, *_ = pair
    photo = left / "00000.png"
    code, out, _ = run(
        left, right, "--json", "--metrics", "all", "--photo", photo, "--prompt", "a dancer", capsys=capsys
    )
    document = json.loads(out)
    assert code == 0
    assert document["metrics"]["ssim"] is not None
    for key in NETWORK_METRICS:
        assert document["metrics"][key] is None
        assert "HF_HUB_OFFLINE" in document["reasons"][key]


def test_only_what_was_asked_for(pair, capsys):
    left, right, *_ = pair
    document = json.loads(run(left, right, "--json", "--metrics", "ssim,psnr", capsys=capsys)[1])
    assert {key for key, value in document["metrics"].items() if value is not None} == {"ssim", "psnr"}
    assert {reason for key, reason in document["reasons"].items()} == {"not asked for"}


def test_one_frame_has_no_motion(tmp_path):
    clip = noise(1, 1)
    found = evaluate(write(tmp_path / "a", clip), write(tmp_path / "b", clip[:, ::-1]))
    assert found.metrics["flicker"] is None
    assert found.reasons["flicker"].startswith("one frame")
    assert found.metrics["ssim"] is not None


def test_small_and_still_clips_have_reasons(tmp_path):
    grey = np.full((3, 10, 40, 3), 100, np.uint8)
    found = evaluate(write(tmp_path / "a", grey + 5), write(tmp_path / "b", grey))
    assert found.metrics["ssim"] is None and "11 pixels" in found.reasons["ssim"]
    assert found.metrics["flicker"] is None and "stands still" in found.reasons["flicker"]
    assert found.metrics["sharpness"] is None and "no gradient" in found.reasons["sharpness"]


def test_some_identical_frames_are_told_of(tmp_path):
    clip = noise(1, 4)
    other = clip.copy()
    other[0] ^= 8
    found = evaluate(write(tmp_path / "a", other), write(tmp_path / "b", clip))
    assert found.metrics["psnr"] == pytest.approx(-20 * math.log10(8 / 255))
    assert found.warnings == ["3 of 4 frames are identical to the reference; PSNR is the mean over the others"]


def test_people_get_a_table_with_the_protocol(pair, capsys):
    left, right, *_ = pair
    code, out, _ = run(left, right, capsys=capsys)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["METRIC", "VALUE"]
    assert lines[-1].startswith("protocol: 5 frames of 1 clip, aligned by index, at 32x40 (shorter side 256, never")
    assert run(left, right, "-q", capsys=capsys)[1].splitlines()[0].startswith("l1 0.")


def test_the_table_fits_a_terminal(pair, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))  # no weights are there
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "zoo"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, _ = run(*pair[:2], capsys=capsys)
    lines = out.splitlines()
    assert code == 0
    assert len(lines) <= 23 and max(map(len, lines)) <= 80
    assert any("LPIPS (VGG)" in line and line.endswith("weights not here, 553 MB") for line in lines)
    assert "--metrics all, or a metric's name, downloads the weights that are not here, once" in lines


# ---- the warping error


def textured(shift, frames=4, size=(48, 40)):
    """A textured square that moves `shift` pixels a frame over grey, with its surface coordinates."""
    rng = np.random.default_rng(9)
    texture = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
    v, u = ((np.mgrid[:16, :16] + 0.5) / 16).astype(np.float32)
    clip, poses = np.full((frames, *size, 3), 128, np.uint8), np.zeros((frames, 3, *size), np.float32)
    for t in range(frames):
        where = np.s_[8 : 8 + 16, 4 + shift * t : 4 + shift * t + 16]
        clip[t][where] = texture
        poses[t][(slice(None), *where)] = np.stack([np.full((16, 16), 2), u, v])
    return clip, poses


def test_a_texture_that_moves_with_its_surface_does_not_warp():
    clip, poses = textured(3)
    assert warp_errors([(clip[0], clip[1])], poses[0], poses[1])[0] < 0.01
    stuck = warp_errors([(clip[0], clip[0])], poses[0], poses[1])[0]  # the body moves, the picture does not
    assert stuck > 0.1
    base, shifted = np.minimum(clip[0], 200), np.minimum(clip[1], 200) + np.uint8(51)  # lighter by a fifth
    assert warp_errors([(base, shifted)], poses[0], poses[1])[0] == pytest.approx(0.2, abs=0.01)
    assert warp_errors([(clip[0], clip[1])], poses[0], np.zeros_like(poses[0]))[0] is None


def test_points_that_only_one_frame_shows_are_not_compared():
    clip, poses = textured(3)
    back = poses[1].copy()
    back[0][back[0] > 0] = 1  # the body's other side: the same charts, none of the same points
    assert warp_errors([(clip[0], clip[1])], poses[0], back)[0] is None


def pose_file(path, poses):
    with PoseWriter(path, poses.shape[2:], 12.0) as writer:
        for pose in poses:
            writer.append(pose)
    return path


def test_warp_by_poses(tmp_path):
    clip, poses = textured(3)
    truth = write(tmp_path / "truth", clip)
    file = pose_file(tmp_path / "truth.poses", poses)
    stuck = write(tmp_path / "stuck", clip[:1].repeat(4, 0))
    found = evaluate(stuck, truth, poses=file, keep_frames=True)
    assert found.metrics["warp"] > 0.1 > 0.01 > found.reference_value["warp"]
    assert [math.isnan(value) for value in found.clips[0].per_frame["warp"]] == [True, False, False, False]
    short = evaluate(stuck, truth, poses=pose_file(tmp_path / "short.poses", poses[:2]))
    assert "there are poses for 2 frames only; what needs poses is the mean over those" in short.warnings
    alone = evaluate(write(tmp_path / "one", clip[:1]), write(tmp_path / "other", clip[1:2]), poses=file)
    assert alone.metrics["warp"] is None and alone.reasons["warp"].startswith("one frame")


def test_the_figure_is_scored_where_the_poses_are_known(tmp_path):
    clip, poses = textured(3)
    truth, file = write(tmp_path / "truth", clip), pose_file(tmp_path / "truth.poses", poses)
    body = poses[:, :1].transpose(0, 2, 3, 1) > 0
    plain = np.where(body, clip[body[..., 0]].mean(0).astype(np.uint8), clip)  # its colour without its texture
    backdrop = np.where(body, clip, clip + np.uint8(51))  # wrong where no body is, but for the two pixels around it
    bare = evaluate(write(tmp_path / "plain", plain), truth, poses=file, keep_frames=True)
    assert abs(bare.metrics["texture"]) < 0.05 < bare.metrics["figure_l1"]
    assert bare.metrics["figure_l1"] > 3 * bare.metrics["l1"] and bare.metrics["figure_ssim"] < bare.metrics["ssim"]
    assert len(bare.clips[0].per_frame["texture"]) == len(clip)
    around = evaluate(write(tmp_path / "backdrop", backdrop), truth, poses=file)
    assert around.metrics["texture"] == pytest.approx(1)
    ring = 20 * 20 - 16 * 16  # pixels: the square's, grown by two on all sides
    assert around.metrics["figure_l1"] == pytest.approx(0.2 * ring / 20**2, rel=1e-6)


def test_what_poses_would_add_is_one_line(pair, capsys):
    out = run(*pair[:2], capsys=capsys)[1]
    assert "--poses with the reference's poses adds: figure L1, figure SSIM, texture, warp" in out.splitlines()
    assert "no poses of the reference" not in out


def test_a_clip_folder_brings_its_poses(clip):
    found = evaluate(clip, clip)
    assert found.metrics["warp"] == found.reference_value["warp"] > 0
    assert found.metrics["l1"] == 0


# ---- pairs


def test_folders_of_clips_are_matched_by_name(tmp_path):
    for side, names in (("made", ["a.mp4", "b", "c.mp4"]), ("truth", ["a", "b.mp4", "d"])):
        (tmp_path / side).mkdir()
        for name in names:
            write(tmp_path / side / name, noise(1, 2))
    pairs, ours, theirs = find_pairs(tmp_path / "made", tmp_path / "truth")
    assert [pair.name for pair in pairs] == ["a", "b"]
    assert (ours, theirs) == (["c"], ["d"])
    found = evaluate(tmp_path / "made", tmp_path / "truth")
    assert sum("without a match: 1 of" in text for text in found.warnings) == 2


def test_dataset_folders_are_clips(clips, tmp_path):
    name = next((clips / "test").iterdir()).name
    (tmp_path / "made").mkdir()
    write(tmp_path / "made" / f"{name}.mp4", media.open_frames(clips / "test" / name / "frames"))
    (found,), _, _ = find_pairs(tmp_path / "made", clips / "test")
    assert found.reference == clips / "test" / name / "frames"
    assert found.poses == clips / "test" / name / "video.poses"
    single, _, _ = find_pairs(tmp_path / "made" / f"{name}.mp4", clips / "test" / name)
    assert single[0].reference == found.reference


def test_poses_of_several_clips_are_found_by_name(tmp_path):
    for side in ("made", "truth", "poses"):
        (tmp_path / side).mkdir()
    for name in "ab":
        write(tmp_path / "made" / name, noise(1, 2))
        write(tmp_path / "truth" / name, noise(1, 2))
    pose_file(tmp_path / "poses" / "a.poses", textured(1)[1])
    pairs, _, _ = find_pairs(tmp_path / "made", tmp_path / "truth", tmp_path / "poses")
    assert [pair.poses for pair in pairs] == [tmp_path / "poses" / "a.poses", None]
    with pytest.raises(EvaluationError, match="one file, and there are several clips"):
        find_pairs(tmp_path / "made", tmp_path / "truth", tmp_path / "poses" / "a.poses")


def test_what_cannot_be_compared_is_a_sentence(tmp_path, pair, capsys):
    left, right, *_ = pair
    (tmp_path / "empty").mkdir()
    for side, names in (("made", ["x", "y"]), ("truth", ["z", "w"])):
        (tmp_path / side).mkdir()
        for name in names:
            write(tmp_path / side / name, noise(1, 1))
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    for words, sentence in (
        ((tmp_path / "gone", right), "does not exist"),
        ((left, tmp_path / "empty"), "holds no pictures and no videos"),
        ((tmp_path / "made", tmp_path / "truth"), "nothing in"),
        ((text, right), "no whole video"),
        ((left, right, "--poses", tmp_path / "gone"), "does not exist"),
    ):
        code, out, err = run(*words, capsys=capsys)
        assert (code, out) == (1, ""), words
        assert sentence in err and err.startswith("error: ") and err.count("\n") == 1
    with pytest.raises(MediaError):
        find_pairs(tmp_path / "gone", right)
    (tmp_path / "made" / "x.mp4").write_bytes((tmp_path / "text.mp4").read_bytes())
    with pytest.raises(EvaluationError, match="two clips called x"):
        find_pairs(tmp_path / "made", tmp_path / "made")


# ---- limits and files


def test_limits(pair, capsys):
    left, right, *_ = pair
    ssim = evaluate(left, right).metrics["ssim"]
    assert run(left, right, "--fail-under", f"ssim={ssim - 0.01}", "--fail-over", "l1=0.9", capsys=capsys)[0] == 0
    code, out, err = run(left, right, "--fail-under", f"ssim={ssim + 0.01}", "--fail-over", "l1=0.001", capsys=capsys)
    assert code == 1
    assert out.startswith("METRIC")  # the table comes all the same
    assert err.startswith(f"error: ssim is {ssim:.6g}, under {ssim + 0.01:g}; l1 is ")
    code, _, err = run(left, right, "--fail-over", "fid=10", capsys=capsys)
    assert code == 1 and "fid is missing" in err
    assert run(left, left, "--fail-under", "psnr=30", capsys=capsys)[0] == 0  # identical is above every limit
    assert run(left, left, "--fail-under", "flicker=0.9", "--fail-over", "flicker=1.1", capsys=capsys)[0] == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--fail-under", "l1=0.1"], "l1 is better when it is lower; use --fail-over l1=0.1"),
        (["--fail-over", "ssim=0.1"], "ssim is better when it is higher; use --fail-under"),
        (["--fail-under", "beauty=1"], "names no metric"),
        (["--fail-under", "ssim"], "must be METRIC=NUMBER"),
        (["--fail-under", "ssim=nan"], "must be METRIC=NUMBER"),
        (["--metrics", "ssim,beauty"], "there is no metric 'beauty'"),
        (["--metrics", ","], "there is no metric"),
        (["--size", "huge"], "--size is 'huge'"),
        (["--size", "8"], "--size is '8'"),
        (["--align-by", "colour"], "there is no alignment 'colour'"),
        (["--per-frame", "x.txt"], "is written as .csv or .json"),
    ],
)
def test_a_wrong_command_line_is_2(words, sentence, pair, capsys):
    code, out, err = run(*pair[:2], *words, capsys=capsys)
    assert (code, out) == (2, "")
    assert sentence in err


def test_words_of_the_command_line():
    assert parse_metrics("all") == tuple(METRICS)
    assert parse_metrics("ssim, l1") == ("l1", "ssim")
    assert parse_size("native") is None
    assert [limit.key for limit in parse_limits(["ssim=0.9", "psnr=20"], under=True)] == ["ssim", "psnr"]
    with pytest.raises(UsageError):
        parse_size("")


def test_each_frames_values_as_csv_and_json(pair, tmp_path, capsys):
    left, right, *_ = pair
    table, document = tmp_path / "frames.csv", tmp_path / "frames.json"
    assert run(left, right, "--per-frame", table, capsys=capsys)[0] == 0
    assert run(left, right, "--per-frame", document, capsys=capsys)[0] == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["frame"] for row in rows] == ["0", "1", "2", "3", "4"]
    frames = json.loads(document.read_text())["frames"]
    assert [float(row["ssim"]) for row in rows] == [row["ssim"] for row in frames]
    assert np.mean([row["ssim"] for row in frames]) == pytest.approx(evaluate(left, right).metrics["ssim"])
    code, _, err = run(left, right, "--per-frame", table, capsys=capsys)
    assert code == 1 and "--overwrite" in err
    assert run(left, right, "--per-frame", table, "--overwrite", capsys=capsys)[0] == 0
