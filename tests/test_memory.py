"""Working within the memory there is: what is planned, what happens when it runs out, and what overlaps with what."""

import dataclasses
import threading
import time

import numpy as np
import pytest
import torch

from dreampose_cli import media
from dreampose_cli.cache import user_cache
from dreampose_cli.device import free_bytes, is_out_of_memory
from dreampose_cli.errors import OutOfMemoryError, UsageError
from dreampose_cli.inference import batch_plan as memory
from dreampose_cli.inference.batch_plan import SMALLEST, BatchPlan, plan
from dreampose_cli.inference.clip import pose_windows
from dreampose_cli.inference.denoise import RenderSettings, prepare, render_frames
from dreampose_cli.networks.storage import load_base
from dreampose_cli.poses.files import open_poses
from dreampose_cli.prefetch import THREAD, prefetch
from dreampose_cli.subjects.views import read_views
from dreampose_cli.training import memory as memory_module
from dreampose_cli.training.memory import MemoryPlan
from dreampose_cli.training.tuning import fit_subject
from dreampose_cli.workflows import render as rendering
from dreampose_cli.workflows.options import RenderOptions, TuneOptions
from dreampose_cli.workflows.tune import resolve_settings, tune
from footprint import Peak

GIGABYTE = 10**9


@pytest.fixture
def base(tiny_base):
    return load_base(tiny_base)


@pytest.fixture
def poses(clip):
    return open_poses(clip / "video.poses")


@pytest.fixture
def photo(clip):
    return clip / "frames" / "00000.png"


def frames_of(base, poses, photo, settings, batch_plan, **options):
    prepared = prepare(base, media.read_photo(photo), poses.frame(0))
    made = render_frames(base, prepared, pose_windows(base, poses), settings, batch_plan, **options)
    return np.stack(list(made)).astype(int)


def hungry(module, most):
    """Let a module run out of memory for more than `most` rows; returns the sizes that it was called with."""
    sizes, inner = [], module.forward

    def forward(*args, **kwargs):
        sizes.append(len(args[0]))
        if len(args[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return inner(*args, **kwargs)

    module.forward = forward
    return sizes


# ---- what is planned


def test_batches_follow_what_is_free(base, monkeypatch):
    row, decode = memory.row_bytes(base), memory.decode_bytes(base)

    def with_free(amount, rows=3, **options):
        monkeypatch.setattr(memory, "free_bytes", lambda device: amount)
        return plan(base, rows, **options)

    assert with_free(100 * GIGABYTE) == BatchPlan(4, None, 4)
    assert with_free((3 * 3 * row + 1) / memory.MARGIN).frames == 3
    assert with_free(0) == BatchPlan(1, 1, 1)
    assert with_free(1.5 * row / memory.MARGIN).rows == 1  # not even the rows of one frame
    little = with_free((2 * decode + 1) / memory.MARGIN, rows=1)
    assert little.decoded <= 2
    assert with_free(0, memory="low") == SMALLEST
    assert with_free(0, batch_size=6) == BatchPlan(6, None, 4)
    with pytest.raises(UsageError, match="leave out --batch-size 2"):
        with_free(0, memory="low", batch_size=2)
    with pytest.raises(UsageError, match="no memory 'some'"):
        with_free(0, memory="some")


def test_batches_shrink_to_the_smallest():
    batch_plan, seen = BatchPlan(8), []
    while batch_plan:
        seen.append(batch_plan)
        batch_plan = batch_plan.smaller()
    assert seen[-1] == SMALLEST and len(seen) == 6
    assert str(SMALLEST) == "1 frame at once, one UNet row at a time, 1 decoded at once"


def test_free_memory_is_that_of_this_machine():
    assert 10**8 < free_bytes(torch.device("cpu")) < 10**14


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_out_of_memory_is_known_by_its_words(error, expected):
    assert is_out_of_memory(error) is expected


# ---- rendering


@pytest.mark.parametrize("sampler", [pytest.param("pndm", marks=pytest.mark.slow), "dpm++-sde"])
def test_batches_do_not_change_a_frame(base, poses, photo, sampler):
    settings = RenderSettings(sampler, 4, {"image": 2.0, "pose": 1.5}, seed=4)
    one, many = (frames_of(base, poses, photo, settings, p) for p in (SMALLEST, BatchPlan(5, None, 2)))
    assert np.abs(one - many).max() <= 1
    uneven = frames_of(base, poses, photo, settings, BatchPlan(5, 1, 3, even=True))
    assert np.abs(one - uneven).max() <= 1


def test_out_of_memory_leads_to_smaller_batches_and_the_same_frames(base, poses, photo):
    settings = RenderSettings("ddim", 2, {"image": 2.0, "pose": 1.5})
    expected = frames_of(base, poses, photo, settings, BatchPlan(4))
    sizes, notes = hungry(base.unet, 4), []
    found = frames_of(base, poses, photo, settings, BatchPlan(4), note=notes.append)
    assert np.abs(found - expected).max() <= 1
    assert sizes[0] == 12 and max(sizes[3:]) == 3  # 4 and 2 frames of three rows failed, one did not
    assert "ran out of memory; continuing with 1 frame at once" in notes[-1]


def test_rows_go_one_at_a_time_where_three_do_not_fit(base, poses, photo):
    settings = RenderSettings("ddim", 2, {"image": 2.0, "pose": 1.5})
    expected = frames_of(base, poses, photo, settings, BatchPlan(1))
    sizes, notes = hungry(base.unet, 1), []
    found = frames_of(base, poses, photo, settings, BatchPlan(1, decoded=1), note=notes.append)
    assert np.abs(found - expected).max() <= 1
    assert sizes[0] == 3 and set(sizes[1:]) == {1}
    assert "one UNet row at a time" in notes[0]


def test_too_little_memory_for_one_row_is_a_sentence(base, poses, photo):
    hungry(base.unet, 0)
    with pytest.raises(OutOfMemoryError, match="too little memory for one frame of 32x48"):
        frames_of(base, poses, photo, RenderSettings("ddim", 2, {"image": 2.0, "pose": 1.5}), BatchPlan(8))


def test_other_errors_are_not_mistaken_for_too_little_memory(base, poses, photo):
    def broken(*args, **kwargs):
        raise RuntimeError("shapes do not match")

    base.unet.forward = broken
    with pytest.raises(RuntimeError, match="shapes do not match"):
        frames_of(base, poses, photo, RenderSettings("ddim", 2, {"image": 2.0, "pose": 1.5}), BatchPlan(8))


@pytest.mark.parametrize(
    ("interval", "rows"), [((0.0, 1.0), 3 * 5), ((0.4, 1.0), 3 * 3 + 2), ((0.0, 0.5), 3 * 2 + 3), ((0.3, 0.5), 3 + 4)]
)
def test_guidance_in_an_interval_computes_fewer_rows(base, poses, photo, interval, rows):
    sizes = hungry(base.unet, 100)
    settings = RenderSettings("ddim", 5, {"image": 2.0, "pose": 1.5}, guidance_interval=interval)
    frames = frames_of(base, poses, photo, settings, BatchPlan(8))
    assert len(frames) == 8 and sum(sizes) == 8 * rows  # trailing timesteps: 999, 799, 599, 399, 199


def test_without_guidance_an_interval_changes_nothing(base, poses, photo):
    settings = RenderSettings("ddim", 3, {"image": 1.0, "pose": 1.0})
    within = dataclasses.replace(settings, guidance_interval=(0.2, 0.6))
    plain, within = (frames_of(base, poses, photo, each, BatchPlan(8)) for each in (settings, within))
    assert np.array_equal(plain, within)


def test_render_with_little_memory_and_with_the_compiler_left_out(tiny_base, clip, photo, tmp_path):
    options = {"photo": photo, "photo_pose": clip / "video.poses", "base": str(tiny_base), "steps": 2}
    notes = []

    def frames(name, **more):
        rendering.render(
            RenderOptions(poses=[clip / "video.poses"], output=f"{tmp_path / name}/", **options, **more),
            note=notes.append,
        )
        return np.stack(list(media.open_frames(tmp_path / name))).astype(int)

    assert np.abs(frames("auto") - frames("low", memory="low")).max() <= 1
    with pytest.raises(UsageError, match="--memory low renders one frame at a time"):
        frames("both", memory="low", batch_size=4)
    assert not (tmp_path / "both").exists()


def test_compiling_is_left_out_where_it_does_not_pay(tiny_base, clip, photo, tmp_path, monkeypatch):
    from dreampose_cli.inference import compilation as job

    monkeypatch.setattr(job, "require_compiler", lambda device: None)
    monkeypatch.setattr(job, "compile_blocks", None)
    notes = []
    rendering.render(
        RenderOptions(
            poses=[clip / "video.poses"],
            output=tmp_path / "a.gif",
            photo=photo,
            photo_pose=clip / "video.poses",
            base=str(tiny_base),
            steps=2,
            compile=True,
        ),
        note=notes.append,
    )
    assert any("--compile is left out" in note for note in notes)


def test_a_missing_compiler_is_a_usage_error(monkeypatch):
    from dreampose_cli.inference.compilation import require_compiler

    def broken(function):
        raise RuntimeError("No working C++ compiler found\n")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler.*No working"):
        require_compiler(torch.device("cpu"))
    with pytest.raises(UsageError, match="not on mps"):
        require_compiler(torch.device("mps"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_compiled_blocks_compute_the_same(tiny_base, base, poses, photo):
    from dreampose_cli.inference.compilation import compile_blocks, require_compiler

    try:
        require_compiler(torch.device("cpu"))
    except UsageError as error:
        pytest.skip(str(error))
    settings = RenderSettings("ddim", 3, {"image": 2.0, "pose": 1.5})
    expected = frames_of(base, poses, photo, settings, BatchPlan(4))
    compile_blocks(base)
    found = frames_of(base, poses, photo, settings, BatchPlan(4, even=True))
    assert np.abs(found - expected).max() <= 1


# ---- ahead


def test_work_goes_on_while_results_are_taken():
    made = []

    def make(check):
        for i in range(6):
            check()
            made.append(i)
            yield i

    results = prefetch(make, 2)
    assert next(results) == 0
    deadline = time.monotonic() + 30
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 3 <= len(made) <= 4  # two wait, one more may be on its way
    assert list(results) == [1, 2, 3, 4, 5]


def test_what_is_raised_ahead_is_raised_here():
    def make(check):
        yield 1
        raise ValueError("no more")

    results = prefetch(make, 4)
    assert next(results) == 1
    with pytest.raises(ValueError, match="no more"):
        next(results)


def test_whoever_leaves_ends_the_work():
    ended = threading.Event()

    def make(check):
        try:
            while True:
                check()
                yield 0
        finally:
            ended.set()

    results = prefetch(make, 1)
    next(results)
    results.close()
    assert ended.wait(30)
    assert not any(thread.name.startswith(THREAD) for thread in threading.enumerate())


def test_frames_are_read_ahead_in_their_order_and_no_further():
    read = []

    def frames(check):
        for i in range(20):
            read.append(i)
            yield i

    ahead = prefetch(frames, 2)
    assert next(ahead) == 0
    time.sleep(0.2)
    assert len(read) <= 4
    assert list(ahead) == list(range(1, 20))
    ahead = prefetch(frames, 2)
    next(ahead)
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(THREAD)]


def test_what_the_work_has_entered_is_left_in_its_own_thread():
    left = []

    def make(check):
        entered = threading.current_thread()
        try:
            while True:
                yield 0
        finally:
            left.append((entered, threading.current_thread()))

    results = prefetch(make, 1)
    next(results)
    results.close()
    [(entered, where)] = left
    assert entered is where is not threading.main_thread()


# ---- tuning


def subject_of(base, clip, photo, plan, batch=4):
    config = base.config
    preset = dataclasses.replace(
        resolve_settings(config.tuning, TuneOptions([], steps=2, decoder_steps=1, batch_size=batch)),
        decay=0.0,
        decoder_predictions=0,  # the rows that are counted are those of the steps
    )
    views = read_views(user_cache(), config, [photo], [media.read_photo(photo)], [clip / "video.poses"], config.estimator, "cpu")
    notes = []
    tuned = fit_subject(base, views, preset, 0, None, None, None, notes.append, plan)
    return {f"{part}.{name}": value for part, each in tuned.items() for name, value in each.items()}, notes


def differ(one, other):
    """By how much two sets of weights differ at most, as a share of what tuning at this rate can change."""
    return max(float((one[name] - other[name]).abs().max()) for name in one) / 1.5e-4


def test_sparing_memory_changes_nothing_but_rounding(tiny_base, clip, photo):
    plain, _ = subject_of(load_base(tiny_base), clip, photo, MemoryPlan())
    sparing, _ = subject_of(load_base(tiny_base), clip, photo, MemoryPlan(checkpointing=True, parts=4))
    untuned = {f"unet.{name}": value for name, value in load_base(tiny_base).unet.state_dict().items()}
    assert differ(untuned, plain) > 0.5
    moved = [name for name in untuned if not torch.equal(untuned[name], plain[name])]
    close = [torch.allclose(plain[n] - untuned[n], sparing[n] - untuned[n], atol=3e-5) for n in moved]
    assert np.mean(close) > 0.9  # Adam's first steps go by the sign alone, and the sign of nothing is rounding


def test_memory_is_spared_where_that_is_asked_for(tiny_base):
    preset = dataclasses.replace(load_base(tiny_base).config.tuning, batch_size=4)
    cpu = torch.device("cpu")
    assert MemoryPlan.of(preset, cpu, "auto", None) == MemoryPlan()
    assert MemoryPlan.of(preset, cpu, "low", None) == MemoryPlan(checkpointing=True, parts=4)


@pytest.mark.slow
def test_blended_weights_are_the_same_whether_the_old_ones_are_in_memory_or_in_files(tiny_base, clip, photo, tmp_path):
    results = []
    for folder in (None, tmp_path):
        base = load_base(tiny_base)
        preset = resolve_settings(base.config.tuning, TuneOptions([], steps=2, decoder_steps=0))
        preset = dataclasses.replace(preset, weight_interpolation=0.25)
        views = read_views(user_cache(),
            base.config, [photo], [media.read_photo(photo)], [clip / "video.poses"], base.config.estimator, "cpu"
        )
        results.append(fit_subject(base, views, preset, 0, None, folder))
    assert (tmp_path / "unet-before.safetensors").exists()
    original = load_base(tiny_base).unet.state_dict()
    in_memory, in_files = (each["unet"] for each in results)
    assert all(torch.equal(in_memory[name], in_files[name]) for name in original)
    assert any(not torch.equal(in_files[name], value) for name, value in original.items())


def test_running_out_of_memory_spares_more(tiny_base, clip, photo):
    base = load_base(tiny_base)
    sizes = hungry(base.unet, 2)
    _, notes = subject_of(base, clip, photo, MemoryPlan())
    assert sizes == [4, 4, 2, 2, 2, 2]  # with checkpointing, then in two parts, in two steps
    assert "continuing with activations computed twice" in notes[0] and "2 parts a step" in notes[1]


def test_tuning_that_cannot_fit_is_a_sentence(tiny_base, clip, photo):
    base = load_base(tiny_base)
    hungry(base.unet, 0)
    with pytest.raises(OutOfMemoryError, match="too little memory to tune"):
        subject_of(base, clip, photo, MemoryPlan())


def test_what_will_not_fit_is_spared_from_the_beginning(tiny_base, clip, photo, monkeypatch):
    monkeypatch.setattr(memory_module, "free_bytes", lambda device: 0)
    base, on = load_base(tiny_base), []
    monkeypatch.setattr(base.unet, "enable_gradient_checkpointing", lambda: on.append("unet"))
    subject_of(base, clip, photo, MemoryPlan())
    assert on == ["unet", "unet"]  # in both phases


def test_a_tune_of_a_low_rank_subject_with_little_memory(tiny_base, clip, photo):
    subject = tune(
        TuneOptions([photo], base=str(tiny_base), poses=[clip / "video.poses"], lora_rank=2, memory="low", steps=2)
    )
    assert not subject.cached
    again = tune(TuneOptions([photo], base=str(tiny_base), poses=[clip / "video.poses"], lora_rank=2, steps=2))
    assert again.cached and again.id == subject.id  # how it was made is not what it is


# ---- the budget at Stable Diffusion's size


def test_the_peak_is_what_was_alive_together():
    weight = torch.ones(1000, 1000)
    with Peak(weight) as peak:
        a = weight * 2
        b = a + 1
        del a
        c = b.view(-1)[:10]
        d = b * c.sum()
        del b, c, d
        weight.add_(1)
    assert 8e6 <= peak.bytes <= 8e6 + 1000


@pytest.mark.slow
def test_render_needs_what_is_planned_with():
    from full_size import build_full_size
    from torch._subclasses.fake_tensor import FakeTensorMode

    from dreampose_cli.networks.dreampose.conditioning import DreamPoseCondition

    with FakeTensorMode(), torch.inference_mode():
        base = build_full_size("cpu", torch.bfloat16)
        with Peak(*base.modules.values()) as row:
            condition = DreamPoseCondition(
                torch.empty(1, 50, 768), torch.empty(1, 10, 80, 64), torch.empty(1, 0, 80, 64)
            )
            base.predict(torch.empty(1, 4, 80, 64), torch.tensor(500).expand(1), condition)
        with Peak(*base.modules.values()) as decoded:
            base.decode(torch.empty(1, 4, 80, 64))
    assert row.bytes == pytest.approx(memory.row_bytes(base), rel=0.05)
    assert decoded.bytes == pytest.approx(memory.decode_bytes(base), rel=0.05)
    weights = sum(p.numel() * p.element_size() for m in base.modules.values() for p in m.parameters())
    assert weights + max(row.bytes, decoded.bytes) < 4e9  # `render --memory low`, before anything is offloaded


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "rank", "optimizer_bytes", "limit"),
    [
        ("network", 0, 8, 16e9),  # all weights, Adam's state in float32
        ("network", 0, 2, 10e9),  # the same, in 8 bits
        ("network", 8, 8, 8e9),
        ("decoder", 8, 8, 8e9),
    ],
)
def test_tuning_stays_within_its_budget(stage, rank, optimizer_bytes, limit):
    from full_size import build_full_size
    from torch._subclasses.fake_tensor import FakeTensorMode

    from dreampose_cli.networks import lora
    from dreampose_cli.training.autoencoder import ReconstructionTask
    from dreampose_cli.training.crops import CropSource
    from dreampose_cli.training.denoising import DenoisingTask
    from dreampose_cli.training.loop import LoopSettings, SampleRng

    pictures, poses = np.zeros((1, 640, 512, 3), np.uint8), np.zeros((1, 3, 640, 512), np.float32)
    with FakeTensorMode(allow_non_fake_inputs=True):
        base = build_full_size("cpu", torch.bfloat16 if rank else torch.float32)  # as `MemoryPlan.of` holds it on CUDA
        weights = sum(p.numel() * p.element_size() for m in base.modules.values() for p in m.parameters())
        learn = next(each.modules for each in base.tuning_stages if each.name == stage)
        if stage == "network":
            task = DenoisingTask(base, CropSource(base, pictures, poses, base.config.tuning), learn)
        else:
            task = ReconstructionTask(base, pictures, learn)
        modules = {n: lora.inject(m, rank, 0) for n, m in task.modules.items()} if rank else task.modules
        base.checkpoint_activations(True)
        for module in task.modules.values():
            module.train()
        learning = sum(p.numel() for m in modules.values() for p in m.parameters() if p.requires_grad)
        loaded = task.load([SampleRng.of(0, 0)])
        if stage == "network":  # what is dropped is asked, and a drawn number has no content here
            loaded = loaded[0], dataclasses.replace(loaded[1], dropout=torch.tensor([0.5]))
        with Peak(*base.modules.values(), *modules.values()) as peak:
            with torch.autocast("cpu", torch.bfloat16):
                loss = task.loss(loaded, 0, LoopSettings(1, 1e-5, 1))
            loss.backward()
    assert learning > 8e8 or rank
    assert weights + optimizer_bytes * learning + peak.bytes < limit


def test_little_memory_leaves_the_weights_as_they_lie_in_their_files(tiny_base):
    from dreampose_cli.networks.model_cache import ModelCache

    cpu = torch.device("cpu")
    usual, lean = (ModelCache(lean=lean).base(tiny_base, cpu, torch.float32).unet.conv_in.weight for lean in (False, True))
    assert usual.is_contiguous(memory_format=torch.channels_last) and not usual.is_contiguous()
    assert lean.is_contiguous()
    assert torch.equal(usual, lean)


def test_a_kept_base_is_handed_out_as_it_was_loaded(tiny_base):
    """Weights, their layout, and whether they want gradients: by each of these torch computes a little differently."""
    from dreampose_cli.networks.layout import lay_out
    from dreampose_cli.networks.model_cache import ModelCache

    kept = ModelCache(keep=True)

    def handed_out():
        network = kept.base(tiny_base, torch.device("cpu"), torch.float32)
        tensors = {(name, key): p for name, module in network.modules.items() for key, p in module.named_parameters()}
        return network, {name: (p.stride(), p.requires_grad, p.double().sum().item()) for name, p in tensors.items()}

    network, before = handed_out()
    assert not any(wanted for _, wanted, _ in before.values())
    network.learn(("unet", "vae.decoder"))
    lay_out(network.unet, torch.contiguous_format)
    with torch.no_grad():
        network.unet.conv_in.weight.add_(1.0)
    assert handed_out() == (network, before)
