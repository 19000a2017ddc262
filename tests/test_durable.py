"""Results are on the disk before they take their names."""

import os

from dreampose_cli import cache as store
from dreampose_cli.media.atomic import atomic_folder, atomic_path


def test_a_result_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    """A power cut cannot be had here; what counts is the order."""
    order, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append("fsync"))
    monkeypatch.setattr(os, "replace", lambda *places: (order.append("replace"), replace(*places)))
    with atomic_path(tmp_path / "one") as part:
        part.write_bytes(b"1")
    with atomic_folder(tmp_path / "two") as part:
        (part / "a").write_bytes(b"1")
        (part / "b").write_bytes(b"2")
    assert order == ["fsync", "replace", "fsync", "fsync", "replace"]
    with store.publish_file("poses", "0" * 16) as part:
        part.write_bytes(b"1")
    assert order[-2:] == ["fsync", "replace"]
