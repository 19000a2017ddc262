"""The videos that are there already: what made them, by their own account, and whether one is an input.

A hundred thousand are asked before anything is done, so each is looked at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from ... import media
from ...errors import MediaError, OutputError
from ...media.metadata import KEY
from ...media.mp4_comment import read_comment
from ...media.outputs import output_error
from .digests import Digests
from .jobs import Job

REQUEST = "request"  # where a video's metadata says what made it


def made_by(output: str) -> tuple[dict[str, Any], bool]:
    """The origin of the video or folder of frames at `output` by its own account (empty where it does not say), and whether
    anything is there."""
    path = output.rstrip(os.sep)
    try:
        if output.endswith(".mp4"):
            text = read_comment(path)
            metadata = json.loads(text).get(KEY) if text else None
        else:
            if not os.path.exists(path) or (os.path.isdir(path) and not os.listdir(path)):
                return {}, False
            metadata = media.read_metadata(path)
    except FileNotFoundError:
        return {}, False
    except (OSError, ValueError, AttributeError, MediaError):
        metadata = None
    request = metadata.get(REQUEST) if isinstance(metadata, dict) else None
    return (request if isinstance(request, dict) else {}), True


def difference(found: dict[str, Any], request: dict[str, Any]) -> str:
    """In words, what made another video than `request` asks for."""
    if not found:
        return "is there, and no batch made it."
    words = {"subject": "the photos or how they are tuned", "base": "the base", "poses": "the dance"}
    parts = [text for key, text in words.items() if found.get(key) != request[key]]
    if found.get("version") != request["version"]:
        parts.append(f"the version ({found.get('version')}, now {request['version']})")
    before, now = found.get("settings"), json.loads(json.dumps(request["settings"]))
    before = before if isinstance(before, dict) else {}
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    parts += [f"{name.replace('_', ' ')} ({before.get(name)}, now {now.get(name)})" for name in names]
    return f"was made by another request: {', '.join(parts) or 'it'} differs."


def is_there(job: Job, inputs: Digests) -> bool:
    """Whether a file or a folder is where the job's result goes. Raises OutputError where it is an input of any job."""
    try:
        stat = os.stat(job.output)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise output_error(job.output, error) from error
    if (stat.st_dev, stat.st_ino) in inputs.files:
        raise OutputError(f"{job.output} is an input of this batch too, and would be lost; choose another -o.")
    return True


def require_apart(jobs: Iterable[Job], inputs: Digests) -> None:
    """Raise OutputError where a folder of frames would replace an input of its job, or where a result would lie in a folder
    that is an input. Files are compared by `is_there`."""
    asked: set[str] = set()
    for job in jobs:
        if job.output.endswith(("/", os.sep)):
            media.require_apart(job.output, [*job.photos, job.poses])
        above = os.path.dirname(job.output.rstrip("/" + os.sep))
        if inputs.folders and above not in asked:
            asked.add(above)
            media.require_apart(job.output, inputs.folders, replaced=False)
