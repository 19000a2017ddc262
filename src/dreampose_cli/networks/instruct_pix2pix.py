"""A picture edited by an instruction: InstructPix2Pix (arXiv 2211.09800) through diffusers' own pipeline."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..errors import BaseError, UsageError
from ..media.photos import resize
from ..reporting import Progress
from .pretrained import quiet_libraries


def require_short(text: str, folder: Path, what: str = "instruction") -> None:
    """UsageError where the text encoder of the model in `folder` would read the beginning of `text` only."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokens, most = len(tokenizer(text, truncation=False).input_ids), tokenizer.model_max_length
    if tokens > most:
        raise UsageError(
            f"the {what} has {tokens} tokens and the model reads {most}, about {most * 2 // 3} words; shorten it."
        )


def edit_picture(
    folder: Path,
    picture: np.ndarray,
    instruction: str,
    *,
    guidance: float,
    image_guidance: float,
    steps: int,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None = None,
) -> np.ndarray:
    """`picture`, uint8 (H, W, 3), as `instruction` asks, at its size; the model in `folder` works at the size it was trained at.

    guidance weighs the instruction and image_guidance the picture, both from 1; noise is drawn on the CPU. Raises
    BaseError where the folder's files do not fit together.
    """
    pipeline = _load(folder, dtype).to(device)
    small = resize(picture, working_size(picture.shape[:2], pipeline.unet.config.sample_size * 8))

    def after_step(_pipeline: object, step: int, _time: object, tensors: dict) -> dict:
        if progress:
            progress(step + 1, steps, "steps of the edit")
        return tensors

    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        made = pipeline(
            instruction,
            image=small[None].astype(np.float32) / 255,
            num_inference_steps=steps,
            guidance_scale=guidance,
            image_guidance_scale=image_guidance,
            generator=generator,
            callback_on_step_end=after_step,
            output_type="np",
        ).images[0]
    return resize(np.rint(made * 255).astype(np.uint8), picture.shape[:2])


def working_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The (height, width) at which a picture is edited: multiples of 8, the longer one `side`."""
    scale = side / max(size)
    height, width = (max(8, round(length * scale / 8) * 8) for length in size)
    return height, width


def _load(folder: Path, dtype: torch.dtype):
    return load_pipeline("StableDiffusionInstructPix2PixPipeline", folder, dtype)


def load_pipeline(name: str, folder: Path, dtype: torch.dtype, **parts: object):
    """diffusers' pipeline class `name` from a local folder, with `parts` in place of its own, without a safety checker.

    Raises BaseError where the files do not fit together.
    """
    import diffusers

    build: Callable = getattr(diffusers, name).from_pretrained
    with quiet_libraries(), contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        try:
            pipeline = build(
                folder,
                torch_dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
                **parts,
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            text = " ".join(str(error).split())[:200]
            raise BaseError(f"{folder} cannot be loaded as {name}: {text}.") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
