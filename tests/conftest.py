"""What every test shares: no colours, no network, and a cache of its own."""

import os

import pytest

os.environ["TYPER_USE_RICH"] = "0"  # before the application is imported
for name in ("FORCE_COLOR", "DREAMPOSE_BASE", "DREAMPOSE_DEBUG", "DREAMPOSE_CACHE"):
    os.environ.pop(name, None)
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """An empty cache folder for each test; not made yet, as on a new machine."""
    folder = tmp_path_factory.mktemp("home") / "cache"
    monkeypatch.setenv("DREAMPOSE_CACHE", str(folder))
    return folder
