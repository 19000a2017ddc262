"""dreampose-cli: a fashion photo and a dance become a video, with the method of DreamPose (arXiv 2304.06025).

The public interface of the package: each workflow is a function of one options object (docs/python.md). Names are
imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .cache import Cache
    from .errors import DreamposeError
    from .evaluation.scoring import Evaluation
    from .poses.extraction import ExtractionResult
    from .workflows.demo import demo
    from .workflows.edit import EditResult, edit
    from .workflows.evaluate import evaluate
    from .workflows.options import (
        DemoOptions,
        EditOptions,
        EvalOptions,
        PosesOptions,
        RenderOptions,
        SuiteOptions,
        TrainOptions,
        TuneOptions,
    )
    from .workflows.poses import poses as extract_poses
    from .workflows.render import RenderResult, render
    from .workflows.suite import suite
    from .workflows.train import TrainResult, train
    from .workflows.tune import TunedSubject, tune

__all__ = [
    "Cache",
    "DemoOptions",
    "DreamposeError",
    "EditOptions",
    "EditResult",
    "EvalOptions",
    "Evaluation",
    "ExtractionResult",
    "PosesOptions",
    "RenderOptions",
    "RenderResult",
    "SuiteOptions",
    "TrainOptions",
    "TrainResult",
    "TuneOptions",
    "TunedSubject",
    "__version__",
    "demo",
    "edit",
    "evaluate",
    "extract_poses",
    "render",
    "suite",
    "train",
    "tune",
]

_HOMES = {
    "Cache": ("cache", "Cache"),
    "demo": ("workflows.demo", "demo"),
    "edit": ("workflows.edit", "edit"),
    "evaluate": ("workflows.evaluate", "evaluate"),
    "extract_poses": ("workflows.poses", "poses"),
    "render": ("workflows.render", "render"),
    "suite": ("workflows.suite", "suite"),
    "train": ("workflows.train", "train"),
    "tune": ("workflows.tune", "tune"),
    "DreamposeError": ("errors", "DreamposeError"),
    "EditResult": ("workflows.edit", "EditResult"),
    "Evaluation": ("evaluation.scoring", "Evaluation"),
    "ExtractionResult": ("poses.extraction", "ExtractionResult"),
    "RenderResult": ("workflows.render", "RenderResult"),
    "TrainResult": ("workflows.train", "TrainResult"),
    "TunedSubject": ("workflows.tune", "TunedSubject"),
    **{name: ("workflows.options", name) for name in __all__ if name.endswith("Options")},
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
