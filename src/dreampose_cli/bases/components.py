"""The configs of a base's modules (diffusers, transformers), looked at before a library builds anything from them.

What a config says is built at once, with all its layers and channels: a wrong or a hostile one would take the machine's
memory. So its sizes have limits, far beyond any model there is, and it may not describe more weights than its file can hold.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ..errors import BaseError
from ..regular import read_regular_text
from .validation import parse

_Count = Annotated[int, Meta(ge=1, le=512)]
_Width = Annotated[int, Meta(ge=1, le=65536)]
_Side = Annotated[int, Meta(ge=1, le=8192)]
_Blocks = Annotated[list[str], Meta(max_length=16)]
_Fraction = Annotated[float, Meta(ge=-1e4, le=1e4)]
_Channels = Annotated[list[_Width], Meta(min_length=1, max_length=16)]
_Sizes = _Side | Annotated[list[_Side], Meta(max_length=3)] | dict[str, _Side] | None


# One value, or one for each block, as diffusers takes many of its settings.
_Counts = _Count | Annotated[list[_Count | Annotated[list[_Count], Meta(max_length=64)]], Meta(max_length=16)] | None
_Widths = _Width | Annotated[list[_Width | Annotated[list[_Width], Meta(max_length=64)]], Meta(max_length=16)] | None


class Sizes(msgspec.Struct):
    """The sizes in the configs of all modules; everything else there is the library's."""

    # transformers
    num_hidden_layers: _Count | None = None
    num_attention_heads: _Counts = None
    hidden_size: _Width | None = None
    intermediate_size: _Width | None = None
    projection_dim: _Width | None = None
    image_size: _Sizes = None
    patch_size: _Sizes = None
    num_channels: _Width | None = None
    vocab_size: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    max_position_embeddings: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    vision_config: Sizes | None = None
    text_config: Sizes | None = None
    # diffusers
    sample_size: _Sizes = None
    in_channels: _Width | None = None
    out_channels: _Width | None = None
    latent_channels: _Width | None = None
    block_out_channels: _Channels | None = None
    down_block_types: _Blocks | None = None
    up_block_types: _Blocks | None = None
    layers_per_block: _Counts = None
    transformer_layers_per_block: _Counts = None
    cross_attention_dim: _Widths = None
    attention_head_dim: _Widths = None
    norm_num_groups: _Width | None = None
    motion_max_seq_length: _Side | None = None
    conditioning_embedding_out_channels: _Channels | None = None
    # processors
    size: _Sizes = None
    crop_size: _Sizes = None
    image_mean: Annotated[list[_Fraction], Meta(max_length=16)] | None = None
    image_std: Annotated[list[_Fraction], Meta(max_length=16)] | None = None
    # schedules
    num_train_timesteps: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    beta_start: Annotated[float, Meta(ge=0, le=1)] | None = None
    beta_end: Annotated[float, Meta(ge=0, le=1)] | None = None
    steps_offset: Annotated[int, Meta(ge=0, le=100_000)] | None = None
    trained_betas: Annotated[list[_Fraction], Meta(max_length=100_000)] | None = None

    def least_parameters(self) -> int:
        """Fewer parameters than this it cannot have: of a transformer the four projections of each layer's attention, of a
        network of blocks a 3x3 convolution for each of their layers."""
        found = 0
        if self.num_hidden_layers and self.hidden_size:
            found += 4 * self.num_hidden_layers * self.hidden_size**2
        layers = self.layers_per_block if isinstance(self.layers_per_block, int) else 1
        found += sum(9 * layers * width**2 for width in self.block_out_channels or ())
        return found + sum(part.least_parameters() for part in (self.vision_config, self.text_config) if part)


def read_component(path: Path, weights: Path | None = None) -> dict[str, Any]:
    """The config in `path`, whose sizes are possible; with `weights`, the file of its weights, no more than it can hold.

    Raises BaseError with file and key.
    """
    try:
        text = read_regular_text(path)
    except FileNotFoundError as error:
        raise BaseError(f"{path.parent} has no {path.name}; give a folder in the layout of diffusers.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BaseError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    raw = parse(text, path)
    if not isinstance(raw, dict):
        raise BaseError(f"{path} holds no settings.")
    try:
        sizes = msgspec.convert(raw, Sizes)
    except msgspec.ValidationError as error:
        words, _, place = str(error).partition(" - at `$")
        key = place.strip("`.").removesuffix("[...]") or "it"
        raise BaseError(f"{path} cannot be used: {key} {_wanted(words)}.") from error
    least = sizes.least_parameters()
    if weights is not None and weights.is_file() and least > os.path.getsize(weights):
        raise BaseError(
            f"{path} describes at least {least:,} parameters, more than {weights.name} holds with its "
            f"{os.path.getsize(weights):,} bytes; that file is cut short, or they do not belong together."
        )
    return raw


def check_modules(folder: Path, network) -> None:
    """Look at the configs of all modules and processors of the base in `folder`, as its settings name them."""
    for name in network.modules:
        files = network.module_files(name)
        if len(files) == 2 and (folder / files[0]).is_file():
            read_component(folder / files[0], folder / files[1])
    for name, (_, files) in network.processors.items():
        for file in files:
            if file.endswith(".json") and (folder / name / file).is_file():
                read_component(folder / name / file)


def _wanted(words: str) -> str:
    """ "is out of range: it must be int <= 512" of msgspec's "Expected `int` <= 512"."""
    return f"is not what it can be: {words[0].lower()}{words[1:]}".replace("`", "")
