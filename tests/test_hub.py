"""Bases on the Hub: a small server in its place, and a sentence for each thing that can go wrong."""

import json
import subprocess
import sys
import time

import pytest

from dreampose_cli.bases import repositories as hub
from dreampose_cli.bases.registry import bundled, pull, resolve_base
from dreampose_cli.bases.repositories import Reference
from dreampose_cli.cache import user_cache
from dreampose_cli.errors import BaseError
from dreampose_cli.networks.dreampose.presets import MINI
from hub_server import COMMIT

NOBODY = "http://127.0.0.1:9"  # the discard port: nobody listens

# Resolves each name given, and prints what came of it: a folder, or the error's sentence.
SCRIPT = """
import json, sys
from dreampose_cli.errors import DreamposeError
from dreampose_cli.bases.registry import pull, resolve_base
from dreampose_cli.cache import user_cache
found, notes, seen = [], [], []
for word in sys.argv[1:]:
    how, _, name = word.partition(":")
    try:
        function = pull if how == "pull" else resolve_base
        found.append(str(function(user_cache(), name, notes.append, lambda *a: seen.append(a))))
    except DreamposeError as error:
        found.append(f"{type(error).__name__}: {error}")
print(json.dumps({"found": found, "notes": notes, "seen": seen, "torch": "torch" in sys.modules}))
"""


@pytest.fixture
def server(tiny_base, hub):
    files = {
        path.relative_to(tiny_base).as_posix(): path.read_bytes() for path in tiny_base.rglob("*") if path.is_file()
    }
    config = json.loads(files["base.json"])
    config["provenance"] = {"licence": "CC BY 4.0"}
    files["base.json"] = json.dumps(config).encode()
    files |= {
        "README.md": b"hello",
        "evil.py": b"raise SystemExit",
        "r50.torchscript": b"code",
        "checkpoints/network/state.json": b"{}",
    }
    hub.add("owner/base", files, refs=("main", "v1"))
    hub.add("owner/foreign", {"config.json": b"{}", "unet/config.json": b"{}"})
    hub.add("owner/incomplete", {name: files[name] for name in files if not name.startswith("adapter")})
    hub.add("owner/newer", {**files, "base.json": b'{"format": "dreampose-base", "version": 99}'})
    hub.add("owner/cut", files)
    hub.add("owner/gated", files, gated=True)
    hub.add("owner/private", files, token="hf_right")
    hub.add("owner/down", files, status=500)
    return hub


def ask(server, *words, home, **environment):
    """What SCRIPT prints, and how long it took."""
    offline = environment.pop("offline", False)
    began = time.monotonic()
    command = [sys.executable, "-c", SCRIPT, *words]
    environment = server.environment(home, offline=offline, **environment)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bars and no warnings of the libraries
    return json.loads(done.stdout), time.monotonic() - began


def test_references():
    assert hub.parse("owner/name") == Reference("owner/name")
    assert hub.parse("owner/na.me-x@v1.0/a") == Reference("owner/na.me-x", "v1.0/a")
    assert str(Reference("owner/name", "v1")) == "owner/name@v1"
    for other in ("mini", "./owner/name", "/owner/name", "a/b/c", "owner/", "../x", "owner/name@", "a b/c", "x/..y"):
        assert hub.parse(other) is None


def test_a_base_is_downloaded_once_and_then_used_offline(server, tmp_path):
    home = tmp_path / "hf"
    answer, _ = ask(server, "resolve:owner/base", home=home)
    folder = home / "hub" / "models--owner--base" / "snapshots" / COMMIT
    assert answer["found"] == [str(folder)]
    assert not answer["torch"]
    assert any("CC BY 4.0" in note and COMMIT[:12] in note for note in answer["notes"])
    assert answer["seen"] == [] or answer["seen"][-1][2] == "MB of owner/base"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"base.json", *MINI.network.files}  # no code, no readme, nothing else
    assert hub.origin(folder) == f"owner/base@{COMMIT}"
    asked = len(server.requests)
    again, _ = ask(server, "resolve:owner/base", f"resolve:owner/base@{COMMIT}", home=home)
    assert again["found"] == [str(folder)] * 2
    assert len(server.requests) == asked  # without a question
    assert again["notes"] == []
    offline, _ = ask(server, "resolve:owner/base", "pull:owner/base", home=home, offline=True)
    assert offline["found"] == [str(folder)] * 2
    unreachable, _ = ask(server, "resolve:owner/base", home=home, HF_ENDPOINT=NOBODY)
    assert unreachable["found"] == [str(folder)]
    pulled, _ = ask(server, "pull:owner/base", "resolve:owner/base@v1", home=home)
    assert pulled["found"] == [str(folder)] * 2
    assert len(server.requests) > asked  # asked for what is new


def test_each_failure_has_its_own_sentence(server, tmp_path):
    words = ["resolve:owner/gated", "resolve:owner/nothing", "resolve:owner/base@nope", "resolve:owner/foreign"]
    words += ["resolve:owner/incomplete", "resolve:owner/newer", "pull:mini", "pull:owner/private", "pull:owner/down"]
    answer, _ = ask(server, *words, home=tmp_path / "hf")
    gated, missing, revision, foreign, incomplete, newer, name, private, down = answer["found"]
    assert "owner/gated is gated: accept its terms on https://huggingface.co/owner/gated" in gated
    assert "hf auth login" in gated
    assert "owner/nothing is no folder here and no repository on the Hub, or a private one" in missing
    assert "owner/private is no folder here and no repository on the Hub, or a private one" in private
    assert "owner/down" in down
    assert "owner/base has no revision 'nope'" in revision
    assert "owner/foreign on the Hub is not a base of dreampose" in foreign
    assert "incomplete: it has no adapter/adapter.safetensors" in incomplete
    assert "is of format version 99" in newer
    assert not any("safetensors" in request for request in server.requests if "newer" in request)  # said before
    assert "'mini' is no repository on the Hub; it is written owner/name" in name
    assert all(found.startswith("BaseError: ") for found in answer["found"])


@pytest.mark.parametrize(("offline", "why"), [(True, "HF_HUB_OFFLINE is set"), (False, "the Hub cannot be reached")])
def test_without_a_network_an_unknown_base_fails_at_once(hub, tmp_path, offline, why):
    answer, seconds = ask(hub, "resolve:owner/base", home=tmp_path / "hf", offline=offline, HF_ENDPOINT=NOBODY)
    assert f"owner/base is not (or not wholly) on this machine and {why}; connect" in answer["found"][0]
    assert "dreampose base pull" in answer["found"][0]
    assert seconds < 30  # seconds on an idle machine


def test_an_interrupted_download_goes_on(server, tmp_path, monkeypatch):
    home = tmp_path / "hf"
    server.break_file("vae/diffusion_pytorch_model.safetensors")
    first, _ = ask(server, "resolve:owner/cut", home=home)
    assert "the download of owner/cut" in first["found"][0] or "owner/cut" in first["found"][0]
    assert "run the same command again" in first["found"][0] or "run the command again" in first["found"][0]
    second, _ = ask(server, "resolve:owner/cut", home=home, offline=True)
    assert "not (or not wholly) on this machine" in second["found"][0]  # a half is never taken for a base
    server.mend()
    before = server.downloads()
    third, _ = ask(server, "resolve:owner/cut", home=home)
    assert third["found"][0].endswith(COMMIT)
    after = server.downloads()
    assert len(after) - len(before) < len(MINI.network.files)  # what was complete was kept


@pytest.mark.parametrize(
    ("problem", "sentence"),
    [
        (OSError(28, "No space left on device"), "is full; make room, or set HF_HOME to another disk"),
        (RuntimeError("Data processing error: No space left on device (os error 28)"), "is full; make room"),
        (PermissionError(13, "Permission denied"), "cannot be written; make it writable or set HF_HOME"),
        (OSError("Consistency check failed: file should be of size 10"), "was interrupted (Consistency check"),
        (
            type("ReadError", (Exception,), {})("peer closed"),
            "was interrupted (peer closed); run the same command again",
        ),
    ],
)
def test_other_failures_of_a_download(problem, sentence, monkeypatch):
    import huggingface_hub

    def fail(*positional, **named):
        raise problem

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(BaseError) as caught:
        hub.download(Reference("owner/base"), ["*"])
    assert sentence in str(caught.value)


def test_progress_is_one_line_of_bytes():
    seen = []
    bar = hub.bar(lambda *values: seen.append(values), "owner/base")
    with bar(total=0, unit="B", unit_scale=True, desc="x", name="y", mininterval=0) as shown:
        shown.total = 64 << 20
        shown.update(16 << 20)
        shown.refresh()
    with bar(total=3, desc="files") as files:
        files.update(3)
    assert seen[-1] == (16, 67, "MB of owner/base")  # of 1000 kB
    assert all(label == "MB of owner/base" for _, _, label in seen)


def test_local_bases_come_first(tmp_path, monkeypatch, tiny_base):
    """A folder owner/name is a folder; nobody is asked."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").symlink_to(tiny_base, target_is_directory=True)
    assert str(resolve_base(user_cache(), "owner/name")) == "owner/name"
    assert resolve_base(user_cache(), "mini") == bundled()
    with pytest.raises(BaseError, match="owner/other is not"):
        resolve_base(user_cache(), "owner/other")
    with pytest.raises(BaseError, match="unknown base 'nobody'"):
        resolve_base(user_cache(), "nobody")
    with pytest.raises(BaseError, match="is no repository on the Hub"):
        pull(user_cache(), "nobody")
