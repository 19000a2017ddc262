"""`train --preset doodle`: the reader of doodles, from a folder that `synth --doodles` drew."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import asdict
from typing import Any

import torch

from ..device import pick_device
from ..errors import UsageError
from ..media.atomic import atomic_path
from ..networks.storage import save_module
from ..poses.doodle import CONFIG_FILE, DOODLE_FILE, DoodleNet
from ..reporting import Note, Progress, no_note
from ..training.doodles import LIST, DoodleStore, DoodleTask, score
from ..training.loop import LoopSettings, run, sigterm_flag
from ..training.run_dir import RunDir
from ..version import __version__
from .options import TrainOptions
from .train import TrainResult

SETTINGS = LoopSettings(steps=1200, learning_rate=2e-3, batch_size=32, warmup=50, decay=0.7, ema=0.995, save_every=100)


def train_doodle_reader(
    options: TrainOptions, *, progress: Progress | None = None, note: Note | None = None
) -> TrainResult:
    """Train a reader of doodles on the folder `options.videos` into `options.output`, for `--estimator OUTPUT`.

    Of the options those count that say how: steps, rate, average, samples a step, seed, checkpoints, device. Raises
    UsageError, TrainingError, OutputError, and TrainingStopped after SIGTERM.
    """
    note = note or no_note
    given = {"--base": options.base, "--vae": options.vae, "--photos": options.photos, "--stage": options.stages}
    for option in [option for option, value in (given | {"--epochs": options.epochs}).items() if value]:
        raise UsageError(f"{option} says nothing about a reader of doodles; leave it out.")
    changes: dict[str, Any] = {"steps": options.max_steps, "save_every": options.save_every, "keep": options.keep}
    changes |= {"seed": options.seed}
    changes |= {"learning_rate": options.learning_rate, "ema": options.ema, "batch_size": options.batch_size}
    settings = dataclasses.replace(SETTINGS, **{k: v for k, v in changes.items() if v is not None})
    doodles, output, resume, overwrite = options.videos, options.output, options.resume, options.overwrite
    run_dir = RunDir(output, CONFIG_FILE, resume)
    if run_dir.is_finished("doodle", settings.steps):
        note(f"{output} is finished already.")
        return TrainResult(output, 0, 0.0, True)
    run_dir.require_free(overwrite, note)
    started = time.monotonic()
    train, test = (DoodleStore(doodles, split, progress) for split in ("train", "test"))
    if overwrite and not resume and output.exists():
        run_dir.clear()
    output.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = DoodleNet()
    task = DoodleTask(network.to(pick_device(options.device)), train, pick_device(options.device))
    with sigterm_flag() as stop:
        result = run(
            task,
            settings,
            checkpoints=run_dir.checkpoints / "doodle",
            resume=resume,
            identity={"doodles": len(train)},
            progress=progress,
            stop=stop,
        )
    figures = score(network, test)
    save_module(network, output / DOODLE_FILE, torch.float16)
    config = {
        "widths": list(network.widths),
        "figures": figures,
        "provenance": {
            "trained_by": "dreampose train --preset doodle",
            "version": __version__,
            "settings": asdict(settings),
            "doodles": {"train": len(train), "test": len(test), "list": LIST},
            "seconds": round(result.seconds),
        },
    }
    with atomic_path(output / CONFIG_FILE) as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return TrainResult(output, settings.steps, time.monotonic() - started, True, figures)
