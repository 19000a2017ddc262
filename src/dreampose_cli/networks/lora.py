"""Low-rank updates: what tuning adds to a weight, as the product of two thin matrices (LoRA; Hu et al., 2021).

W' = W + B A, with A (r, inputs) and B (outputs, r). While tuning the two are computed next to the frozen W. To render,
they are added into W, so that a low-rank subject costs what a full one costs. They are kept under the names that peft
and diffusers give them, `NAME.lora_A.weight` and `NAME.lora_B.weight`, the scale worked in.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

A, B = ".lora_A.weight", ".lora_B.weight"


class UpdatedLayer(nn.Module):
    """A frozen linear layer or convolution with the update that is learned next to it. B starts at zero."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, generator: torch.Generator):
        super().__init__()
        outputs, inputs = _sides(layer)
        rank, kernel = min(rank, outputs, inputs), layer.weight.shape[2:]
        self.layer = layer.requires_grad_(False)
        # The frozen weights may be held in fewer bits; what learns may not.
        a = torch.empty(rank, inputs).uniform_(-1, 1, generator=generator) * (3 / inputs) ** 0.5
        self.a = nn.Parameter(a.view(rank, *layer.weight.shape[1:]).to(layer.weight.device))
        self.b = nn.Parameter(torch.zeros(outputs, rank, *[1 for _ in kernel], device=layer.weight.device))

    @property
    def weight(self) -> Tensor:
        """The frozen weight: what stands in a layer's place is asked for its device and format."""
        return self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        layer, a, b = self.layer, self.a.to(x.dtype), self.b.to(x.dtype)
        if isinstance(layer, nn.Linear):
            return layer(x) + F.linear(F.linear(x, a), b)
        return layer(x) + F.conv2d(F.conv2d(x, a, None, layer.stride, layer.padding, layer.dilation), b)


class Updates(nn.Module):
    """The thin matrices of one module, as a module of their own: what the training loop sees, saves and resumes."""

    def __init__(self, layers: dict[str, UpdatedLayer]):
        super().__init__()
        self.names = list(layers)
        self.a = nn.ParameterList(layer.a for layer in layers.values())
        self.b = nn.ParameterList(layer.b for layer in layers.values())

    def tensors(self, share: float = 1.0) -> dict[str, Tensor]:
        """The matrices by the names they are kept under, of `share` of what was learned."""
        rows = zip(self.names, self.a, self.b, strict=True)
        return {name + end: matrix.detach() for name, a, b in rows for end, matrix in ((A, a), (B, share * b))}


def inject(module: nn.Module, rank: int, seed: int, layers: str = "") -> Updates:
    """Give every linear layer and convolution of `module` an update of `rank`, in place, and freeze all else.

    layers: a regular expression that is searched for in their names. Nothing changes yet. Where a layer is thinner than
    `rank`, its own width is the rank. Left alone is what is frozen already, and torch's own attention, which uses its
    weights without calling its layers.
    """
    generator = torch.Generator().manual_seed(seed)
    attention = tuple(f"{name}." for name, each in module.named_modules() if isinstance(each, nn.MultiheadAttention))
    updated = {
        name: UpdatedLayer(layer, rank, generator)
        for name, layer in list(module.named_modules())
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.requires_grad and not name.startswith(attention)
        if re.search(layers, name)
    }
    module.requires_grad_(False)
    for name, layer in updated.items():
        layer.requires_grad_(True).layer.requires_grad_(False)
        _replace(module, name, layer)
    return Updates(updated)


def remove(module: nn.Module) -> None:
    """Take out what `inject` put in, and leave the weights as they were."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, UpdatedLayer):
            _replace(module, name, layer.layer)


@torch.no_grad()
def merge(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put what was tuned into `module`, in its own number format: whole tensors replace, pairs of thin ones are added.

    Without pairs every weight has to be there. Raises ValueError naming a tensor that is missing or does not fit.
    """
    weights = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    pairs = {name.removesuffix(A) for name in tensors if name.endswith(A)}
    whole = {name for name in tensors if not name.endswith((A, B))}
    surplus = whole.union(f"{name}.weight" for name in pairs) - weights.keys()
    missing = {f"{name}{B}" for name in pairs} - tensors.keys() if pairs else module.state_dict().keys() - whole
    if surplus or missing:
        raise ValueError(f"{'unknown' if surplus else 'missing'} weight {min(surplus or missing)}")
    for name in sorted(whole):
        if weights[name].shape != tensors[name].shape:
            raise ValueError(f"{name} is {tuple(tensors[name].shape)}, not {tuple(weights[name].shape)}")
        weights[name].copy_(tensors[name])
    for name in sorted(pairs):
        weight = weights[f"{name}.weight"]
        a, b = (tensors[name + end].to(weight).flatten(1) for end in (A, B))
        if a.shape[0] != b.shape[1] or (b.shape[0], a.shape[1]) != (weight.shape[0], weight[0].numel()):
            raise ValueError(f"the update of {name} does not fit its weight {tuple(weight.shape)}")
        flat = weight.data.flatten(1).addmm_(b, a)
        if flat.data_ptr() != weight.data_ptr():  # of a convolution in channels_last the flat one is a copy
            weight.copy_(flat.view_as(weight))


def _replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, layer)


def _sides(layer: nn.Linear | nn.Conv2d) -> tuple[int, int]:
    """Outputs and inputs of a layer's weight as a matrix."""
    return layer.weight.shape[0], layer.weight[0].numel()
