"""Other platforms, as far as one machine can show them: Windows' locks, names and renames, and locales without UTF-8."""

import errno
import os
import shutil
import subprocess
import sys
import types

import pytest

from dreampose_cli import atomic, locks
from dreampose_cli.errors import OutputError, UsageError
from dreampose_cli.media import outputs
from dreampose_cli.media.atomic import atomic_folder, atomic_path
from dreampose_cli.names import check_name


def test_a_lock_excludes_and_is_given_back_where_an_open_file_cannot_be_removed(tmp_path, monkeypatch):
    def unlink(self, missing_ok=False):
        raise PermissionError(errno.EACCES, "The process cannot access the file because it is being used", str(self))

    monkeypatch.setattr("pathlib.Path.unlink", unlink)
    path = tmp_path / "lock"
    release = locks.hold(path, 0)
    assert release is not None
    assert locks.hold(path, 0) is None
    release()
    assert path.exists()  # it cannot be removed while it is open, and may stay
    again = locks.hold(path, 0)
    assert again is not None
    again()


def test_a_work_folder_goes_where_its_open_lock_cannot_be_removed(tmp_path, monkeypatch):
    remove, asked = shutil.rmtree, []

    def rmtree(folder, ignore_errors=False):
        asked.append(folder)
        if len(asked) > 1:  # the lock is given back
            remove(folder, ignore_errors=ignore_errors)

    monkeypatch.setattr(locks.shutil, "rmtree", rmtree)
    with locks.work_folder(tmp_path) as folder:
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == [] and len(asked) == 2


def test_a_file_system_without_locks_writes_and_sweeps_nothing(tmp_path, monkeypatch):
    def no_locks(path, timeout):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "hold", no_locks)
    with locks.work_folder(tmp_path) as folder:
        (folder / "half").write_text("half")
        assert locks.sweep(tmp_path) == [] and (folder / "half").exists()
    assert list(tmp_path.iterdir()) == []


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
    monkeypatch.setattr(outputs, "_WINDOWS", True)
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(atomic.time, "sleep", lambda seconds: setattr(state, "waited", state.waited + seconds))
    return state


def test_a_result_waits_until_a_scanner_has_closed_it(tmp_path, busy):
    busy.times = 3
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    with atomic_path(target) as part:
        part.write_bytes(b"new")
    assert target.read_bytes() == b"new"
    assert 0 < busy.waited < 1
    busy.times = 2
    folder = tmp_path / "frames"
    folder.mkdir()
    with atomic_folder(folder, overwrite=True) as part:
        (part / "1.png").write_bytes(b"1")
    assert [path.name for path in folder.iterdir()] == ["1.png"]


def test_a_result_that_a_player_keeps_open_stays_as_it_is(tmp_path, busy):
    busy.times = 10**6
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    with (
        pytest.raises(OutputError, match="out.mp4 cannot be written: another program has it open"),
        atomic_path(target) as part,
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
