"""Doodles: drawn by `synth`, read by the network that ships, by another hand's drawings, in rows, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

import svg_doodles
from dreampose_cli.cache import user_cache
from dreampose_cli.errors import NoPersonError, PoseError
from dreampose_cli.mannequins.dance import draw_dance
from dreampose_cli.mannequins.doodle_dataset import doodle_seed
from dreampose_cli.mannequins.doodles import draw_doodle
from dreampose_cli.mannequins.studio import perform
from dreampose_cli.mannequins.subject import draw_subject
from dreampose_cli.poses.doodle import load_doodle_reader, read_doodles
from dreampose_cli.poses.doodle_ink import CROP, cut_known, figures_on
from dreampose_cli.poses.doodle_motion import CANVAS, angles_of, figure_of, sequence_of
from dreampose_cli.poses.extraction import extract, load_poses
from dreampose_cli.poses.files import open_poses
from dreampose_cli.training.doodles import DoodleStore, score


def save(folder, name: str, picture) -> str:
    Image.fromarray(np.asarray(picture, np.uint8)).save(folder / name)
    return folder / name


def found(numbers, side: int = 320) -> tuple[int, int]:
    """How many of the drawn joints of the second hand's doodles are found within a tenth of the figure, of how many."""
    reader, good, total = load_doodle_reader(), 0, 0
    for number in numbers:
        (figure,) = figures_on(svg_doodles.doodle(number, side), str(number))
        joints = reader.joints(figure, str(number))
        known = svg_doodles.joints_of(number)
        height = np.ptp([y for _, y in known.values()])
        for joint, place in known.items():
            good += np.hypot(*(joints[joint, :2] * 100 / side - place)) <= 0.1 * height
            total += 1
    return good, total


def test_twenty_doodles_of_another_hand_are_understood():
    good, total = found(range(20))
    assert total > 250 and good >= 0.8 * total


def test_two_hundred_drawn_doodles_are_understood(tmp_path, monkeypatch):
    class Drawn(DoodleStore):
        def __init__(self, count: int):
            self.crops = np.zeros((count, CROP, CROP), np.uint8)
            self.points, self.visible = np.zeros((count, 18, 2), np.float32), np.zeros((count, 18), bool)
            for i in range(count):
                doodle = draw_doodle(doodle_seed(77, "test", i))
                figure = cut_known(doodle.picture)
                self.crops[i] = np.rint(figure.crop * 255)
                self.points[i] = (doodle.joints - figure.corner) / (figure.scale * CROP)
                self.visible[i] = doodle.visible

    figures = score(load_doodle_reader()._network, Drawn(200))
    assert figures["within a tenth of the height"] >= 0.9


def test_the_reader_is_small():
    from importlib import resources

    folder = resources.files("dreampose_cli") / "data" / "doodle"
    assert sum(len(file.read_bytes()) for file in folder.iterdir()) < 3e6


def test_one_seed_is_one_doodle():
    a, b = draw_doodle(5), draw_doodle(5)
    assert np.array_equal(a.picture, b.picture) and np.array_equal(a.joints, b.joints)
    height, width = a.picture.shape
    assert (a.joints[a.visible] > 0).all() and (a.joints[a.visible] < (width, height)).all()


def test_a_row_on_one_sheet_becomes_a_dance(tmp_path):
    sheet = save(tmp_path, "row.png", svg_doodles.sheet([0, 1, 2, 4, 8, 11]))
    notes = []
    sequence = read_doodles(sheet, between=3, note=notes.append)
    assert len(sequence) == 6 + 5 * 3 and sequence.size == CANVAS and sequence.fps == 12
    assert "6 doodles" in notes[0]
    wrists = np.stack([frame[[4, 7], 1] for frame in sequence])
    assert wrists[4].max() < wrists[0].min() - 100  # the second doodle's arms are up
    feet = np.stack([frame[[10, 13], 1].max() for frame in sequence])
    assert np.ptp(feet) < 1e-3  # the lowest foot stays on the ground


def test_a_folder_of_doodles_is_a_sequence_and_the_back_exchanges_the_sides(tmp_path):
    for number in (4, 0):
        save(tmp_path, f"{number}.png", svg_doodles.doodle(number))
    front, back = read_doodles(tmp_path), read_doodles(tmp_path, facing="back")
    assert len(front) == 2
    assert np.allclose(front.frame(1)[4, :2], back.frame(1)[7, :2])
    assert back.frame(1)[0, 2] == 0 and front.frame(1)[0, 2] == 1
    labels = load_poses(user_cache(), tmp_path, estimator="doodle", facing="back")[0].frame(0)
    assert (labels[0] == 1).sum() > 10 * (labels[0] == 2).sum()  # the torso's back


def test_a_doodle_becomes_keypoints_openpose_and_iuv(tmp_path):
    doodle = save(tmp_path, "d.png", svg_doodles.doodle(0))
    extract(user_cache(), doodle, tmp_path / "d.poses", estimator="doodle", preview=tmp_path / "look.png")
    assert open_poses(tmp_path / "d.poses").kind == "keypoints"
    extract(user_cache(), doodle, tmp_path / "json", estimator="doodle", format="openpose")
    extract(user_cache(), doodle, tmp_path / "iuv", estimator="doodle", format="iuv")
    part = open_poses(tmp_path / "iuv").frame(0)[0]
    assert set(np.unique(part)) > {0, 2, 3, 4, 15, 16, 19, 20}
    again = load_poses(user_cache(), tmp_path / "json")[0].frame(0)
    assert (again[0] == part).mean() > 0.99


def test_what_is_no_doodle_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(NoPersonError, match="empty sheet"):
        read_doodles(save(tmp_path, "empty.png", np.full((200, 200, 3), 235)))
    photo = next(perform(draw_subject(3), draw_dance(4, 1), (640, 512))).picture
    with pytest.raises(PoseError, match="looks like a photo"):
        read_doodles(save(tmp_path, "photo.png", photo))
    stacked = np.concatenate([svg_doodles.doodle(0), svg_doodles.doodle(4)])
    with pytest.raises(PoseError, match="2 figures that do not stand in a row"):
        read_doodles(save(tmp_path, "stacked.png", stacked))
    a, b = (svg_doodles.rasterise(svg_doodles.svg_path(n), 300, 2, photo=False, seed=n) for n in (0, 2))
    pair = Image.fromarray(np.concatenate([a[:, 70:230], b[:, 45:255]], axis=1))
    ImageDraw.Draw(pair).line([145, 155, 165, 92], fill=(0, 0, 0), width=5)  # hand in hand
    with pytest.raises(PoseError, match="more than one figure"):
        read_doodles(save(tmp_path, "pair.png", pair))


def test_angles_survive_the_figure_they_make():
    angles = np.array([5.0, -8, 40, 30, 150, -60, 20, -10, 5, 35])
    again = angles_of(figure_of(angles, np.ones(4, bool))[:18])
    assert np.allclose(again[2:], angles[2:], atol=1e-3) and abs(again[0] - 5) < 1e-3


def test_frames_between_go_the_way_arms_go():
    down = figure_of(np.zeros(10), np.ones(4, bool))[:18]
    angles = np.zeros(10)
    angles[[2, 4]] = 179
    frames = sequence_of([down, figure_of(angles, np.ones(4, bool))[:18]], between=1)
    assert frames[1, 4, 0] < frames[0, 4, 0] - 80 and frames[1, 7, 0] > frames[0, 7, 0] + 80  # outwards
