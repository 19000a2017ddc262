"""The card of a trained base: README.md, with the front matter that the Hugging Face Hub reads.

It says only what the training knows: the data, the settings, the time, the scores. Everything it says is in `base.json` or
in the logs as well. A card that a person has changed is never lost: the mark in it holds a digest of what was written.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ..bases.config import BaseConfig

CARD_FILE = "README.md"
KEPT = f"{CARD_FILE}.old"  # a card that a person has changed; further ones have a number behind it
SAMPLE_GRID_FILE = "samples.png"
MARK = "<!-- written by dreampose train"
_MARK = re.compile(rf"{MARK}([^>]*)-->")


def is_persons(path: Path) -> bool:
    """Whether a file is a card that a person has written or changed, or one that was kept for that."""
    return path.name.startswith(KEPT) or (path.name == CARD_FILE and path.exists() and not _is_as_written(_read(path)))


def renew_card(folder: Path, text: str, target: Path, note: Callable[[str], None]) -> None:
    """Write a new card's `text` to `target`, from where it will replace the one in `folder`.

    One that a person has changed is kept under another name; one without the mark stays, and nothing is written.
    """
    path = folder / CARD_FILE
    if path.exists() and not _MARK.search(_read(path)):
        note(f"{path} was not written by dreampose and stays as it is.")
        return
    if is_persons(path):
        names = (f"{KEPT}{i or ''}" for i in range(10**6))
        kept = next(folder / name for name in names if not (folder / name).exists())
        os.replace(path, kept)
        note(f"{path} was changed by hand; it is kept as {kept.name} next to the new one.")
    target.write_text(text, encoding="utf-8")


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _is_as_written(text: str) -> bool:
    return text == _marked(text)


def _marked(text: str) -> str:
    """`text` with the digest of the rest of it in its mark."""
    digest = hashlib.sha256(_MARK.sub("", text).encode()).hexdigest()[:16]
    return _MARK.sub(
        f"{MARK}, {digest}; the next training keeps a changed card as {KEPT}, and one without this line as it is -->",
        text,
    )


def write_card(config: BaseConfig, scores: dict[str, float] | None, sample_grid: bool) -> str:
    """The card's text. `scores`: the last ones on the test clips, None without a test list; `sample_grid`: whether there is a
    picture next to it."""
    about = config.provenance
    height, width = config.resolution
    parts = [
        _front_matter(about),
        f"# {config.name}",
        f"{MARK} -->\n",
        f"A base of [dreampose-cli](https://pypi.org/project/dreampose-cli/): from a photo and poses to a video, "
        f"{width} wide x {height} high. **It knows {config.people}.** It was trained with `{about['trained_by']}`, version "
        f"{about['version']}.\n",
    ]
    if sample_grid:
        parts.append(f"![Photo, pose, prediction and truth, from top to bottom]({SAMPLE_GRID_FILE})\n")
    parts += [
        "## Use\n",
        f"    dreampose tune photo.jpg --base {config.name}\n    dreampose render --poses dance.mp4 -o out.mp4\n",
        _origin(about),
        _data(about),
        _settings(config),
        _figures(scores),
        _licence(about),
    ]
    return _marked("\n".join(parts))


def _licence(about: dict) -> str:
    lines = ["## Licence\n"]
    if "licence" in about:
        lines.append(f"{about['licence']}\n")
    else:
        others = "the licence of the clips it was trained on" + (
            " and that of what it began from have" if _sources(about) else " has"
        )
        lines.append(
            "Not stated. Before you share this base, say here and in `provenance.licence` of `base.json` under which licence it "
            f"is; {others} a say in that.\n"
        )
    return "\n".join(lines)


def _levels(about: dict) -> Iterator[dict]:
    """The chain of bases that a base began from."""
    while about := about.get("from", {}):
        yield about


def _sources(about: dict) -> list[str]:
    """One sentence for each set of weights that a base descends from, the nearest first."""
    said = []
    for level in _levels(about):
        name = level.get("base") or level.get("stable_diffusion") or level.get("imported_from")
        if not name:
            continue
        made = level.get("trained_by") or level.get("imported_from") or name
        facts = [f"revision {level['revision']}" if "revision" in level else ""]
        facts += [f"made by `{made}`" if "trained_by" in level else made if made != name else ""]
        facts += [
            f"of Stable Diffusion {level['stable_diffusion']}" if level.get("stable_diffusion", name) != name else ""
        ]
        facts += [f"image encoder {level['image_encoder']}" if "image_encoder" in level else ""]
        facts += [f"licence: {level.get('licence', 'not stated')}"]
        said.append(f"{name} ({'; '.join(fact for fact in facts if fact)})")
    if vae := about.get("vae"):
        said.append(
            f"the autoencoder of {vae['from']} (revision {vae['revision']}; licence: {vae.get('licence', 'not stated')})"
        )
    return said


def _origin(about: dict) -> str:
    rows = [f"{i}. {sentence}" for i, sentence in enumerate(_sources(about), start=1)]
    return "\n".join(["## Starting weights\n", *(rows or ["None: everything was trained from scratch."]), ""])


def _front_matter(about: dict) -> str:
    lines = ["---", "library_name: dreampose-cli", "pipeline_tag: image-to-video"]
    lines += ["tags:", "- dreampose", "- pose-transfer", "- fashion"]
    if "OpenRAIL" in about.get("licence", ""):
        lines.append("license: creativeml-openrail-m")
    names = [level.get(key, "") for level in _levels(about) for key in ("base", "stable_diffusion")]
    if origin := next((name for name in names if name.count("/") == 1), None):  # on the Hub: owner/name[@revision]
        lines.append(f"base_model: {origin.split('@')[0]}")
    return "\n".join([*lines, "---", ""])


def _data(about: dict) -> str:
    data = about["data"]
    rows = [f"| {split} | {d['clips']} | {d['photo_clips']} | {d['frames']} |" for split, d in data["splits"].items()]
    lines = ["## Data\n", "| | clips | of these photos without an order | frames |", "|---|---|---|---|", *rows]
    return "\n".join([*lines, "", f"Content of the prepared frames: `{data['key']}`. Frames of each size were fitted by "
                      f"`{data['fit']}`; poses by {data['poses']}.", ""])  # fmt: skip


def _settings(config: BaseConfig) -> str:
    about = config.provenance
    lines = [
        "## Training\n",
        "| stage | steps | samples a step | learning rate | samples | time |",
        "|---|---|---|---|---|---|",
    ]
    for name, stage in about["stages"].items():
        samples = stage["steps"] * stage["batch_size"]
        lines.append(
            f"| {name} | {stage['steps']} | {stage['batch_size']} | {stage['learning_rate']:g} | {samples} "
            f"| {_duration(about['stage_seconds'].get(name, 0))} |"
        )
    lines.append("")
    network = list(about["stages"].values())[-1]
    facts = [
        f"precision {network.get('autocast') or 'float32'}",
        f"seed {network.get('seed', 0)}",
        f"average of the weights {network['ema']:g}" if network.get("ema") else "no average of the weights",
        f"{about['processes']} process" + ("es" if about["processes"] > 1 else "") + f" on {about['device']}",
        f"family {config.family}, pose window of {config.poses.count}",
        *config.network.facts,
    ]
    if "vae" in about:
        facts.append(f"autoencoder of {about['vae']['from']}")
    lines.append("; ".join(facts)[:1].upper() + "; ".join(facts)[1:] + ".\n")
    return "\n".join(lines)


def _figures(scores: dict[str, float] | None) -> str:
    if scores is None:
        return "## Figures\n\nNone: there were no clips besides those it was trained on.\n"
    return (
        "## Figures\n\n"
        f"On {scores['frames']:g} frames of clips that were not trained on, RGB in [0, 1], untuned, few sampling steps: SSIM "
        f"{scores['ssim']:.4f}, L1 {scores['l1']:.4f}. They follow one training and are no measure between bases; "
        "`validation/` has their course.\n"
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
