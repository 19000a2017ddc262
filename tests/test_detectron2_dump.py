"""Dumps of detectron2's apply_net.py: written with torch.save and pickle as it does, and read without trusting them."""

import builtins
import dataclasses
import io
import os
import pickle
import pickletools
import random
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from dreampose_cli.cache import user_cache
from dreampose_cli.errors import NoPersonError, PoseError, UsageError
from dreampose_cli.poses.detectron2_dump import DumpPoses
from dreampose_cli.poses.extraction import extract
from dreampose_cli.poses.files import is_pose_source, open_poses
from dreampose_cli.poses.safe_pickle import read_pickle

MODULE = "densepose.structures.chart_result"


@dataclasses.dataclass
class DensePoseChartResultWithConfidences:
    labels: torch.Tensor
    uv: torch.Tensor
    sigma_1: torch.Tensor | None = None
    sigma_2: torch.Tensor | None = None
    kappa_u: torch.Tensor | None = None
    kappa_v: torch.Tensor | None = None
    fine_segm_confidence: torch.Tensor | None = None
    coarse_segm_confidence: torch.Tensor | None = None


class DensePoseEmbeddingPredictorOutput(DensePoseChartResultWithConfidences):
    """Of DensePose's other branch, which has no charts."""


@pytest.fixture(autouse=True)
def detectron2(monkeypatch):
    """As if DensePose were installed, for writing only."""
    module = types.ModuleType(MODULE)
    for kind in (DensePoseChartResultWithConfidences, DensePoseEmbeddingPredictorOutput):
        setattr(module, kind.__name__, kind)
        monkeypatch.setattr(kind, "__module__", MODULE)
    for name in ("densepose", "densepose.structures"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, MODULE, module)


def result(w, h, part, kind=DensePoseChartResultWithConfidences):
    labels = torch.full((h, w), part)
    labels[0] = 0
    uv = torch.stack([torch.linspace(0, 1, w).expand(h, w), torch.full((h, w), part / 100)])
    return kind(labels, uv, sigma_2=torch.ones(h, w))


def entry(name, *people, kind=DensePoseChartResultWithConfidences):
    """One picture; people are (x, y, w, h, part)."""
    boxes = torch.tensor([[x + 0.4, y + 0.3, x + w + 0.5, y + h + 0.6] for x, y, w, h, _ in people]).reshape(-1, 4)
    results = [result(w, h, part, kind) for _, _, w, h, part in people]
    return {
        "file_name": name,
        "scores": torch.linspace(0.9, 0.8, len(people)),
        "pred_boxes_XYXY": boxes,
        "pred_densepose": results,
    }


def dance():
    """Ten pictures in the order of some file system; the person moves 3 to the right a frame."""
    entries = [entry(f"/data/frames/{i}.jpg", (3 * i, 5, 12, 20, i + 1), (60, 2, 5, 6, 24)) for i in range(12)]
    random.Random(1).shuffle(entries)
    return entries


def torch_save(content, path):
    torch.save(content, path)


def plain(protocol):
    def save(content, path):
        path.write_bytes(pickle.dumps(content, protocol))

    save.__name__ = f"pickle-{protocol}"
    return save


WRITERS = [torch_save, *(plain(protocol) for protocol in (2, 3, 4, 5))]


@pytest.mark.parametrize("save", WRITERS, ids=lambda save: save.__name__)
def test_dumps_are_read(tmp_path, save):
    path = tmp_path / "results.pkl"
    save(dance(), path)
    assert is_pose_source(path)
    poses = open_poses(path, fps=25, size=(48, 70))
    assert isinstance(poses, DumpPoses)
    assert (len(poses), poses.size, poses.fps, poses.has_parts, poses.gaps, poses.remarks) == (
        12,
        (48, 70),
        25,
        True,
        [],
        (),
    )
    for i, pose in enumerate(poses):
        assert (pose.dtype, pose.shape) == (np.float32, (3, 48, 70))
        expected = np.zeros((3, 48, 70), np.float32)
        expected[0, 6:25, 3 * i : 3 * i + 12] = i + 1
        expected[1, 6:25, 3 * i : 3 * i + 12] = np.linspace(0, 1, 12)
        expected[2, 6:25, 3 * i : 3 * i + 12] = (i + 1) / 100
        assert np.abs(pose - expected).max() < 1e-6, i


def test_views_of_tensors_are_read(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6) / 24
    labels = torch.ones(3, 4, dtype=torch.int64)
    one = DensePoseChartResultWithConfidences(labels, torch.stack([whole, whole])[:, 1:, ::2].expand(2, 3, 3))
    one.labels = labels[:, :3].t()
    content = [{"file_name": "a", "pred_boxes_XYXY": torch.tensor([[0.0, 0, 3, 3]]), "pred_densepose": [one]}]
    for save in WRITERS:
        save(content, tmp_path / "d.pt")
        frame = open_poses(tmp_path / "d.pt").frame(0)
        assert np.array_equal(frame[1], one.uv[0].numpy())


def test_the_person_and_the_gaps(tmp_path):
    path = tmp_path / "d.pkl"
    entries = dance()
    entries.sort(key=lambda e: int(e["file_name"][13:-4]))
    entries[4] = {"file_name": entries[4]["file_name"]}
    entries[5] = entry(entries[5]["file_name"])
    torch_save(entries, path)
    poses = open_poses(path)
    assert poses.gaps == [(4, 5)]
    assert "2 frames" in poses.remarks[-1]
    assert "4-5" in poses.remarks[-1]
    assert [int(pose[0].max()) for pose in poses] == [1, 2, 3, 4, 4, 7, 7, 8, 9, 10, 11, 12]
    second = open_poses(path, person=2)
    assert {int(pose[0].max()) for pose in second} == {24}
    with pytest.raises(NoPersonError, match="no 3 people"):
        open_poses(path, person=3)
    torch_save([entry("a.jpg")], path)
    with pytest.raises(NoPersonError, match="nobody"):
        open_poses(path)


def test_the_size_comes_from_the_pictures_or_the_boxes(tmp_path):
    path = tmp_path / "d.pkl"
    torch_save(dance(), path)
    poses = open_poses(path)
    assert poses.size == (26, 66)
    assert "66x26 is taken" in poses.remarks[0]
    Image.new("RGB", (90, 50)).save(tmp_path / "7.jpg")
    poses = open_poses(path)
    assert (poses.size, poses.remarks) == ((50, 90), ())
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (90, 50)).save(tmp_path / "7.jpg", exif=exif)
    with pytest.raises(PoseError, match="beyond the size 50x90"):
        open_poses(path)
    assert open_poses(path, size=(64, 128)).size == (64, 128)
    with pytest.raises(PoseError, match=r"beyond the size 40x40.*--size"):
        open_poses(path, size=(40, 40))
    with pytest.raises(UsageError, match="--size is for dumps"):
        open_poses(tmp_path / "7.jpg", size=(40, 40))


def test_boxes_over_the_edge_are_cut(tmp_path):
    path = tmp_path / "d.pkl"
    torch_save([entry("a", (-5, -6, 12, 20, 3)), entry("b", (-50, -60, 12, 20, 3))], path)
    poses = open_poses(path, size=(15, 10))
    # -5 + 0.4 is cut to -4 and -6 + 0.3 to -5, as detectron2 cuts
    assert np.count_nonzero(poses.frame(0)[0]) == 8 * 15
    assert not poses.frame(1).any()


def test_a_dump_becomes_poses_and_folders(tmp_path):
    torch_save(dance(), tmp_path / "d.pt")
    direct = open_poses(tmp_path / "d.pt")
    notes = []
    for format, name in (("poses", "a.poses"), ("iuv", "a"), ("dreampose", "b")):
        found = extract(user_cache(), tmp_path / "d.pt", tmp_path / name, format=format, fps=12, note=notes.append)
        again = open_poses(found.path, fps=12)
        assert (len(again), again.fps, found.estimator) == (12, 12, None)
        for a, b in zip(again, direct, strict=True):
            assert np.abs(a[1:] - b[1:]).max() <= 0.5 / 255 + 1e-6
            assert format == "dreampose" or np.array_equal(a[0], b[0])
    assert any("does not say how large" in note for note in notes)


# ---- hostile and damaged files


class Call:
    """Pickles as a call of something."""

    def __init__(self, function, *words):
        self.function, self.words = function, words

    def __reduce__(self):
        return self.function, self.words


def hostile():
    yield "os.system", Call(os.system, "echo hacked > hacked"), rf"{os.name}\.system"
    yield "eval", Call(builtins.eval, "open('hacked', 'w')"), r"\w+\.eval"
    yield "getattr", Call(builtins.getattr, "", "join"), r"\w+\.getattr"
    yield "popen", Call(subprocess.Popen, ["touch", "hacked"]), r"\w+\.Popen"
    yield "torch.load", Call(torch.load, "x"), r"torch.*\.load"
    yield "numpy", np.float64(3), r"numpy.*"
    yield "class", Call(type, "x", (), {}), r"\w+\.type"


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(("what", "content", "name"), list(hostile()), ids=[what for what, _, _ in hostile()])
def test_hostile_pickles_are_refused_by_name(tmp_path, monkeypatch, protocol, what, content, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "d.pkl"
    for harmful in (content, [{"file_name": "a", "pred_densepose": [content]}]):
        path.write_bytes(pickle.dumps(harmful, protocol))
        with pytest.raises(PoseError, match=f"d.pkl is refused: it asks for {name}"):
            open_poses(path)
    torch.save([content], path)
    with pytest.raises(PoseError, match=f"d.pkl is refused: it asks for {name}"):
        open_poses(path)
    assert not (tmp_path / "hacked").exists()


def test_names_with_dots_and_nested_pickles_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "d.pkl"
    dotted = b"\x80\x04\x8c\x0bcollections\x8c\x16OrderedDict.fromkeys\x93)R."
    path.write_bytes(dotted.replace(b"\x8c\x16", b"\x8c\x14"))
    with pytest.raises(PoseError, match=r"collections\.OrderedDict\.fromkeys"):
        open_poses(path)
    inner = pickle.dumps(Call(os.system, "touch hacked"))
    path.write_bytes(pickle.dumps([Call(torch.storage._load_from_bytes, inner)]))  # what a tensor's storage looks like
    with pytest.raises(PoseError, match=rf"{os.name}\.system"):
        open_poses(path)
    assert not (tmp_path / "hacked").exists()


def test_another_kind_of_densepose_is_refused(tmp_path):
    torch_save([entry("a", (0, 0, 3, 3, 1), kind=DensePoseEmbeddingPredictorOutput)], tmp_path / "d.pkl")
    with pytest.raises(PoseError, match="DensePoseEmbeddingPredictorOutput"):
        open_poses(tmp_path / "d.pkl")


def test_attributes_of_shared_classes_cannot_be_set(tmp_path):
    """BUILD on a class itself, as a pickle may: it must not reach the next file."""
    program = (
        b"\x80\x02c" + MODULE.encode() + b"\nDensePoseChartResultWithConfidences\nN}X\x06\x00\x00\x00poisonK\x01s\x86b."
    )
    assert any(code.name == "BUILD" for code, *_ in pickletools.genops(program))
    (tmp_path / "d.pkl").write_bytes(program)
    with pytest.raises(PoseError):
        open_poses(tmp_path / "d.pkl")
    content = read_pickle_of(tmp_path, [result(2, 2, 1)])
    assert not hasattr(content[0], "poison")


def test_checked_tensors_and_the_memo_cannot_be_abused(tmp_path):
    """BUILD on a tensor could make it reach beyond its storage; a huge memo index could claim all memory."""
    path = tmp_path / "d.pkl"
    one = pickle.dumps(torch.ones(2), 2)
    path.write_bytes(one[:-1] + b"}X\x07\x00\x00\x00_offsetM\xff\xffsb.")
    with pytest.raises(PoseError, match="cut short, damaged"):
        open_poses(path)
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    with pytest.raises(PoseError, match="it holds a list"):
        open_poses(path)
    path.write_bytes(b"\x80\x04\x8e\x00\x00\x00\x00\xff\x00\x00\x00abc.")
    with pytest.raises(PoseError, match="cut short, damaged"):
        open_poses(path)


def read_pickle_of(folder, content):
    torch.save(content, folder / "other.pkl")
    return read_pickle(folder / "other.pkl", {r"densepose\..*": ("DensePoseChartResultWithConfidences",)}, "a test")


@pytest.mark.parametrize("save", WRITERS[:3], ids=lambda save: save.__name__)
def test_cut_and_damaged_dumps_are_named(tmp_path, save):
    path = tmp_path / "d.pkl"
    save(dance(), path)
    whole = path.read_bytes()
    for kept in (0, 1, 50, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:kept])
        with pytest.raises(PoseError, match=r"d\.pkl is cut short, damaged or not a DensePose dump"):
            list(open_poses(path))
    generator = random.Random(5)
    for _ in range(60):  # whatever is damaged, it is a sentence or a readable dump
        damaged = bytearray(whole)
        for _ in range(8):
            damaged[generator.randrange(min(len(damaged), 6000))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            list(open_poses(path))
        except PoseError as error:
            assert str(path) in str(error)


def test_tensors_beyond_their_storage_are_refused(tmp_path):
    path = tmp_path / "d.pkl"
    torch_save(dance(), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = next(name for name in members if name.endswith("data.pkl"))
    small = next(name for name in members if name.endswith("/data/0"))
    for change in ({small: members[small][:4]}, {data: members[data].replace(b"K\x14", b"K\xff")}):  # 20 -> 255 rows
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in {**members, **change}.items():
                archive.writestr(name, content)
        with pytest.raises(PoseError, match="cut short, damaged"):
            open_poses(path)


def test_zip_bombs_are_refused(tmp_path):
    path = tmp_path / "d.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(30_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(PoseError, match=r"d\.pt is refused: it would unpack to \d+ times its size"):
        open_poses(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": 1}, "it holds a dict"),
        ([1, 2], "it holds a list"),
        ([], "it holds a list"),
        (torch.ones(3), "it holds a tensor"),
        ([{"file_name": "a", "scores": torch.ones(1)}], "has pred_densepose"),
        ([{"file_name": "a", "pred_densepose": [1], "pred_boxes_XYXY": torch.ones(1, 4)}], "not what apply_net"),
        ([{"file_name": "a", "pred_densepose": [1]}], "not what apply_net"),
        ([{"file_name": "a", "pred_densepose": 1, "pred_boxes_XYXY": torch.ones(1, 4)}], "not what apply_net"),
        ([{"file_name": "a", "pred_densepose": [1], "pred_boxes_XYXY": torch.full((1, 4), float("nan"))}], "not what"),
    ],
)
def test_other_content_is_named(tmp_path, content, words):
    for save in WRITERS[:2]:
        save(content, tmp_path / "d.pth")
        with pytest.raises(PoseError, match=words):
            open_poses(tmp_path / "d.pth")


def test_parts_out_of_range_are_refused(tmp_path):
    torch_save([entry("a", (0, 0, 4, 4, 30))], tmp_path / "d.pkl")
    with pytest.raises(PoseError, match="outside 0 to 24"):
        list(open_poses(tmp_path / "d.pkl"))


def test_a_checkpoint_is_no_dump(tmp_path):
    buffer = io.BytesIO()
    torch.save(torch.nn.Linear(3, 2).state_dict(), buffer)
    (tmp_path / "unet.pth").write_bytes(buffer.getvalue())
    with pytest.raises(PoseError, match="it holds a (Ordered)?[dD]ict"):
        open_poses(tmp_path / "unet.pth")
