"""`base pull` of the short names against a Hub on loopback, and which base is used where none is named."""

from __future__ import annotations

import json
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tiny_hub as tiny
from dreampose_cli import cache as store
from dreampose_cli.__main__ import main
from dreampose_cli.bases import drive, pulling, registry
from dreampose_cli.bases.published import PUBLISHED
from dreampose_cli.bases.registry import MINI_NOTE, default_base, resolve_base
from dreampose_cli.cache import user_cache
from dreampose_cli.errors import BaseError

MAGIC, SD, VAE = "zcxu-eric/MagicAnimate", "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/sd-vae-ft-mse"
CKPT = "temporal_attention/temporal_attention.ckpt"


@pytest.fixture
def people(tiny_hub, monkeypatch, tmp_path):
    """The Hub with everything on it, used by this process, with an empty cache of the Hub's own."""
    tiny_hub.use(monkeypatch, tmp_path / "hf")
    return tiny_hub


def downloads(home: Path) -> list[Path]:
    files = (path for path in (home / "hub").glob("models--*/**/*") if path.is_file())
    return sorted(files)


def test_magicanimate_comes_by_its_short_name(people, cache, tmp_path, capsys):
    """Only the needed files, in half precision where the Hub has it; the downloads are given back, and it renders."""
    assert main(["base", "pull", "magicanimate"]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(cache / "bases" / "magicanimate")
    assert "licence: BSD-3-Clause" in told.err and "licence: CreativeML OpenRAIL-M" in told.err
    assert sorted(people.downloads()) == sorted(
        [f"{MAGIC}/{name}" for name in (
            "appearance_encoder/config.json", "appearance_encoder/diffusion_pytorch_model.safetensors",
            "densepose_controlnet/config.json", "densepose_controlnet/diffusion_pytorch_model.safetensors", CKPT)]
        + [f"{SD}/{name}" for name in (
            "unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors",
            "text_encoder/config.json", "text_encoder/model.fp16.safetensors", "tokenizer/vocab.json",
            "tokenizer/merges.txt", "tokenizer/tokenizer_config.json", "tokenizer/special_tokens_map.json")]
        + [f"{VAE}/config.json", f"{VAE}/diffusion_pytorch_model.safetensors"]
    )  # fmt: skip
    base = cache / "bases" / "magicanimate"
    unet = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in unet.values()} == {torch.float16}
    config = json.loads((base / "base.json").read_text())
    assert config["provenance"]["stable_diffusion"] == f"{SD}@{tiny.COMMIT}"
    assert config["provenance"]["vae"].startswith(f"{VAE}@")
    assert downloads(tmp_path / "hf") == []
    assert store.user_cache().list_entries("partial") == []
    asked = len(people.requests)
    assert main(["base", "pull", "magicanimate", "-q"]) == 0 and len(people.requests) == asked
    assert registry.default_base(user_cache()).name == "magicanimate"


def test_an_interrupted_pull_goes_on_and_leaves_what_was_there_before(people, cache, tmp_path, capsys):
    from huggingface_hub import snapshot_download

    snapshot_download(VAE, allow_patterns=["config.json", "*.safetensors"])  # by some other program
    kept = set(downloads(tmp_path / "hf"))
    people.break_file(CKPT)
    assert main(["base", "pull", "magicanimate", "-q"]) == 1
    said = capsys.readouterr().err
    assert "was interrupted" in said and "run the same command again: what is complete is kept" in said
    assert not (cache / "bases" / "magicanimate").exists()
    people.mend()
    before = people.downloads()
    assert main(["base", "pull", "magicanimate", "-q"]) == 0
    again = people.downloads()[len(before) :]
    assert f"{MAGIC}/{CKPT}" in again and f"{MAGIC}/appearance_encoder/diffusion_pytorch_model.safetensors" not in again
    assert not any(name.startswith(VAE) for name in again)
    assert set(downloads(tmp_path / "hf")) == kept  # not ours to give back


def test_downloads_are_kept_where_that_is_asked_for(people, tmp_path, capsys):
    assert main(["base", "pull", "magicanimate", "--keep-downloads"]) == 0
    assert "the downloads are kept" in capsys.readouterr().err
    assert any(path.name == "temporal_attention.ckpt" for path in (tmp_path / "hf" / "hub").rglob("*.ckpt"))


def test_animate_anyone_comes_by_its_short_name(people, cache):
    assert main(["base", "pull", "animate-anyone", "-q"]) == 0
    fetched = people.downloads()
    assert f"{SD}/unet/config.json" in fetched and not any(name.startswith(f"{SD}/text") for name in fetched)
    assert "patrolli/AnimateAnyone/config.json" not in fetched
    assert (cache / "bases" / "animate-anyone" / "base.json").exists()


def test_too_little_disk_is_said_before_anything_comes(people, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda _: usage(10**12, 10**12, 4 * 10**9))
    assert main(["base", "pull", "magicanimate", "-q"]) == 1
    said = capsys.readouterr().err
    assert (
        "magicanimate needs 5.2 GB on the disk of" in said
        and "4.0 GB free" in said
        and "nothing was downloaded" in said
    )
    assert people.downloads() == []


def test_a_file_that_the_hub_no_longer_has_is_named(people, capsys):
    files = people.repositories[SD].commits[tiny.COMMIT]
    removed = {name: files.pop(name) for name in list(files) if name.startswith("unet/diffusion")}
    try:
        assert main(["base", "pull", "magicanimate", "-q"]) == 1
    finally:
        files |= removed
    assert f"{SD} at {tiny.COMMIT[:12]} on the Hub has no unet/diffusion_pytorch_model.bin" in capsys.readouterr().err


def test_without_a_network_a_pull_is_a_sentence(hub, monkeypatch, tmp_path, capsys):
    hub.use(monkeypatch, tmp_path / "hf", offline=True)
    assert main(["base", "pull", "magicanimate", "-q"]) == 1
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


# ---- the official DreamPose, from Google Drive


@pytest.fixture
def drive_file(hub, monkeypatch, tmp_path):
    """What gdown finds at the file's address: the server's `/owner/drive/resolve/main/file.zip`."""
    monkeypatch.setattr(drive, "ADDRESS", hub.url + "/owner/drive/resolve/main/file.zip#{}")
    hub.add("owner/drive", {"file.zip": tmp_path / "file.zip"})

    def make(*members: tuple[str, bytes]) -> Path:
        with zipfile.ZipFile(tmp_path / "file.zip", "w") as archive:
            for name, content in members:
                archive.writestr(name, content)
        return tmp_path / "file.zip"

    return make


def test_checkpoints_from_the_drive_are_unpacked_flat_and_nothing_else_is(drive_file, tmp_path):
    drive_file(
        ("DreamPose/checkpoints/unet_epoch_20.pth", b"u" * 5000),
        ("../../adapter_20.pth", b"a" * 100),
        ("../evil.py", b"raise SystemExit"),
        ("DreamPose/readme.txt", b"hello"),
    )
    seen = []
    folder = drive.fetch(store.user_cache(), "ID", "dreampose", tmp_path, progress=lambda *a: seen.append(a))
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == {
        "unet_epoch_20.pth": 5000, "adapter_20.pth": 100,
    }  # fmt: skip
    assert not (tmp_path.parent / "evil.py").exists() and not (tmp_path / "drive.zip").exists()
    assert seen and seen[-1][2] == "MB from Google Drive"
    assert drive.fetch(store.user_cache(), "ID", "dreampose", tmp_path) == folder  # once


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>Sign in to continue</html>", "sent a page and not the file"),
        (None, "holds no official checkpoints"),
    ],
)
def test_what_is_not_the_file_is_refused_with_the_link(drive_file, tmp_path, content, said):
    path = drive_file(("readme.txt", b"nothing"))
    if content:
        path.write_bytes(content)
    with pytest.raises(BaseError, match=said) as caught:
        drive.fetch(store.user_cache(), "ID", "dreampose", tmp_path)
    assert "https://drive.google.com/file/d/ID/view" in str(caught.value)
    assert "dreampose base import FOLDER --name dreampose" in str(caught.value)


def test_a_drive_that_refuses_is_one_sentence_with_the_link(monkeypatch, tmp_path):
    import gdown

    def refuse(**_):
        raise gdown.exceptions.FileURLRetrievalError("Too many users have viewed or downloaded this file recently")

    monkeypatch.setattr(gdown, "download", refuse)
    with pytest.raises(BaseError, match="its quota is used up.*https://drive.google.com/file/d/ID/view.*base import"):
        drive.fetch(store.user_cache(), "ID", "dreampose", tmp_path)


def test_without_gdown_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(BaseError, match=r"dreampose-cli\[drive\]"):
        drive.fetch(store.user_cache(), "ID", "dreampose", tmp_path)


def test_what_the_drive_gives_is_imported_with_the_rest_from_the_hub(people, drive_file, monkeypatch, tmp_path):
    """`base pull dreampose` hands the importer the checkpoints and the two folders, and clears up after it."""
    from dreampose_cli.networks.dreampose import importer

    config, weights = "config.json", "model.safetensors"
    people.add(
        "CompVis/stable-diffusion-v1-4",
        tiny.build(SD, tmp_path / "r"),
        commit="ebb811dd71cdc38a204ecbdd6ac5d580f529fd8c",
    )
    people.add("openai/clip-vit-base-patch32", {config: b"{}", "preprocessor_config.json": b"{}", weights: b"x"})
    drive_file(("c/unet_epoch_5.pth", b"u"), ("c/adapter_5.pth", b"a"))
    given = {}

    def imported(cache, folder, **options):
        given.update(options, files=sorted(path.name for path in folder.iterdir()))
        given["sd"] = sorted(p.name for p in Path(options["stable_diffusion"]).rglob("*.safetensors"))
        with store.user_cache().publish_folder("base", options["name"]) as target:
            (target / "base.json").write_text("{}")

    monkeypatch.setattr(importer, "import_official", imported)
    registry.pull(user_cache(), "dreampose")
    assert given["files"] == ["adapter_5.pth", "unet_epoch_5.pth"] and given["name"] == "dreampose"
    assert given["sd"] == ["diffusion_pytorch_model.safetensors"]  # the autoencoder's alone
    assert downloads(tmp_path / "hf") == [] and store.user_cache().list_entries("partial") == []


# ---- which base where none is named


def test_without_a_gpu_it_is_mini_with_a_warning_that_survives_quiet(tmp_path, capsys):
    Image.fromarray(np.zeros((40, 32, 3), np.uint8)).save(tmp_path / "me.png")
    command = [
        "render",
        "--photo",
        str(tmp_path / "me.png"),
        "--poses",
        str(tmp_path / "none.mp4"),
        "-o",
        "x.mp4",
        "-q",
    ]
    assert main(command) == 1  # there is no such dance: said after the base was chosen
    said = capsys.readouterr().err
    assert f"warning: {MINI_NOTE}" in said
    for word in ("mini", "mannequins", "128x160", "dreampose base pull magicanimate"):
        assert word in MINI_NOTE
    assert "\n" not in MINI_NOTE


def test_with_a_gpu_it_is_magicanimate_pulled_on_first_use(people, monkeypatch, cache):
    monkeypatch.setattr(registry, "gpu_is_there", lambda: True)
    assert default_base(user_cache()) == registry.DefaultBase(
        "magicanimate", "this machine has a GPU, and no other base is here", True
    )
    assert default_base(user_cache(), "cpu").name == "mini"
    notes: list[str] = []
    assert resolve_base(user_cache(), None, notes.append) == cache / "bases" / "magicanimate"
    first = [note for note in notes if "GB are downloaded once" in note]
    assert len(first) == 1 and "--base mini goes without it" in notes[0]
    monkeypatch.setattr(registry, "gpu_is_there", lambda: False)
    assert default_base(user_cache()).name == "magicanimate" and not default_base(user_cache()).missing  # the only own one


def test_the_doctor_says_which_base_and_why(monkeypatch):
    from dreampose_cli.workflows.doctor import bases

    assert "used by default: mini (no GPU and no other base is here)" in bases()[0].here
    monkeypatch.setattr(registry, "gpu_is_there", lambda: True)
    (found,) = bases()
    assert (
        "used by default: magicanimate (this machine has a GPU" in found.here
        and "not on this machine yet" in found.here
    )
    assert "dreampose base pull magicanimate" in found.remedy
    monkeypatch.setenv("DREAMPOSE_BASE", "mini")
    assert "mini (DREAMPOSE_BASE names it)" in bases()[0].here


def test_estimating_poses_downloads_no_base(monkeypatch):
    monkeypatch.setattr(registry, "gpu_is_there", lambda: True)
    assert registry.default_estimator(user_cache()) == "r50"


def test_what_can_be_pulled_is_listed(capsys):
    assert main(["base", "ls", "--remote"]) == 0
    shown = capsys.readouterr().out
    for base in PUBLISHED.values():
        assert base.name in shown and base.licence in shown and base.where in shown
    assert "not needed: render --photo" in shown and "needed: `dreampose tune PHOTO`" in shown
    assert main(["base", "ls", "--remote", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)["bases"]] == list(PUBLISHED)
    assert main(["base", "info", "magicanimate"]) == 0
    assert "not yet: dreampose base pull magicanimate" in capsys.readouterr().out


def test_pins_are_whole_commits_where_they_are_known():
    for base in PUBLISHED.values():
        for source in base.sources.values():
            assert source.reference.revision is None or len(source.reference.revision) == 40
    assert PUBLISHED["magicanimate"].sources["weights"].reference.revision == tiny.COMMITS[MAGIC]
