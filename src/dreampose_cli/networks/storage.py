"""A base as a folder: loading and saving of any family's network, by the modules that its settings name.

base.json                       `bases.config.BaseConfig`
NAME/                           each module: `config.json` and its weights, as its library keeps them, or `NAME.safetensors`
scheduler/scheduler_config.json the noise schedule
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..bases.components import check_modules, read_component
from ..bases.config import CONFIG_FILE, BaseConfig, read_config
from ..bases.families import find, network_class
from ..bases.schedule import SCHEDULER_FILE, read_schedule
from ..errors import BaseError
from .network import AnyModule, Network
from .weight_files import open_to_readers


def load_base(folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Network:
    """The network of the base in `folder`. Raises BaseError naming what is missing or does not fit."""
    folder = Path(folder)
    config = read_config(folder)
    kind = network_class(config.family)
    modules: dict[str, AnyModule] = {}
    try:
        schedule = read_schedule(folder)
        check_modules(folder, config.network)
        for name, place in config.network.modules.items():
            if place and kind.extends(name, config):
                modules[name] = load_extended(kind, name, find(place), folder, config, dtype)
            elif place:
                modules[name] = load_module(find(place), folder / name, dtype)
        processors = {
            name: find(place).from_pretrained(folder / name) for name, (place, _) in config.network.processors.items()
        }
        for name in own_modules(config):
            module = nn.Module.to(kind.build(name, config, modules), dtype=dtype)  # diffusers' own `to` warns
            tensors = load_file(folder / config.network.module_files(name)[-1])
            if any(
                tensor.is_meta for tensor in module.state_dict().values()
            ):  # built without memory: they take its place
                module.load_state_dict({key: tensor.to(dtype) for key, tensor in tensors.items()}, assign=True)
            else:
                module.load_state_dict(tensors)
            modules[name] = module
    except BaseError:
        raise
    except Exception as error:  # the libraries raise a dozen types for a damaged file
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseError(f"the base in {folder} cannot be loaded: {reason}") from error
    try:
        return kind(config, in_order(config, modules), processors, schedule).to(device)
    except BaseError as error:
        raise BaseError(f"the base in {folder} contradicts itself: {error}") from error


def load_extended(
    family: type[Network], name: str, kind: Any, folder: Path, config: BaseConfig, dtype: torch.dtype
) -> AnyModule:
    """A module of diffusers with parts of the family's own, whose weights the library's loading would leave out."""
    described = read_component(folder / name / "config.json")
    module = family.extend(name, kind.from_config(described))
    module.load_state_dict(load_file(folder / config.network.module_files(name)[-1]))
    return nn.Module.to(module, dtype=dtype)  # diffusers' own `to` warns for every cast


def own_modules(config: BaseConfig) -> list[str]:
    """The names of the modules that no library describes."""
    return [name for name, place in config.network.modules.items() if not place]


def in_order(config: BaseConfig, modules: Mapping[str, AnyModule]) -> dict[str, AnyModule]:
    """The modules in the order in which the family's settings name them, the denoiser first."""
    return {name: modules[name] for name in config.network.modules}


def load_module(kind: Any, folder: Path, dtype: torch.dtype) -> AnyModule:
    """A module of diffusers or transformers from a folder, safetensors only, without the libraries' own chatter."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    name = "torch_dtype" if kind.__module__.startswith("diffusers") else "dtype"
    return kind.from_pretrained(folder, use_safetensors=True, local_files_only=True, **{name: dtype})


def save_base(network: Network, folder: Path, dtype: torch.dtype | None = None) -> Path:
    """Write every module and `base.json` into `folder` (which the caller made and publishes atomically)."""
    folder = Path(folder)
    for name, module in network.modules.items():
        save_config(module, folder / name)
        save_module(module, folder / network.config.network.module_files(name)[-1], dtype)
    for name, processor in network.processors.items():
        processor.save_pretrained(folder / name)
    save_description(network.config, network.schedule, folder)
    return folder


def save_description(config: BaseConfig, schedule: dict[str, Any], folder: Path) -> None:
    """The noise schedule and, last, `base.json`."""
    (folder / SCHEDULER_FILE).parent.mkdir(exist_ok=True)
    (folder / SCHEDULER_FILE).write_text(json.dumps(schedule, indent=2) + "\n", encoding="utf-8")
    (folder / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")


def save_config(module: AnyModule, folder: Path) -> None:
    """The `config.json` of a module that has one, without the path it was loaded from: a base that is given away names no
    folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(module, "save_config"):  # of diffusers
        module.save_config(folder)
    elif hasattr(module, "config"):  # of transformers
        module.config.save_pretrained(folder)
    else:
        return
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if config.pop("_name_or_path", None) is not None:
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_module(module: AnyModule, file: Path, dtype: torch.dtype | None = None) -> None:
    """The weights of one module as safetensors, cast to `dtype` on the way if given."""
    save_tensors(module.state_dict(), file, dtype)


def save_tensors(tensors: Mapping[str, Tensor], file: Path, dtype: torch.dtype | None = None) -> None:
    """Tensors by their names as safetensors, cast to `dtype` on the way if given."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().to("cpu", dtype or v.dtype).contiguous() for k, v in tensors.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    open_to_readers(file)


def fingerprint(modules: Mapping[str, AnyModule], *depends_on: Any) -> str:
    """16 hex digits of weights in memory: of each tensor its name, its shape and up to 65 of its values, which training
    changes all; and of what else a result `depends_on`, by its repr. Of a base on disk: `bases.fingerprint`."""
    digest = hashlib.sha256(repr(depends_on).encode() if depends_on else b"")
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            some = value.detach().flatten()[:: max(1, value.numel() // 64)].cpu().float().contiguous()
            digest.update(f"{name}.{key}{tuple(value.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]
