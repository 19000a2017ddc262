"""Which modules of a network lie on its device, where they do not all fit at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..device import offload


class Placement:
    """Modules that are `away` lie in the CPU's memory and come to the network's device while they are `borrowed`."""

    modules: dict[str, Any]
    occasional: tuple[str, ...] = ()  # those that compute for a part of each step alone, and can be away for the rest
    away: frozenset[str] = frozenset()

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of the denoiser."""

    def offload_only(self, *names: str) -> None:
        """Keep these modules, and no others, in the CPU's memory but while they are borrowed."""
        for name in self.away - set(names):
            self.modules[name].to(self.device)
        self.away = frozenset(names)
        offload(*(self.modules[name] for name in names))

    @contextmanager
    def borrowed(self, name: str) -> Iterator[Any]:
        """The module `name`, on the network's device for the length of the block."""
        module = self.modules[name]
        if name in self.away:
            module.to(self.device)
        try:
            yield module
        finally:
            if name in self.away:
                offload(module)
