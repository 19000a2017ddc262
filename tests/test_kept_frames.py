"""Renders resume inside the clip: finished frames are kept until the result is published, and then gone."""

import numpy as np
import pytest

from dreampose_cli import cache as store
from dreampose_cli import media
from dreampose_cli.cache import user_cache
from dreampose_cli.inference import denoise
from dreampose_cli.inference.kept_frames import KeptFrames, kept_frames
from dreampose_cli.reporting import no_note
from dreampose_cli.workflows.options import RenderOptions
from dreampose_cli.workflows.render import render


def pictures(count):
    return [np.full((4, 6, 3), i, np.uint8) for i in range(count)]


def test_frames_are_kept_in_whole_batches_and_what_is_damaged_is_not(tmp_path):
    file = tmp_path / "frames"
    for _ in zip(range(5), KeptFrames(user_cache(), file, 2).then(iter(pictures(9))), strict=False):
        pass
    kept = KeptFrames(user_cache(), file, 2)
    assert kept.count == 4
    raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) // 2 - 3])
    assert KeptFrames(user_cache(), file, 1).count == 2
    file.write_bytes(raw[:30] + b"x" + raw[31:])
    kept = KeptFrames(user_cache(), file, 1)
    assert kept.count == 0 or kept.count == 1
    found = list(kept.then(iter(pictures(9)[kept.count :])))
    assert np.array_equal(found, pictures(9)) and KeptFrames(user_cache(), file, 3).count == 9


def test_a_render_that_was_cut_off_resumes_and_is_the_same(clip, tiny_base, tmp_path, monkeypatch):
    photo = clip / "frames" / "00000.png"

    def make(name, **options):
        wanted = RenderOptions([clip / "video.poses"], f"{tmp_path / name}/", photo=photo, base=str(tiny_base), steps=2)
        return render(wanted, **options)

    def stop(done, total=None, note="", /):
        if note.startswith("frames") and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make("resumed", progress=stop)
    assert not (tmp_path / "resumed").exists()
    (partial,) = store.user_cache().list_entries("partial")
    batches, real = [], denoise.render_batch

    def count(network, prepared, windows, settings, first, *more):
        batches.append((first, len(windows)))
        return real(network, prepared, windows, settings, first, *more)

    monkeypatch.setattr(denoise, "render_batch", count)
    notes = []
    make("resumed", note=notes.append)
    assert batches[0][0] >= 4 and sum(size for _, size in batches) == 8 - batches[0][0]
    assert any("resumes after" in note for note in notes)
    assert not store.user_cache().list_entries("partial")
    make("whole")
    whole, resumed = (list(media.open_frames(tmp_path / name)) for name in ("whole", "resumed"))
    assert np.array_equal(whole, resumed)


def test_frames_of_somebody_elses_render_are_left_alone():
    with kept_frames(user_cache(), "0" * 16, 1, no_note) as first, kept_frames(user_cache(), "0" * 16, 1, no_note) as second:
        assert first.file is not None and second.file is None
    with kept_frames(user_cache(), None, 1, no_note) as none:
        assert none.file is None and list(none.then(iter(pictures(2))))
