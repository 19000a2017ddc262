"""Batches on a Ray cluster of this machine: the same results as the local engine, whatever is killed on the way."""

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest

from dreampose_cli import cache
from dreampose_cli.__main__ import main
from dreampose_cli.bases.fingerprint import fingerprint
from dreampose_cli.version import __version__
from dreampose_cli.workflows.batch.manifest import read_lines
from dreampose_cli.workflows.batch.ray_node import local_base, look_around, pack, unpack

ray = pytest.importorskip("ray")
OPTIONS = ["--tune-steps", "2", "--decoder-steps", "1", "--steps", "2"]


@pytest.fixture(scope="session")
def dozen(tmp_path_factory):
    """photos/00.png.. of twelve people, walk.mp4 and turn.poses."""
    from dreampose_cli.workflows.synth import write_dataset

    folder = tmp_path_factory.mktemp("dozen")
    write_dataset(folder / "data", subjects=13, test_subjects=1, frames=8, seed=5, png=True, size=(48, 32))
    (folder / "photos").mkdir()
    for i, clip in enumerate(sorted((folder / "data" / "train").iterdir())):
        shutil.copy(clip / "frames" / "00000.png", folder / "photos" / f"{i:02}.png")
    (clip,) = (folder / "data" / "test").iterdir()
    shutil.copy(clip / "video.mp4", folder / "walk.mp4")
    shutil.copy(clip / "video.poses", folder / "turn.poses")
    return folder


@pytest.fixture
def cluster(monkeypatch):
    """A head without a CPU, and no nodes yet, on the loopback; everything of it ends with the test."""
    with running(monkeypatch, num_cpus=0, include_dashboard=False) as started:
        yield started


@contextlib.contextmanager
def running(monkeypatch, **head):
    """A cluster with this head alone."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # For a busy machine: else what else runs leaves workers nothing, and nodes give up while their agents start.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "300000")
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "300")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    started = Cluster(initialize_head=True, head_node_args=head)
    before = psutil.Process().children(recursive=True)
    yield started
    before += psutil.Process().children(recursive=True)
    started.shutdown()
    _, alive = psutil.wait_procs([process for process in before if process.is_running()], timeout=30)
    for process in alive:
        process.kill()


def words(base, dozen, output, *more, photos=("photos",)):
    poses = ["--poses", str(dozen / "walk.mp4"), "--poses", str(dozen / "turn.poses")]
    return [
        "batch",
        *(str(dozen / photo) for photo in photos),
        *poses,
        "-o",
        str(output),
        "--base",
        str(base),
        *OPTIONS,
        *more,
    ]


def start(arguments):
    command = [sys.executable, "-m", "dreampose_cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process, folder, count):
    """Wait until so many steps are done, or the process has ended."""
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        if folder.exists() and sum(line["event"] == "done" for line in read_lines(folder)) >= count:
            return
        time.sleep(0.1)
    assert process.poll() is None, process.communicate()


def actors(cluster):
    """The processes of the workers."""
    found = []
    for node in cluster.list_all_nodes():
        for infos in node.all_processes.values():
            for info in infos:
                if psutil.pid_exists(info.process.pid):
                    family = psutil.Process(info.process.pid).children(recursive=True)
                    found += [process for process in family if "ray::RayWorker" in " ".join(process.cmdline())]
    return found


@pytest.mark.slow
def test_a_cluster_makes_what_one_process_makes_whatever_is_killed(cluster, dozen, tiny_base, tmp_path, monkeypatch):
    nodes = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
    cluster.wait_for_nodes()
    far = tmp_path / "far"
    arguments = words(tiny_base, dozen, far, "--engine", f"ray={cluster.address}", "-q")
    process = start(arguments)
    wait_for(process, far, 5)
    victims = actors(cluster)
    assert len(victims) == 2
    victims[0].kill()
    wait_for(process, far, 12)
    cluster.remove_node(nodes[0], allow_graceful=False)
    wait_for(process, far, 20)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    done = subprocess.run(
        [sys.executable, "-m", "dreampose_cli", *arguments], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    made = {path.name: path.read_bytes() for path in far.glob("*.mp4")}
    assert len(made) == 24 and not list(far.glob(".*.tmp*"))
    lines = list(read_lines(far))
    counts = Counter(line["step"] for line in lines if line["event"] == "done")
    assert len(counts) == 37 and set(counts.values()) == {1}  # 12 subjects, 24 videos, one dance's poses
    starts = sum(line["event"] == "start" for line in lines)
    assert starts <= 37 + 4  # what was in flight: a worker's, a node's, and two of the driver's
    monkeypatch.setenv("DREAMPOSE_CACHE", str(tmp_path / "near-cache"))
    assert main(words(tiny_base, dozen, tmp_path / "near", "-q")) == 0
    assert made == {path.name: path.read_bytes() for path in (tmp_path / "near").glob("*.mp4")}


@pytest.mark.slow
def test_nodes_with_caches_of_their_own_send_results_home(cluster, dozen, tiny_base, tmp_path):
    for name in ("one", "two"):
        cluster.add_node(num_cpus=1, env_vars={"DREAMPOSE_CACHE": str(tmp_path / name)})
    cluster.wait_for_nodes()
    photos = ["photos/00.png", "photos/01.png", "photos/02.png"]
    arguments = words(tiny_base, dozen, tmp_path / "far", "--engine", f"ray={cluster.address}", photos=photos)
    done = subprocess.run(
        [sys.executable, "-m", "dreampose_cli", *arguments], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "inputs and results go through Ray" in done.stderr
    subjects = {entry.id for entry in cache.user_cache().list_entries("subject")}
    assert len(subjects) == 3 and len(cache.user_cache().list_entries("poses")) == 1
    assert (
        main(words(tiny_base, dozen, tmp_path / "near", "-q", photos=photos)) == 0
    )  # with the subjects that came home
    assert subjects == {entry.id for entry in cache.user_cache().list_entries("subject")}
    for path in (tmp_path / "near").glob("*.mp4"):
        assert path.read_bytes() == (tmp_path / "far" / path.name).read_bytes()


@pytest.mark.slow
def test_a_batch_is_a_job_of_the_cluster(dozen, tiny_base, tmp_path, monkeypatch):
    """`ray job submit` with `--engine ray`: the job finds its own cluster."""
    pytest.importorskip("aiohttp_cors", reason="the job server comes with ray[default]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dashboard = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
    with running(monkeypatch, num_cpus=1, **dashboard):
        submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", f"http://127.0.0.1:{port}", "--"]
        batch = words(tiny_base, dozen, tmp_path / "videos", "--engine", "ray", photos=["photos/00.png"])
        done = subprocess.run(
            [*submit, sys.executable, "-m", "dreampose_cli", *batch], capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0 and "2 videos made" in done.stdout + done.stderr, done.stdout + done.stderr
    assert sorted(path.name for path in (tmp_path / "videos").glob("*.mp4")) == ["00-turn.mp4", "00-walk.mp4"]


def test_a_cluster_that_is_not_there_is_said(tiny_base, tmp_path, capsys):
    for name in ("photos", "walk.mp4", "turn.poses"):
        (tmp_path / name).write_bytes(b"nobody looks into it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert main(words(tiny_base, tmp_path, tmp_path / "far", "--engine", f"ray={address}", "-q")) == 1
    assert f"the Ray cluster at {address} cannot be reached" in capsys.readouterr().err


def test_what_a_node_lacks_is_said(tiny_base, tmp_path):
    base = (str(tiny_base), "tiny", fingerprint(tiny_base))
    cache.user_cache().ensure()
    (tmp_path / "token").touch()
    seen = look_around([base], __version__, str(cache.user_cache().root), [str(tmp_path / "token")])
    assert seen["lacks"] == [] and seen["shared"] and seen["free"] > 0
    assert not look_around([base], __version__, "/another/cache", [])["shared"]
    assert not look_around([base], __version__, str(cache.user_cache().root), [str(tmp_path / "no")])["shared"]
    lacks = look_around([base, ("/nowhere", "people", "0" * 16), (*base[:2], "1" * 16)], "9.9", "", [])["lacks"]
    assert len(lacks) == 3 and f"has dreampose-cli {__version__}, and the driver 9.9" in lacks[0]
    assert "has not the base people" in lacks[1] and "only another base" in lacks[2]
    assert local_base(cache.user_cache(), ("/nowhere", str(tiny_base), base[2])) == str(tiny_base)


def test_files_and_folders_travel_as_bytes(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "00000.png").write_bytes(b"1")
    assert (unpack(pack(f"{tmp_path / 'in'}/"), tmp_path / "out") / "00000.png").read_bytes() == b"1"
    assert unpack(pack(str(tmp_path / "in" / "00000.png")), tmp_path / "out2").read_bytes() == b"1"
