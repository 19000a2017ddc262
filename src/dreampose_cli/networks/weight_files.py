"""Weights from the files of other projects: read without running anything, compared by name and shape, written anew.

safetensors are data by construction. PyTorch's own files are pickles inside a zip: they are read by its restricted
unpickler, which knows tensors and nothing else, after a look at the zip; there is no way around it.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import BaseError
from ..regular import require_regular

SHOWN = 3  # names given of each kind of misfit
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth or .bin file by name, mapped from the file: memory is used when they are.

    A prefix `module.` on every name (training in several processes) is dropped. Raises BaseError naming the file.
    """
    path = Path(path)
    try:
        require_regular(path)
    except OSError as error:
        raise BaseError(f"{path} cannot be read: {error.strerror}.") from error
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BaseError(f"{path} is cut short, damaged or no safetensors file ({error}); download it again.") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    _check_zip(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the unpickler and the zip reader raise nearly every type on a damaged file
        named = _GLOBAL.search(str(error))
        if named:
            raise BaseError(
                f"{path} is refused: besides weights it holds {named[1]}, and loading that could run code; take a "
                "checkpoint that holds a state_dict and nothing else."
            ) from error
        raise BaseError(f"{path} is cut short, damaged or no PyTorch checkpoint; download it again.") from error
    if not isinstance(content, Mapping):
        raise BaseError(f"{path} holds a {type(content).__name__}, not weights by name (a state_dict).")
    if isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]  # next to it stands where training was
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise BaseError(
                f"{path} is refused: its entry {str(name)[:60]!r} is a {type(value).__name__}, not a tensor; take a "
                "checkpoint that holds a state_dict and nothing else."
            )
    return dict(content)


def _check_zip(path: Path) -> None:
    """BaseError unless `path` is a zip as PyTorch writes it: nothing compressed, nothing larger than the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64)
        if not start.startswith(b"PK"):
            raise BaseError(_not_a_zip(path, start))
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except zipfile.BadZipFile as error:
        raise BaseError(f"{path} is cut short or damaged: its end is missing; download it again.") from error
    except OSError as error:
        raise BaseError(f"{path} cannot be read: {error.strerror or error}.") from error
    declared = sum(member.file_size for member in members)
    if declared > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise BaseError(
            f"{path} is refused: it declares {declared} bytes of content but is {size} bytes long, which no PyTorch "
            "checkpoint does (a zip bomb does)."
            if declared > size
            else f"{path} is refused: its content is compressed, which that of a PyTorch checkpoint never is."
        )


def _not_a_zip(path: Path, start: bytes) -> str:
    if not start:
        return f"{path} is empty; download it again."
    if start.lstrip()[:1] == b"<":
        return (
            f"{path} is a web page, not a checkpoint: the download stopped at a question, as Google Drive asks one for "
            "large files; download it in a browser."
        )
    if start.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`."
    return f"{path} is no PyTorch checkpoint (or one from before PyTorch 1.6, which is not read)."


def shape_mismatches(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The reasons that keep `tensors` from being the weights `expected` (shapes by name), in words; empty where they fit."""
    missing = [name for name in expected if name not in tensors]
    surplus = [name for name in tensors if name not in expected]
    shapes = [
        f"{name} is {_shape(tensors[name].shape)} in place of {_shape(shape)}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(shape)
    ]
    kinds = [f"{name} is {str(tensor.dtype).removeprefix('torch.')}" for name, tensor in tensors.items()
             if name in expected and not tensor.dtype.is_floating_point]  # fmt: skip
    found = [("missing", missing), ("surplus", surplus), ("of another shape", shapes), ("not floating point", kinds)]
    return [f"{len(names)} {what} ({_some(names)})" for what, names in found if names]


def _some(names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _shape(shape) -> str:
    return "x".join(str(side) for side in shape) or "a single number"


def write_weights(tensors: Mapping[str, Tensor], file: Path, dtype: torch.dtype | None = None) -> None:
    """Tensors as safetensors, in their own dtype or in `dtype`. Straight from mapped files: little memory is used.

    Raises BaseError for a value that `dtype` cannot hold.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    whole: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        tensor = _cast(name, tensor.detach(), dtype).contiguous()
        if tensor.untyped_storage().data_ptr() in storages:
            tensor = tensor.clone()  # two names for the same memory, which safetensors does not know
        storages.add(tensor.untyped_storage().data_ptr())
        whole[name] = tensor
    save_file(whole, file, metadata={"format": "pt"})
    open_to_readers(file)


def open_to_readers(file: Path) -> None:
    """The permissions of any new file, since safetensors writes for the owner alone."""
    mask = os.umask(0)  # there is no other way to ask for it
    os.umask(mask)
    file.chmod(0o666 & ~mask)


def _cast(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or tensor.dtype == dtype:
        return tensor
    cast = tensor.to(dtype)
    if not torch.isfinite(cast).all():
        raise BaseError(
            f"{name} holds values that are no numbers, or too large for {str(dtype).removeprefix('torch.')}."
        )
    return cast
