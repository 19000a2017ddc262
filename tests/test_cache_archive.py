"""Subjects and poses as one file, from cache to cache."""

import json
import zipfile

import pytest

from dreampose_cli import cache as store
from dreampose_cli.__main__ import main
from dreampose_cli.errors import StoreError, UsageError


@pytest.fixture
def kept_subject():
    with store.user_cache().publish_folder("subject", "0123456789abcdef") as folder:
        text = json.dumps({"id": "0123456789abcdef", "name": "anna"})
        (folder / "subject.json").write_text(text, encoding="utf-8")
        (folder / "unet.safetensors").write_bytes(bytes(range(256)) * 100)
    return store.user_cache().get("subject", "0123456789abcdef")


def test_a_subject_travels_to_another_cache_and_a_damaged_file_does_not(kept_subject, tmp_path, monkeypatch, capsys):
    file = tmp_path / "anna.dreampose"
    assert main(["cache", "export", "anna", "-o", str(file), "-q"]) == 0
    assert main(["cache", "export", "anna", "-o", str(file)]) == 1 and "exists already" in capsys.readouterr().err
    again = tmp_path / "again"
    store.export_entry(kept_subject, again)
    assert again.read_bytes() == file.read_bytes()
    monkeypatch.setenv("DREAMPOSE_CACHE", str(tmp_path / "other"))
    raw = file.read_bytes()
    at = raw.index(bytes(range(256)))
    for damaged in (raw[:at] + b"x" + raw[at + 1 :], raw[:-30], raw[: len(raw) // 2], b"", b"no zip"):
        (tmp_path / "damaged").write_bytes(damaged)
        assert main(["cache", "import", str(tmp_path / "damaged")]) == 1
        assert "export or copy it again" in capsys.readouterr().err
        assert not store.user_cache().list_entries()
    assert main(["cache", "import", str(file)]) == 0 and capsys.readouterr().out.strip() == kept_subject.id
    found = store.user_cache().get("subject", kept_subject.id)
    assert found.name == "anna" and (found.path / "unet.safetensors").read_bytes() == bytes(range(256)) * 100
    assert store.import_entry(store.user_cache(), file)[3] is False
    assert main(["cache", "import", str(tmp_path / "none")]) == 1 and "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("member", ["../evil", "/evil", "a/../../evil"])
def test_an_import_stays_within_its_entry(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "evil", "w") as archive:
        header = {"format": "dreampose-entry", "version": 1, "kind": "subject", "id": "0" * 16, "files": {member: "0"}}
        archive.writestr("entry.json", json.dumps(header))
        archive.writestr(member, b"")
    with pytest.raises(StoreError, match="no entry"):
        store.import_entry(store.user_cache(), tmp_path / "evil")


def test_only_subjects_and_poses_travel(tmp_path):
    with store.user_cache().publish_folder("data", "0123456789abcdef") as folder:
        (folder / "x").touch()
    with pytest.raises(UsageError, match="cannot be exported"):
        store.export_entry(store.user_cache().get("data", "0123456789abcdef"), tmp_path / "x")
