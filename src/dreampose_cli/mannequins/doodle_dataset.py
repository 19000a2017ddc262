"""Folders of doodles with their joints, to train and measure the doodle reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UsageError
from ..media import atomic_folder
from ..reporting import Progress
from .doodle_poses import JOINTS
from .doodles import draw_doodle

VERSION = 1
LIST = "doodles.json"
_NAMES = {"train", "test", LIST}


def doodle_seed(seed: int, split: str, index: int) -> int:
    """The seed of doodle number ``index`` of a split: a function of these three values alone."""
    entropy = np.random.SeedSequence(entropy=seed, spawn_key=(3, ("train", "test").index(split), index))
    return int(entropy.generate_state(1, np.uint64)[0])


def write_doodles(
    out: Path,
    *,
    doodles: int,
    test_doodles: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write OUT/{train,test}/doodle-NNNNNN.png and OUT/doodles.json, whole or not at all; return ``out``.

    doodles.json lists under "train" and "test" each picture's name and its 18 joints as [x, y, drawn] in pixels, in the
    order of OpenPose. ``test_doodles`` of the doodles (a fiftieth by default) go to test. Raises UsageError, OutputError,
    OutputExistsError.
    """
    held = round(doodles / 50) if test_doodles is None else test_doodles
    if doodles < 1 or not 0 <= held <= doodles:
        raise UsageError(f"{held} test doodles do not fit into {doodles} doodles; give at least one doodle.")
    counts = {"train": doodles - held, "test": held}
    document: dict = {"version": VERSION, "seed": seed, "order": list(JOINTS)}
    done = 0
    with atomic_folder(out, overwrite, owned=_NAMES.__contains__) as part:
        for split, count in counts.items():
            (part / split).mkdir()
            rows = document[split] = []
            for index in range(count):
                doodle = draw_doodle(doodle_seed(seed, split, index))
                name = f"doodle-{index:06d}.png"
                Image.fromarray(doodle.picture).save(part / split / name, compress_level=1)
                joints = np.concatenate([doodle.joints.round(1), doodle.visible[:, None]], 1)
                rows.append({"name": name, "joints": joints.tolist()})
                done += 1
                if progress is not None:
                    progress(done, doodles, f"{split}/{name}")
        (part / LIST).write_text(json.dumps(document) + "\n", encoding="utf-8")
    return Path(out)
