"""Other platforms, as far as one machine can show them: Windows' locks, names and renames, and locales without UTF-8."""

import errno
import fcntl
import os
import subprocess
import sys
import types

import pytest

from dreampose_cli.cache import filelock
from dreampose_cli.errors import OutputError, UsageError
from dreampose_cli.media import atomic
from dreampose_cli.names import check_name


@pytest.fixture
def windows_locks(monkeypatch):
    """msvcrt in fcntl's place: a lock that is taken is EACCES, and an open file cannot be removed."""
    taken = []

    def locking(descriptor, mode, count):
        assert (mode, count) == (2, 1)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            raise PermissionError(errno.EACCES, "Permission denied") from problem
        taken.append(descriptor)

    def unlink(self, missing_ok=False):
        raise PermissionError(errno.EACCES, "The process cannot access the file because it is being used", str(self))

    monkeypatch.setattr(filelock, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    monkeypatch.setattr("pathlib.Path.unlink", unlink)
    return taken


def test_a_lock_of_windows_excludes_and_is_given_back(tmp_path, windows_locks):
    path = tmp_path / "lock"
    release = filelock.hold(path, 0)
    assert release is not None
    assert filelock.hold(path, 0) is None
    release()
    assert path.exists()  # it cannot be removed while it is open, and may stay
    again = filelock.hold(path, 0)
    assert again is not None and len(windows_locks) == 2
    again()


@pytest.fixture
def busy(monkeypatch):
    """Windows, where the first `busy.times` renames find the file open in another program."""
    state = types.SimpleNamespace(times=0, waited=0.0)
    replace = os.replace

    def refuse(source, target):
        if state.times:
            state.times -= 1
            raise PermissionError(errno.EACCES, "Access is denied", str(source), None, str(target))
        return replace(source, target)

    monkeypatch.setattr(atomic, "_WINDOWS", True)
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(atomic.time, "sleep", lambda seconds: setattr(state, "waited", state.waited + seconds))
    return state


def test_a_result_waits_until_a_scanner_has_closed_it(tmp_path, busy):
    busy.times = 3
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    with atomic.atomic_path(target) as part:
        part.write_bytes(b"new")
    assert target.read_bytes() == b"new"
    assert 0 < busy.waited < 1
    busy.times = 2
    folder = tmp_path / "frames"
    folder.mkdir()
    with atomic.atomic_folder(folder, overwrite=True) as part:
        (part / "1.png").write_bytes(b"1")
    assert [path.name for path in folder.iterdir()] == ["1.png"]


def test_a_result_that_a_player_keeps_open_stays_as_it_is(tmp_path, busy):
    busy.times = 10**6
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    with (
        pytest.raises(OutputError, match="out.mp4 cannot be written: another program has it open"),
        atomic.atomic_path(target) as part,
    ):
        part.write_bytes(b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert busy.waited < 5


@pytest.mark.parametrize("name", ["con", "NUL", "aux.photo", "COM1", "lpt9.x", "anna."])
def test_names_that_windows_cannot_hold_are_refused_everywhere(name):
    with pytest.raises(UsageError, match="cannot be a name: Windows has no such folder"):
        check_name(name)


@pytest.mark.parametrize("name", ["console", "null", "com", "aux-1", "anna.b"])
def test_names_that_only_look_like_them_are_names(name):
    assert check_name(name) == name


def test_without_utf_8_everything_can_be_read_and_written(tmp_path, clip):
    """The encoding of a Windows console, and of a bare container: names of files with letters it does not have."""
    folder = tmp_path / "танец ü"
    folder.mkdir()
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "cp1252:strict", "PYTHONUTF8": "0"}
    environment |= {"PYTHONCOERCECLOCALE": "0", "PYTHONWARNDEFAULTENCODING": "1"}

    def dreampose(*arguments):
        command = [sys.executable, "-m", "dreampose_cli", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=300)

    done = dreampose("poses", str(clip / "video.poses"), "-o", "поза.poses")
    assert done.returncode == 0, done.stderr
    assert (folder / "поза.poses").is_file()
    assert not [line for line in done.stderr.splitlines() if b"EncodingWarning" in line and b"dreampose_cli" in line]
    done = dreampose("poses", "нет.mp4", "-o", "x.poses")
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr and b".mp4 does not exist" in done.stderr


def test_the_start_methods_of_other_platforms(monkeypatch, tmp_path):
    """Workers are fresh interpreters everywhere, as on Windows and macOS, so what they are given can be pickled."""
    import multiprocessing

    from dreampose_cli.workflows import synth as dataset

    def refuse(*_):
        raise AssertionError("a fork of a process with threads can hang, and Windows has none")

    monkeypatch.setattr(os, "fork", refuse)
    asked = []
    context = multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda method=None: (asked.append(method), context(method))[1])
    dataset.write_dataset(
        tmp_path / "data", subjects=2, test_subjects=1, frames=2, seed=1, png=True, size=(48, 32), workers=2
    )
    assert set(asked) <= {"spawn"} and asked
