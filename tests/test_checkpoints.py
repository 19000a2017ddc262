"""Weights of others: hostile, damaged and foreign files are refused by name, and nothing in them runs."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreampose_cli.errors import BaseError
from dreampose_cli.networks.weight_files import read_weights, shape_mismatches, write_weights

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def good(tmp_path):
    torch.save(TENSORS, tmp_path / "good.pth")
    return tmp_path / "good.pth"


def rezip(source, target, *, compression=zipfile.ZIP_STORED, replace=None):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for member in old.infolist():
            content = old.read(member)
            new.writestr(member.filename, (replace or {}).get(member.filename.split("/")[-1], content))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dicts_with_and_without_prefix(tmp_path, prefix):
    torch.save(OrderedDict((prefix + name, tensor) for name, tensor in TENSORS.items()), tmp_path / "x.pth")
    found = read_weights(tmp_path / "x.pth")
    assert found.keys() == TENSORS.keys()
    assert torch.equal(found["a.weight"], TENSORS["a.weight"])


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ((os.system, "touch {marker}"), "system"),
        ((eval, "open('{marker}', 'w')"), "eval"),
        ((exec, "open('{marker}', 'w')"), "exec"),
        ((subprocess.Popen, ["touch", "{marker}"]), "Popen"),
    ],
)
def test_hostile_pickles_are_refused_by_name(tmp_path, call, name):
    marker = tmp_path / "ran"
    function, *arguments = call
    arguments = [[a.format(marker=marker) for a in arg] if isinstance(arg, list) else arg.format(marker=marker)
                 for arg in arguments]  # fmt: skip
    torch.save({**TENSORS, "x": Attack(function, *arguments)}, tmp_path / "bad.pth")
    with pytest.raises(BaseError, match=rf"bad.pth is refused: besides weights it holds [\w.]*{name}"):
        read_weights(tmp_path / "bad.pth")
    assert not marker.exists()


def test_what_is_no_tensor_is_named(tmp_path):
    torch.save({**TENSORS, "epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(BaseError, match="entry 'epoch' is a int, not a tensor"):
        read_weights(tmp_path / "x.pth")
    torch.save([1, 2], tmp_path / "x.pth")
    with pytest.raises(BaseError, match="holds a list, not weights by name"):
        read_weights(tmp_path / "x.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(BaseError, match=r"besides weights it holds torch.nn.modules.linear.Linear"):
        read_weights(tmp_path / "x.pth")


def test_truncated_files_are_named(good, tmp_path):
    whole = good.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(BaseError, match="cut.pth is cut short or damaged"):
            read_weights(tmp_path / "cut.pth")
    save_file(TENSORS, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-3])
    with pytest.raises(BaseError, match="cut.safetensors is cut short, damaged"):
        read_weights(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (pickle.dumps(TENSORS), "no PyTorch checkpoint"),
        (b"\x93NUMPY", "no PyTorch checkpoint"),
    ],
)
def test_other_files_are_named(tmp_path, content, words):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(BaseError, match=words):
        read_weights(tmp_path / "x.pth")
    with pytest.raises(BaseError, match=r"gone.pth cannot be read: No such file"):
        read_weights(tmp_path / "gone.pth")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("holiday.txt", "sun")
    (tmp_path / "y.pth").write_bytes(buffer.getvalue())
    with pytest.raises(BaseError, match="damaged or no PyTorch checkpoint"):
        read_weights(tmp_path / "y.pth")


def test_zip_bombs_are_refused_unopened(good, tmp_path):
    rezip(good, tmp_path / "bomb.pth", compression=zipfile.ZIP_DEFLATED, replace={"0": b"\0" * 20_000_000})
    with pytest.raises(BaseError, match=r"bomb.pth is refused: it declares \d{8} bytes of content but is \d+ bytes"):
        read_weights(tmp_path / "bomb.pth")
    rezip(good, tmp_path / "small.pth", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(BaseError, match="small.pth is refused: its content is compressed|declares"):
        read_weights(tmp_path / "small.pth")


def test_declared_sizes_are_not_believed(tmp_path):
    """A tensor may claim any shape over a few bytes; only its shape is looked at before it is compared."""
    torch.save({"a.weight": torch.zeros(1).expand(1_000_000, 1_000_000), "a.bias": torch.ones(2)}, tmp_path / "x.pth")
    found = shape_mismatches(read_weights(tmp_path / "x.pth"), {name: t.shape for name, t in TENSORS.items()})
    assert found == ["1 of another shape (a.weight is 1000000x1000000 in place of 2x3)"]


def test_a_storage_larger_than_its_file_is_refused(tmp_path):
    torch.save({"a": torch.ones(100_000)}, tmp_path / "good.pth")
    rezip(tmp_path / "good.pth", tmp_path / "short.pth", replace={"0": b"\0\0\0\0"})
    with pytest.raises(BaseError, match="short.pth is cut short, damaged"):
        read_weights(tmp_path / "short.pth")


def test_misfits_are_counted_and_named():
    expected = {"a.weight": (2, 3), "a.bias": (2,), "b": (1,), "c": (1,), "d": (1,), "e": (1,)}
    assert shape_mismatches(TENSORS, {name: tensor.shape for name, tensor in TENSORS.items()}) == []
    assert shape_mismatches(TENSORS, expected) == ["4 missing (b, c, d, and 1 more)"]
    assert shape_mismatches({**TENSORS, "z": torch.ones(1)}, {"a.weight": (3, 2), "a.bias": (2,)}) == [
        "1 surplus (z)",
        "1 of another shape (a.weight is 2x3 in place of 3x2)",
    ]


def test_weights_are_written_as_they_were(tmp_path):
    shared = torch.ones(4)
    tensors = {**TENSORS, "turned": torch.arange(6.0).view(2, 3).t(), "one": shared, "two": shared,
               "half": torch.ones(3, dtype=torch.float16)}  # fmt: skip
    torch.save(tensors, tmp_path / "x.pth")
    write_weights(read_weights(tmp_path / "x.pth"), tmp_path / "folder" / "x.safetensors")
    found = load_file(tmp_path / "folder" / "x.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) and found[name].dtype == tensors[name].dtype for name in found)


def test_reading_takes_no_memory_of_its_size(tmp_path):
    """Mapped from the file: a checkpoint of 200 MB is opened with less than a quarter of it."""
    pytest.importorskip("resource")
    torch.save({"a": torch.zeros(50_000_000)}, tmp_path / "big.pth")
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from dreampose_cli.networks.weight_files import read_weights\n"
        "import torch; torch.zeros(1) + 1\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read_weights(Path(sys.argv[1]))\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print((after - before) * (1024 if sys.platform != 'darwin' else 1))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "big.pth")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 50_000_000
