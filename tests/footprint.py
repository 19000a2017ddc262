"""What tuning and rendering need in memory, counted on the real networks without computing anything.

Tensors without content (torch's FakeTensorMode) run through the same operations as real ones; who is alive when is
noted. What libraries take besides that (workspaces, the CUDA context, fragmentation) is not in it.
"""

from __future__ import annotations

import weakref

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """The most bytes that tensors made within the block, and by nobody before, held at one time: `bytes`."""

    def __init__(self, *before: nn.Module | Tensor):
        super().__init__()
        self.bytes = self._now = 0
        self._sizes: dict[int, int] = {}
        tensors = [
            t for each in before for t in (each.state_dict().values() if isinstance(each, nn.Module) else [each])
        ]
        self._known = {t.untyped_storage()._cdata for t in tensors}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._sizes and key not in self._known:
                    self._sizes[key] = storage.nbytes()
                    self._now += storage.nbytes()
                    self.bytes = max(self.bytes, self._now)
                    weakref.finalize(storage, self._gone, key)
        return result

    def _gone(self, key: int) -> None:
        self._now -= self._sizes.pop(key)
