"""Phase 2 (paper section 4.4): what is learned from a subject's views, by the network's tuning stages."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..bases.config import TuningSettings
from ..networks import lora
from ..networks.layout import lay_out
from ..networks.network import Network
from ..networks.storage import save_tensors
from ..reporting import Note, Progress
from ..sampling import derived_seed
from ..subjects.views import SubjectPhotos
from .autoencoder import ReconstructionTask
from .crops import CropSource
from .denoising import DenoisingTask
from .loop import LoopSettings, Task
from .memory import MemoryPlan, run_within_memory
from .predictions import predict_photos


def fit_subject(
    network: Network,
    views: SubjectPhotos,
    preset: TuningSettings,
    seed: int,
    autocast: str | None,
    checkpoints: Path | None,
    progress: Progress | None = None,
    note: Note | None = None,
    plan: MemoryPlan | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Tune `network` in place on `views`, by its tuning stages: the denoiser on random crops, then the decoder on full frames.

    Returns what makes the subject: for each module that learned its weights, or with `preset.lora_rank` what is added to
    them (`lora.merge`).
    """
    total = preset.steps + preset.decoder_steps
    plan = plan or MemoryPlan(checkpointing=preset.gradient_checkpointing)
    found: dict[str, dict[str, Tensor]] = {}
    before = 0
    for stage in network.tuning_stages:
        task: Task
        if stage.loss == "denoising":
            source = CropSource(network, views.pictures, views.poses, preset)
            task = DenoisingTask(network, source, stage.modules)
            steps, rate, batch, share = (
                preset.steps,
                preset.learning_rate,
                preset.batch_size,
                preset.weight_interpolation,
            )
        else:
            seen, own = (preset.decoder_views, preset.decoder_predictions) if preset.decoder_steps else (0, 0)
            predicted = predict_photos(network, views.pictures, views.poses, own) if own else None
            task = ReconstructionTask(network, views.pictures, stage.modules, seen, predicted)
            steps, rate, share = preset.decoder_steps, preset.decoder_learning_rate, 1.0
            batch = min(preset.decoder_batch_size, len(views.pictures))
        earlier = _put_aside(task, checkpoints) if share != 1 and not preset.lora_rank else {}
        updates: dict[str, lora.Updates] = {}
        if preset.lora_rank:
            for index, (part, module) in enumerate(task.modules.items()):
                updates[part] = lora.inject(module, preset.lora_rank, derived_seed(seed, index), stage.layers)
                lay_out(module, torch.channels_last)
        settings = LoopSettings(
            steps=steps, learning_rate=rate, batch_size=batch, seed=seed, autocast=autocast,
            decay=preset.decay, save_every=max(20, steps // 4), keep=1, eight_bit_adam=plan.eight_bit_adam,
        )  # fmt: skip

        report = functools.partial(_report, progress, stage.name, before, total)
        if steps:
            learning: Task = task if not updates else _Learning(task, updates)
            stored = checkpoints / stage.name if checkpoints else None
            result, plan = run_within_memory(learning, network, settings, plan, stored, report, note)
            if result.resumed_from and note:
                note(f"{stage.name}: resumed from step {result.resumed_from}.")
        for part, module in task.modules.items():
            if updates:
                found[part] = updates[part].tensors(share)
                lora.remove(module)
                lora.merge(module, found[part])
            else:
                if part in earlier:
                    _go_back(module, earlier[part](), 1 - share)
                found[part] = module.state_dict()
        before += steps
    return found


def _report(
    progress: Progress | None, name: str, before: int, whole: int, done: int, _total: int | None = None, text: str = ""
) -> None:
    if progress:
        progress(before + done, whole, f"{name}, {text}")


def _put_aside(task: Task, folder: Path | None) -> dict[str, Callable[[], dict[str, Tensor]]]:
    """For each of a task's modules what gives back its weights as they were before: from files in `folder`, which take no
    memory meanwhile, or without one from the CPU's memory."""
    found: dict[str, Callable[[], dict[str, Tensor]]] = {}
    for part, module in task.modules.items():
        tensors = dict(module.named_parameters())
        if folder is None:
            copies = {name: p.detach().to("cpu", copy=True) for name, p in tensors.items()}
            found[part] = functools.partial(dict, copies)
        else:
            file = folder / f"{part}-before.safetensors"
            save_tensors(tensors, file)
            found[part] = functools.partial(load_file, file)
    return found


@torch.no_grad()
def _go_back(module: nn.Module, earlier: dict[str, Tensor], share: float) -> None:
    """Move the weights of `module` towards what they were, by `share` of the way."""
    for name, parameter in module.named_parameters():
        parameter.lerp_(earlier[name].to(parameter), share)


class _Learning:
    """A task of which only the updates learn."""

    def __init__(self, task: Task, updates: Mapping[str, nn.Module]):
        self.load, self.loss, self.modules = task.load, task.loss, dict(updates)
