"""Time, memory and disk of rendering and tuning, as ratios to the published procedure, measured side by side.

    python benchmarks/performance.py --output performance.json                     # mini, on this machine's CPU
    python benchmarks/performance.py --size sd14 --device cuda --output gpu.json   # random weights at full size
    python benchmarks/performance.py --size sd14 --only memory --frames 2 --output ram.json   # resident memory on a CPU

Measured next to one another, each in a process of its own: what `dreampose` does, and the published procedure written
down plainly from the same components (`Published` below): the photo encoded again for every frame, one frame at a time,
three network rows, PNDM with 100 steps, one picture after another to disk, and then the video; tuning in steps of one
sample, 500 of the network and 1500 of the decoder; poses estimated one picture at a time. Ratios are within one run of
this script. A held-out mannequin dances; quality is scored against the truth (with mini alone: random weights have
none). With `--size sd14` there is also the share of the device's measured matrix rate.

Beside wall-clock seconds there are the seconds that all threads of a process computed ("CPU seconds"): where others compute
on the same machine, only these mean something.

Sections (`--only` chooses): render, tune, subjects, poses, startup, scaling, variants (number formats, memory layout,
compiled blocks), floor, memory.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dreampose_cli.cache import user_cache

SECTIONS = ("render", "tune", "subjects", "poses", "startup", "scaling", "variants", "floor", "memory")
TIMES = "seconds|CPU seconds|seconds with process start|CPU seconds with process start"
PAPER_STEPS, PAPER_TUNE, PAPER_DECODER = 100, 500, 1500
SEED, CLIP = 2026, 3  # of the held-out dataset, with which nothing is trained


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--size", choices=("mini", "sd14"), default="mini", help="the base: mini, or random weights at SD 1.4's size")
    add("--base", type=Path, metavar="DIR", help="with --size mini, another base than the one that ships")
    add("--device", default="cpu")
    add("--dtype", default="auto", help="of what dreampose computes (default: auto)")
    add("--output", type=Path, help="where the figures go, as JSON")
    add("--only", action="append", choices=SECTIONS, help="this section; can be repeated (default: all but memory)")
    add("--frames", type=int, default=60, help="frames of the clip (default: 60)")
    add("--reference-frames", type=int, help="frames that the published procedure renders (default: all)")
    add("--reference-share", type=float, default=1.0, help="share of the published tuning steps to run (default: 1)")
    add("--repeats", type=int, default=1, help="runs of each, by turns; the median counts (default: 1)")
    add("--threads", type=int, help="threads to compute with")
    add("--work", type=Path, help="folder to work in and to keep, such as one that has a full-size base already")
    add("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


# ---- the published procedure


class Published:
    """The procedure of the published code, from our components: nothing is kept from one frame to the next."""

    def __init__(self, base: Path, device: str):
        import torch

        from dreampose_cli.networks.storage import load_base

        self.model = load_base(base, device=device)
        self.autocast = torch.autocast(device.split(":")[0], torch.float16, enabled=device.startswith("cuda"))

    def frame(self, picture, pose, window, steps: int):
        """One frame, uint8 (H, W, 3), for a pose window (n, 3, H, W)."""
        import torch

        from dreampose_cli.inference.denoise import prepare
        from dreampose_cli.sampling import clip_noise, make_sampler

        model = self.model
        with torch.no_grad(), self.autocast:
            photo = prepare(model, picture, pose)
            condition = model.condition(photo.reference, window[None])
            rows = condition.cat([condition.drop(True, True), condition.drop(False, True), condition])
            sampler = make_sampler("pndm", model.schedule)
            sampler.set_timesteps(steps)
            latents = clip_noise((model.latent_channels, *model.latent_size), 0).to(model.device)
            s_image, s_pose = (model.config.sampling.guidance[name] for name in ("image", "pose"))
            for timestep in sampler.timesteps:
                null, image, full = model.predict(latents.repeat(3, 1, 1, 1), timestep, rows)
                guided = null + s_image * (image - null) + s_pose * (full - image)
                latents = sampler.step(guided[None], timestep, latents).prev_sample
            return (model.decode(latents)[0].permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy()

    def tune(self, views, steps: int, decoder_steps: int) -> None:
        """UNet and adapter, then the decoder, a sample a step, encoded anew in each."""
        import torch

        from dreampose_cli.networks.network import pictures_to_tensor
        from dreampose_cli.training.autoencoder import reconstruction_loss
        from dreampose_cli.training.crops import CropSource
        from dreampose_cli.training.denoising import DenoisingTask
        from dreampose_cli.training.loop import LoopSettings, SampleRng

        model = self.model
        preset = dataclasses.replace(model.config.tuning, part_dropout=0.0, crop=0.85)
        source = CropSource(model, views.pictures, views.poses, preset)
        task = DenoisingTask(model, source, model.tuning_stages[0].modules)
        settings = LoopSettings(steps, 1e-5, 1)
        parameters = [p for module in task.modules.values() for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-5)
        for step in range(steps):
            with self.autocast:
                loss = task.loss(task.load([SampleRng.of(0, step)]), step, settings)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.vae.requires_grad_(False)
        model.vae.decoder.requires_grad_(True)
        optimizer = torch.optim.AdamW(model.vae.decoder.parameters(), lr=5e-5)
        target = pictures_to_tensor(views.pictures[:1], model.config.target_range).to(model.device)
        for _ in range(decoder_steps):
            with self.autocast:
                with torch.no_grad():
                    latents = model.encode(target).float()
                output = model.reconstruct(latents).float()
                loss = reconstruction_loss(output, target, model.vae_scale_factor)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        for module in model.modules.values():
            module.requires_grad_(False).eval()

    def save(self, folder: Path) -> int:
        """Its checkpoints, as plain float32 state dicts; bytes."""
        import torch

        for name, module in (("unet", self.model.unet), ("adapter", self.model.adapter), ("vae", self.model.vae)):
            torch.save(module.state_dict(), folder / f"{name}.pth")
        return sum(path.stat().st_size for path in folder.glob("*.pth"))


# ---- what runs in a process of its own


def work(spec: dict) -> dict:
    """One measurement in this process; times in seconds, memory in bytes."""
    import torch

    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    os.environ["DREAMPOSE_CACHE"] = spec["cache"]
    libraries()
    found = WORKERS[spec["kind"]](spec)
    if spec["device"].startswith("cuda"):
        found["device_memory"] = torch.cuda.max_memory_allocated()
    return {**found, "threads": torch.get_num_threads()}


def libraries() -> None:
    """Import what any measured process may need, in each of them: a process's resident memory is mostly that."""
    import dreampose_cli.workflows.tune  # noqa: F401

    command("cache", "dir")  # the command line's own


class Clock:
    """Wall-clock and CPU seconds since it was made; those of ended child processes (ffmpeg) count."""

    def __init__(self):
        self.wall, self.cpu = time.perf_counter(), sum(os.times()[:4])

    def read(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self.wall, "cpu_seconds": sum(os.times()[:4]) - self.cpu}


def command(*words) -> dict:
    """A dreampose command in this process, with its own document."""
    from dreampose_cli.__main__ import main

    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = main([*map(str, words), "--json", "--quiet"])
    if code:
        sys.exit(code)
    return json.loads(said.getvalue())


def _tune(spec: dict) -> dict:
    clock = Clock()
    words = ["tune", spec["photo"], "--base", spec["base"], "--poses", spec["photo_pose"], "--device", spec["device"]]
    document = command(*words, "--dtype", spec["dtype"], *spec.get("options", []))
    found = clock.read()
    weights = sum(path.stat().st_size for path in Path(document["path"]).glob("*.safetensors"))
    return {**found, "subject": document["id"], "bytes": weights}


def _render(spec: dict) -> dict:
    clock = Clock()
    who = ["--subject", spec["subject"]] if spec.get("subject") else ["--photo", spec["photo"], "--base", spec["base"]]
    words = ["render", "--poses", spec["poses"], "-o", spec["to"], "--device", spec["device"], "--overwrite"]
    document = command(*words, *who, "--dtype", spec["dtype"], *spec.get("options", []))
    return {**clock.read(), "frames": document["frames"], "settings": document["settings"]}


def _views(spec: dict):
    from dreampose_cli import media
    from dreampose_cli.bases.config import read_config
    from dreampose_cli.subjects.views import read_views

    config = read_config(Path(spec["base"]))
    photo = Path(spec["photo"])
    return read_views(
        user_cache(), config, [photo], [media.read_photo(photo)], [Path(spec["photo_pose"])], config.estimator, "cpu"
    )


def _published_tune(spec: dict) -> dict:
    views, published = _views(spec), Published(Path(spec["base"]), spec["device"])
    share, clock = spec["share"], Clock()
    published.tune(views, round(PAPER_TUNE * share), round(PAPER_DECODER * share))
    found = clock.read()
    not_run = {f"{name}_not_run": value * (1 / share - 1) for name, value in found.items()}
    found = {name: value / share for name, value in found.items()} | not_run
    folder = Path(spec["to"])
    folder.mkdir(exist_ok=True)
    return {**found, "bytes": published.save(folder), "share_of_steps": share}


def _published_render(spec: dict) -> dict:
    import numpy as np
    import torch
    from PIL import Image

    from dreampose_cli import media
    from dreampose_cli.inference.clip import pose_windows
    from dreampose_cli.poses.files import open_poses

    clock = Clock()
    views, published = _views(spec), Published(Path(spec["base"]), spec["device"])
    for name, module in (("unet", published.model.unet), ("adapter", published.model.adapter)):
        _load(module, spec, name)
    _load(published.model.vae, spec, "vae")
    poses, folder = open_poses(Path(spec["poses"])), Path(spec["to"])
    folder.mkdir(exist_ok=True)
    loop, count = Clock(), 0
    for i, window in enumerate(pose_windows(published.model, poses)):
        if i == spec["reference_frames"]:
            break
        frame = published.frame(views.pictures[0], views.poses[0], torch.as_tensor(np.asarray(window)), spec["steps"])
        Image.fromarray(frame).save(folder / f"{i:05d}.png")
        count += 1
    a_frame = {name: value / count for name, value in loop.read().items()}
    files = sorted(folder.glob("*.png"))
    media.write_frames(
        folder.with_suffix(".mp4"), (np.asarray(Image.open(file)) for file in files), fps=12.0, overwrite=True
    )
    left = len(poses) - count  # those that were not rendered would have cost what the others did
    whole = {name: value + a_frame[name] * left for name, value in clock.read().items()}
    not_run = {f"{name}_not_run": a_frame[name] * left for name in whole}
    return {**whole, **not_run, "frames": len(poses), "frames_measured": count}


def _load(module, spec: dict, name: str) -> None:
    import torch

    file = Path(spec["checkpoints"]) / f"{name}.pth" if spec.get("checkpoints") else None
    if file is not None:
        module.load_state_dict(torch.load(file, map_location=spec["device"], weights_only=True))


def _subjects(spec: dict) -> dict:
    """How long it takes to put each subject onto a base that is in memory already."""
    import torch

    from dreampose_cli.device import pick_device, pick_dtype
    from dreampose_cli.networks.model_cache import ModelCache
    from dreampose_cli.subjects.loading import find_subject, load_subject

    device = pick_device(spec["device"])
    model_cache, times = ModelCache(keep=True), {}
    load_subject(
        user_cache(),
        *find_subject(user_cache(), spec["subjects"]["full"], None),
        1,
        device,
        pick_dtype(spec["dtype"], device), model_cache)
    for _ in range(3):
        for name, token in spec["subjects"].items():
            started = time.perf_counter()
            load_subject(
                user_cache(),
                *find_subject(user_cache(), token, None),
                1,
                device,
                pick_dtype(spec["dtype"], device), model_cache)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.setdefault(name, []).append(time.perf_counter() - started)
    return {"seconds_to_load": {name: statistics.median(each) for name, each in times.items()}}


def _poses(spec: dict) -> dict:
    """The mini estimator, which is loaded first, on a video, as `dreampose poses`."""
    clock = Clock()
    document = command("poses", spec["video"], "-o", spec["to"], "--estimator", "mini", "--device", spec["device"])
    return {**clock.read(), "frames": document["frames"], "bytes": Path(spec["to"]).stat().st_size}


def _published_poses(spec: dict) -> dict:
    """The same estimator on the same video, one picture after the other, as `.npy` files."""
    import numpy as np

    from dreampose_cli import media
    from dreampose_cli.poses.estimator import load_estimator

    clock = Clock()
    estimator = load_estimator(user_cache(), "mini", spec["device"])
    folder = Path(spec["to"])
    folder.mkdir(exist_ok=True)
    for i, picture in enumerate(list(media.open_frames(spec["video"]))):
        np.save(folder / f"frame_{i}_densepose.npy", estimator.estimate([picture])[0][1:].astype(np.float64))
    return {**clock.read(), "bytes": sum(path.stat().st_size for path in folder.iterdir())}


def _scaling(spec: dict) -> dict:
    """Seconds of denoising and decoding by frames, steps, resolution and batch, and of tuning by steps, with the exponents
    fitted to each. Wall-clock seconds, and those of all threads."""
    import numpy as np
    import torch

    from dreampose_cli.device import pick_device, pick_dtype
    from dreampose_cli.inference.batch_plan import BatchPlan
    from dreampose_cli.inference.denoise import RenderSettings, prepare, render_frames
    from dreampose_cli.networks.storage import load_base
    from dreampose_cli.training.tuning import fit_subject
    from dreampose_cli.workflows.options import TuneOptions
    from dreampose_cli.workflows.tune import resolve_settings

    device = pick_device(spec["device"])
    dtype = pick_dtype(spec["dtype"], device)
    mini = spec["size"] == "mini"
    usual = 1 if device.type == "cpu" else 8  # frames at once

    def least(runs: list[dict]) -> dict:
        return min(runs, key=lambda run: run["cpu_seconds" if device.type == "cpu" else "seconds"])

    def seconds(model, photo, frames: int, batch: int = usual, **sampling) -> dict:
        height, width = model.config.resolution
        settings = RenderSettings.of(model, **sampling)
        windows = torch.zeros(frames, model.config.poses.count, 3, height, width)

        def render(some) -> dict:
            clock = Clock()
            for _frame in render_frames(model, photo, iter(some), settings, BatchPlan(batch)):
                pass
            return clock.read()

        render(windows[:batch])  # warms up
        return least([render(windows), render(windows)])

    def tuning(model, views, **steps) -> dict:
        preset = resolve_settings(model.config.tuning, TuneOptions([], **{"steps": 0, "decoder_steps": 0, **steps}))
        clock = Clock()
        fit_subject(model, views, preset, 0, None, None, None, None, thrift(preset))
        return clock.read()

    def thrift(preset):
        from dreampose_cli.training.memory import MemoryPlan

        return MemoryPlan.of(preset, device, "auto", None)

    def ready(model):
        height, width = model.config.resolution
        blank = np.zeros((3, height, width), np.float32)
        return model, prepare(model, np.zeros((height, width, 3), np.uint8), blank)

    model, photo = ready(load_base(Path(spec["base"]), device=device, dtype=dtype))
    few = {"steps": 4}
    rows = {
        "render, frames": {n: seconds(model, photo, n, **few) for n in (8, 16, 32, 64)},
        "render, steps": {n: seconds(model, photo, 8, steps=n) for n in (4, 8, 16, 32)},
        "render, frames at once (of 16)": {n: seconds(model, photo, 16, n, **few) for n in (1, 2, 4, 8, 16)},
    }
    found = {}
    for size in ((80, 64), (160, 128), (240, 192), (320, 256)) if mini else ((320, 256), (640, 512)):
        other, still = ready(_of_size(spec["size"], size, device, dtype))
        found[size[0] * size[1]] = seconds(other, still, 8, **few)
    rows["render, pixels"] = found
    if mini:
        views = _views(spec)
        tuning(model, views, steps=1, decoder_steps=1)  # warms up; time does not depend on what was learnt
        rows["tune, steps of the network"] = {n: tuning(model, views, steps=n) for n in (4, 8, 16)}
        rows["tune, steps of the decoder"] = {n: tuning(model, views, decoder_steps=n) for n in (10, 20, 40)}
    kinds = ("seconds", "cpu_seconds")
    fitted = {
        name: {kind: exponent({n: point[kind] for n, point in each.items()}) for kind in kinds}
        for name, each in rows.items()
    }
    return {"seconds_by": rows, "exponents": fitted}


def _variants(spec: dict) -> dict:
    """Seconds of eight frames at four steps as they are computed, and with one thing changed; the second of two runs."""
    import numpy as np
    import torch

    from dreampose_cli.device import pick_device, pick_dtype
    from dreampose_cli.inference.batch_plan import BatchPlan
    from dreampose_cli.inference.compilation import compile_blocks
    from dreampose_cli.inference.denoise import RenderSettings, prepare, render_frames
    from dreampose_cli.networks.storage import load_base

    device = pick_device(spec["device"])
    usual = pick_dtype(spec["dtype"], device)
    found = {}
    for name in ("as it is", "contiguous", "bfloat16", "rows one at a time", "compiled"):
        dtype = torch.bfloat16 if name == "bfloat16" else usual
        model = load_base(Path(spec["base"]), device=device, dtype=dtype)
        for module in (model.unet, model.vae):
            module.to(memory_format=torch.contiguous_format if name == "contiguous" else torch.channels_last)
        height, width = model.config.resolution
        blank = np.zeros((3, height, width), np.float32)
        photo = prepare(model, np.zeros((height, width, 3), np.uint8), blank)
        settings = RenderSettings.of(model, steps=4, sampler="ddim", guidance={"image": 2.0, "pose": 1.5})
        batch_plan = BatchPlan(8, rows=1 if name == "rows one at a time" else None)
        if name == "compiled":
            compile_blocks(model)
        runs = []
        for _ in range(3):
            clock = Clock()
            windows = torch.zeros(8, model.config.poses.count, 3, height, width)
            for _frame in render_frames(model, photo, iter(windows), settings, batch_plan):
                pass
            runs.append(clock.read())
        found[name] = {"first": runs[0], **min(runs[1:], key=lambda run: run["cpu_seconds"])}
    return {"variants": found}


def _of_size(kind: str, resolution: tuple[int, int], device, dtype):
    """The architecture at another resolution, with random weights: time does not depend on them."""
    from full_size import build_full_size

    from dreampose_cli.networks.dreampose.presets import MINI, PAPER, build_mini

    if kind == "mini":
        return build_mini(0, dataclasses.replace(MINI, resolution=resolution)).to(device, dtype)
    return build_full_size(device, dtype, dataclasses.replace(PAPER, name="sized", resolution=resolution))


def exponent(points: dict[int, float]) -> float:
    """b of seconds = a x^b by least squares in the logarithms."""
    x, y = [math.log(n) for n in points], [math.log(s) for s in points.values()]
    mx, my = statistics.fmean(x), statistics.fmean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def _floor(spec: dict) -> dict:
    """Floating-point operations of a frame, and how many a second this device does in one large matrix product."""
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from dreampose_cli.device import pick_device, pick_dtype
    from dreampose_cli.inference.denoise import RenderSettings, prepare, render_batch
    from dreampose_cli.networks.storage import load_base

    device = pick_device(spec["device"])
    dtype = pick_dtype(spec["dtype"], device)
    model = load_base(Path(spec["base"]), device=device, dtype=dtype)
    height, width = model.config.resolution

    def counted(function) -> int:
        with FlopCounterMode(display=False) as counter:
            function()
        return counter.get_total_flops()

    picture, pose = np.zeros((height, width, 3), np.uint8), np.zeros((3, height, width), np.float32)
    photo = prepare(model, picture, pose)
    windows = torch.zeros(1, model.config.poses.count, 3, height, width)
    plain = RenderSettings.of(model)
    frame = counted(lambda: render_batch(model, photo, windows, plain))
    once = counted(lambda: prepare(model, picture, pose))
    n = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, n, n, device=device, dtype=dtype)
    rates = []
    for _ in range(6):  # the best of several: others may compute here too
        clock = Clock()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken = clock.read()
        rates.append((2 * n**3 / taken["seconds"], 2 * n**3 / max(taken["cpu_seconds"], 1e-9)))
    rate, by_cpu = (max(each) for each in zip(*rates, strict=True))
    return {
        "flop_a_frame": frame, "flop_a_photo": once, "matrix_rate": rate, "matrix_rate_of_a_cpu_second": by_cpu,
        "dtype": str(dtype), "settings": dataclasses.asdict(plain), "floor_seconds_a_frame": frame / rate,
        "floor_cpu_seconds_a_frame": frame / by_cpu,
    }  # fmt: skip


WORKERS = {
    "tune": _tune,
    "render": _render,
    "published-tune": _published_tune,
    "published-render": _published_render,
    "subjects": _subjects,
    "poses": _poses,
    "published-poses": _published_poses,
    "scaling": _scaling,
    "variants": _variants,
    "floor": _floor,
}


# ---- the run


class Run:
    """The files that are measured with, and the processes that measure."""

    def __init__(self, chosen: argparse.Namespace, folder: Path):
        from dreampose_cli.bases.registry import bundled

        self.chosen, self.folder = chosen, folder
        self.base = (chosen.base or bundled()).absolute() if chosen.size == "mini" else self._full_size()
        self._draw()

    def _full_size(self) -> Path:
        import torch
        from full_size import build_full_size

        from dreampose_cli.networks.storage import save_base

        folder = self.folder / "full-size"
        if not (folder / "base.json").exists():
            torch.manual_seed(0)
            save_base(build_full_size("cpu", torch.bfloat16), folder)
        return folder

    def _draw(self) -> None:
        """A held-out mannequin's photo with its pose, and its dance as poses and as a video."""
        from PIL import Image

        from dreampose_cli import media
        from dreampose_cli.bases.config import read_config
        from dreampose_cli.mannequins.dance import draw_dance
        from dreampose_cli.mannequins.studio import perform
        from dreampose_cli.mannequins.subject import draw_subject
        from dreampose_cli.poses.files import PoseWriter
        from dreampose_cli.workflows.synth import FPS, plan_clip

        clip, frames = plan_clip(SEED, "test", CLIP), self.chosen.frames
        size = read_config(self.base).resolution
        shown = list(perform(draw_subject(clip.subject_seed), draw_dance(clip.dance_seed, frames, FPS), size))
        self.truth = [frame.picture for frame in shown]
        Image.fromarray(self.truth[0]).save(self.folder / "photo.png")
        for name, poses in (("photo.poses", shown[:1]), ("dance.poses", shown)):
            with PoseWriter(self.folder / name, size, FPS) as writer:
                for frame in poses:
                    writer.append(frame.pose)
        media.write_frames(self.folder / "dance.mp4", iter(self.truth), fps=FPS, overwrite=True)

    def measure(self, kind: str, **more) -> dict:
        """A worker in a process of its own: what it found, its wall-clock time and its peak of resident memory."""
        chosen = self.chosen
        spec = {
            "kind": kind, "base": str(self.base), "device": chosen.device, "dtype": chosen.dtype, "size": chosen.size,
            "threads": chosen.threads, "cache": str(self.folder / "cache"), "photo": str(self.folder / "photo.png"),
            "photo_pose": str(self.folder / "photo.poses"), "poses": str(self.folder / "dance.poses"),
            "video": str(self.folder / "dance.mp4"), **more,
        }  # fmt: skip
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, __file__, "--worker", json.dumps(spec)], stdout=subprocess.PIPE, text=True
        )
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        if process.returncode:
            sys.exit(f"the measurement {kind} failed with exit code {process.returncode}")
        unit = 1 if sys.platform == "darwin" else 1024
        found = json.loads(said.splitlines()[-1])
        print(f"{kind}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
        process = {
            "process_seconds": time.perf_counter() - started + found.get("seconds_not_run", 0.0),
            "process_cpu_seconds": usage.ru_utime + usage.ru_stime + found.get("cpu_seconds_not_run", 0.0),
        }
        return {**found, **process, "resident": usage.ru_maxrss * unit}

    def by_turns(self, **kinds: tuple[str, dict]) -> dict[str, dict]:
        """Every measurement `--repeats` times, by turns; the run of the median time of each."""
        runs: dict[str, list[dict]] = {name: [] for name in kinds}
        for _ in range(self.chosen.repeats):
            for name, (kind, more) in kinds.items():
                runs[name].append(self.measure(kind, **more))
        return {name: sorted(each, key=lambda one: one["cpu_seconds"])[len(each) // 2] for name, each in runs.items()}

    # ---- sections

    def tune(self) -> dict:
        before = {"share": self.chosen.reference_share, "to": str(self.folder / "published")}
        found = {"published": self.measure("published-tune", **before)}
        found["full"] = self.measure("tune", options=["--lora-rank", "0"])
        # With another seed: how a subject was made is not what it is, and it would not be made again.
        found["full, --memory low"] = self.measure(
            "tune", options=["--lora-rank", "0", "--memory", "low", "--seed", "1"]
        )
        found["rank 8"] = self.measure("tune", options=["--lora-rank", "8"])
        self.subject = found["full"]["subject"]
        self.found_subjects = {name: found[name]["subject"] for name in ("full", "rank 8")}
        for name in ("full", "full, --memory low", "rank 8"):
            found[name] |= ratios(found["published"], found[name])
            found[name]["smaller"] = found["published"]["bytes"] / found[name]["bytes"]
            found[name]["memory"] = found[name]["resident"] / found["published"]["resident"]
        return found

    def render(self) -> dict:
        if not hasattr(self, "subject"):
            self.subject = self.measure("tune")["subject"]
        checkpoints = self.folder / "published"
        published = {
            "to": str(self.folder / "before"), "steps": PAPER_STEPS,
            "reference_frames": self.chosen.reference_frames or self.chosen.frames,
            "checkpoints": str(checkpoints) if checkpoints.exists() else None,
        }  # fmt: skip
        ours = {"subject": self.subject, "to": f"{self.folder / 'after'}/"}
        video = {"subject": self.subject, "to": str(self.folder / "after.mp4")}
        pndm = ["--sampler", "pndm", "--steps", str(PAPER_STEPS)]
        found = self.by_turns(
            published=("published-render", published),
            default=("render", video),
            low=("render", {**video, "options": ["--memory", "low"]}),
            pndm_100=("render", {**ours, "to": f"{self.folder / 'pndm'}/", "options": pndm}),
        )
        for name in ("default", "low", "pndm_100"):
            found[name] |= ratios(found["published"], found[name])
            found[name]["memory"] = found[name]["resident"] / found["published"]["resident"]
            found[name]["cpu_seconds_a_frame"] = found[name]["cpu_seconds"] / found[name]["frames"]
            found[name]["seconds_a_frame"] = found[name]["seconds"] / found[name]["frames"]
        if self.chosen.size == "mini":
            self.measure("render", **ours)  # the same as pictures, to score what H.264 has not touched
            for name, folder in (("published", "before"), ("default", "after"), ("pndm_100", "pndm")):
                found[name]["quality"] = self._score(self.folder / folder)
        return found

    def _score(self, folder: Path) -> dict:
        import numpy as np

        from dreampose_cli import media
        from dreampose_cli.evaluation import metrics

        made = np.stack(list(media.open_frames(folder)))
        pair = made, np.stack(self.truth[: len(made)])
        return {
            "ssim": metrics.mean(metrics.ssim(*pair)), "l1": metrics.mean(metrics.l1(*pair)),
            "sharpness": metrics.mean(metrics.sharpness(*pair)), "flicker": metrics.flicker(*pair),
        }  # fmt: skip

    def subjects(self) -> dict:
        if not hasattr(self, "found_subjects"):
            few = ["--steps", "0", "--decoder-steps", "0"]  # loading takes the same time whatever was learned
            ranks = {"full": "0", "rank 8": "8"}
            self.found_subjects = {
                name: self.measure("tune", options=[*few, "--lora-rank", rank])["subject"]
                for name, rank in ranks.items()
            }
        return self.measure("subjects", subjects=self.found_subjects)

    def poses(self) -> dict:
        (self.folder / "estimated.poses").unlink(missing_ok=True)
        published = self.measure("published-poses", to=str(self.folder / "estimated"))
        ours = self.measure("poses", to=str(self.folder / "estimated.poses"))
        return {**ours, **ratios(published, ours), "published": published}

    def startup(self) -> dict:
        def seconds(*words: str) -> float:
            times = []
            for _ in range(5):
                started = time.perf_counter()
                subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
                times.append(time.perf_counter() - started)
            return statistics.median(times)

        help_page, imports = (
            seconds("-m", "dreampose_cli", "--help"),
            seconds("-c", "import dreampose_cli.workflows.render"),
        )
        return {"help": help_page, "import of what renders": imports, "python": seconds("-c", "pass")}

    def scaling(self) -> dict:
        return self.measure("scaling")

    def variants(self) -> dict:
        return self.measure("variants")

    def floor(self) -> dict:
        return self.measure("floor")

    def memory(self) -> dict:
        """The peak of one frame at one step, and of one step of a low-rank subject's two phases, with little memory and with
        all that a CPU's default takes; in bfloat16 at full size."""
        number = ["--dtype", "bfloat16"] if self.chosen.size == "sd14" and self.chosen.dtype == "auto" else []
        frame = ["--photo-pose", str(self.folder / "photo.poses"), "--steps", "1", "--end", "0.05", *number]
        step = ["--lora-rank", "8", "--steps", "1", "--decoder-steps", "1", "--batch-size", "1", *number]
        found = {}
        for how in ("low", "auto"):
            more = ["--memory", how]
            found[f"render one frame, {how}"] = self.measure(
                "render", to=f"{self.folder / 'one'}/", options=[*frame, *more]
            )
        found["tune one step, rank 8, low"] = self.measure("tune", options=[*step, "--memory", "low"])
        weights = sum(path.stat().st_size for path in self.base.rglob("*.safetensors"))
        return {"weights": weights, **found}


def ratios(published: dict, ours: dict) -> dict[str, float]:
    """How many times the published procedure takes what ours takes."""
    keys = ("seconds", "cpu_seconds", "process_seconds", "process_cpu_seconds")
    return {f"{key}_ratio": published[key] / ours[key] for key in keys}


# ---- words


def tables(results: dict) -> str:
    """The figures as Markdown."""
    lines = []

    def say(header: str, rows: list[list[str]]) -> None:
        columns = header.split("|")
        lines.extend(["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)])
        lines.extend("| " + " | ".join(row) + " |" for row in rows)

    def megabytes(count: float) -> str:
        return f"{count / 1e6:,.1f} MB" if count < 1e8 else f"{count / 1e6:,.0f} MB"

    def peak(one: dict) -> str:
        ratio = f" ({one['memory']:.2f} x)" if "memory" in one and "device_memory" not in one else ""
        return megabytes(one.get("device_memory", one["resident"])) + ratio

    def times(one: dict) -> list[str]:
        def cell(key: str) -> str:
            return f"{one[key]:.1f}" + (f" ({one[f'{key}_ratio']:.1f} x)" if f"{key}_ratio" in one else "")

        return [cell(key) for key in ("seconds", "cpu_seconds", "process_seconds", "process_cpu_seconds")]

    if found := results.get("render"):
        names = {
            "published": "published",
            "pndm_100": "dreampose, PNDM 100",
            "default": "dreampose, default",
            "low": "dreampose, --memory low",
        }
        rows = []
        for name, words in names.items():
            one = found[name]
            quality = one.get("quality", {})
            scores = [f"{quality[key]:.3f}" if quality else "-" for key in ("ssim", "l1", "sharpness", "flicker")]
            rows.append([words, *times(one), peak(one), *scores])
        frames = found["default"]["frames"]
        say(
            f"render, {frames} frames|{TIMES}|peak memory|SSIM|L1|sharpness|flicker",
            rows,
        )
    if found := results.get("tune"):
        rows = []
        for name, one in found.items():
            smaller = f"{one['smaller']:.1f} x" if "smaller" in one else "1"
            rows.append([name, *times(one), peak(one), megabytes(one["bytes"]), smaller])
        say(f"tune|{TIMES}|peak memory|disk|smaller", rows)
    if found := results.get("subjects"):
        say(
            "subject onto a base in memory|seconds",
            [[name, f"{value:.3f}"] for name, value in found["seconds_to_load"].items()],
        )
    if found := results.get("poses"):
        names = {"published (one at a time, .npy)": found["published"], "dreampose": found}
        rows = [[name, *times(one), peak(one), megabytes(one["bytes"])] for name, one in names.items()]
        say(f"poses, {found['frames']} frames|{TIMES}|peak memory|disk", rows)
    if found := results.get("startup"):
        say("start|seconds", [[name, f"{value:.2f}"] for name, value in found.items()])
    if found := results.get("scaling"):
        rows = []
        for name, each in found["seconds_by"].items():
            cells = [name]
            for kind in ("seconds", "cpu_seconds"):
                cells.append(", ".join(f"{n}: {point[kind]:.3g}" for n, point in each.items()))
                cells.append(f"{found['exponents'][name][kind]:.2f}")
            rows.append(cells)
        say("scaling with|seconds|exponent|CPU seconds|exponent", rows)
    if found := results.get("variants"):
        rows = [
            [name, *(f"{one[key]:.2f}" for key in ("seconds", "cpu_seconds")), f"{one['first']['seconds']:.2f}"]
            for name, one in found["variants"].items()
        ]
        say("8 frames, 4 steps, 3 rows|seconds|CPU seconds|the first time", rows)
    if found := results.get("floor"):
        kind = "seconds" if "device_memory" in found else "cpu_seconds"  # of a CPU that others use too
        rate = found["matrix_rate" if kind == "seconds" else "matrix_rate_of_a_cpu_second"]
        floor, unit = found[f"floor_{kind}_a_frame"], kind.replace("cpu_seconds", "CPU second").rstrip("s")
        rows = [
            ["a frame at the default settings", f"{found['flop_a_frame'] / 1e9:,.1f} GFLOP"],
            ["one large matrix product", f"{rate / 1e9:,.0f} GFLOP a {unit}"],
            ["floor", f"{floor:.4f} {unit}s a frame"],
        ]
        if "render" in results:
            real = results["render"]["default"][f"{kind}_a_frame"]
            rows.append(["a frame, all told", f"{real:.4f} {unit}s, {real / floor:.1f} times the lower bound"])
        say("floor|", rows)
    if found := results.get("memory"):
        rows = [["weights on disk", megabytes(found["weights"])]]
        rows += [[name, peak(one)] for name, one in found.items() if name != "weights"]
        say("peak memory|", rows)
    return "\n".join(lines).strip() + "\n"


def main(argv: list[str] | None = None) -> int:
    chosen = arguments(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if chosen.worker:
        print(json.dumps(work(json.loads(chosen.worker))))
        return 0
    sections = chosen.only or [name for name in SECTIONS if name != "memory"]
    with contextlib.ExitStack() as stack:
        if chosen.work:
            chosen.work.mkdir(parents=True, exist_ok=True)
            folder = chosen.work
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dreampose-performance-")))
        run = Run(chosen, folder)
        results = {
            "settings": {key: str(value) for key, value in vars(chosen).items() if value is not None},
            "machine": {"cores": os.cpu_count()},
        }
        for name in sorted(sections, key=("tune", *SECTIONS).index):  # what is rendered is tuned first
            results[name] = getattr(run, name)()
            if chosen.output:
                chosen.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(tables(results), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
