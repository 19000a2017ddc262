"""Weights of others as a base in the store: compared with what the configs say before anything is written.

Every file is compared key by key and shape by shape: a module that is silently left out makes a picture that is only
somewhat wrong, and nothing else tells. One module is in memory at a time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..bases.config import CONFIG_FILE, BaseConfig
from ..bases.registry import MINI
from ..cache import Cache
from ..errors import BaseError, OutputExistsError
from ..names import check_name
from ..reporting import Note, Progress, no_note
from . import pretrained
from .network import AnyModule
from .storage import save_config, save_description
from .weight_files import read_weights, shape_mismatches, write_weights


@dataclass(frozen=True)
class Part:
    """A module of the base to be: its shape, or itself, and where its weights come from. `file` stands for it in messages."""

    module: AnyModule
    file: Path
    tensors: Callable[[], dict[str, Tensor]]

    @classmethod
    def read(cls, name: str, module: AnyModule, file: Path) -> Part:
        """The weights of the component `name` as they are in `file`, by today's names."""
        return cls(module, file, lambda: pretrained.rename(name, read_weights(file), module.state_dict()))


def require_name(cache: Cache, name: str, overwrite: bool = False) -> None:
    """Refuse, before anything is read or fetched, a name that a base cannot have or has already.

    Raises UsageError, BaseError, OutputExistsError.
    """
    check_name(name)
    if name == MINI:
        raise BaseError("mini is the name of the base that comes with the package; choose another with --name.")
    if (cache.path_of("base", name) / CONFIG_FILE).exists() and not overwrite:
        raise OutputExistsError(
            f"there is a base {name} already; add --overwrite to replace it, or choose another --name."
        )


def publish(
    cache: Cache,
    config: BaseConfig,
    schedule: Mapping[str, Any],
    parts: Mapping[str, Part],
    *,
    misfit: str,
    processors: Iterable[tuple[str, Any]] = (),
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    note: Note | None = None,
) -> Path:
    """Compare all files with the modules, then write the base `config.name`, one module after the other; its folder.

    `misfit` begins the sentence about files that do not fit. `dtype` None keeps the tensors' own. Raises BaseError, with
    nothing written.
    """
    wrong, size = [], 0
    for part in parts.values():
        tensors = part.tensors()
        found = shape_mismatches(tensors, pretrained.shapes(part.module))
        wrong += [f"{part.file.name}: {'; '.join(found)}"] if found else []
        size += sum(tensor.numel() * (dtype or tensor.dtype).itemsize for tensor in tensors.values())
    if wrong:
        raise BaseError(f"{misfit}; nothing was imported. {'. '.join(wrong)}.")
    name = config.name
    _require_room(cache.root, size, name)
    lock = cache.lock(f"base-{name}", waiting=note or no_note, what=f"the base {name}")
    with lock, cache.publish_folder("base", name) as target:
        for done, (module, each) in enumerate(parts.items()):
            if progress:
                progress(done, len(parts), f"writing {module}")
            save_config(each.module, target / module)
            write_weights(each.tensors(), target / config.network.module_files(module)[-1], dtype)
        for module, processor in processors:
            processor.save_pretrained(target / module)
        save_description(config, dict(schedule), target)
    if progress:
        progress(len(parts), len(parts), "")
    return cache.path_of("base", name)


def _require_room(store: Path, size: int, name: str) -> None:
    free = shutil.disk_usage(next(path for path in (store, *store.parents) if path.is_dir())).free
    if free < size:
        raise BaseError(
            f"the base {name} takes {size / 1e9:.1f} GB and the disk of {store} has {free / 1e9:.1f} GB free; make room, or "
            "set DREAMPOSE_CACHE to another disk; nothing was written."
        )
