"""Findings about this machine, one a line, each with a remedy where something is missing. Used by `doctor`."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..cache import VERSION as CACHE_VERSION
from ..cache import user_cache
from ..errors import DreamposeError
from ..version import __version__

NETWORK_SECONDS = 2.0
GB = 1e9
HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Finding:
    """`state` is "ok", "warning" (works, but) or "problem" (nothing works without); `remedy` is empty or what to do."""

    what: str
    state: str
    here: str
    remedy: str = ""


def examine() -> list[Finding]:
    """All findings, in the order in which they matter. Takes a few seconds, since it imports torch."""
    findings = [python(), *_guarded("torch", computing), memory(), cores(), *_guarded("ffmpeg", ffmpeg)]
    findings += _guarded("bases", bases) + _guarded("pose estimator", estimator) + _guarded("cache", cache_folder)
    return [*findings, disk(), hub(), *_guarded("recommended", recommended)]


def python() -> Finding:
    """The interpreter and this package."""
    return Finding("dreampose", "ok", f"{__version__} on Python {platform.python_version()}, {platform.platform(True)}")


def computing() -> list[Finding]:
    """torch and the devices it can use."""
    import torch

    findings = [Finding("torch", "ok", torch.__version__)]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        findings.append(Finding(f"cuda:{index}", "ok", f"{properties.name}, {properties.total_memory / GB:.1f} GB"))
    if torch.backends.mps.is_available():
        findings.append(Finding("mps", "ok", "Apple GPU"))
    if len(findings) == 1:
        if torch.version.cuda:
            remedy = f"torch is built for CUDA {torch.version.cuda}: look at the driver with nvidia-smi"
        else:
            remedy = "for an NVIDIA GPU install a CUDA build of torch (see pytorch.org); the CPU is enough for mini"
        findings.append(Finding("GPU", "warning", "none; computing on the CPU", remedy))
    return findings


def memory() -> Finding:
    """Main memory: the machine's, or the container's limit where that is lower."""
    total = memory_bytes()
    if total is None:
        return Finding("memory", "ok", "size unknown")
    remedy = "" if total > 4 * GB else "close other programs; `dreampose demo` needs about 3 GB"
    return Finding("memory", "warning" if remedy else "ok", f"{total / GB:.1f} GB", remedy)


def memory_bytes() -> int | None:
    """Bytes of main memory that this process may use; None where the system does not say."""
    sizes = []
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ValueError, OSError):  # "max" where there is no limit
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    return min(sizes, default=None)


def cores() -> Finding:
    """The CPU cores that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS")
    return Finding("CPU cores", "ok", f"{count}{f', OMP_NUM_THREADS={threads}' if threads else ''}")


def disk() -> Finding:
    """Free space where the cache is."""
    root = user_cache().root
    folder = next(path for path in (root, *root.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    remedy = "" if free > 2 * GB else "make room, for instance with `dreampose cache prune`"
    return Finding("disk", "warning" if remedy else "ok", f"{free / GB:.1f} GB free for the cache", remedy)


def ffmpeg() -> list[Finding]:
    """The ffmpeg that comes with imageio-ffmpeg, or the one IMAGEIO_FFMPEG_EXE names, and whether it writes H.264."""
    import imageio_ffmpeg

    remedy = "install imageio-ffmpeg again, or set IMAGEIO_FFMPEG_EXE to an ffmpeg with libx264"
    try:
        binary = imageio_ffmpeg.get_ffmpeg_exe()
        command = [binary, "-hide_banner", "-loglevel", "error", "-encoders"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (RuntimeError, OSError, subprocess.SubprocessError) as problem:
        return [Finding("ffmpeg", "problem", f"does not run ({type(problem).__name__})", remedy)]
    if "libx264" not in listed:
        return [Finding("ffmpeg", "problem", f"{binary} cannot write H.264", remedy)]
    return [Finding("ffmpeg", "ok", f"{Path(binary).name}, writes H.264")]


def bases() -> list[Finding]:
    """The bases, and which one is used without --base and why."""
    from ..bases.registry import MINI, default_base, list_bases, resolve_base

    cache = user_cache()
    found = list_bases(cache)
    if not found:
        return [Finding("bases", "problem", "none, not even mini", "install dreampose-cli again")]
    names = ", ".join(f"{entry.name} ({entry.kind})" for entry in found)
    try:
        default = default_base(cache)
        if not default.missing:
            resolve_base(cache, default.name)
    except DreamposeError as problem:
        return [Finding("bases", "warning", names, str(problem))]
    here = f"{names}; used by default: {default.name} ({default.why})"
    if default.missing:
        remedy = f"the first command downloads it; `dreampose base pull {default.name}` does so now"
        return [Finding("bases", "warning", f"{here}, which is not on this machine yet", remedy)]
    findings = [Finding("bases", "ok", here)]
    if default.name == MINI:
        remedy = "mini knows mannequins only; `dreampose base pull magicanimate` gets one, `base ls --remote` lists others"
        findings.append(Finding("base for people", "warning", "none", remedy))
    return findings


def estimator() -> list[Finding]:
    """Whether the bundled pose estimator loads."""
    from ..poses.estimator import load_estimator

    load_estimator(user_cache(), "mini", "cpu")
    return [Finding("pose estimator", "ok", "mini")]


def cache_folder() -> list[Finding]:
    """The cache folder: its version, its size, and whether it can be written to."""
    cache = user_cache()
    entries = cache.list_entries()
    probe = cache.ensure() / f".probe-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as problem:
        remedy = "make it writable, or set DREAMPOSE_CACHE to another folder"
        return [Finding("cache", "problem", f"{cache.root}: {problem.strerror}", remedy)]
    total = sum(entry.bytes for entry in entries)
    here = f"{cache.root}, format {CACHE_VERSION}, {len(entries)} entries, {total / 1e6:.0f} MB"
    broken = sum(1 for entry in entries if entry.broken)
    remedy = f"{broken} broken or unfinished: `dreampose cache prune` removes them" if broken else ""
    return [Finding("cache", "warning" if broken else "ok", here, remedy)]


def hub(environment: Mapping[str, str] = os.environ) -> Finding:
    """Whether the model hub can be reached. Nothing is asked of it: a socket is opened and closed, for two seconds."""
    home = environment.get("HF_HOME")
    where = f" (HF_HOME={home})" if home else ""
    if environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Finding("model hub", "ok", f"not used: HF_HUB_OFFLINE is set{where}")
    endpoint = urlsplit(environment.get("HF_ENDPOINT") or HUB)
    proxy = environment.get("HTTPS_PROXY") or environment.get("https_proxy")
    target = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else endpoint
    try:
        port = target.port or (443 if target.scheme == "https" else 80)
    except ValueError:
        return Finding("model hub", "warning", "an address without a valid port", "mend HF_ENDPOINT or HTTPS_PROXY")
    label = f"{endpoint.hostname}{f' through the proxy {target.hostname}' if proxy else ''}"
    if connects(target.hostname or "", port, NETWORK_SECONDS):
        return Finding("model hub", "ok", f"{label} answers{where}")
    remedy = "only needed for bases from the Hub; set HF_HUB_OFFLINE=1 to go without"
    return Finding("model hub", "warning", f"{label} does not answer{where}", remedy)


def connects(host: str, port: int, seconds: float) -> bool:
    """Whether a TCP connection opens within `seconds`; the thread is left behind where the name lookup hangs."""
    opened = threading.Event()

    def attempt() -> None:
        with contextlib.suppress(OSError, UnicodeError), socket.create_connection((host, port), timeout=seconds):
            opened.set()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return opened.is_set()


def recommended() -> list[Finding]:
    """Settings that suit this machine; the defaults (`auto`) choose the same device and format."""
    import torch

    from ..device import pick_device, pick_dtype

    device = pick_device("auto")
    dtype = str(pick_dtype("auto", device)).removeprefix("torch.")
    here = f"--device {device} --dtype {dtype} (the defaults)"
    if device.type == "cpu":
        return [Finding("recommended", "ok", f"{here}; stay with bases of mini's size")]
    if device.type == "cuda" and torch.cuda.get_device_properties(0).total_memory < 8 * GB:
        here += ", --batch-size 1 for bases of Stable Diffusion's size"
    return [Finding("recommended", "ok", here)]


def _guarded(what: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """The findings of `look`; where it fails, that is the finding."""
    try:
        return look()
    except DreamposeError as problem:
        return [Finding(what, "problem", "does not work", str(problem))]
    except Exception as problem:  # a doctor does not fall ill: whatever a broken installation raises is its finding
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        remedy = f"install dreampose-cli again in a fresh environment (Python {version})"
        return [Finding(what, "problem", f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}", remedy)]
