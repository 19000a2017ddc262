"""The card of a trained base: README.md, with the front matter that the Hugging Face Hub reads.

It says only what the training knows: the data, the settings, the time, the scores. Everything it says is in `base.json` or
in the logs as well.
"""

from __future__ import annotations

from pathlib import Path

from ..model.config import BaseConfig

CARD_FILE = "README.md"
STRIP_FILE = "strip.png"
MARK = "<!-- written by dreampose train; what you change here is kept until the base is trained again -->"


def may_write_card(folder: Path) -> bool:
    """Whether the README in `folder` is missing, or one of ours."""
    path = folder / CARD_FILE
    return not path.exists() or MARK in path.read_text(encoding="utf-8", errors="replace")


def write_card(config: BaseConfig, scores: dict[str, float] | None, strip: bool) -> str:
    """The card's text. `scores`: the last ones on the test clips, None without a test list; `strip`: whether there is a
    picture beside it."""
    about = config.provenance
    height, width = config.resolution
    parts = [
        _front_matter(about),
        f"# {config.name}",
        f"{MARK}\n",
        f"A base of [dreampose-cli](https://pypi.org/project/dreampose-cli/): from a photo and poses to a video, "
        f"{width} wide x {height} high. **It knows {config.people}.** It was trained with `{about['trained_by']}`, version "
        f"{about['version']}.\n",
    ]
    if strip:
        parts.append(f"![Photo, pose, prediction and truth, from top to bottom]({STRIP_FILE})\n")
    parts += [
        "## Use\n",
        f"    dreampose tune photo.jpg --base {config.name}\n    dreampose render --poses dance.mp4 -o out.mp4\n",
        _data(about),
        _settings(config),
        _figures(scores),
        "## Licence\n",
        f"{about['licence']}\n"
        if "licence" in about
        else "Not stated. Before you share this base, say here and in `provenance.licence` of `base.json` under which licence "
        "it is; the licence of the clips it was trained on has a say in that.\n",
    ]
    return "\n".join(parts)


def _front_matter(about: dict) -> str:
    lines = ["---", "library_name: dreampose-cli", "pipeline_tag: image-to-video"]
    lines += ["tags:", "- dreampose", "- pose-transfer", "- fashion"]
    if "OpenRAIL" in about.get("licence", ""):
        lines.append("license: creativeml-openrail-m")
    origin = about.get("from", {}).get("stable_diffusion", "")
    if origin.count("/") == 1:  # a repository on the Hub, owner/name[@revision]
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
    network = about["stages"].get("network", {})
    facts = [
        f"precision {network.get('autocast') or 'float32'}",
        f"seed {network.get('seed', 0)}",
        f"average of the weights {network['ema']:g}" if network.get("ema") else "no average of the weights",
        f"{about['processes']} process" + ("es" if about["processes"] > 1 else "") + f" on {about['device']}",
        f"pose window of {config.poses.count}, channels {config.poses.channels}",
        "CLIP and VAE tokens" if config.photo.vae_tokens else "CLIP tokens only",
        f"photo channels {config.photo.unet_channels}",
    ]
    if "vae" in about:
        facts.append(f"autoencoder of {about['vae']['from']}")
    lines.append("; ".join(facts)[:1].upper() + "; ".join(facts)[1:] + ".\n")
    return "\n".join(lines)


def _figures(scores: dict[str, float] | None) -> str:
    if scores is None:
        return "## Figures\n\nNone: there were no clips beside those it was trained on.\n"
    return (
        "## Figures\n\n"
        f"On {scores['frames']:g} frames of clips that were not trained on, RGB in [0, 1], untuned, few sampling steps: SSIM "
        f"{scores['ssim']:.4f}, L1 {scores['l1']:.4f}. They follow one training and are no measure between bases; "
        "`validation/scores.csv` has their course.\n"
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
