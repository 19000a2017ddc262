"""Options from the environment and from the user's file, completion, and the manual page."""

import json
import shutil
import subprocess
import sys

import pytest

from dreampose_cli import cache as store
from dreampose_cli.__main__ import main
from dreampose_cli.cli import settings
from dreampose_cli.cli.app import command_tree
from dreampose_cli.cli.completion import SHELLS
from dreampose_cli.errors import UsageError


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Write the user's file, and return its path."""
    path = tmp_path / "config.toml"
    monkeypatch.setenv("DREAMPOSE_CONFIG", str(path))

    def write(text, encoding="utf-8"):
        path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return path

    write("")
    return write


@pytest.fixture
def rendered(monkeypatch):
    """What `render` asks its workflow for."""
    from dreampose_cli.workflows import render as workflow

    asked = []

    def stop(options, **_):
        asked.append(options)
        raise UsageError("enough.")

    monkeypatch.setattr(workflow, "render", stop)

    def run(*words):
        asked.clear()
        assert main(["render", "--poses", "p.mp4", "-o", "o.mp4", *words]) == 2
        return asked[0]

    return run


def test_every_option_has_a_variable_of_its_own():
    tree = command_tree()
    names = [
        settings.variable(path, one)
        for path, leaf in settings.leaves(tree)
        for one in settings.options_of(leaf).values()
    ]
    assert len(names) == len(set(names)) > 200
    assert not set(names) & set(settings.OTHER_VARIABLES)
    assert {"DREAMPOSE_RENDER_STEPS", "DREAMPOSE_CACHE_RM_ALL", "DREAMPOSE_BASE_IMPORT_STABLE_DIFFUSION"} <= set(names)


def test_an_option_from_the_environment(rendered, monkeypatch):
    assert rendered().steps is None
    monkeypatch.setenv("DREAMPOSE_RENDER_STEPS", "30")
    monkeypatch.setenv("DREAMPOSE_RENDER_SIDE_BY_SIDE", "1")
    assert (rendered().steps, rendered().side_by_side) == (30, True)
    assert rendered("--steps", "7").steps == 7


def test_an_option_from_the_file(rendered, config, monkeypatch):
    config('[all]\ndevice = "cpu"\nseed = 4\n[render]\nsteps = 20\nimage-guidance = 2.5\naudio = true\nseed = 5\n')
    found = rendered()
    assert (found.device, found.steps, found.image_guidance, found.audio, found.seed) == ("cpu", 20, 2.5, True, 5)
    monkeypatch.setenv("DREAMPOSE_RENDER_STEPS", "30")
    assert rendered().steps == 30
    assert rendered("--steps", "7").steps == 7


def test_options_that_can_be_repeated_are_lists(config, capsys):
    config('[render]\nposes = ["a.mp4", "b.mp4"]\n')
    assert main(["render", "-o", "out.mp4", "--photo", "x", "--photo-index", "0"]) == 2
    assert "--photo-index is 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[render]\nstep = 20\n", "[render] has 'step', which is no option of it; do you mean 'steps'?"),
        ("[rendr]\nsteps = 20\n", "'rendr' is no command; do you mean 'render'?"),
        ("[all]\nstpes = 20\n", "[all] has 'stpes', which is an option of no command; do you mean 'steps'?"),
        ("[cache.prun]\nbases = true\n", "[cache] has 'prun', which is no command of it; do you mean 'prune'?"),
        ("render = 3\n", "render must be a table"),
        ("all = 3\n", "all must be a table"),
        ("[cache]\nprune = 3\n", "cache.prune must be a table"),
        ("[render]\nsteps = true\n", "steps in [render] is True, but must be text or a number"),
        ("[render]\nsteps = [1]\n", "steps in [render] is [1], but must be text or a number"),
        ("[render]\nsteps = 2020-01-01\n", "but must be text or a number"),
        ('[render]\naudio = "yes"\n', "audio in [render] is 'yes', but must be true or false"),
        ('[render]\nsubject = "a\\u0000b"\n', "subject in [render] holds a NUL"),
        ("[render\n", "is no TOML that can be read"),
        (b"\xff\xfe", "is no TOML that can be read"),
        ("a = " + "[" * 50_000, "is no TOML that can be read"),
        ("[render]\nseed = " + "9" * 6000, "is no TOML that can be read"),
        ("#" * 1_100_000, "is larger than 1 MB"),
    ],
)
def test_what_does_not_belong_into_the_file_is_one_sentence(text, words, config, capsys):
    path = config(text)
    assert main(["cache", "dir"]) == 2
    error = capsys.readouterr().err
    assert words in error and str(path) in error
    assert error.count("\n") == 1


def test_wrong_values_say_where_they_come_from(config, monkeypatch, capsys):
    words = ["render", "--poses", "p", "-o", "o"]
    path = config("[render]\nsteps = 2000\n")
    assert main(words) == 2
    assert capsys.readouterr().err.endswith(f"between 1 and 1000; --steps comes from {path}.\n")
    config('[render]\nsteps = "many"\n')
    assert main(words) == 2
    assert f"--steps comes from {path}." in capsys.readouterr().err
    config('[render]\nwindow = "x"\n')  # checked after the parser
    assert main(words) == 2
    assert f"--window comes from {path}." in capsys.readouterr().err
    monkeypatch.setenv("DREAMPOSE_RENDER_STEPS", "0")
    assert main(words) == 2
    assert "--steps comes from DREAMPOSE_RENDER_STEPS." in capsys.readouterr().err
    assert main([*words, "--steps", "0"]) == 2
    assert "comes from" not in capsys.readouterr().err


def test_errors_are_json_where_the_environment_says_so(config, monkeypatch, capsys):
    monkeypatch.setenv("DREAMPOSE_CACHE_RM_JSON", "true")
    assert main(["cache", "rm", "nothing"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "store_error"
    config("[cache.rm]\njson = true\n")
    monkeypatch.delenv("DREAMPOSE_CACHE_RM_JSON")
    assert main(["cache", "rm", "nothing"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "store_error"


def test_a_file_that_is_named_must_exist(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DREAMPOSE_CONFIG", str(tmp_path / "no.toml"))
    assert main(["cache", "dir"]) == 2
    assert "no.toml does not exist; mend DREAMPOSE_CONFIG" in capsys.readouterr().err
    assert main(["cache", "dir", "--help"]) == 0  # help is always there
    monkeypatch.delenv("DREAMPOSE_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nowhere"))
    assert main(["cache", "dir"]) == 0
    if sys.platform == "linux":
        assert settings.config_file() == tmp_path / "nowhere" / "dreampose" / "config.toml"


def test_the_doctor_shows_what_is_set(config, monkeypatch, capsys):
    from dreampose_cli.workflows import doctor

    monkeypatch.setattr(doctor, "examine", list)
    path = config("[render]\nsteps = 20\n[cache.prune]\nbases = true\n")
    monkeypatch.setenv("DREAMPOSE_RENDER_STEPS", "30")
    monkeypatch.setenv("DREAMPOSE_RENDER_STEP", "30")
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert f"{path}, 2 options set" in page
    assert "DREAMPOSE_RENDER_STEPS set" in page
    assert "DREAMPOSE_RENDER_STEP set, and not read" in page
    config("[rendr]\n")
    assert main(["doctor"]) == 1
    assert "'rendr' is no command" in capsys.readouterr().out


# ---- completion


@pytest.fixture
def complete(tmp_path, monkeypatch, capsys):
    """What bash is offered after some words, the last of which is not finished, in the folder of the test."""
    monkeypatch.chdir(tmp_path)

    def ask(*words):
        with monkeypatch.context() as patch:
            patch.setenv("_DREAMPOSE_COMPLETE", "complete_bash")
            patch.setenv("COMP_WORDS", " ".join(["dreampose", *words]))
            patch.setenv("COMP_CWORD", str(len(words)))
            assert main([]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out.split()

    return ask


def test_names_and_files_are_completed(cache, tmp_path, complete):
    with store.user_cache().publish_folder("subject", "ab" * 8) as folder:
        (folder / store.SUBJECT_JSON).write_text(json.dumps({"name": "anna"}), encoding="utf-8")
    (tmp_path / "anna.jpg").touch()
    (tmp_path / "annex").mkdir()
    assert complete("render", "--subject", "ann") == ["anna", "anna.jpg", "annex/"]
    assert complete("cache", "rm", "ab") == ["ab" * 8]
    assert complete("render", "--base", "mi") == ["mini"]
    assert complete("tune", "--estimator", "d") == ["dwpose", "doodle"]
    assert complete("render", "--samp") == ["--sampler"]
    assert complete("ren") == ["render"]
    (cache / "subjects" / ("ab" * 8) / "subject.json").write_text(json.dumps({"name": 3}), encoding="utf-8")
    assert complete("render", "--subject", "x") == []  # and no words of an error among the names


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_prints_the_script_whatever_shell_runs(shell, capsys, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/nothing")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_DREAMPOSE_COMPLETE" in script and "dreampose" in script
    if shell in ("bash", "zsh", "fish") and shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_an_unknown_shell_is_one_sentence(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "there is no shell 'tcsh'; choose one of bash, zsh, fish" in capsys.readouterr().err
