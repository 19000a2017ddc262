"""The base in memory, from one job to the next, so that many subjects are rendered without loading it again."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..bases.fingerprint import fingerprint
from .layout import lay_out
from .network import Network
from .storage import load_base


class ModelCache:
    """The store from which `tune` and `render` take their base. With `keep` the base stays, with a copy in the CPU's memory of the
    weights that tuning changes, to take each subject off again; a job on another base takes its place. With `lean` a CPU
    computes with the weights as they lie in their files, of which another layout would be a copy.
    """

    def __init__(self, keep: bool = False, lean: bool = False):
        self.keep, self.lean = keep, lean
        self._mark: tuple | None = None
        self._model: Network | None = None
        self._weights: dict[str, dict[str, Tensor]] = {}

    def base(self, folder: Path, device: torch.device, dtype: torch.dtype) -> Network:
        """The base in `folder` on `device` as it came, held in `dtype`. Raises BaseError."""
        mark = (fingerprint(folder), device, dtype)
        if self._model is not None and mark == self._mark:
            for name, module in self._model.tuned.items():
                module.load_state_dict(self._weights[name])
            model = self._model.to(device)
            if not self.lean:
                model.offload_only()  # none
            self._prepare(model, device)  # as it was: a result must not depend on who came before
            return model
        self.clear()
        model = load_base(folder, dtype=dtype)
        if self.lean and model.occasional and device.type != "cpu":  # the device need not hold all modules at once
            model.away = frozenset(model.occasional)
            for name in model.modules.keys() - model.away:
                model.modules[name].to(device)
        else:
            model.to(device)
        self._prepare(model, device)
        if self.keep:
            self._mark, self._model = mark, model
            self._weights = {
                name: {key: value.to("cpu", copy=True) for key, value in module.state_dict().items()}
                for name, module in model.tuned.items()
            }
        return model

    def clear(self) -> None:
        """Keep nothing: whoever comes next loads the base."""
        self._mark = self._model = None
        self._weights = {}

    def _prepare(self, model: Network, device: torch.device) -> None:
        """Layout, and whether weights want gradients, by which torch chooses its kernels even where none are computed."""
        model.learn(())
        if self.lean and device.type == "cpu":
            return
        for module in model.modules.values():
            fast = module in (model.unet, model.vae)  # how CPUs and tensor cores like convolutions best
            lay_out(module, torch.channels_last if fast else torch.contiguous_format)
