"""The user cache: whole entries or none, locks that die with their process, and words for everything that is wrong."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile

import pytest

from dreampose_cli import cache as store
from dreampose_cli import locks
from dreampose_cli.atomic import write_text
from dreampose_cli.errors import MediaError, StoreError, SubjectError, UsageError


def write_json(path, document):
    write_text(path, json.dumps(document))


def make_subject(id, photo=None, name=None, created=None, base="0"):
    with store.user_cache().lock(f"subject-{id}"), store.user_cache().publish_folder("subject", id) as folder:
        (folder / "weights.bin").write_bytes(b"w" * 100)
        photos = [{"sha256": store.file_digest(photo), "file": str(photo)}] if photo else []
        write_json(folder / store.SUBJECT_JSON, {"name": name, "photos": photos, "base": {"fingerprint": base}})
        if created:
            os.utime(folder / store.SUBJECT_JSON, (created, created))
    return id


def make_poses(id, size=50, used=None):
    with store.user_cache().publish_file("poses", id) as path, zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", json.dumps({"format": "dreampose-poses", "name": None}))
        archive.writestr("frames", b"x" * size)
    if used:
        os.utime(store.user_cache().root / "used" / f"poses-{id}", (used, used))
    return id


def test_reading_creates_nothing(cache):
    assert store.user_cache().list_entries() == []
    assert store.user_cache().last_subject() is None
    assert store.user_cache().get("subject", "abc") is None
    assert store.prune(store.user_cache()) == []
    assert not cache.exists()


def test_without_the_variable_the_cache_is_the_users_own(monkeypatch):
    monkeypatch.delenv("DREAMPOSE_CACHE")
    assert store.user_cache().root.name in ("dreampose", "Cache")
    assert store.user_cache().root.is_absolute()


def test_keys_follow_content_not_order_and_keep_parts_apart():
    assert store.key({"a": 1, "b": [2.5, None]}) == store.key({"b": [2.5, None], "a": 1})
    assert len(store.key(b"x")) == 16
    assert int(store.key(b"x"), 16) >= 0
    assert store.key("ab", "c") != store.key("a", "bc")
    assert store.key(b"1") != store.key("1") != store.key(1)
    with pytest.raises(ValueError):
        store.key({"rate": float("nan")})
    with pytest.raises(TypeError):
        store.key(object())


def test_file_digest(tmp_path):
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"abc")
    assert store.file_digest(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(MediaError, match="missing.jpg"):
        store.file_digest(tmp_path / "missing.jpg")


def test_an_entry_appears_whole_or_not_at_all(cache):
    with pytest.raises(RuntimeError), store.user_cache().publish_folder("subject", "abcd") as folder:
        (folder / "half").write_text("half")
        assert store.user_cache().get("subject", "abcd") is None
        raise RuntimeError
    assert not (cache / "subjects" / "abcd").exists()
    assert list((cache / "tmp").iterdir()) == []

    make_subject("abcd")
    entry = store.user_cache().get("subject", "abcd")
    assert entry.path == cache / "subjects" / "abcd"
    assert entry.bytes > 100
    assert not entry.broken


def test_publishing_again_replaces(cache):
    make_subject("abcd", name="one")
    make_subject("abcd", name="two")
    assert [entry.name for entry in store.user_cache().list_entries()] == ["two"]
    make_poses("p")
    make_poses("p", size=60)
    assert len(store.user_cache().list_entries("poses")) == 1
    assert list((cache / "tmp").iterdir()) == []


def test_resumable_work_survives_and_becomes_the_entry():
    with store.user_cache().lock("subject-abcd"):
        (store.user_cache().partial_folder("abcd") / "checkpoint").write_text("7")
    assert (store.user_cache().partial_folder("abcd") / "checkpoint").read_text() == "7"
    write_json(store.user_cache().partial_folder("abcd") / store.SUBJECT_JSON, {"name": "n"})
    assert store.user_cache().publish_partial("abcd", "subject") == store.user_cache().path_of("subject", "abcd")
    assert [(entry.kind, entry.name) for entry in store.user_cache().list_entries()] == [("subject", "n")]
    store.user_cache().discard_partial("abcd")


@pytest.mark.parametrize("id", ["", "../x", "a/b", ".hidden", "a\\b"])
def test_ids_cannot_leave_the_cache(id):
    with pytest.raises(StoreError):
        store.user_cache().path_of("subject", id)


def test_another_version_is_refused_and_kept(cache):
    make_subject("abcd")
    (cache / "cache-version").write_text("99\n")
    for use in (
        store.user_cache().list_entries,
        store.user_cache().ensure,
        store.user_cache().last_subject,
        lambda: store.prune(store.user_cache()),
        lambda: store.user_cache().find_subject("abcd"),
    ):
        with pytest.raises(StoreError, match="another version") as caught:
            use()
        assert str(cache) in str(caught.value)
        assert "DREAMPOSE_CACHE" in str(caught.value)
    assert (cache / "subjects" / "abcd" / "subject.json").exists()
    store.clear(store.user_cache())
    assert store.user_cache().list_entries() == []
    make_subject("abcd")


def test_a_folder_of_somebody_else_is_no_cache(cache):
    (cache / "data").mkdir(parents=True)
    (cache / "data" / "thesis.txt").write_text("years of work")
    here = store.user_cache()
    for use in (here.list_entries, here.ensure, lambda: store.clear(here)):
        with pytest.raises(StoreError, match="not a cache"):
            use()
    assert (cache / "data" / "thesis.txt").exists()


def test_a_folder_with_other_files_is_never_adopted(cache):
    cache.mkdir(parents=True)
    (cache / "passwd").write_text("root")
    here = store.user_cache()
    for use in (here.list_entries, here.ensure, lambda: store.clear(here), lambda: store.repair(here)):
        with pytest.raises(StoreError, match=r"holds 'passwd'.*DREAMPOSE_CACHE"):
            use()
    assert os.listdir(cache) == ["passwd"]
    (cache / "passwd").unlink()
    (cache / ".DS_Store").write_text("")
    store.user_cache().ensure()


KEYS = [f"{number:016x}" for number in range(4)]


@pytest.mark.parametrize("lost", ["missing", "empty", "garbled"])
def test_a_lost_version_file_is_written_again(cache, lost):
    make_subject(KEYS[0], name="anna")
    make_poses(KEYS[1])
    (cache / "cache-version").unlink()
    if lost != "missing":
        (cache / "cache-version").write_text("" if lost == "empty" else "\0\0\0")
    assert {entry.id for entry in store.user_cache().list_entries()} == set(KEYS[:2])
    assert (cache / "cache-version").read_text() == "1\n"


def test_a_cache_is_known_by_what_is_in_it(cache):
    make_subject("someone", name="anna")
    (cache / "cache-version").unlink()
    assert store.user_cache().find_subject("anna").id == "someone"
    (cache / "cache-version").unlink()
    (cache / "poses").mkdir()
    (cache / "poses" / "yoga.txt").write_text("mine")
    here = store.user_cache()
    for use in (here.list_entries, lambda: store.repair(here), lambda: store.clear(here)):
        with pytest.raises(StoreError, match=r"holds 'poses/yoga\.txt'"):
            use()


def test_a_half_restored_backup_is_usable_again(cache):
    for key in KEYS[:3]:
        make_subject(key, name=f"n{key[-1]}")
    store.user_cache().set_last_subject(KEYS[1])
    make_poses(KEYS[3])
    (cache / "cache-version").unlink()
    (cache / "subjects" / KEYS[0] / "subject.json").unlink()
    shutil.rmtree(cache / "subjects" / KEYS[1])
    (cache / "poses" / f"{KEYS[3]}.poses").write_bytes(b"half")
    done = " ".join(store.repair(store.user_cache()))
    assert "version file" in done
    assert f"used/subject-{KEYS[1]} was of an entry that is gone" in done
    assert store.user_cache().find_subject(None).id == KEYS[2]  # the newest that is whole
    broken = {entry.id for entry in store.user_cache().list_entries() if entry.broken}
    assert broken == {KEYS[0], KEYS[3]}
    assert {entry.id for entry in store.prune(store.user_cache())} == broken
    assert store.repair(store.user_cache()) == []


def test_a_cache_that_was_removed_meanwhile_comes_again(cache):
    with store.user_cache().publish_folder("subject", KEYS[0]) as folder:
        (folder / "weights.bin").write_bytes(b"w")
        write_json(folder / store.SUBJECT_JSON, {"name": "anna"})
        kept = shutil.copytree(folder, cache.parent / "kept")
        shutil.rmtree(cache)
        folder.parent.mkdir(parents=True)
        shutil.copytree(kept, folder)
    assert store.user_cache().find_subject("anna").id == KEYS[0]
    with pytest.raises(StoreError, match=r"was removed while it was in use .*; run the same command again"):  # noqa: SIM117
        with store.user_cache().publish_folder("subject", KEYS[1]) as folder:
            shutil.rmtree(cache)
    make_subject(KEYS[1])


KILLED = """
import os, sys, zipfile
from dreampose_cli import cache, media
with cache.user_cache().publish_file("poses", "0" * 16) as path, media.atomic_path(path) as part:
    part.write_bytes(b"half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_remains_of_a_killed_write_go_at_the_next_run(cache):
    with subprocess.Popen([sys.executable, "-c", KILLED], stdin=-1, stdout=-1, text=True) as writer:
        assert writer.stdout.readline() == "ready\n"
        assert len(os.listdir(cache / "tmp")) == 1
        assert store.user_cache().sweep() == []  # it is being written
        writer.kill()
        writer.wait()
    assert len(os.listdir(cache / "tmp")) == 1
    (cache / "locks").mkdir(exist_ok=True)
    (cache / "locks" / "subject-x.lock").write_text("")
    store.user_cache().ensure()
    assert os.listdir(cache / "tmp") == os.listdir(cache / "locks") == []
    (cache / "tmp" / "01234567.tmp").mkdir()
    (cache / "locks" / "subject-x.lock").write_text("")
    store.prune(store.user_cache())
    assert os.listdir(cache / "tmp") == os.listdir(cache / "locks") == []


def test_verify_finds_what_a_disk_has_changed(cache):
    make_subject(KEYS[0], name="anna")
    make_poses(KEYS[1])
    write_json(cache / "subjects" / KEYS[0] / "subject.json", {"name": "renamed"})
    assert set(store.verify(store.user_cache()).values()) == {""}
    weights = cache / "subjects" / KEYS[0] / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[50] ^= 1
    weights.write_bytes(data)
    assert store.verify(store.user_cache())[f"subject/{KEYS[0]}"] == "weights.bin is not what was written"
    weights.unlink()
    assert store.verify(store.user_cache())[f"subject/{KEYS[0]}"] == "weights.bin is missing"
    poses = cache / "poses" / f"{KEYS[1]}.poses"
    data = bytearray(poses.read_bytes())
    data[data.index(b"xxxxx") + 3] ^= 1
    poses.write_bytes(data)
    assert store.verify(store.user_cache())[f"poses/{KEYS[1]}"] == "frames is damaged"


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_photos_are_for_their_user_alone(cache):
    make_subject(KEYS[0])
    assert cache.stat().st_mode & 0o777 == 0o700
    folder = cache / "subjects" / KEYS[0]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    cache.chmod(0o755)
    folder.chmod(0o755)
    assert "could be read by others" in store.repair(store.user_cache())[0]
    assert folder.stat().st_mode & 0o777 == cache.stat().st_mode & 0o777 == 0o700


def test_a_file_is_no_cache(cache):
    cache.write_text("")
    with pytest.raises(StoreError, match="no folder"):
        store.user_cache().list_entries()
    with pytest.raises(StoreError):
        make_subject("abcd")


def test_broken_entries_are_listed_and_prunable(cache):
    make_subject("good")
    make_subject("nojson")
    (cache / "subjects/nojson/subject.json").unlink()
    make_subject("badjson")
    (cache / "subjects/badjson/subject.json").write_text("{")
    make_subject("listjson")
    (cache / "subjects/listjson/subject.json").write_text("[]")
    (cache / "subjects/binary").mkdir()
    (cache / "subjects/binary/subject.json").write_bytes(b"\xff\xfe\x00")
    (cache / "subjects/stray.txt").write_text("")
    (cache / "poses").mkdir()
    (cache / "poses/cut.poses").write_bytes(b"PK\x03\x04")
    (cache / "data/empty").mkdir(parents=True)
    broken = {entry.id for entry in store.user_cache().list_entries() if entry.broken}
    assert broken == {"nojson", "badjson", "listjson", "binary", "stray.txt", "cut", "empty"}
    with pytest.raises(SubjectError, match=r"nojson is broken \(subject.json is missing\)"):
        store.user_cache().find_subject("nojson")

    assert {entry.id for entry in store.prune(store.user_cache(), dry_run=True)} == broken
    assert len(store.user_cache().list_entries()) == 8
    assert {entry.id for entry in store.prune(store.user_cache())} == broken
    assert [entry.id for entry in store.user_cache().list_entries()] == ["good"]


def test_an_entry_that_vanishes_while_listing_is_no_error(monkeypatch):
    make_subject("abcd")
    names = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: [*names(folder), "gone"])
    assert [entry.id for entry in store.user_cache().list_entries("subject")] == ["abcd"]


def test_find_subject(tmp_path):
    photo, other = tmp_path / "a photo.jpg", tmp_path / "other.jpg"
    photo.write_bytes(b"photo")
    other.write_bytes(b"other")
    with pytest.raises(SubjectError, match="dreampose tune PHOTO"):
        store.user_cache().find_subject()
    now = time.time()
    make_subject("aaaa1111", photo, "anna", created=now - 100)
    make_subject("aaaa2222", photo, "anna", created=now)
    make_subject("bbbb3333", None, "aaaa1111x", created=now)

    assert store.user_cache().find_subject("aaaa1111").id == "aaaa1111"
    assert store.user_cache().find_subject("bbbb").id == "bbbb3333"
    assert store.user_cache().find_subject("BBBB33").id == "bbbb3333"
    assert store.user_cache().find_subject("anna").id == "aaaa2222"  # the newest
    assert store.user_cache().find_subject(photo).id == "aaaa2222"
    assert store.user_cache().find_subject(str(photo)).id == "aaaa2222"
    with pytest.raises(SubjectError, match="several"):
        store.user_cache().find_subject("aaaa")
    with pytest.raises(SubjectError, match="no subject and no photo"):
        store.user_cache().find_subject("bbb")  # too short for a beginning
    copy = tmp_path / "renamed.jpg"
    copy.write_bytes(b"photo")
    assert store.user_cache().find_subject(copy).id == "aaaa2222"
    with pytest.raises(SubjectError) as caught:
        store.user_cache().find_subject(tmp_path / "other.jpg")
    assert str(caught.value).endswith(f"dreampose tune {other}")
    other = tmp_path / "it's new.jpg"
    other.write_bytes(b"new")
    with pytest.raises(SubjectError) as caught:
        store.user_cache().find_subject(other)
    assert str(caught.value).endswith("it'\"'\"'s new.jpg'")


def test_of_several_subjects_the_one_on_the_base_asked_for_is_found(tmp_path):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"photo")
    now = time.time()
    make_subject("aaaa1111", photo, "anna", created=now - 200, base="a")
    make_subject("aaaa2222", photo, "anna", created=now - 100, base="a")
    make_subject("bbbb3333", photo, "anna", created=now, base="b")
    for token in (photo, "anna"):
        assert store.user_cache().find_subject(token, "a").id == "aaaa2222"
        assert store.user_cache().find_subject(token, "b").id == "bbbb3333"
        assert store.user_cache().find_subject(token, "c").id == store.user_cache().find_subject(token).id == "bbbb3333"
    assert store.user_cache().find_subject("aaaa1111", "b").id == "aaaa1111"


def test_the_subject_tuned_last():
    make_subject("aaaa1111")
    make_subject("bbbb2222")
    with pytest.raises(SubjectError, match="no longer"):
        store.user_cache().find_subject()
    store.user_cache().set_last_subject("aaaa1111")
    assert store.user_cache().last_subject() == "aaaa1111"
    assert store.user_cache().find_subject().id == "aaaa1111"
    store.remove(store.user_cache(), store.user_cache().get("subject", "aaaa1111"))
    assert store.user_cache().last_subject() is None


def test_find_entry(tmp_path):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"photo")
    make_subject("abcd1234", photo, "anna")
    make_poses("abcd1234")
    make_poses("abcd9999")
    assert store.user_cache().find_entry("anna").kind == "subject"
    assert store.user_cache().find_entry(str(photo)).kind == "subject"
    assert store.user_cache().find_entry("poses/abcd1234").kind == "poses"
    assert store.user_cache().find_entry("abcd9").id == "abcd9999"
    for token in ("abcd1234", "abcd"):
        with pytest.raises(UsageError, match="several things"):
            store.user_cache().find_entry(token)
    with pytest.raises(StoreError, match="nothing called 'zzz'"):
        store.user_cache().find_entry("zzz")


def test_use_decides_the_order_and_what_pruning_takes():
    now = time.time()
    for index in range(4):
        make_poses(f"p{index}", size=1000, used=now - 86400 * (10 - index))
    with store.user_cache().publish_folder("base", "own") as folder:
        write_json(folder / store.BASE_JSON, {"name": "own"})
    os.utime(store.user_cache().root / "used" / "base-own", (1, 1))
    assert [entry.id for entry in store.user_cache().list_entries()] == ["p3", "p2", "p1", "p0", "own"]
    store.user_cache().touch("poses", "p0")
    assert store.user_cache().list_entries()[0].id == "p0"
    assert [entry.id for entry in store.prune(store.user_cache(), older_than_days=8.5)] == ["p1"]
    total = sum(entry.bytes for entry in store.user_cache().list_entries())
    assert store.prune(store.user_cache(), max_bytes=total) == []
    assert [entry.id for entry in store.prune(store.user_cache(), max_bytes=total - 1)] == ["p2"]
    assert {entry.id for entry in store.user_cache().list_entries()} == {"p0", "p3", "own"}
    assert [entry.id for entry in store.prune(store.user_cache(), older_than_days=1, kinds=store.KINDS)] == [
        "p3",
        "own",
    ]


def test_what_is_in_use_stays():
    make_subject("abcd")
    store.user_cache().partial_folder("efgh")
    entry = store.user_cache().get("subject", "abcd")
    with store.user_cache().lock("subject-abcd"), store.user_cache().lock("subject-efgh"):
        with pytest.raises(StoreError, match="in use"):
            store.remove(store.user_cache(), entry)
        with pytest.raises(StoreError, match="in use"):
            store.clear(store.user_cache())
        assert store.prune(store.user_cache(), older_than_days=0, dry_run=True) == []
        assert store.prune(store.user_cache(), older_than_days=0) == []
    store.remove(store.user_cache(), entry)
    assert [removed.id for removed in store.prune(store.user_cache())] == ["efgh"]


def test_a_lock_waits_and_says_so(cache):
    heard = []
    with store.user_cache().lock("data-1"):
        began = time.monotonic()
        sentence = "frames is in use by another dreampose after 0.2 seconds"
        waiting = store.user_cache().lock("data-1", timeout=0.2, waiting=heard.append, what="frames")
        with pytest.raises(StoreError, match=sentence), waiting:
            pass
        assert time.monotonic() - began >= 0.2
    assert heard == ["another dreampose is working on frames; waiting for it"]
    with store.user_cache().lock("data-1", timeout=0), store.user_cache().lock("data-2", timeout=0):
        pass
    if os.name != "nt":
        assert list((cache / "locks").iterdir()) == []


def test_a_lock_is_that_of_the_file_others_will_open(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "x.lock"
    real, taken = fcntl.flock, []

    def lock_after_the_last_holder_removed_it(descriptor, how):
        if not taken:
            path.unlink()
        real(descriptor, how)
        taken.append(descriptor)

    monkeypatch.setattr(fcntl, "flock", lock_after_the_last_holder_removed_it)
    release = locks.hold(path, 5)
    assert len(taken) == 2
    assert path.exists()
    assert locks.hold(path, 0) is None
    release()


HOLDER = """
import sys, time
from dreampose_cli import cache as store
with store.user_cache().lock("subject-abcd"):
    store.user_cache().partial_folder("abcd")
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_free(cache):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="in use"), store.user_cache().lock("subject-abcd", timeout=0):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with store.user_cache().lock("subject-abcd", timeout=5):
        assert (cache / "partial" / "abcd").is_dir()


COUNTER = """
import sys
from pathlib import Path
from dreampose_cli import cache as store
file = Path(sys.argv[1])
for _ in range(30):
    with store.user_cache().lock("counter"):
        file.write_text(str(int(file.read_text()) + 1))
"""


def test_locks_exclude_each_other(tmp_path, cache):
    file = tmp_path / "count"
    file.write_text("0")
    store.user_cache().ensure()
    workers = [subprocess.Popen([sys.executable, "-c", COUNTER, str(file)]) for _ in range(3)]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0, 0]
    assert file.read_text() == "90"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_can_be_read_but_not_written(cache):
    make_subject("abcd")
    os.chmod(cache, 0o500)
    try:
        assert len(store.user_cache().list_entries()) == 1
        store.user_cache().touch("subject", "abcd")
        with pytest.raises(StoreError, match="Permission denied"):
            store.user_cache().set_last_subject("abcd")
    finally:
        os.chmod(cache, 0o700)


def test_a_read_only_file_system_is_a_sentence(cache, monkeypatch):
    make_subject("abcd")

    def replace(source, target):
        raise OSError(errno.EROFS, "Read-only file system", str(target))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(StoreError, match=f"cannot write the cache {cache}: Read-only file system"):
        store.user_cache().set_last_subject("abcd")
    with pytest.raises(StoreError, match="Read-only"):
        make_subject("efgh")
    assert [entry.id for entry in store.user_cache().list_entries()] == ["abcd"]


def test_a_folder_that_cannot_be_made(monkeypatch):
    monkeypatch.setenv("DREAMPOSE_CACHE", os.devnull + "/cache")
    with pytest.raises(StoreError, match="set DREAMPOSE_CACHE"):
        store.user_cache().ensure()


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 8575488 vs 8575380"),
    ],
)
def test_a_full_disk_is_a_sentence_and_leaves_nothing(cache, problem):
    with (
        pytest.raises(StoreError, match="disk of the cache .* is full"),
        store.user_cache().publish_folder("subject", "abcd"),
    ):
        raise problem
    assert store.user_cache().list_entries() == []


def test_a_folder_that_is_removed_while_it_is_written_is_said_to_be(cache):
    there = store.user_cache()
    partial = there.partial_folder("abcd")
    for problem in (RuntimeError(f"Parent directory {partial} does not exist."), StoreError("cut short.")):
        with pytest.raises(type(problem), match=str(problem)), there.storing(within=partial):
            raise problem  # it is there
    for problem in (RuntimeError(f"Parent directory {partial} does not exist."), StoreError("cut short.")):
        with pytest.raises(StoreError, match="removed while it was in use .* run the same command again"):  # noqa: SIM117
            with there.storing(within=partial):
                shutil.rmtree(partial, ignore_errors=True)
                raise problem


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EFBIG])
def test_limits_of_the_process_are_not_the_caches(cache, number):
    with pytest.raises(OSError, match="a limit"), store.user_cache().publish_folder("subject", "abcd"):
        raise OSError(number, "a limit")


def test_errors_of_other_files_pass_through_unchanged():
    with pytest.raises(FileNotFoundError), store.user_cache().publish_folder("subject", "abcd"):
        os.stat("/no/such/photo.jpg")
