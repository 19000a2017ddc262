"""Every reader of files from outside, given what nobody would write: it returns, or it says one sentence; nothing else,
soon, and with little memory.

A few examples each by default; HYPOTHESIS_PROFILE=nightly takes hundreds.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import json
import os
import pickle
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreampose_cli import cache as store
from dreampose_cli.bases.components import read_component
from dreampose_cli.bases.config import BaseConfig
from dreampose_cli.cli.app import command_tree
from dreampose_cli.cli.settings import read as read_settings
from dreampose_cli.errors import DreamposeError, printable
from dreampose_cli.networks.dreampose.presets import MINI
from dreampose_cli.poses.files import PoseWriter, open_poses
from dreampose_cli.poses.keypoint_files import KeypointWriter
from dreampose_cli.poses.keypoints import POINTS
from dreampose_cli.subjects.format import read_subject
from dreampose_cli.workflows.batch.estimates import Measured
from dreampose_cli.workflows.batch.jobs import read_jobs
from dreampose_cli.workflows.batch.manifest import read_lines

SECONDS = 20.0  # of one example; the machine may be busy
BYTES = 2 << 30  # of address space beyond what the tests have taken already
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "few")
EXAMPLES = {"few": 12, "many": 200, "nightly": 1500}[PROFILE]
of_everything = settings(
    max_examples=EXAMPLES,
    derandomize=PROFILE == "few",
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(autouse=True)
def little_memory():
    """An allocation beyond the limit is a MemoryError, which is no sentence."""
    resource = pytest.importorskip("resource")
    used = 0
    with contextlib.suppress(OSError):
        used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def says(read, *arguments) -> None:
    """Whether `read` returns or says one sentence (a jobs file: one a line) that a terminal can show, in time."""
    began = time.monotonic()
    try:
        read(*arguments)
    except DreamposeError as error:
        text = str(error)
        assert 10 < len(text) < 30_000 and text.strip()[-1] in ".:'\"`)", text[:300]
        assert all(len(line) < 2500 for line in text.splitlines())
        printable(text).encode("utf-8", "surrogateescape")
    assert time.monotonic() - began < SECONDS


# ---- what nobody would write

NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, -1e308, float("nan"), float("inf")]),
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["", "\0", "\ud800", "\udcff", "../../x", "/dev/zero", "con", "x" * 10_000, "9" * 5000, "\x1b[2J", "a\nb"]
    ),
)
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
SHALLOW = PLAIN | st.lists(PLAIN, max_size=4) | st.dictionaries(TEXTS, PLAIN, max_size=3)
ANYTHING = SHALLOW | st.lists(SHALLOW, max_size=3) | st.dictionaries(TEXTS, SHALLOW, max_size=3)


@st.composite
def changed(draw, document):
    """A valid document of JSON with something else in one or two places, or a key too many or too few."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 2))):
        place = document
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            what = draw(st.sampled_from(["replace", "drop", "add"]))
            if what == "replace":
                place[key] = draw(ANYTHING)
            elif what == "drop":
                del place[key]
            elif isinstance(place, dict):
                place[draw(TEXTS)] = draw(ANYTHING)
            break
    return document


@st.composite
def damaged(draw, raw):
    """Bytes of a valid file with some overwritten, left out, repeated or cut off."""
    raw = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        length = draw(st.integers(0, 64))
        what = draw(st.sampled_from(["write", "flip", "drop", "repeat", "cut"]))
        if what == "write":
            raw[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        elif what == "flip" and at < len(raw):
            raw[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "drop":
            del raw[at : at + length]
        elif what == "repeat":
            raw[at:at] = raw[at : at + length]
        elif what == "cut":
            del raw[at:]
    return bytes(raw)


def text_of(document) -> str:
    return json.dumps(document)


# ---- poses


def frames_of(path) -> None:
    sequence = open_poses(path)
    for number in range(min(3, len(sequence))):
        frame = sequence.frame(number)
        assert frame.shape[0] == 3 or frame.shape[-1] == 3


def pose_file(folder: Path) -> bytes:
    path = folder / "valid.poses"
    with PoseWriter(path, (8, 6), 10.0, source="x", estimator="mini") as writer:
        for number in range(2):
            frame = np.zeros((3, 8, 6), np.float32)
            frame[0, 2:5, 2:4] = number + 1
            writer.append(frame)
    return path.read_bytes()


@pytest.fixture(scope="module")
def a_pose_file(tmp_path_factory):
    return pose_file(tmp_path_factory.mktemp("poses"))


@of_everything
@given(data=st.data())
def test_pose_files(data, tmp_path, a_pose_file):
    path = tmp_path / "x.poses"
    path.write_bytes(data.draw(damaged(a_pose_file)))
    says(frames_of, path)


@of_everything
@given(data=st.data())
def test_headers_of_pose_files(data, tmp_path, a_pose_file):
    path = tmp_path / "x.poses"
    with zipfile.ZipFile(io.BytesIO(a_pose_file)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            raw = old.read(name)
            if name.endswith(".json"):
                raw = text_of(data.draw(changed(json.loads(raw)))).encode()
            new.writestr(name, raw)
    says(frames_of, path)


@of_everything
@given(data=st.data())
def test_pose_files_of_keypoints(data, tmp_path):
    valid, path = tmp_path / "valid.poses", tmp_path / "x.poses"
    if not valid.exists():
        with KeypointWriter(valid, (64, 48), 10.0, source="x", estimator="dwpose") as writer:
            writer.append(np.full((POINTS, 3), 0.5, np.float32))
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(valid.read_bytes())))
    else:
        with zipfile.ZipFile(valid) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                raw = old.read(name)
                new.writestr(name, text_of(data.draw(changed(json.loads(raw)))) if name.endswith(".json") else raw)
    says(frames_of, path)


PERSON = {"pose_keypoints_2d": [float(x) for x in range(54)], "face_keypoints_2d": [], "hand_left_keypoints_2d": []}


@of_everything
@given(document=changed({"version": 1.3, "people": [PERSON], "canvas_width": 64, "canvas_height": 64}))
def test_openpose_json(document, tmp_path):
    path = tmp_path / "000000_keypoints.json"
    path.write_text(text_of(document), encoding="utf-8")
    says(lambda: [open_poses(path).frame(i) for i in range(1)])


@of_everything
@given(data=st.data())
def test_dumps(data, tmp_path):
    entry = {"file_name": "a.png", "scores": [0.9], "pred_boxes_XYXY": [[0.0, 0.0, 8.0, 8.0]], "pred_densepose": []}
    path = tmp_path / "dump.pkl"
    document = data.draw(st.one_of(changed([entry]), ANYTHING))
    raw = pickle.dumps(document)
    path.write_bytes(data.draw(st.one_of(st.just(raw), damaged(raw), st.binary(max_size=200))))
    says(frames_of, path)


@of_everything
@given(data=st.data())
def test_arrays(data, tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 8, 6), np.float32))
    path = tmp_path / "frame.npy"
    path.write_bytes(data.draw(damaged(buffer.getvalue())))
    says(frames_of, path)


# ---- descriptions


@of_everything
@given(document=changed(json.loads(MINI.to_json())))
def test_descriptions_of_bases(document):
    says(BaseConfig.from_json, text_of(document), "base.json")


@of_everything
@given(data=st.data())
def test_descriptions_of_bases_as_bytes(data, tmp_path):
    raw = data.draw(damaged(MINI.to_json().encode()))
    says(BaseConfig.from_json, raw.decode("utf-8", "replace"), "base.json")


MODULE = {
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "block_out_channels": [32, 64],
    "layers_per_block": 2,
    "sample_size": 64,
    "vision_config": {"image_size": 224},
    "num_train_timesteps": 1000,
    "image_mean": [0.5, 0.5, 0.5],
}


@of_everything
@given(document=changed(MODULE))
def test_configs_of_modules(document, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text_of(document), encoding="utf-8")
    says(read_component, path)


SUBJECT = {
    "version": 2,
    "name": "anna",
    "base": {"name": "mini", "fingerprint": "0" * 16},
    "photos": [
        {"file": "a.png", "sha256": "0" * 64, "size": [64, 48], "crop": {"top": 0, "left": 0, "height": 9, "width": 9}}
    ],
    "weights": ["unet"],
    "settings": {"steps": 3},
}


@of_everything
@given(document=changed(SUBJECT))
def test_descriptions_of_subjects(document, tmp_path, cache):
    folder = cache / "subjects" / ("ab" * 8)
    folder.mkdir(parents=True, exist_ok=True)
    (cache / "cache-version").write_text("1\n")
    (folder / "subject.json").write_text(text_of(document), encoding="utf-8")
    says(read_subject, folder)
    says(store.user_cache().list_entries)
    says(store.user_cache().find_subject, "anna")


@of_everything
@given(data=st.data())
def test_subjects_that_travel(data, tmp_path, cache):
    path = tmp_path / "x.dreampose"
    header = {
        "format": "dreampose-entry",
        "version": 1,
        "kind": "subject",
        "id": "ab" * 8,
        "files": {"subject.json": "0" * 64, "unet.safetensors": "0" * 64},
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("entry.json", text_of(data.draw(st.one_of(st.just(header), changed(header)))))
        archive.writestr("subject.json", text_of(SUBJECT))
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    says(store.import_entry, store.user_cache(), path)
    reached = [*tmp_path.rglob("x"), *cache.parent.rglob("x"), *tmp_path.parent.glob("x")]
    assert not [one for one in reached if one.is_file()]  # nothing lands outside


# ---- jobs, manifests and the user's file

JOB = {
    "photo": "p.jpg",
    "poses": "d.mp4",
    "output": "a.mp4",
    "steps": 3,
    "fps": 10.0,
    "seed": 1,
    "audio": True,
    "tune": True,
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("p.jpg", "d.mp4"):
        (tmp_path / name).touch()
    return tmp_path


@of_everything
@given(rows=st.lists(changed(JOB), min_size=1, max_size=3))
def test_jobs(rows, place):
    (place / "jobs.jsonl").write_text("\n".join(map(text_of, rows)) + "\n", encoding="utf-8")
    says(read_jobs, "jobs.jsonl", "out")


@of_everything
@given(rows=st.lists(st.lists(TEXTS, max_size=5), max_size=3), data=st.data())
def test_jobs_as_csv(rows, data, place):
    stream = io.StringIO(newline="")
    csv.writer(stream).writerow(["photo", "poses", "steps", "output", "seed"])
    for row in rows:
        with contextlib.suppress(csv.Error):
            csv.writer(stream).writerow(row)
    raw = stream.getvalue().encode("utf-8", "surrogatepass")
    (place / "jobs.csv").write_bytes(data.draw(st.one_of(st.just(raw), damaged(raw))))
    says(read_jobs, "jobs.csv", "out")


LINE = {"time": 1.0, "event": "done", "kind": "video", "step": "1", "seconds": 2.5, "result": {"frames": 3, "bytes": 7}}


@of_everything
@given(rows=st.lists(changed(LINE), min_size=1, max_size=3))
def test_manifests(rows, tmp_path):
    (tmp_path / "manifest.jsonl").write_text("\n".join(map(text_of, rows)) + "\n", encoding="utf-8")
    says(lambda: Measured.of(read_lines(tmp_path)))


@of_everything
@given(data=st.data())
def test_the_users_file(data, tmp_path):
    valid = '[all]\ndevice = "cpu"\n[render]\nsteps = 50\naudio = true\nposes = ["a", "b"]\n[cache.prune]\nolder-than = 3.5\n'
    path = tmp_path / "config.toml"
    path.write_bytes(data.draw(damaged(valid.encode())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMPOSE_CONFIG", str(path))
        says(read_settings, command_tree())
