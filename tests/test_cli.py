"""The command line: help, words, exit codes, and what goes to which stream."""

import dataclasses
import errno
import importlib
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from dreampose_cli import __version__
from dreampose_cli import cache as store
from dreampose_cli.__main__ import main
from dreampose_cli.cli import output as output_module
from dreampose_cli.cli import settings
from dreampose_cli.cli.app import command_tree
from dreampose_cli.cli.help import BRIEF, BRIEF_LINES, PANELS
from dreampose_cli.cli.output import Output, duration, plain, size, table
from dreampose_cli.errors import DreamposeError, OutputExistsError, UsageError
from dreampose_cli.workflows import doctor as diagnosis

DOCS = Path(__file__).parent.parent / "docs" / "cli.md"
HEAVY = ("torch", "numpy", "PIL", "diffusers", "transformers", "accelerate", "huggingface_hub", "rich", "platformdirs")


def leaves(command=None, path=()):
    """Every command with its words: (("cache", "ls"), command)."""
    command = command or command_tree()
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from leaves(child, (*path, name))
    else:
        yield path, command


COMMANDS = dict(leaves())
NAMES = [" ".join(path) for path in COMMANDS]


def run(*words, capsys):
    """(exit code, stdout, stderr) of one command line, in this process."""
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def spawn(*words, **options):
    """The same in a process of its own."""
    command = [sys.executable, "-m", "dreampose_cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def flags(command):
    return {flag for parameter in command.params for flag in parameter.opts if flag.startswith("-")} | {"--help", "-h"}


def arguments(command):
    return {parameter.metavar for parameter in command.params if parameter.param_type_name == "argument"}


# ---- help


def test_there_are_the_promised_commands():
    assert set(NAMES) >= {"tune", "render", "poses", "demo", "train", "synth", "doctor", "base ls", "base info"}
    assert set(NAMES) >= {"cache dir", "cache ls", "cache rm", "cache prune"}


def test_help_of_every_command_imports_nothing_heavy():
    script = (
        "import contextlib, io, sys\n"
        "from dreampose_cli.__main__ import main\n"
        f"for name in {['', *NAMES, 'cache', 'base']!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as page:\n"
        "        assert main([*name.split(), '--help']) == 0, name\n"
        "    assert 'Usage: dreampose' in page.getvalue(), name\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("own", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_do_not_spin_unless_asked_to(own, found):
    """OpenMP reads it when torch is loaded: it has to be there before."""
    script = (
        "import os, sys; from dreampose_cli.__main__ import main; main(['--version']); "
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": own} if own else {}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == f"{found} False"


@pytest.mark.parametrize("name", NAMES)
def test_help_is_good_to_read(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, page, _ = run(*name.split(), "--help", capsys=capsys)
    assert code == 0
    assert max(len(line) for line in page.splitlines()) <= 80
    assert re.search(rf"Examples?:\n(    .*\n)*.*dreampose {name}", page)
    titles = re.findall(r"^(\w+):$", page, re.M)
    assert set(titles) <= {"Arguments", "Options", *PANELS} and titles.count("Options") < 2
    assert "Options" not in titles or len(COMMANDS[tuple(name.split())].params) < 10  # all the others are in groups
    assert "\b" not in page
    for parameter in COMMANDS[tuple(name.split())].params:
        assert parameter.help, parameter.name
        assert parameter.metavar or parameter.is_flag, parameter.name


@pytest.mark.parametrize("name", NAMES)
def test_the_short_help_fits_a_screen(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, page, _ = run(*name.split(), "-h", capsys=capsys)
    assert code == 0
    assert len(page.splitlines()) <= BRIEF_LINES
    assert f"dreampose {name}" in page
    if name in BRIEF:
        assert f" more options: dreampose {name} --help\n" in page
        known = {parameter.name for parameter in COMMANDS[tuple(name.split())].params}
        assert set(BRIEF[name].split()) <= known


@pytest.mark.parametrize("group", ["", "base", "cache", "subject"])
def test_the_help_of_a_group_fits_a_screen(group, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, page, _ = run(*group.split(), "--help", capsys=capsys)
    assert code == 0
    assert len(page.splitlines()) <= BRIEF_LINES and "..." not in page.split("Commands")[1]
    for name in NAMES:
        if name.startswith(group):
            assert f"\n  {name.removeprefix(group).split()[0]} " in page


@pytest.mark.parametrize("name", NAMES)
def test_help_and_docs_say_the_same(name):
    text = DOCS.read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## dreampose ([a-z ]+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert set(sections) == set(NAMES)
    items = re.findall(r"^- .*?(?=^- |\Z)", sections[name], re.M | re.S)
    named = {word for item in items for word in re.findall(r"`(--?[a-z0-9][a-z0-9-]*)`", item)}
    command = COMMANDS[tuple(name.split())]
    # a command may speak of another one's options, but has to name all of its own
    assert named - {"--base"} == flags(command) - {"--base"}
    assert ("--base" in named) >= ("--base" in flags(command))
    heads = {match[1] for item in items if (match := re.match(r"- `([A-Z]+)`:", item))}
    assert heads == arguments(command)


def test_docs_name_the_options_of_the_application_itself():
    text = DOCS.read_text(encoding="utf-8")
    for flag in flags(command_tree()):
        assert f"`{flag}`" in text


# ---- exit codes and words


def test_version(capsys):
    for flag in ("--version", "-V"):
        assert run(flag, capsys=capsys) == (0, f"dreampose {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("frobnicate", "No such command"),
        ("rendr", "Did you mean 'render'"),
        ("render", "Missing option"),
        ("tune", "Missing argument"),
        ("tune a.jpg --frobnicate", "No such option"),
        ("render --poses p -o o --seed -1", "--seed is -1, but must be between 0 and 9223372036854775807"),
        ("render --poses p -o o --seed 9223372036854775808", "--seed is 9223372036854775808"),
        ("render --poses p -o o --seed x", "'--seed'"),
        ("render --poses p -o o --s1 30.5", "--image-guidance is 30.5, but must be between 0 and 30"),
        ("render --poses p -o o --pose-guidance nan", "--pose-guidance is nan"),
        ("render --poses p -o o --steps 0", "--steps is 0, but must be between 1 and 1000"),
        ("render --poses p -o o --steps 1001", "--steps is 1001"),
        ("render --poses p -o o --sampler euler", "there is no sampler 'euler'; choose one of pndm, ddim, dpm++"),
        ("render --poses p -o o --dtype int8", "there is no dtype 'int8'"),
        ("render --poses p -o o --device cuda:x", "'cuda:x' is no device"),
        ("render --poses p -o o --batch-size 0", "--batch-size is 0"),
        ("render --poses p -o o --photo-index 0", "--photo-index is 0"),
        ("render --poses p -o o --fps 0", "--fps is 0, but must be more than 0"),
        ("render --poses p -o o --fps inf", "--fps is inf, but must be 1000 or less"),
        (f"render --poses p -o o --fps {'9' * 6000}", "--fps is inf, but must be 1000 or less"),
        (f"render --poses p -o o --steps {'9' * 6000}", "'--steps'"),
        (f"render --poses p -o o --window {'9' * 6000}", "--window is '99999"),
        (f"cache prune --max-size {'9' * 6000}", "--max-size is '99999"),
        ("render --poses p -o o --fps 1e308", "--fps is 1e+308, but must be 1000 or less"),
        ("tune a.jpg --learning-rate 2", "--learning-rate is 2, but must be 1 or less"),
        ("render --poses p -o o --start -1", "--start is -1, but must be 0 or more"),
        ("render --poses p -o o --start 3 --end 2", "--end (2 s) must be after --start (3 s)"),
        ("render --poses p -o o --subject a --photo b", "exclude each other"),
        ("render --poses p -o o --photo-pose b", "--photo-pose needs --photo"),
        ("render --poses p -o o --guidance-interval 0.5", "--guidance-interval is '0.5'"),
        ("render --poses p -o o --guidance-interval .8:.2", "with 0 <= LOW < HIGH <= 1"),
        ("render --poses p -o o --memory huge", "there is no memory 'huge'; choose one of auto, low"),
        ("render --poses p", "Missing option '--output'"),
        ("batch a.jpg --jobs f -o out", "exclude each other"),
        ("batch a.jpg -o out", "Missing option '--poses'"),
        ("batch --jobs f", "Missing option '--output'"),
        ("batch a.jpg --poses p -o out --shard 3/2", "must be I/N"),
        ("tune a.jpg --lora-rank -1", "--lora-rank is -1"),
        ("render --poses p -o o -q -v", "exclude each other"),
        ("poses v -o p --start 3 --end 3", "--end (3 s) must be after"),
        ("tune a.jpg --name ../x", "'../x' cannot be a name"),
        ("tune a.jpg --learning-rate 0", "--learning-rate is 0, but must be more than 0"),
        ("train v -o b --preset maxi", "there is no preset 'maxi'"),
        ("train v -o b --stage unet", "there is no stage 'unet'; choose one of vae, network, decoder, estimator"),
        ("render --poses p -o o --noise none", "there is no noise 'none'"),
        ("train v -o b --resume --overwrite", "exclude each other"),
        ("synth o --size 128", "--size is '128'"),
        ("synth o --size 0x0", "--size is '0x0'"),
        ("synth o --subjects 0", "--subjects is 0"),
        ("cache ls --kind x", "there is no kind 'x'"),
        ("cache rm", "say which entries to remove, or --all"),
        ("cache rm x --all", "say which entries to remove, or --all"),
        ("cache prune --max-size much", "--max-size is 'much'"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_2(words, sentence, capsys):
    code, out, err = run(*words.split(), capsys=capsys)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "Traceback" not in err
    assert len(err) < 1000


NEEDED = {
    "tune": "p.jpg",
    "render": "--poses p -o o.mp4",
    "batch": "p.jpg --poses p -o o",
    "edit": "p.jpg words -o o.png",
    "poses": "p.mp4 -o o.poses",
    "eval": "a b",
    "train": "v -o b",
    "synth": "out",
}


@pytest.mark.parametrize("name", [*NEEDED, "demo", "cache prune"])
def test_no_number_out_of_its_range_is_accepted(name, capsys):
    """Every option of every command that takes a number, refused by its name before anything else is looked at."""
    numbers = 0
    for option, parameter in settings.options_of(COMMANDS[tuple(name.split())]).items():
        kind = parameter.type_descriptor.annotation
        for value in {int: ("-2147483648", "9223372036854775808"), float: ("-1e308", "1e308", "nan")}.get(kind, ()):
            code, _, err = run(*name.split(), *NEEDED.get(name, "").split(), f"--{option}", value, capsys=capsys)
            assert code == 2 and f"--{option}" in err, (option, value, err)
            numbers += 1
    assert numbers


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12"])
def test_devices_are_checked_by_form_alone(device):
    from dreampose_cli.names import check_device

    assert check_device(device) == device


def test_an_error_of_ours_is_1(capsys):
    code, out, err = run("cache", "rm", "nothing", "--yes", capsys=capsys)
    assert (code, out) == (1, "")
    assert err.startswith("error: there is nothing called 'nothing'")
    assert len(err.splitlines()) == 1


def raising(problem):
    def examine():
        raise problem

    return examine


class OutOfMemoryError(RuntimeError):
    """As torch's, by name."""


@pytest.mark.parametrize(
    ("problem", "code", "sentence"),
    [
        (DreamposeError("the photo is empty."), 1, "error: the photo is empty.\n"),
        (UsageError("choose one."), 2, "error: choose one.\n"),
        (OutputExistsError.at("out.mp4"), 1, "--overwrite"),
        (OSError(errno.ENOSPC, "No space left on device", "out.mp4"), 1, "the disk is full (while writing out.mp4)"),
        (RuntimeError("PytorchStreamWriter: No space left on device"), 1, "the disk is full;"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"), 1, "the disk is full;"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate"), 1, "out of memory; try --batch-size 1"),
        (MemoryError(), 1, "out of memory"),
        (ValueError("embedded null byte"), 1, "a path holds a NUL"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 1, "error: x: Permission denied.\n"),
        (ModuleNotFoundError("No module named 'diffusers'", name="diffusers"), 1, "'diffusers' is missing"),
        (KeyError("surprise"), 1, "something unexpected happened (KeyError: 'surprise')"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_every_error_becomes_words_and_a_code(problem, code, sentence, capsys, monkeypatch):
    monkeypatch.setattr(diagnosis, "examine", raising(problem))
    got, out, err = run("doctor", capsys=capsys)
    assert (got, out) == (code, "")
    assert sentence in err
    assert "Traceback" not in err
    assert bool(err) == bool(sentence)


def test_verbose_tells_the_whole_story(capsys, monkeypatch):
    monkeypatch.setattr(diagnosis, "examine", raising(KeyError("surprise")))
    assert "Traceback" in run("doctor", "-v", capsys=capsys)[2]
    monkeypatch.setenv("DREAMPOSE_DEBUG", "1")
    assert "Traceback" in run("doctor", capsys=capsys)[2]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_with_130():
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # shells start background jobs without it
        "from dreampose_cli.workflows import doctor as diagnosis\n"
        "from dreampose_cli.__main__ import main\n"
        "def examine():\n"
        "    print('working', flush=True)\n"
        "    time.sleep(60)\n"
        "diagnosis.examine = examine\n"
        "sys.exit(main(['doctor']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "interrupted\n"
        assert process.wait(timeout=30) == 130


@pytest.mark.skipif(os.name == "nt", reason="pipes")
def test_a_reader_that_leaves_is_no_drama():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "dreampose_cli", "cache", "dir"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_a_sentence():
    with open("/dev/full", "w", encoding="utf-8") as full:
        command = [sys.executable, "-m", "dreampose_cli", "cache", "dir"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    said = "error: the result cannot be written to standard output (No space left on device); send it elsewhere.\n"
    assert done.stderr == said


def test_the_installed_script_and_the_module_are_the_same():
    script = Path(sys.executable).with_name("dreampose")
    if not script.exists():
        pytest.skip("not installed as a script here")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, spawn("--version").stdout)


# ---- what the commands hand to the library


@dataclasses.dataclass
class Result:
    id: str = "0123456789abcdef"
    path: Path = Path("result")
    paths: tuple = (Path("a.mp4"), Path("b.mp4"))
    frames: int = 24
    fps: float = 12.0
    size: tuple = (160, 128)
    gaps: int = 0
    steps: int = 5
    seconds: float = 61.0


LIBRARY = {
    "tune": ("workflows.tune", "tune", ["a.jpg", "b.jpg"], "0123456789abcdef\n"),
    "render": ("workflows.render", "render", ["--poses", "d.mp4", "-o", "out.v2/"], "a.mp4\nb.mp4\n"),
    "poses": ("workflows.poses", "poses", ["d.mp4", "-o", "d.poses"], "result\n"),
    "train": ("workflows.train", "train", ["clips", "-o", "base"], "result\n"),
    "synth": ("workflows.synth", "write_dataset", ["clips"], "clips\n"),
    "demo": ("workflows.demo", "demo", ["-o", "shown"], "shown\n"),
}


@pytest.fixture
def library(monkeypatch):
    """Every library function in its place, recording its call and answering a Result."""
    calls = {}

    def recorder(name):
        def call(*positional, progress=None, note=None, **named):
            calls[name] = (positional, named)
            if note:
                note(f"note of {name}")
            progress(1, 2, "half")
            progress(2, 2)
            if name == "demo":
                figures = {"l1": 0.1, "ssim": 0.9, "psnr": 20.0}
                return {"untuned": figures, "tuned": figures, "seconds": {"tune": 61.2}}
            return Result()

        return call

    for name, (module, function, *_) in LIBRARY.items():
        fake = types.ModuleType(f"dreampose_cli.{module}")
        setattr(fake, function, recorder(name))
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
    return calls


@pytest.mark.parametrize("name", LIBRARY)
def test_the_result_alone_is_on_stdout(name, library, capsys):
    _, _, words, result = LIBRARY[name]
    code, out, err = run(name, *words, capsys=capsys)
    assert (code, out) == (0, result)
    assert name == "synth" or f"note of {name}" in err
    assert run(name, *words, "--quiet", capsys=capsys) == (0, result, "")
    code, out, err = run(name, *words, "--json", "-q", capsys=capsys)
    assert isinstance(json.loads(out), dict)
    assert err == ""


def test_options_reach_the_library(library, capsys):
    words = (
        "--poses a.mp4 --poses b.mp4 -o out/ --subject anna --photo-index 2 --s1 3 --s2 4.5 --steps 9 --sampler ddim"
    )
    words += " --seed 7 --batch-size 2 --fps 12 --start 0 --end 2 --side-by-side --audio --device cpu --overwrite"
    words += " --guidance-interval .2:.9 --memory low --compile"
    assert run("render", *words.split(), capsys=capsys)[0] == 0
    named = vars(library["render"][0][0])
    expected = {
        "poses": [Path("a.mp4"), Path("b.mp4")],
        "subject": "anna",
        "photo": None,
        "photo_index": 2,
        "image_guidance": 3.0,
        "pose_guidance": 4.5,
        "steps": 9,
        "sampler": "ddim",
        "seed": 7,
        "batch_size": 2,
        "guidance_interval": (0.2, 0.9),
        "memory": "low",
        "compile": True,
        "fps": 12.0,
        "start": 0.0,
        "end": 2.0,
        "side_by_side": True,
        "audio": True,
        "device": "cpu",
        "dtype": "auto",
        "overwrite": True,
    }
    assert {key: named[key] for key in expected} == expected
    assert str(named["output"]) == "out/"  # the slash says that it is a folder
    run("tune", "a.jpg", "--lora-rank", "8", "--memory", "low", capsys=capsys)
    assert (library["tune"][0][0].lora_rank, library["tune"][0][0].memory) == (8, "low")
    run("synth", "clips", "--size", "96x64", "--png", capsys=capsys)
    assert library["synth"][1]["size"] == (64, 96)
    run("train", "v", "-o", "b", "--stage", "vae", "--8bit-adam", capsys=capsys)
    assert library["train"][0][0].stages == ["vae"]
    assert library["train"][0][0].eight_bit_adam is True


def test_sizes_in_documents_say_which_is_which(library, capsys):
    document = json.loads(run("poses", "d.mp4", "-o", "d.poses", "--json", capsys=capsys)[1])
    assert document["size"] == {"width": 128, "height": 160}


def test_the_demo_prints_its_figures(library, capsys):
    err = run("demo", "-o", "shown", capsys=capsys)[2]
    assert "tuned    0.100  0.900  20.0" in err
    assert "tune 1 min 1 s" in err
    assert err.splitlines()[-2:] == [
        "  dreampose tune shown/photo.png",
        "  dreampose render --poses shown/dance.mp4 -o mine.mp4",
    ]
    readme = (DOCS.parent.parent / "README.md").read_text(encoding="utf-8")
    use = readme.split("## Use it\n")[1].split("\n## ")[0]  # says the same, with the folder that is the default
    assert "dreampose tune dreampose-demo/photo.png" in use
    assert "dreampose render --poses dreampose-demo/dance.mp4 -o mine.mp4" in use


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_takes_what_the_command_gives(name, library, capsys, monkeypatch):
    module, function, words, _ = LIBRARY[name]
    assert run(name, *words, "-q", capsys=capsys)[0] == 0
    positional, named = library[name]
    monkeypatch.undo()
    real = getattr(importlib.import_module(f"dreampose_cli.{module}"), function)
    inspect.signature(real).bind(*positional, progress=None, **named)


# ---- cache, base and doctor


@pytest.fixture
def subject(cache):
    with store.user_cache().publish_folder("subject", "abcd1234abcd1234") as folder:
        (folder / store.SUBJECT_JSON).write_text(json.dumps({"name": "anna", "photos": []}), encoding="utf-8")
    store.user_cache().set_last_subject("abcd1234abcd1234")
    return store.user_cache().get("subject", "abcd1234abcd1234")


def test_cache_ls(subject, cache, capsys):
    (cache / "poses").mkdir()
    (cache / "poses" / "cut.poses").write_bytes(b"")
    code, out, err = run("cache", "ls", capsys=capsys)
    assert (code, err) == (0, "")
    assert re.search(r"subject +abcd1234abcd1234 \* +anna +\d+ B", out)
    assert re.search(r"poses +cut .* damaged \(BadZipFile\)", out)
    assert out.splitlines()[-1].endswith(f"in {cache}")
    assert run("cache", "ls", "-q", "--kind", "subject", capsys=capsys)[1] == "abcd1234abcd1234\n"
    document = json.loads(run("cache", "ls", "--json", capsys=capsys)[1])
    assert document["last_subject"] == "abcd1234abcd1234"
    assert {entry["id"]: bool(entry["broken"]) for entry in document["entries"]} == {
        "abcd1234abcd1234": False,
        "cut": True,
    }
    assert {"kind", "id", "name", "path", "bytes", "used_at", "created_at", "info"} < set(document["entries"][0])


def test_cache_dir(cache, capsys):
    assert run("cache", "dir", capsys=capsys) == (0, f"{cache}\n", "")
    assert json.loads(run("cache", "dir", "--json", capsys=capsys)[1]) == {"path": str(cache)}


def test_cache_rm_asks_first(subject, capsys, monkeypatch):
    code, out, err = run("cache", "rm", "anna", "--dry-run", capsys=capsys)
    assert (code, out) == (0, "abcd1234abcd1234\n")
    assert "would remove subject" in err
    monkeypatch.setattr(sys, "stdin", io.StringIO("no\n"))
    code, out, err = run("cache", "rm", "anna", capsys=capsys)
    assert (code, out) == (2, "")
    assert "--yes" in err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert run("cache", "rm", "anna", capsys=capsys)[:2] == (0, "")
    assert subject.path.exists()
    assert run("cache", "rm", "anna", "--yes", capsys=capsys)[:2] == (0, "abcd1234abcd1234\n")
    assert not subject.path.exists()
    assert run("cache", "ls", capsys=capsys)[1] == "nothing is cached\n"


def test_cache_prune(subject, capsys):
    store.user_cache().partial_folder("efgh")
    document = json.loads(run("cache", "prune", "--json", "--yes", capsys=capsys)[1])
    assert [entry["id"] for entry in document["removed"]] == ["efgh"]
    assert run("cache", "prune", "--yes", capsys=capsys) == (0, "", "nothing to remove\n")
    assert run("cache", "prune", "--older-than", "0", "--yes", "-q", capsys=capsys)[1] == "abcd1234abcd1234\n"


def test_a_cache_of_another_version_is_named_and_can_be_emptied(subject, cache, capsys):
    (cache / "cache-version").write_text("0\n")
    code, _, err = run("cache", "ls", capsys=capsys)
    assert code == 1
    assert "another version" in err
    assert run("cache", "rm", "--all", "--dry-run", capsys=capsys)[0] == 0
    assert subject.path.exists()
    assert run("cache", "rm", "--all", "--yes", capsys=capsys)[:2] == (0, f"{cache}\n")
    assert run("cache", "ls", capsys=capsys)[0] == 0


def test_base_ls_and_info(capsys, monkeypatch):
    @dataclasses.dataclass
    class Entry:
        name: str
        kind: str
        path: Path
        resolution: tuple
        summary: str

    fake = types.ModuleType("dreampose_cli.bases.registry")
    fake.list_bases = lambda cache: [Entry("mini", "bundled", Path("mini"), (160, 128), "128x160, knows mannequins")]
    fake.default_base = lambda cache: types.SimpleNamespace(name="mini")
    fake.resolve_base = lambda cache, name, note: note("chosen") or Path("mini")
    fake.is_here = lambda cache, name: True
    fake.describe = lambda path: {"path": path, "poses": {"count": 5, "rate": 12.0}, "people": None, "ok": True}
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    assert "mini  bundled  128x160, knows mannequins" in run("base", "ls", capsys=capsys)[1]
    assert run("base", "ls", "-q", capsys=capsys)[1] == "mini\n"
    assert json.loads(run("base", "ls", "--json", capsys=capsys)[1])["bases"][0]["resolution"] == [160, 128]
    code, out, err = run("base", "info", capsys=capsys)
    assert out == "path    mini\nposes\n  count  5\n  rate   12\npeople  -\nok      yes\n"
    assert err == "chosen\n"


CONFIG = f"ok  config file  none ({os.devnull})\n"


def test_doctor(capsys, monkeypatch):
    findings = [
        diagnosis.Finding("torch", "ok", "2"),
        diagnosis.Finding("GPU", "warning", "none", "buy one"),
    ]
    monkeypatch.setattr(diagnosis, "examine", lambda: findings)
    code, out, _ = run("doctor", capsys=capsys)
    assert (code, out) == (0, "ok  torch        2\n!!  GPU          none\n" + CONFIG + "\nGPU: buy one\n")
    findings.append(diagnosis.Finding("ffmpeg", "problem", "gone", "install it"))
    code, out, _ = run("doctor", "--json", capsys=capsys)
    assert code == 1
    assert json.loads(out)["healthy"] is False
    assert run("doctor", "-q", capsys=capsys)[1] == "missing: ffmpeg\n"


def test_the_doctor_downloads_nothing(monkeypatch):
    monkeypatch.setenv("DREAMPOSE_BASE", "owner/name")
    (found,) = diagnosis.bases()
    assert found.state == "warning" and "`dreampose base pull owner/name`" in found.remedy


def test_the_doctor_survives_what_is_broken(monkeypatch):
    broken = diagnosis._guarded("torch", raising(ImportError("libcudart.so.12: cannot open")))
    assert [(finding.what, finding.state) for finding in broken] == [("torch", "problem")]
    assert "libcudart" in broken[0].here
    refused = diagnosis._guarded("cache", raising(DreamposeError("the cache is full")))
    assert refused[0].remedy == "the cache is full"


def test_the_doctor_looks_at_the_network_without_hanging(monkeypatch):
    asked = []
    monkeypatch.setattr(diagnosis, "connects", lambda host, port, seconds: asked.append((host, port)) or True)
    assert diagnosis.hub({"HF_HUB_OFFLINE": "1"}).state == "ok"
    assert asked == []
    assert "answers" in diagnosis.hub({}).here
    assert "proxy" in diagnosis.hub({"HTTPS_PROXY": "proxy.local:3128"}).here
    assert diagnosis.hub({"HF_ENDPOINT": "http://mirror:99999"}).state == "warning"
    assert asked == [("huggingface.co", 443), ("proxy.local", 3128)]


def test_the_machines_own_findings():
    assert diagnosis.memory_bytes() is None or diagnosis.memory_bytes() > 1e8
    for finding in (
        diagnosis.python(),
        diagnosis.memory(),
        diagnosis.cores(),
        diagnosis.disk(),
        *diagnosis.cache_folder(),
    ):
        assert finding.here
        assert finding.state in ("ok", "warning")
    assert diagnosis.ffmpeg()[0].state == "ok"


# ---- the sink


def test_modes():
    assert [Output(**words).mode for words in ({}, {"quiet": True}, {"json": True, "quiet": True})] == [
        "human",
        "quiet",
        "json",
    ]


def test_plain_progress_says_a_line_every_ten_seconds(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(output_module.time, "monotonic", lambda: clock[0])
    with Output().progress(None, "tuning") as report:
        for step in range(31):
            report(step, 100, "loss 0.1")
            clock[0] += 1
        report(0, 50)  # the next stretch
        clock[0] += 10
        report(25, 50)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "tuning: 10/100, about 1 min 30 s left",
        "tuning: 20/100, about 1 min 20 s left",
        "tuning: 30/100, about 1 min 10 s left",
        "tuning: 25/50, about 10 s left",
    ]


def test_short_work_and_quiet_work_say_nothing(capsys):
    for out in (Output(), Output(quiet=True)):
        with out.progress(3, "work") as report:
            for step in range(3):
                report(step + 1, 3)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    out = Output()
    with out.progress(None, "tuning") as report:
        report(1, 10, "loss 0.1")
        report(10, 10)
        report(1, 5, "decoder [x]")
        out.note("a note [not markup]")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "tuning" in captured.err
    assert "a note [not markup]" in captured.err


def test_words_for_numbers():
    assert [duration(seconds) for seconds in (0, 59.4, 200, 7500)] == ["0 s", "59 s", "3 min 20 s", "2 h 5 min"]
    assert [size(count) for count in (0, 999, 1234, 3_400_000, 12e6, 5e9, 2e12)] == [
        "0 B",
        "999 B",
        "1 kB",
        "3.4 MB",
        "12 MB",
        "5.0 GB",
        "2.0 TB",
    ]
    assert table(["A", "B"], [["xxx", "1"], ["y", "22"]], right={1}) == ["A     B", "xxx   1", "y    22"]


def test_documents_are_plain_json():
    import numpy as np

    document = {
        "path": Path("a"),
        "nan": float("nan"),
        "numpy": np.float32(0.5),
        "array": np.arange(2),
        "result": Result(),
        "tuple": (1, None, True),
    }
    assert json.loads(json.dumps(plain(document), allow_nan=False))["result"]["paths"] == ["a.mp4", "b.mp4"]
    assert plain(document)["array"] == [0, 1]
    assert plain(document)["nan"] is None
