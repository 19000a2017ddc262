"""Which metrics there are, in words: their order, which way is better, and how each is defined. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError

SIZE = 256  # pixels of the shorter side: the paper's protocol
ALIGNMENTS = ("index", "time")
WINDOW = 16  # frames of one FVD sample


@dataclass(frozen=True)
class Metric:
    """One metric. better: "higher", "lower", or "one" for ratios to the reference; digits: decimals in tables."""

    key: str
    title: str
    better: str
    digits: int
    meaning: str

    def show(self, value: float | None) -> str:
        """The value as tables print it."""
        return "-" if value is None else f"{value:.{self.digits}f}"


METRICS = {
    metric.key: metric
    for metric in (
        Metric("l1", "L1", "lower", 4, "mean absolute difference of RGB in [0, 1]"),
        Metric("psnr", "PSNR", "higher", 2, "-10 log10 of the mean square difference, dB"),
        Metric("ssim", "SSIM", "higher", 4, "structural similarity, Gaussian window, sigma 1.5"),
        Metric("figure_l1", "figure L1", "lower", 4, "L1 on the body and two pixels around it"),
        Metric("figure_ssim", "figure SSIM", "higher", 4, "SSIM on the body and two pixels around it"),
        Metric("texture", "texture", "higher", 3, "share of the garments' texture that is there, in its place"),
        Metric("lpips_alex", "LPIPS (AlexNet)", "lower", 4, "learned perceptual distance 0.1 over AlexNet"),
        Metric("lpips_vgg", "LPIPS (VGG)", "lower", 4, "learned perceptual distance 0.1 over VGG-16"),
        Metric("vgg", "VGG", "lower", 4, "mean absolute difference of VGG-16 features, mean of five layers"),
        Metric("fid", "FID", "lower", 2, "Frechet distance of Inception features of frames"),
        Metric("fvd", "FVD", "lower", 2, f"Frechet distance of I3D logits of {WINDOW} frames"),
        Metric("aed", "AED", "lower", 4, "distance of person re-identification features"),
        Metric("clip", "CLIP", "higher", 4, "cosine of CLIP image embeddings"),
        Metric("clip_photo", "CLIP, photo", "higher", 4, "cosine of CLIP image embeddings of frame and photo"),
        Metric("clip_text", "CLIP, text", "higher", 4, "cosine of the CLIP embeddings of frame and prompt"),
        Metric("sharpness", "sharpness", "one", 3, "gradient energy over the reference's"),
        Metric("flicker", "flicker", "one", 3, "frame-difference energy over the reference's"),
        Metric("warp", "warp", "lower", 4, "colour change of a surface point from frame to frame"),
    )
}
POSE_METRICS = ("figure_l1", "figure_ssim", "texture", "warp")  # need the reference's poses, with body parts
NETWORK_METRICS = ("lpips_alex", "lpips_vgg", "vgg", "fid", "fvd", "clip_text", "clip", "clip_photo")
# Metrics that come out of the pass of another's network, where that one is there.
COMES_WITH = {"vgg": ("lpips_vgg",), "clip": ("clip_text",), "clip_photo": ("clip_text", "clip")}
PER_FRAME = (
    "l1", "psnr", "ssim", "figure_l1", "figure_ssim", "texture", "lpips_alex", "lpips_vgg", "vgg", "clip", "clip_photo",
    "clip_text", "sharpness", "warp",
)  # fmt: skip
NO_POSES = "no poses of the reference; give them with --poses"
TOO_FEW = "too few subjects to tell"
NO_AED = "no maintained library computes AED"


def difference_table(comparisons: list[dict], gap: str = " ") -> tuple[list[str], list[list[str]]]:
    """Titles and rows of a suite's comparisons: a row each, a column for each metric: the difference and what it is.

    gap: what stands between the difference and the verdict.
    """
    shown = [key for key in METRICS if any(c["metric"] == key for c in comparisons)]
    rows: dict[str, dict[str, str]] = {}
    for c in comparisons:
        digits = METRICS[c["metric"]].digits
        verdict = {"no difference": "=", TOO_FEW: "?"}.get(c["verdict"], c["verdict"])
        cell = f"{c['difference']:+.{digits}f} ± {c['spread']:.{digits}f}{gap}{verdict}"
        rows.setdefault(c["title"], {})[c["metric"]] = cell
    titles = [METRICS[key].title for key in shown]
    return titles, [[title, *(row.get(key, "") for key in shown)] for title, row in rows.items()]


@dataclass(frozen=True)
class Limit:
    """A metric that must not be under (or over) a value."""

    key: str
    value: float
    under: bool

    def broken_by(self, metrics: dict, reasons: dict) -> str | None:
        """The reason why these metrics fail, in words; None where they pass."""
        found = metrics[self.key]
        if found is None:
            if self.key == "psnr" and reasons.get("psnr") == "identical":
                return None if self.under else "psnr is without limit, since the frames are identical"
            return f"{self.key} is missing ({reasons.get(self.key, 'no reason')}), so it cannot be checked"
        if (found < self.value) if self.under else (found > self.value):
            return f"{self.key} is {found:.6g}, {'under' if self.under else 'over'} {self.value:g}"
        return None


def parse_limits(texts: list[str], *, under: bool) -> list[Limit]:
    """METRIC=VALUE as limits. UsageError for an unknown metric, no number, or a metric that is better the other way."""
    option, other = ("--fail-under", "--fail-over") if under else ("--fail-over", "--fail-under")
    limits = []
    for text in texts:
        key, _, number = text.partition("=")
        metric = METRICS.get(key.strip())
        if metric is None:
            raise UsageError(f"{option} {text!r} names no metric; choose one of {', '.join(METRICS)}.")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if value != value or value in (float("inf"), float("-inf")):
            raise UsageError(f"{option} is {text!r}, but must be METRIC=NUMBER, such as ssim=0.9.")
        if metric.better == ("lower" if under else "higher"):
            raise UsageError(f"{metric.key} is better when it is {metric.better}; use {other} {metric.key}={number}.")
        limits.append(Limit(metric.key, value, under))
    return limits


def parse_metrics(text: str | None) -> tuple[str, ...] | None:
    """A list such as "l1,ssim" as keys, "all" as all of them, None (what needs no download) as None."""
    if text is None:
        return None
    keys = [key.strip() for key in text.split(",") if key.strip()]
    if keys == ["all"]:
        return tuple(METRICS)
    unknown = next((key for key in keys if key not in METRICS), None)
    if unknown is not None or not keys:
        raise UsageError(f"there is no metric {unknown or text!r}; choose from {', '.join(METRICS)}, or all.")
    return tuple(key for key in METRICS if key in keys)


def parse_size(text: str) -> int | None:
    """A number of pixels, or None for "native"."""
    if text == "native":
        return None
    if not text.isdecimal() or not 16 <= int(text) <= 4096:
        raise UsageError(f"--size is {text!r}, but must be native or a number of pixels from 16 to 4096.")
    return int(text)
