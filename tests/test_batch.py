"""Batches without an engine: what is asked, the plan, what is skipped, the manifest, and the driver on fake workers."""

import dataclasses
import json
import os
import shutil
import threading
import time
import types
from collections import deque

import numpy as np
import pytest

from dreampose_cli import media
from dreampose_cli.bases.registry import bundled
from dreampose_cli.cache import user_cache
from dreampose_cli.errors import MediaError, OutOfMemoryError, OutputError, OutputExistsError, UsageError
from dreampose_cli.media.metadata import KEY, read_metadata
from dreampose_cli.media.mp4_comment import read_comment
from dreampose_cli.workflows.batch.digests import Digests
from dreampose_cli.workflows.batch.driver import Driver, Listener, Policy
from dreampose_cli.workflows.batch.engine import Event
from dreampose_cli.workflows.batch.estimates import Measured, forecast
from dreampose_cli.workflows.batch.existing import REQUEST, made_by
from dreampose_cli.workflows.batch.failures import DISK, INPUT, MEMORY, NETWORK, OTHER, failure_of
from dreampose_cli.workflows.batch.job_options import NAMES
from dreampose_cli.workflows.batch.jobs import jobs_of, read_jobs
from dreampose_cli.workflows.batch.manifest import Manifest, read_lines
from dreampose_cli.workflows.batch.plan import Planner, results_of
from dreampose_cli.workflows.batch.schedule import Schedule
from dreampose_cli.workflows.options import RenderOptions, TuneOptions


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """What a plan sees of a base: its description, and a file for weights that nobody loads."""
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    folder.mkdir()
    shutil.copy(bundled() / "base.json", folder)
    (folder / "weights.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with photos a, b, c and dances x (video) and y (poses); contents are made up."""
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(name.encode() * 10)
    (tmp_path / "x.mp4").write_bytes(b"video")
    (tmp_path / "y.poses").write_bytes(b"poses")
    return tmp_path


def plan(jobs, folder="out", base=None, done=None, **options):
    return Planner(user_cache(), Digests(), done).plan(jobs, folder, **options)


def video(path, request):
    path.parent.mkdir(exist_ok=True)
    media.write_frames(path, [np.zeros((16, 16, 3), np.uint8)], fps=5, metadata={REQUEST: request})


# ---- what is asked


def test_every_photo_dances_every_dance(place, tiny_base):
    jobs = jobs_of(["a.jpg", "b.jpg", "a.jpg"], ["x.mp4", "y.poses"], "out", {"base": str(tiny_base), "steps": 3})
    assert [os.path.relpath(job.output, place / "out") for job in jobs] == [
        "a-x.mp4", "a-y.mp4", "b-x.mp4", "b-y.mp4",
    ]  # fmt: skip
    assert jobs[0].options is jobs[3].options and jobs[0].options.render == {"steps": 3}
    (place / "photos").mkdir()
    (place / "a.jpg").rename(place / "photos" / "a.jpg")
    assert [job.photos for job in jobs_of(["photos"], ["x.mp4"], "out")] == [("photos/a.jpg",)]


@pytest.mark.parametrize(
    ("photos", "dances", "words"),
    [
        ([], ["x.mp4"], "needs photos"),
        (["a.jpg"], [], "needs --poses"),
        (["a.jpg", "gone.jpg"], ["x.mp4"], r"gone\.jpg does not exist"),
        (["a.jpg", "more/a.png"], ["x.mp4"], r"share a name: a\.jpg and more/a\.png"),
        (["a.jpg"], ["x.mp4", "x.poses"], r"named after the dances"),
    ],
)
def test_photos_and_dances_that_do_not_go_together(place, photos, dances, words):
    (place / "more").mkdir()
    (place / "more" / "a.png").write_bytes(b"other")
    (place / "x.poses").write_bytes(b"other")
    with pytest.raises(UsageError, match=words):
        jobs_of(photos, dances, "out")


def test_a_jobs_file_names_photos_or_subjects_and_options(place):
    rows = 'photo,subject,poses,output,steps,lora-rank,tune-steps,side_by_side\n"a.jpg; b.jpg",,x.mp4,,5,,7,yes\n'
    rows += ",anna,y.poses,day/1.gif,,,,\n"
    (place / "jobs.csv").write_text(rows, encoding="utf-8-sig")
    first, second = read_jobs("jobs.csv", "out", {"lora-rank": 8})
    assert first.photos == ("a.jpg", "b.jpg") and first.output == str(place / "out" / "a-x.mp4")
    assert first.options.tune == {"lora_rank": 8, "steps": 7}
    assert first.options.render == {"steps": 5, "side_by_side": True}
    assert (second.subject, second.photos, second.output) == ("anna", (), str(place / "out" / "day" / "1.gif"))
    lines = [
        {
            "photo": ["a.jpg", "b.jpg"],
            "poses": "x.mp4",
            "steps": 5,
            "tune_steps": 7,
            "lora_rank": 8,
            "side-by-side": True,
        },
        {"subject": "anna", "poses": "y.poses", "output": "day/1.gif", "lora-rank": 8},
    ]
    (place / "jobs.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    again = read_jobs("jobs.jsonl", "out")
    assert [job.options for job in again] == [first.options, second.options]
    assert [job.line for job in again] == [1, 3]


def test_any_option_of_tune_and_render_is_a_field(place):
    """But for what the batch itself decides: who, where to, and on which device."""
    own = {"photos", "photo", "subject", "photo_pose", "poses", "output", "overwrite", "device"}
    for options, prefix in ((TuneOptions, "tune-"), (RenderOptions, "")):
        for one in dataclasses.fields(options):
            name = one.name.replace("_", "-")
            assert one.name in own or name in NAMES or prefix + name in NAMES, name
    for name in ("n.npy", "key.pem", "mask.png"):
        (place / name).write_bytes(b"")
    values = {
        "base": "mini", "tune": False, "edit": "a red dress", "edit-where": "mask.png", "size": "128x160", "window": "16:4",
        "start-noise": "n.npy", "pose-pictures": True, "facing": "back", "interpolate": 3, "estimator": "doodle",
        "appearance-once": True,
        "guidance-interval": "0.2:1", "image-guidance": 3, "pose-guidance": 2.5, "sampler": "ddim", "steps": 7, "seed": 4,
        "noise": "per-frame", "align": "on", "fps": 12, "start": 1, "end": 2, "side-by-side": True, "audio": True,
        "batch-size": 2, "compile": True, "c2pa-key": "key.pem", "dtype": "float32", "memory": "low", "photo-pose": "y.poses",
    }  # fmt: skip
    (place / "jobs.jsonl").write_text(json.dumps({"photo": "a.jpg", "poses": "x.mp4", **values}))
    (job,) = read_jobs("jobs.jsonl", "out")
    got = RenderOptions(["x.mp4"], job.output, **job.options.render)
    assert (got.size, got.window, got.guidance_interval) == ((160, 128), (16, 4), (0.2, 1.0))
    assert (got.edit, got.edit_where, got.estimator, got.interpolate) == ("a red dress", "mask.png", "doodle", 3)
    assert set(job.options.render) == {n.replace("-", "_") for n in values} - {"base", "tune", "photo_pose"}
    tuning = {"tune-steps": 3, "decoder-steps": 2, "learning-rate": 0.1, "decoder-learning-rate": 0.2, "tune-batch-size": 2}
    tuning |= {"lora-rank": 4, "tune-seed": 1, "name": "anna", "photo-pose": "y.poses"}
    rows = ",".join(["photo", "poses", *tuning]) + "\n" + ",".join(["a.jpg", "x.mp4", *map(str, tuning.values())])
    (place / "jobs.csv").write_text(rows)
    (job,) = read_jobs("jobs.csv", "out")
    got = TuneOptions(["a.jpg"], **job.options.tune)
    assert (got.steps, got.decoder_steps, got.learning_rate, got.batch_size, got.seed) == (3, 2, 0.1, 2, 1)
    assert (got.lora_rank, got.name, got.poses, got.decoder_learning_rate) == (4, "anna", ("y.poses",), 0.2)


def test_files_that_options_name_count_by_their_content(place, tiny_base):
    (place / "noise.npy").write_bytes(b"noise")
    asked = {"base": str(tiny_base), "start-noise": "noise.npy"}
    (step,) = [one for one in plan(jobs_of(["a.jpg"], ["y.poses"], "out", asked)).steps.values() if one.kind == "video"]
    noise = str(place / "noise.npy")
    assert step.task["options"]["start_noise"] == noise and set(step.task["files"]) == {noise, str(place / "y.poses")}
    (place / "again.npy").write_bytes(b"noise")
    same = plan(jobs_of(["a.jpg"], ["y.poses"], "out", asked | {"start-noise": "again.npy"}))
    assert step.id in same.steps
    (place / "noise.npy").write_bytes(b"other")
    assert step.id not in plan(jobs_of(["a.jpg"], ["y.poses"], "out", asked)).steps


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"poses": "x.mp4", "photo": "a.jpg", "size": "big"}', "size is 'big', but must be WIDTHxHEIGHT"),
        ('{"poses": "x.mp4", "photo": "a.jpg", "window": "4:4"}', "window is '4:4', but must be N or N:M"),
        ('{"poses": "x.mp4", "photo": "a.jpg", "edit": "a hat"}', "edit needs an untuned job"),
        ('{"poses": "x.mp4", "photo": "a.jpg", "edit-where": "hair", "tune": false}', "edit-where needs edit"),
        ('{"poses": "x.mp4", "photo": "a.jpg", "start-noise": "no.npy"}', "start-noise no.npy does not exist"),
        ('{"poses": "x.mp4", "photo": "a.jpg", "estimator": "r5"}', "estimator r5 does not exist; known are mini"),
        ('{"poses": "x.mp4"', "is not JSON"),
        ("[1]", "is no object"),
        ('{"photo": "a.jpg"}', "does not say its poses"),
        ('{"poses": "x.mp4"}', "neither photo nor subject"),
        ('{"poses": "x.mp4", "photo": "a.jpg", "subject": "anna"}', "give one of them"),
        ('{"poses": "x.mp4", "photo": "a.jpg", "colour": 1}', "unknown field colour"),
        ('{"poses": "x.mp4", "photo": "gone.jpg"}', r"gone\.jpg does not exist"),
        ('{"poses": "x.mp4", "photo": "a.jpg", "steps": 0}', "steps is 0, but must be between 1 and 1000"),
        ('{"poses": "x.mp4", "photo": "a.jpg", "steps": 2.5}', "must be a whole number"),
        ('{"poses": "x.mp4", "photo": "a.jpg", "sampler": "euler"}', "no sampler 'euler'"),
        ('{"poses": "x.mp4", "photo": "a.jpg", "start": 2, "end": 1}', "must be after"),
        ('{"poses": "x.mp4", "photo": "a.jpg", "output": "../a.mp4"}', "lies outside the folder"),
        ('{"poses": "x.mp4", "photo": "a.jpg", "output": "/a.mp4"}', "lies outside the folder"),
        ('{"poses": "x.mp4", "photo": "a.jpg", "output": "a.avi"}', "no format for results"),
        ('{"poses": "x.mp4", "photo": "c.jpg", "output": "./first.mp4"}', "and so does line 1"),
        ('{"poses": 3, "photo": "a.jpg"}', "poses is 3, but must be text"),
        ('{"poses": "x.mp4", "photo": "a.jpg", "photo-pose": "y.poses;y.poses"}', "1 photo.* and 2 photo-pose"),
        ('{"poses": "x.mp4", "photo": "a.jpg;b.jpg", "tune": false}', "an untuned job follows one photo"),
        (b'{"poses": "\xff"}', "is not UTF-8"),
        ('{"poses": "' + "x" * 3_000_000 + '"}', "longer than 1 MiB"),
    ],
)
def test_bad_lines_are_named_whatever_is_wrong(place, line, words):
    good = b'{"poses": "x.mp4", "photo": "a.jpg", "output": "first.mp4"}\n'
    raw = line if isinstance(line, bytes) else line.encode()
    (place / "jobs.jsonl").write_bytes(good + raw + b"\n" + b"nonsense\n")
    with pytest.raises(UsageError, match=f"line 2:? .*{words}") as found:
        read_jobs("jobs.jsonl", "out")
    assert "line 3" in str(found.value) and "2 bad lines; nothing was started" in str(found.value)


def test_bad_csv_lines_do_not_hide_those_after_them(place):
    raw = b"photo,poses\na.jpg,x.mp4\nb\xff.jpg,x.mp4\nb.jpg,x.mp4,too,many\ngone.jpg,x.mp4\n"
    (place / "jobs.csv").write_bytes(raw)
    with pytest.raises(UsageError) as found:
        read_jobs("jobs.csv", "out")
    for words in ("line 3: is not UTF-8", "line 4: has 4 fields", "line 5: gone.jpg"):
        assert words in str(found.value)
    (place / "jobs.csv").write_bytes(b"photo,poses\n" + b"gone.jpg,x.mp4\n" * 300)
    with pytest.raises(UsageError, match=r"also bad are the lines 22, .* and 80 more[^$]*300 bad lines"):
        read_jobs("jobs.csv", "out")
    for name, text, words in (("e.csv", "", "holds no jobs"), ("e.jsonl", "\n", "holds no jobs")):
        (place / name).write_text(text)
        with pytest.raises(UsageError, match=words):
            read_jobs(name, "out")
    with pytest.raises(UsageError, match="cannot be read"):
        read_jobs("nothing.csv", "out")


# ---- the plan


def test_steps_are_shared_by_content(place, tiny_base):
    (place / "again.jpg").write_bytes((place / "a.jpg").read_bytes())
    jobs = jobs_of(["a.jpg", "b.jpg", "again.jpg"], ["x.mp4", "y.poses"], "out", {"base": str(tiny_base)})
    made = plan(jobs)
    assert {kind: made.count(kind) for kind in ("poses", "subject", "video")} == {"poses": 1, "subject": 2, "video": 6}
    ids = list(made.steps)
    for step in made.steps.values():
        assert all(ids.index(need) < ids.index(step.id) for need in step.needs)
    assert list(plan(jobs).steps) == ids  # whoever makes it


def test_a_subject_that_an_earlier_run_tuned_is_not_planned(place, tiny_base, monkeypatch):
    jobs = jobs_of(["a.jpg"], ["y.poses"], "out", {"base": str(tiny_base)})
    (subject, _) = plan(jobs).steps.values()
    done = results_of(
        [{"event": "done", "kind": "subject", "step": subject.id, "result": {"subject": "0123456789abcdef"}}]
    )
    assert plan(jobs, done=done).count("subject") == 1  # the cache does not have it any more
    monkeypatch.setattr("dreampose_cli.cache.Cache.get", lambda self, kind, id: (kind, id))
    (step,) = plan(jobs, done=done).steps.values()
    assert step.task["subject"] == "0123456789abcdef"


def test_a_video_of_the_same_request_is_skipped_and_another_refused(place, tiny_base):
    jobs = jobs_of(["a.jpg", "b.jpg"], ["y.poses"], "out", {"base": str(tiny_base), "steps": 3})
    request = next(step for step in plan(jobs).steps.values() if step.kind == "video").task[REQUEST]
    video(place / "out" / "a-y.mp4", request)
    made = plan(jobs)
    assert (made.present, made.count("video"), made.count("subject")) == (1, 1, 1)
    with pytest.raises(OutputExistsError, match=r"a-y\.mp4 was made by another request: steps \(3, now 4\) differs"):
        plan(jobs_of(["a.jpg"], ["y.poses"], "out", {"base": str(tiny_base), "steps": 4}))
    with pytest.raises(OutputExistsError, match="how they are tuned"):
        plan(jobs_of(["a.jpg"], ["y.poses"], "out", {"base": str(tiny_base), "steps": 3, "lora-rank": 4}))
    again = plan(jobs_of(["a.jpg"], ["y.poses"], "out", {"base": str(tiny_base), "steps": 4}), overwrite=True)
    assert (again.present, again.replaced, again.count("video")) == (0, 1, 1)
    (place / "out" / "b-y.mp4").write_bytes(b"somebody's")
    with pytest.raises(OutputExistsError, match=r"b-y\.mp4 is there, and no batch made it"):
        plan(jobs)


def test_what_does_not_change_a_video_does_not_make_it_another(place, tiny_base):
    def ids(**options):
        return list(plan(jobs_of(["a.jpg"], ["y.poses"], "out", {"base": str(tiny_base), **options})).steps)

    assert ids() == ids(memory="low", seed=0, align="auto", **{"batch-size": 4, "tune-seed": 0})
    others = [ids(**{name: value}) for name, value in (("seed", 1), ("steps", 2), ("lora-rank", 4), ("tune-seed", 1))]
    assert len({tuple(found) for found in [ids(), *others]}) == 5


def test_shards_cut_the_same_plan_by_content(place, tiny_base):
    for i in range(12):
        (place / f"p{i}.jpg").write_bytes(f"photo {i % 8}".encode())  # four of them twice
    photos = [f"p{i}.jpg" for i in range(12)]
    jobs = jobs_of(photos, ["x.mp4", "y.poses"], "out", {"base": str(tiny_base)})
    whole = plan(jobs)
    parts = [plan(jobs, shard=(i, 3)) for i in (1, 2, 3)]
    for kind in ("video", "subject"):
        found = [step.id for part in parts for step in part.steps.values() if step.kind == kind]
        assert sorted(found) == sorted(step.id for step in whole.steps.values() if step.kind == kind), kind


def test_metadata_of_all_kinds_of_results(place):
    for name in ("v.mp4", "v.gif", "v.webp", "v.png"):
        video(place / "out" / name, {"id": "0" * 16})
        assert made_by(str(place / "out" / name)) == ({"id": "0" * 16}, True)
    media.write_frames(f"{place}/frames/", [np.zeros((16, 16, 3), np.uint8)], fps=5, metadata={REQUEST: {"id": "1"}})
    assert made_by(f"{place}/frames/") == ({"id": "1"}, True)
    assert made_by(str(place / "none.mp4")) == made_by(f"{place}/none/") == ({}, False)


def test_the_comment_of_a_video_is_read_without_ffmpeg(place):
    metadata = {"who": 'a "quoted" = # ; \\ name, ünïcode\n', "long": "x" * 5000, "n": 1.5}
    media.write_frames(place / "v.mp4", [np.zeros((16, 16, 3), np.uint8)] * 3, fps=5, metadata=metadata)
    assert json.loads(read_comment(place / "v.mp4"))[KEY] == metadata == read_metadata(place / "v.mp4")
    raw = (place / "v.mp4").read_bytes()
    for size in (0, 4, 20, len(raw) // 2, len(raw) - 1):  # what a power cut leaves is no result
        (place / "cut.mp4").write_bytes(raw[:size])
        assert read_comment(place / "cut.mp4") is None
    (place / "zeros.mp4").write_bytes(bytes(len(raw)))
    assert read_comment(place / "zeros.mp4") is None


def test_inputs_are_hashed_once_until_they_change(place, monkeypatch):
    long_ago = time.time() - 100
    os.utime(place / "a.jpg", (long_ago, long_ago))
    first = Digests(place / "digests.jsonl")
    digest = first.of("a.jpg")
    first.remember()
    with (place / "digests.jsonl").open("a") as file:
        file.write('["torn')
    reads = []
    from dreampose_cli.workflows.batch import digests

    real = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda path: reads.append(path) or real(path))
    assert Digests(place / "digests.jsonl").of("a.jpg") == digest and not reads
    (place / "a.jpg").write_bytes(b"different")
    assert Digests(place / "digests.jsonl").of("a.jpg") != digest and len(reads) == 1
    with pytest.raises(MediaError, match="gone"):
        first.of("gone.jpg")
    if hasattr(os, "mkfifo"):
        os.mkfifo(place / "pipe.mp4")  # which would block for ever
        with pytest.raises(MediaError, match="pipe or a device"):
            first.of("pipe.mp4")
    assert first.of(str(place)) != first.of(str(place / "b.jpg"))


# ---- the manifest


def test_a_manifest_is_one_drivers_and_lines_are_whole(place):
    folder = place / "out"
    with Manifest(folder) as manifest:
        manifest.append({"event": "start", "what": "ünï\udcff"})
        with pytest.raises(OutputError, match="another batch writes"), Manifest(folder):
            pass
        with Manifest(folder, (1, 2)) as shard:
            shard.append({"event": "end"})
    with (folder / "manifest.jsonl").open("ab") as file:
        file.write(b'{"event": "torn by a power c')
    with Manifest(folder) as manifest:
        manifest.append({"event": "end"})
    lines = (folder / "manifest.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["start", "end"]
    assert [line["event"] for line in read_lines(folder)] == ["end", "start", "end"]


def test_a_full_disk_leaves_no_half_line(place, monkeypatch):
    with Manifest(place / "out") as manifest:
        manifest.append({"event": "start"})
        real = os.write
        left = [5]

        def write(descriptor, raw):
            if not left:
                raise OSError(28, "No space left on device")
            return real(descriptor, raw[: left.pop()])

        monkeypatch.setattr(os, "write", write)
        with pytest.raises(OutputError, match="the disk is full"):
            manifest.append({"event": "done"})
        monkeypatch.undo()
    assert [line["event"] for line in read_lines(place / "out")] == ["start"]


# ---- the driver, on workers that are functions


class FakeEngine:
    """Workers that answer at once with what `act(task)` returns: a result, an error, "lost" or None for silence."""

    name = "fake"

    def __init__(self, act, workers=1):
        self.act, self.names = act, [str(i + 1) for i in range(workers)]
        self.queue, self.given, self.killed, self.closed = deque(), [], [], False

    def start(self):
        for name in self.names:
            self.queue.append(Event(name, "ready", data={"host": "here"}))

    def submit(self, worker, step, task, ahead):
        self.given.append((worker, task, ahead))
        found = self.act(task)
        if found == "lost":
            self.queue += [Event(worker, "lost", data={"sentence": "gone"}), Event(worker, "ready")]
        elif isinstance(found, BaseException):
            self.queue += [Event(worker, "failed", step, failure_of(found).as_json()), Event(worker, "ready")]
        elif found is not None:
            data = {"result": found, "seconds": 1.0, "peak_memory": 1}
            self.queue += [Event(worker, "done", step, data), Event(worker, "ready")]

    def events(self, timeout):
        found = list(self.queue)
        self.queue.clear()
        if not found:
            time.sleep(0.01)
        return found

    def kill(self, worker):
        self.killed.append(worker)
        self.queue.append(Event(worker, "ready"))

    def close(self):
        self.closed = True


def photos(task):
    """The names of a step's photos, which it has by their absolute paths."""
    return [os.path.basename(path) for path in task.get("photos", ())]


def succeed(task):
    if task["kind"] == "subject":
        return {"subject": f"id of {photos(task)}"}
    return {"poses": "k"} if task["kind"] == "poses" else {"frames": 8, "bytes": 100, "poses": task["poses_digest"]}


@pytest.fixture
def planned(place, tiny_base):
    return plan(jobs_of(["a.jpg", "b.jpg", "c.jpg"], ["x.mp4", "y.poses"], "out", {"base": str(tiny_base)}))


class Nobody(Listener):
    """Does not listen."""


def drive(planned, act, workers=1, **policy):
    engine = FakeEngine(act, workers)
    with Manifest(planned.folder) as manifest:
        summary = Driver(planned, engine, manifest, Policy(**policy), Nobody()).run()
    assert engine.closed
    return summary, engine


def test_a_batch_is_done_person_by_person_and_written_down(planned):
    summary, engine = drive(planned, succeed)
    assert (summary.made, summary.missing, summary.failures, summary.steps) == (6, 0, [], 10)
    videos = [task for _, task, _ in engine.given if task["kind"] == "video"]
    assert [task["subject"] for task in videos] == [f"id of ['{name}.jpg']" for name in "abc" for _ in "xy"]
    assert any(ahead and ahead["kind"] == "poses" for _, task, ahead in engine.given if task["kind"] != "poses") or (
        engine.given[0][1]["kind"] == "poses"
    )
    lines = list(read_lines(planned.folder))
    assert [line["event"] for line in lines].count("start") == [line["event"] for line in lines].count("done") == 10
    assert lines[-1]["event"] == "end" and lines[-1]["made"] == 6
    measured = Measured.of(lines)
    assert forecast(planned, measured).seconds == pytest.approx(10)
    assert forecast(planned, measured).disk is None  # subjects did not say how large they are
    assert forecast(planned, Measured()).seconds is None


def test_what_may_pass_is_tried_again_and_what_will_not_is_not(planned):
    tries = []

    def act(task):
        if task["kind"] == "video" and task["output"].endswith("a-x.mp4"):
            tries.append(1)
            return OutOfMemoryError("too little") if len(tries) < 3 else succeed(task)
        return MediaError("b.jpg is no photo.") if photos(task) == ["b.jpg"] else succeed(task)

    summary, _ = drive(planned, act, retries=2)
    assert len(tries) == 3 and (summary.made, summary.blocked, summary.missing) == (4, 2, 2)
    assert summary.failures == [("subject of b.jpg", INPUT, "b.jpg is no photo.")]
    tries.clear()
    summary, _ = drive(planned, act, retries=1)
    assert len(tries) == 2 and summary.reasons() == {MEMORY: 1, INPUT: 1}


def test_a_batch_ends_early_where_too_much_fails_or_the_disk_is_full(planned):
    summary, engine = drive(planned, lambda task: MediaError("bad"), max_failures=1)
    assert len(summary.failures) == 2 and "--max-failures is 1" in summary.stopped and summary.left > 0
    summary, engine = drive(planned, lambda task: OSError(28, "No space left on device"), retries=5)
    assert summary.reasons() == {DISK: 1} and "the disk is full" in summary.stopped and len(engine.given) == 1


def test_a_worker_that_is_lost_costs_one_step_one_try(planned):
    lost = []

    def act(task):
        if task["kind"] == "subject" and len(lost) < 2:
            lost.append(task)
            return "lost"
        return succeed(task)

    summary, _ = drive(planned, act, retries=0)
    assert summary.missing == 0 and len(lost) == 2
    summary, _ = drive(planned, lambda task: "lost" if task["kind"] == "poses" else succeed(task), retries=0)
    assert summary.failures[0][1] == "worker lost" and (summary.made, summary.blocked) == (3, 3)


def test_a_step_that_takes_too_long_is_ended(planned):
    summary, engine = drive(
        planned, lambda task: None if photos(task) == ["c.jpg"] else succeed(task), timeout=0.2
    )
    assert engine.killed == ["1"] and summary.reasons() == {"timeout": 1}
    assert "subject of c.jpg took longer than --timeout 0.2" in summary.failures[0][2] and summary.made == 4


def test_two_workers_take_different_people(planned):
    schedule = Schedule(planned)
    for step in [step for step in planned.steps.values() if step.kind != "video"]:
        schedule.done(step)
    first, second = schedule.take(), schedule.take()
    assert first.task["person"] != second.task["person"]
    assert schedule.take(first.task["person"]).task["person"] == first.task["person"]


def test_failures_are_told_apart():
    def caused(error, cause):
        error.__cause__ = cause
        return error

    assert failure_of(MemoryError()).reason == MEMORY
    assert failure_of(RuntimeError("CUDA out of memory. Tried")).reason == MEMORY
    assert failure_of(caused(MediaError("x"), ConnectionResetError())).reason == NETWORK
    assert failure_of(caused(OutputError("x"), OSError(28, "full"))).reason == DISK
    assert failure_of(OutputError("o.mp4 cannot be written: the disk is full; free some space.")).reason == DISK
    assert failure_of(MediaError("x")).reason == INPUT
    assert failure_of(ZeroDivisionError()).reason == OTHER


# ---- scale


def test_planning_stays_cheap_where_there_is_much(place, tiny_base, monkeypatch):
    """2,000 jobs of a file in seconds of the CPU; the benchmark does 100,000."""
    (place / "many").mkdir()
    for i in range(2000):
        (place / "many" / f"{i}.jpg").write_bytes(str(i).encode())
    rows = "".join(f"many/{i}.jpg,y.poses,{i % 10}/{i}.mp4\n" for i in range(2000))
    (place / "jobs.csv").write_text("photo,poses,output\n" + rows)
    started = time.process_time()
    made = plan(read_jobs("jobs.csv", "out", {"base": str(tiny_base)}))
    assert len(made.steps) == 4000 and time.process_time() - started < 3
    assert threading.active_count() < 20


def test_a_video_never_replaces_an_input(place, tiny_base):
    jobs = jobs_of(["a.jpg"], ["x.mp4"], "out", {"base": str(tiny_base)})
    for output in (place / "x.mp4", place / "a.jpg"):
        with pytest.raises(OutputError, match="is an input of this batch too"):
            plan([dataclasses.replace(job, output=str(output)) for job in jobs], overwrite=True)
    other = jobs_of(["b.jpg"], ["y.poses"], "out", {"base": str(tiny_base)})
    with pytest.raises(OutputError, match="is an input of this batch too"):  # of another job
        plan([*jobs, dataclasses.replace(other[0], output=str(place / "x.mp4"))], overwrite=True)
    (place / "frames").mkdir()
    with pytest.raises(OutputError, match="is an input folder"):
        plan([dataclasses.replace(jobs[0], poses="frames", output=str(place / "frames" / "a.mp4"))])
    with pytest.raises(OutputError, match="would be replaced"):
        plan([dataclasses.replace(job, output=f"{place}/") for job in jobs], overwrite=True)


def test_a_large_jobs_file_is_read_line_by_line(place):
    """Lines of 500 bytes, one of them bad: it is named without the file in memory."""
    import tracemalloc

    line = json.dumps({"photo": "a.jpg", "poses": "x.mp4", "output": "%06d.mp4", "name": ""}).ljust(499) + "\n"
    with open("jobs.jsonl", "w", encoding="utf-8") as file:
        file.writelines(line % i for i in range(3_000))
        file.write(json.dumps({"photo": "a.jpg", "poses": "gone.mp4"}) + "\n")
    tracemalloc.start()
    with pytest.raises(UsageError, match=r"line 3001: gone\.mp4 does not exist"):
        read_jobs("jobs.jsonl", "out")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_500_000  # the file has as many bytes


def test_engines_are_named(place, tiny_base):
    from dreampose_cli.workflows.batch.run import BatchOptions, make_engine

    planned = types.SimpleNamespace(cache=user_cache())
    assert make_engine(BatchOptions("out", workers=3), planned).devices == {"1": "auto", "2": "auto", "3": "auto"}
    two = make_engine(BatchOptions("out", devices=["cuda:0", "cuda:1"]), planned)
    assert two.devices == {"1": "cuda:0", "2": "cuda:1"} and two.threads
    with pytest.raises(UsageError, match="no engine 'spark'"):
        make_engine(BatchOptions("out", engine="spark"), planned)
