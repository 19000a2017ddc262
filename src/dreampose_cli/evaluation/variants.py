"""The rows of a suite's tables: the paper's Table 1, its ablations (Table 2), and its figures 7 and 12."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PHOTOS = (1, 3, 5, 7)  # figure 12
GUIDANCE = (1.0, 2.0, 4.0, 8.0)  # figure 7: each of the two, the other at the base's own
SMOOTHING = 5  # frames that "smoothed" averages


@dataclass(frozen=True)
class Variant:
    """One row of a table. kind: "copied", "untuned", "tuned", "smoothed" or "baseline"; base: its name among the run's bases,
    or baselines."""

    key: str
    title: str
    kind: str
    base: str = "base"
    photos: int = 1
    decoder: bool = True
    one_pose: bool = False
    image_guidance: float | None = None
    pose_guidance: float | None = None
    baseline: str | None = None  # the variant it is compared with

    @property
    def source(self) -> tuple[str, str, int]:
        """Variants that share this share what was tuned, but for the decoder."""
        return self.kind, self.base, self.photos


def variants_of(
    *,
    tuned: bool,
    ablations: bool,
    against: list[str],
    guidance: Mapping[str, float],
    baselines: Mapping[str, str] | None = None,
) -> list[Variant]:
    """The rows of a run, in order: the photo copied, untuned, tuned, the other bases, the baselines (what each row shows, by
    its name), then the ablations on the base itself."""
    rows = [Variant("copied", "the photo, copied", "copied"), Variant("untuned", "untuned", "untuned", baseline="copied")]
    main = "untuned"
    if tuned or ablations:
        main = "full"
        rows.append(Variant("full", "tuned, full", "tuned", baseline="untuned"))
    for name in against:
        if main == "full":
            rows.append(Variant(name, f"{name}, tuned", "tuned", base=name, baseline="full"))
        rows.append(Variant(f"{name}-untuned", f"{name}, untuned", "untuned", base=name, baseline="untuned"))
    for name, which in (baselines or {}).items():
        title = which if name == which else f"{name} ({which})"
        rows.append(Variant(name, title, "baseline", base=name, baseline="untuned"))
    if not ablations:
        return rows
    rows += [
        Variant("no-decoder", "no decoder tuning", "tuned", decoder=False, baseline="full"),
        Variant("repeated-pose", "five copies of one pose", "tuned", one_pose=True, baseline="full"),
        Variant("smoothed", f"smoothed over {SMOOTHING} frames", "smoothed", baseline="full"),
    ]
    rows += [Variant(f"photos-{n}", f"{n} photos", "tuned", photos=n, baseline="full") for n in PHOTOS if n > 1]
    for name, default in guidance.items():
        for value in GUIDANCE:
            if value != default:
                key = f"{name}-guidance-{value:g}"
                option: dict[str, Any] = {f"{name}_guidance": value}
                rows.append(Variant(key, f"{name} guidance {value:g}", "tuned", baseline="full", **option))
    return rows
