"""Figures of any size at any place: the mini estimator zooms in."""

import numpy as np
import pytest

from dreampose_cli.cache import user_cache
from dreampose_cli.mannequins.dance import draw_dance
from dreampose_cli.mannequins.studio import perform
from dreampose_cli.mannequins.subject import draw_subject
from dreampose_cli.media.fitting import body_box
from dreampose_cli.poses import zoom_search
from dreampose_cli.poses.estimator import load_estimator
from dreampose_cli.poses.zoom_search import View


@pytest.fixture(scope="module")
def dance():
    return list(perform(draw_subject(5), draw_dance(6, 10, 12.0)))


def placed(frame, size, corner):
    """A frame's picture and pose in a larger one, whose wall continues from its edges."""
    top, left = corner
    around = ((top, size[0] - top - 160), (left, size[1] - left - 128))
    return np.pad(frame.picture, (*around, (0, 0)), mode="edge"), np.pad(frame.pose, ((0, 0), *around))


def right(found, truth):
    """The share of the body's pixels with the right part."""
    body = (found[0] > 0) | (truth[0] > 0)
    return (found[0] == truth[0])[body].mean()


@pytest.fixture
def looks(monkeypatch):
    """How many pictures the network has seen."""
    counted = []
    views = zoom_search.ZoomSearch._views
    monkeypatch.setattr(
        zoom_search.ZoomSearch, "_views", lambda self, *asked: counted.append(len(asked[0])) or views(self, *asked)
    )
    return counted


@pytest.mark.parametrize(
    ("size", "corner"),
    [
        ((160, 128), (0, 0)),
        ((240, 427), (70, 270)),
        ((190, 480), (20, 0)),
        ((360, 160), (190, 20)),
        ((400, 320), (90, 150)),
    ],
    ids=["its own size", "16:9", "wide", "tall", "small in its own aspect"],
)
def test_figures_are_found_wherever_they_stand(dance, size, corner):
    picture, truth = placed(dance[0], size, corner)
    (found,) = load_estimator(user_cache(), "mini").estimate([picture])
    assert found.shape == truth.shape and found.dtype == np.float32
    assert right(found, truth) > 0.75


def test_who_fills_the_frame_is_looked_at_once(dance, looks):
    load_estimator(user_cache(), "mini").estimate([frame.picture for frame in dance])
    assert looks == [10]


def test_a_walk_through_a_wide_video_is_followed(dance, looks):
    walk = [placed(frame, (200, 400), (30, 10 + 24 * i)) for i, frame in enumerate(dance)]
    found = list(load_estimator(user_cache(), "mini").stream(picture for picture, _ in walk))
    shares = [right(pose, truth) for pose, (_, truth) in zip(found, walk, strict=True)]
    assert len(found) == 10 and min(shares) > 0.5 and np.mean(shares) > 0.7


def test_a_clip_is_searched_once(dance, looks):
    still = [placed(dance[0], (240, 427), (60, 150))[0]] * 24
    assert len(list(load_estimator(user_cache(), "mini").stream(iter(still)))) == 24
    first = sum(looks) - 16
    assert first > 16  # each of the first frames on its own,
    assert looks[-2:] == [8, 8]  # the others where it was found


def test_nobody_is_found_where_nobody_is(dance):
    rng = np.random.default_rng(0)
    wall = np.broadcast_to(np.linspace(60, 220, 200)[:, None, None], (200, 356, 3)).astype(np.uint8)
    noise = rng.integers(0, 256, (200, 356, 3), dtype=np.uint8)
    for found in load_estimator(user_cache(), "mini").estimate([wall, noise]):
        assert found.shape == (3, 200, 356) and not found.any()


def test_a_view_lies_where_its_region_does():
    pose = np.zeros((3, 160, 128), np.float32)
    pose[:, 40:120, 32:96] = 1.0
    view = View(zoom_search.Crop(10, 100, 80, 64), pose)
    whole = view.on((200, 300))
    assert body_box(whole) == ((30, 70), (116, 148)) == tuple(tuple(map(int, side)) for side in view.extent())
    assert not any(view.cut((200, 300))) and view.score() == 0.0  # of one part
    pose[:, :, 0] = 1.0
    assert view.cut((200, 300)) == (True, True, True, False)
    assert View(zoom_search.Crop(0, 100, 80, 64), pose).cut((80, 300)) == (False, False, True, False)
