"""What every test shares: no colours, no network, and a cache of its own."""

import dataclasses
import os
import shutil

import pytest

os.environ["TYPER_USE_RICH"] = "0"  # before the application is imported
for name in ("FORCE_COLOR", *(name for name in os.environ if name.startswith("DREAMPOSE_"))):
    os.environ.pop(name, None)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DREAMPOSE_CONFIG"] = os.devnull  # the user's own defaults are not those of the tests


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """An empty cache folder for each test; not made yet, as on a new machine."""
    folder = tmp_path_factory.mktemp("home") / "cache"
    monkeypatch.setenv("DREAMPOSE_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_gpu_decides(monkeypatch):
    """Which base is used where none is named does not follow the machine that the tests run on."""
    monkeypatch.setattr("dreampose_cli.bases.registry.gpu_is_there", lambda: False)


@pytest.fixture
def hub():
    """A Hub on loopback without repositories; see hub_server."""
    from hub_server import HubServer

    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def tiny_repositories(tmp_path_factory):
    """The folder that `tiny_hub.build` fills: a repository is written once for all tests that ask for it."""
    return tmp_path_factory.mktemp("repositories")


@pytest.fixture
def tiny_hub(hub, tiny_repositories):
    """A Hub with Stable Diffusion, MagicAnimate and the others at tiny size and random weights; see tiny_hub.py."""
    import tiny_hub

    tiny_hub.serve(hub, tiny_repositories)
    return hub


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """A base of the mini architecture at 32 wide x 48 high, random weights: real classes, milliseconds a step."""
    from dreampose_cli.networks.dreampose.presets import MINI, build_mini
    from dreampose_cli.networks.storage import save_base

    tuning = dataclasses.replace(MINI.tuning, steps=4, decoder_steps=4, batch_size=2, decoder_batch_size=2)
    sampling = dataclasses.replace(MINI.sampling, steps=2)
    config = dataclasses.replace(MINI, name="tiny", resolution=(48, 32), tuning=tuning, sampling=sampling)
    return save_base(build_mini(0, config), tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """A dataset of four mannequin clips of eight frames, one of them for testing, 32 wide x 48 high."""
    from dreampose_cli.workflows.synth import write_dataset

    folder = tmp_path_factory.mktemp("clips") / "data"
    write_dataset(folder, subjects=4, test_subjects=1, frames=8, seed=3, png=True, size=(48, 32))
    return folder


@pytest.fixture(scope="session")
def clip(clips):
    """The folder of one test clip: video.mp4, video.poses, frames/."""
    return next((clips / "test").iterdir())


@pytest.fixture(scope="session")
def tuned(tiny_base, clip, tmp_path_factory):
    """A cache with one subject, the first photo of `clip`, and what `tune` returned: made once, for `subject` to copy."""
    from dreampose_cli.cache import Cache
    from dreampose_cli.workflows.options import TuneOptions
    from dreampose_cli.workflows.tune import tune

    folder = tmp_path_factory.mktemp("tuned") / "cache"
    photo = clip / "frames" / "00000.png"
    options = TuneOptions([photo], base=str(tiny_base), poses=[clip / "video.poses"], steps=2, decoder_steps=2)
    return folder, tune(options, cache=Cache(folder))


@pytest.fixture
def subject(tuned, cache):
    """A tuned subject in the test's own cache."""
    folder, made = tuned
    shutil.copytree(folder, cache)
    return dataclasses.replace(made, path=cache / made.path.relative_to(folder))
