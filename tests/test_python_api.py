"""The public Python interface: its names, its cost, its example, and what is decided before torch is imported."""

import importlib
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dreampose_cli

PAGE = (Path(__file__).parent.parent / "docs" / "python.md").read_text(encoding="utf-8")
LIBRARIES = ("torch", "diffusers", "transformers", "accelerate")
PICTURES = ("numpy", "PIL", "pillow_heif", "imageio_ffmpeg", "psutil", "huggingface_hub")


def test_every_public_name_is_there_and_documented():
    assert dreampose_cli.__all__ == sorted(dreampose_cli.__all__)
    for name in dreampose_cli.__all__:
        assert getattr(dreampose_cli, name) is not None
        assert name in PAGE or name == "__version__", name
    assert set(dreampose_cli.__all__) <= set(dir(dreampose_cli))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dreampose_cli.nothing  # noqa: B018


def test_names_stay_functions_when_their_rooms_are_imported():
    importlib.import_module("dreampose_cli.poses.extraction")
    importlib.import_module("dreampose_cli.workflows.tune")
    assert callable(dreampose_cli.tune) and callable(dreampose_cli.extract_poses)


def test_errors_carry_facts(tmp_path):
    (tmp_path / "there.mp4").write_bytes(b"x")
    options = dreampose_cli.RenderOptions(["dance.mp4"], tmp_path / "there.mp4")
    with pytest.raises(dreampose_cli.DreamposeError, match="exists already") as caught:
        dreampose_cli.render(options)
    assert caught.value.path == tmp_path / "there.mp4" and caught.value.facts == {"path": caught.value.path}
    assert not hasattr(caught.value, "checkpoint")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.path == caught.value.path


def loaded_by(code: str, *more: str) -> set[str]:
    """Which of the libraries a fresh interpreter holds after `code`."""
    text = f"import sys\n{code}\nprint(sorted({{m.split('.')[0] for m in sys.modules}} & set({(*LIBRARIES, *more)!r})))"
    result = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return set(re.findall(r"'(\w+)'", result.stdout.splitlines()[-1]))


def test_importing_the_package_imports_no_library():
    assert loaded_by("import psutil", "psutil") == {"psutil"}  # what is imported is seen
    assert loaded_by("import dreampose_cli", "numpy", "PIL", "typer", "psutil", "platformdirs") == set()


def test_options_and_workflows_that_only_refuse_import_no_torch(tmp_path):
    code = f"""
from dreampose_cli import RenderOptions, TuneOptions, render, tune, DreamposeError
from pathlib import Path
Path({str(tmp_path)!r}, "there.mp4").write_bytes(b"x")
Path({str(tmp_path)!r}, "bad.poses").write_bytes(b"x")
for call in (
    lambda: render(RenderOptions(["dance.mp4"], {str(tmp_path / "there.mp4")!r})),
    lambda: render(RenderOptions(["dance.mp4"], {str(tmp_path / "new.mp4")!r}, subject="nobody")),
    lambda: tune(TuneOptions([{str(tmp_path / "missing.png")!r}])),
):
    try:
        call()
    except DreamposeError as error:
        print(error)
    else:
        raise SystemExit("not refused")
"""
    assert loaded_by(code) == set()


def test_a_result_that_exists_is_refused_without_a_library_for_pictures(tmp_path):
    (tmp_path / "there.mp4").write_bytes(b"x")
    words = ["render", "--poses", "dance.mp4", "-o", str(tmp_path / "there.mp4")]
    code = f"from dreampose_cli.__main__ import main\nassert main({words!r}) == 1"
    assert loaded_by(code, *PICTURES) == set()


def test_jobs_that_are_malformed_are_refused_without_torch(tmp_path):
    (tmp_path / "jobs.csv").write_text("photo,poses,output\nmissing.png,missing.mp4,out.txt\n", encoding="utf-8")
    words = ["batch", "--jobs", str(tmp_path / "jobs.csv"), "-o", str(tmp_path / "out")]
    code = f"from dreampose_cli.__main__ import main\nassert main({words!r}) in (1, 2)"
    assert loaded_by(code) == set()


def test_a_photo_that_is_none_is_refused_before_a_download(tmp_path, monkeypatch):
    from dreampose_cli.workflows import tune as workflow

    (tmp_path / "photo.png").write_bytes(b"no picture")
    monkeypatch.setattr(workflow, "to_download", lambda cache, name: name)
    monkeypatch.setattr(workflow, "resolve_base", lambda *asked: pytest.fail("a download began"))
    with pytest.raises(dreampose_cli.DreamposeError, match="photo.png is no PNG picture"):
        dreampose_cli.tune(dreampose_cli.TuneOptions([tmp_path / "photo.png"], base="someone/base"))


def test_a_cache_hit_and_a_result_that_exists_import_no_torch(tiny_base, clip, tmp_path):
    photo, poses = clip / "frames" / "00000.png", clip / "video.poses"
    options = (
        f"TuneOptions([{str(photo)!r}], base={str(tiny_base)!r}, poses=[{str(poses)!r}], steps=0, decoder_steps=0)"
    )
    steps = {"steps": 0, "decoder_steps": 0}
    assert not dreampose_cli.tune(dreampose_cli.TuneOptions([photo], base=str(tiny_base), poses=[poses], **steps)).cached
    again = f"from dreampose_cli import TuneOptions, tune\nsubject = tune({options})\nassert subject.cached"
    assert loaded_by(again, *PICTURES) == set()
    estimated = options.replace(f"poses=[{str(poses)!r}], ", "")
    assert "poses" not in estimated
    bad = tmp_path / "bad.poses"
    bad.write_bytes(b"no zip")
    refused = f"""
from dreampose_cli import DreamposeError, RenderOptions, render
for poses, more in (({str(bad)!r}, {{}}), ({str(poses)!r}, {{"photo_index": 2}}), ({str(poses)!r}, {{"steps": 1000000}})):
    try:
        render(RenderOptions([poses], {str(tmp_path / "new.mp4")!r}, **more))
    except DreamposeError as error:
        print(error)
    else:
        raise SystemExit("not refused")
"""
    assert loaded_by(refused) == set()


def test_the_pages_example_runs(tiny_base, tmp_path, monkeypatch, capsys):
    from dreampose_cli.workflows.synth import write_dataset

    write_dataset(tmp_path / "data", subjects=2, test_subjects=1, frames=4, seed=3, png=True)
    clip = next((tmp_path / "data" / "test").iterdir())
    shutil.copy(clip / "frames" / "00000.png", tmp_path / "photo.png")
    shutil.copy(clip / "video.mp4", tmp_path / "dance.mp4")
    example = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace('base="mini"', f"base={str(tiny_base)!r}"), "docs/python.md", "exec"), {})
    said = capsys.readouterr().out
    assert "out.mp4 4 frames" in said and "4 frames of 1 clip" in said
