"""`base import` and `render` on MagicAnimate and AnimateAnyone, as typed, against the independent reference."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import animate_reference as plain
import tiny_hub
from dreampose_cli.__main__ import main
from dreampose_cli.cache import user_cache
from dreampose_cli.poses.control_picture import VIRIDIS

WIDTH, HEIGHT, FRAMES = 64, 80, 6
SIZE = f"{WIDTH}x{HEIGHT}"
SD, VAE = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/sd-vae-ft-mse"


@pytest.fixture(scope="module")
def repositories(tiny_repositories):
    names = (SD, VAE, "zcxu-eric/MagicAnimate", "patrolli/AnimateAnyone", "lambdalabs/sd-image-variations-diffusers")
    return {name: tiny_hub.build(name, tiny_repositories) for name in names}


@pytest.fixture(scope="module")
def bases(repositories, tmp_path_factory):
    """A cache with both bases, imported by the command line, and what was said."""
    home = tmp_path_factory.mktemp("animate-render") / "cache"
    common = ["--stable-diffusion", str(repositories[SD]), "--vae", str(repositories[VAE])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DREAMPOSE_CACHE", str(home))
        magic = [str(repositories["zcxu-eric/MagicAnimate"]), "--kind", "magicanimate", "--name", "magic"]
        anyone = [str(repositories["patrolli/AnimateAnyone"]), "--kind", "animate-anyone", "--name", "anyone"]
        encoder = repositories["lambdalabs/sd-image-variations-diffusers"] / "image_encoder"
        assert main(["base", "import", *magic, *common]) == 0
        assert main(["base", "import", *anyone, *common, "--image-encoder", str(encoder)]) == 0
    return home


@pytest.fixture
def here(bases, monkeypatch, tmp_path):
    monkeypatch.setenv("DREAMPOSE_CACHE", str(bases))
    random = np.random.default_rng(4)
    Image.fromarray(random.integers(0, 256, (90, 70, 3), np.uint8)).save(tmp_path / "photo.png")
    labels = random.integers(0, 25, (FRAMES, HEIGHT // 8, WIDTH // 8)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    for folder in ("iuv", "drawn"):
        (tmp_path / folder).mkdir()
    for i, frame in enumerate(labels):
        noise = random.integers(0, 256, (*frame.shape, 2), np.uint8)  # in place of U and V, on the background as well
        Image.fromarray(np.dstack([frame, noise])).save(tmp_path / "iuv" / f"{i:05d}.png")
        Image.fromarray(VIRIDIS[frame]).save(tmp_path / "drawn" / f"{i:05d}.png")
    return tmp_path


def render(here, base, *words, poses="iuv", out="out", steps=2):
    command = ["render", "--base", base, "--photo", str(here / "photo.png"), "--poses", str(here / poses), "--size", SIZE,
               "--steps", str(steps), "--guidance", "4", "--seed", "1", "--window", "4:1", "--fps", "25", "--device", "cpu",
               "--dtype", "float32", "-o", f"{here / out}/", *words]  # fmt: skip
    return main([*command, "-q"])


def frames(folder):
    return np.stack([np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))])


def noise_file(here, count):
    noise = np.random.default_rng(5).standard_normal((1, 4, count, HEIGHT // 8, WIDTH // 8)).astype(np.float32)
    np.save(here / "noise.npy", noise)
    return torch.from_numpy(noise[0]).transpose(0, 1)


def read(path):
    from safetensors.torch import load_file

    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def photo_latents(repositories, here, resampling):
    """As the authors do: Pillow's resize, whatever the aspect, the autoencoder's mean."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(repositories[VAE]).eval()
    photo = Image.open(here / "photo.png").convert("RGB").resize((WIDTH, HEIGHT), resampling)
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None] / 127.5 - 1
    return vae, vae.encode(pixels).latent_dist.mean * 0.18215


def decoded(vae, latents):
    pictures = torch.cat([vae.decode(frame[None] / 0.18215).sample for frame in latents])
    return ((pictures / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1) * 255).numpy().astype(np.uint8)


def drawings(here, count):
    pictures = torch.from_numpy(frames(here / "drawn")).permute(0, 3, 1, 2) / 255
    return torch.cat([pictures, pictures[-1:].repeat(count - len(pictures), 1, 1, 1)])


@torch.no_grad()
def test_magicanimate_as_typed(here, repositories):
    """From files to frames: 6 frames, padded to 16 by the last pose, windows of 4 that share 1, closed."""
    from transformers import CLIPTextModel, CLIPTokenizer

    noise = noise_file(here, 16)
    assert render(here, "magic", "--start-noise", str(here / "noise.npy")) == 0
    made = frames(here / "out")
    assert made.shape == (FRAMES, HEIGHT, WIDTH, 3)

    sd, weights = repositories[SD], repositories["zcxu-eric/MagicAnimate"]
    tokenizer = CLIPTokenizer.from_pretrained(sd / "tokenizer")
    ids = tokenizer("", padding="max_length", max_length=77, return_tensors="pt").input_ids
    text = CLIPTextModel.from_pretrained(sd / "text_encoder")(ids).last_hidden_state
    unet = read(sd / "unet/diffusion_pytorch_model.safetensors")
    motion = read(weights / "temporal_attention/temporal_attention.ckpt")
    appearance = read(weights / "appearance_encoder/diffusion_pytorch_model.safetensors")
    control = read(weights / "densepose_controlnet/diffusion_pytorch_model.safetensors")
    vae, latents = photo_latents(repositories, here, Image.Resampling.BICUBIC)
    pictures = drawings(here, 16)

    def predict(x, t, window):
        bank: dict = {}
        plain.unet(appearance, latents, t, text, write=bank)
        bank = {name: value for name, value in bank.items() if not name.startswith("down_blocks")}
        residuals = plain.controlnet(control, x, t, text, pictures[window])
        same = {"moving": motion, "over_frames": True, "residuals": residuals}
        return plain.unet(unet, x, t, text, **same), plain.unet(unet, x, t, text, bank=bank, **same)

    theirs = plain.denoise(noise, 2, 4.0, predict, size=4, overlap=1)
    assert np.abs(made.astype(int) - decoded(vae, theirs[:FRAMES])).max() <= 1


@torch.no_grad()
def test_animate_anyone_as_typed(here, repositories):
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    noise = noise_file(here, FRAMES)
    assert render(here, "anyone", "--start-noise", str(here / "noise.npy"), "--pose-pictures", poses="drawn") == 0
    made = frames(here / "out")

    weights, home = repositories["patrolli/AnimateAnyone"], repositories["lambdalabs/sd-image-variations-diffusers"]
    square = Image.open(here / "photo.png").convert("RGB").resize((224, 224))
    pixels = CLIPImageProcessorPil.from_pretrained(home / "feature_extractor")(images=square, return_tensors="pt")
    image = CLIPVisionModelWithProjection.from_pretrained(home / "image_encoder")(**pixels).image_embeds[:, None]
    vae, latents = photo_latents(repositories, here, Image.Resampling.LANCZOS)
    unet, motion = read(weights / "denoising_unet.pth"), read(weights / "motion_module.pth")
    bank: dict = {}
    plain.unet(read(weights / "reference_unet.pth"), latents, 0, image, write=bank)
    features = plain.pose_features(plain.Weights(read(weights / "pose_guider.pth")), drawings(here, FRAMES))

    def predict(x, t, window):
        same = {"moving": motion, "features": features[window]}
        null = plain.unet(unet, x, t, torch.zeros_like(image), **same)
        return null, plain.unet(unet, x, t, image, bank=bank, **same)

    theirs = plain.denoise(noise, 2, 4.0, predict, size=4, overlap=1, velocity=True)
    assert np.abs(made.astype(int) - decoded(vae, theirs)).max() <= 1


@pytest.mark.slow
def test_sources_of_one_dance_are_the_same_dance(here):
    """Labels, their drawing taken as it is, and the drawing recognised by its colours."""
    edge = np.zeros((HEIGHT, WIDTH), bool)
    edge[8:-8, 8:-8] = True  # the drawing is recognised by a background around the person
    for i, file in enumerate(sorted((here / "iuv").glob("*.png"))):
        picture = np.array(Image.open(file))
        picture[..., 0] *= edge
        Image.fromarray(picture).save(file)
        Image.fromarray(VIRIDIS[picture[..., 0]]).save(here / "drawn" / f"{i:05d}.png")
    assert render(here, "magic", out="labels", steps=1) == 0
    assert render(here, "magic", "--pose-pictures", poses="drawn", out="pictures", steps=1) == 0
    assert render(here, "magic", poses="drawn", out="colours", steps=1) == 0
    assert np.array_equal(frames(here / "labels"), frames(here / "pictures"))
    assert np.array_equal(frames(here / "labels"), frames(here / "colours"))


def test_memory_low_and_guidance_one_and_what_the_result_says_of_itself(here, capsys):
    assert render(here, "magic", steps=1) == 0
    assert render(here, "magic", "--memory", "low", out="low", steps=1) == 0
    difference = frames(here / "out").astype(int) - frames(here / "low")
    assert np.abs(difference).max() <= 1
    capsys.readouterr()
    assert render(here, "magic", "--guidance", "1", "--json", out="plain", steps=1) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["frames"] == FRAMES and said["settings"]["guidance"] == {"image": 1.0}
    assert said["settings"]["window"] == 4 and said["settings"]["overlap"] == 1
    assert not np.array_equal(frames(here / "plain"), frames(here / "out"))


def test_the_photo_is_looked_at_once_where_that_is_asked_for(here, capsys):
    for base, changes in (("magic", True), ("anyone", False)):  # the second does so anyway
        drawn = ["--pose-pictures"] if base == "anyone" else []
        poses = "drawn" if drawn else "iuv"
        assert render(here, base, *drawn, poses=poses, out=f"{base}-each", steps=1) == 0
        capsys.readouterr()
        assert render(here, base, *drawn, "--appearance-once", "--json", poses=poses, out=f"{base}-once", steps=1) == 0
        assert json.loads(capsys.readouterr().out)["settings"]["appearance_once"] is True
        assert np.array_equal(frames(here / f"{base}-each"), frames(here / f"{base}-once")) is not changes


@pytest.mark.slow
def test_a_few_steps_of_pndm(here, capsys):
    assert render(here, "magic", "--sampler", "pndm", "--json", steps=3) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["steps"] == 3
    assert frames(here / "out").shape == (FRAMES, HEIGHT, WIDTH, 3)


def test_without_a_size_the_photo_keeps_its_aspect(here, capsys):
    """The base's 64x64, with the edges of a 70x90 photo repeated around it, and cut off again."""
    command = ["render", "--base", "magic", "--photo", str(here / "photo.png"), "--poses", str(here / "iuv")]
    assert main([*command, "--steps", "1", "-o", f"{here / 'out'}/", "--device", "cpu", "-q"]) == 0
    assert frames(here / "out").shape == (FRAMES, 64, 50, 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--window", "25:4"], "windows of at most 24 frames"),
        (["--window", "4:4"], "--window is '4:4'"),
        (["--size", "60x80"], "multiples of 8"),
        (["--start-noise", "NOISE"], "must be float32 (1, 4, 6 to 16, 10, 8)"),
        (["--pose-guidance", "2"], "--pose-guidance means nothing on the base magic"),
        (["--batch-size", "2"], "--batch-size means nothing"),
        (["--steps", "1000"], "room for 999 steps"),
    ],
)
def test_what_is_refused(here, capsys, words, said):
    np.save(here / "wrong.npy", np.zeros((1, 4, 20, 10, 8), np.float32))
    assert render(here, "magic", *(str(here / "wrong.npy") if word == "NOISE" else word for word in words)) == 2
    assert said in capsys.readouterr().err
    assert not (here / "out").exists()


def test_keypoint_bases_draw_keypoints(here):
    person = {"pose_keypoints_2d": [v for i in range(18) for v in (5 + 3 * i, 8 + 3 * (i % 9), 0.9)]}
    document = {"people": [person], "canvas_width": WIDTH, "canvas_height": HEIGHT}
    (here / "one.json").write_text(json.dumps(document), encoding="utf-8")
    assert render(here, "anyone", poses="one.json", out="skeletons") == 0
    assert frames(here / "skeletons").shape == (1, HEIGHT, WIDTH, 3)


def test_options_of_joint_denoising_mean_nothing_on_mini(here, capsys):
    for words in (["--window", "4:1"], ["--pose-pictures"], ["--appearance-once"], ["--size", "64x80"], ["--start-noise", "x.npy"]):
        command = ["render", "--base", "mini", "--photo", str(here / "photo.png"), "--poses", str(here / "iuv")]
        assert main([*command, "-o", f"{here / 'out'}/", *words]) == 2
        assert f"{words[0]} means nothing on the base mini" in capsys.readouterr().err


def test_options_of_the_other_kinds_are_refused_by_import(tmp_path, capsys):
    for words, said in (
        (["--vae", "x"], "--vae is for"),
        (["--kind", "magicanimate", "--epoch", "3"], "--epoch is for"),
        (["--kind", "magicanimate", "--image-encoder", "x"], "--image-encoder is for"),
        (["--kind", "sdxl"], "there is no kind 'sdxl'"),
    ):
        assert main(["base", "import", str(tmp_path), "--name", "n", *words]) == 2
        assert said in capsys.readouterr().err
    assert main(["base", "import", str(tmp_path / "none"), "--name", "n", "--kind", "magicanimate"]) == 1
    assert "is no folder" in capsys.readouterr().err


def test_import_takes_the_rest_from_the_hub(tiny_hub, repositories, tmp_path, monkeypatch):
    """Only the files that are needed: what must not be downloaded would not load."""
    monkeypatch.setenv("DREAMPOSE_CACHE", str(tmp_path / "cache"))
    tiny_hub.use(monkeypatch, tmp_path / "hub")
    magic = ["base", "import", str(repositories["zcxu-eric/MagicAnimate"]), "--kind", "magicanimate", "--name", "m"]
    assert main([*magic, "-q"]) == 0
    anyone = ["base", "import", str(repositories["patrolli/AnimateAnyone"]), "--kind", "animate-anyone", "--name", "a"]
    assert main([*anyone, "-q"]) == 0


# ---- stopped and resumed, and memory that ends


def stop_after(monkeypatch, calls):
    """Let the network's `predict` end the process, as it were, at its call number `calls` + 1."""
    from dreampose_cli.networks.animate.network import AnimateNetwork

    real, count = AnimateNetwork.predict, [0]

    def predict(self, *args, **named):
        count[0] += 1
        if calls is not None and count[0] > calls:
            raise KeyboardInterrupt
        return real(self, *args, **named)

    monkeypatch.setattr(AnimateNetwork, "predict", predict)
    monkeypatch.setattr("dreampose_cli.inference.kept_latents.SHARE", 1e9)  # however long a write takes, all is kept
    return count


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [
        ("ddim", 9),
        pytest.param("dpm++", 13, marks=pytest.mark.slow),
        pytest.param("unipc", 15, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_clip_resumes_within_a_step_to_the_same_frames(here, bases, monkeypatch, capsys, sampler, calls):
    """16 frames in windows of 4 that share 1 are 6 windows, a call each: stopped in the second or the third step."""
    words = ["--steps", "3", "--sampler", sampler, "--window", "4:1", "--size", "64x64"]
    command = ["render", "--base", "magic", "--photo", str(here / "photo.png"), "--poses", str(here / "iuv"), "--seed", "1",
               "--device", "cpu", *words]  # fmt: skip
    whole = stop_after(monkeypatch, None)
    assert main([*command, "-o", f"{here / 'whole'}/", "-q"]) == 0
    monkeypatch.undo()
    monkeypatch.setenv("DREAMPOSE_CACHE", str(here.parent / f"cut-{sampler}"))
    copy_base(bases)
    stop_after(monkeypatch, calls)
    assert main([*command, "-o", f"{here / 'cut'}/", "-q"]) == 130
    assert not (here / "cut").exists()
    monkeypatch.undo()
    monkeypatch.setenv("DREAMPOSE_CACHE", str(here.parent / f"cut-{sampler}"))
    rest = stop_after(monkeypatch, None)
    capsys.readouterr()
    assert main([*command, "-o", f"{here / 'cut'}/"]) == 0
    assert f"the render resumes in step {calls // 6 + 1} of 3" in capsys.readouterr().err
    assert rest[0] == whole[0] - calls  # not a window is computed twice
    assert np.array_equal(frames(here / "whole"), frames(here / "cut"))
    assert not list((here.parent / f"cut-{sampler}" / "partial").iterdir())


def copy_base(bases):
    """The imported base in the cache of this test alone."""
    import shutil

    from dreampose_cli import cache

    with cache.user_cache().publish_folder("base", "magic") as target:
        shutil.copytree(bases / "bases" / "magic", target, dirs_exist_ok=True)


def test_memory_that_ends_takes_less_at_once_and_goes_on_where_it_was(here, monkeypatch, capsys):
    """Both branches at once do not fit from the second step on; then windows of 8 do not, with a warning."""
    from dreampose_cli.networks.animate.network import AnimateNetwork

    real, sizes = AnimateNetwork.predict, []

    def predict(self, latents, *args, **named):
        if len(latents) > (4 if len(sizes) > 6 else 8 if len(sizes) > 3 else 16):
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(latents))
        return real(self, latents, *args, **named)

    monkeypatch.setattr(AnimateNetwork, "predict", predict)
    assert render(here, "magic", "--window", "8:2", steps=2) == 0
    assert sizes[:4] == [16] * 4  # three windows of 8 frames and the first of the next step, in two branches
    assert set(sizes[4:7]) == {8} and set(sizes[7:]) == {4}
    said = capsys.readouterr().err
    assert "warning: cpu has too little memory for windows of 8 frames of 64x80" in said
    assert "windows of 4 frames that share 1" in said and "which changes the result" in said


def test_memory_that_is_never_enough_is_one_sentence(here, monkeypatch, capsys):
    from dreampose_cli.networks.animate.network import AnimateNetwork

    def predict(self, *args, **named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AnimateNetwork, "predict", predict)
    assert render(here, "magic", steps=1) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].endswith("give a smaller --size, or --device cpu.") and "Traceback" not in "".join(said)


def test_modules_that_are_away_come_for_their_part_of_a_step(bases):
    """On the meta device in place of a GPU: who lies where, before, in and after a step."""
    from dreampose_cli.networks.storage import load_base

    network = load_base(bases / "bases" / "magic")
    moved = []
    for name in network.occasional:
        module = network.modules[name]
        module.to = lambda device, name=name: moved.append((name, str(device)))
    network.offload_only(*network.occasional)
    assert moved == [("appearance", "cpu"), ("control", "cpu")]
    with network.borrowed("control"), network.borrowed("vae"):
        assert moved[2:] == [("control", "cpu")]  # to the network's device, which is a CPU here
    assert moved[3:] == [("control", "cpu")]
    network.offload_only()
    assert len(moved) == 6 and network.away == frozenset()


# ---- who is rendered, and who dances


def test_without_a_photo_a_base_that_needs_no_tuning_asks_for_one(here, capsys):
    assert main(["render", "--base", "magic", "--poses", str(here / "iuv"), "-o", f"{here / 'out'}/"]) == 2
    said = capsys.readouterr().err
    assert "The base magic needs no tuning: name a photo with --photo" in said
    assert main(["render", "--base", "mini", "--poses", str(here / "iuv"), "-o", f"{here / 'out'}/"]) == 1
    assert "make one with: dreampose tune PHOTO" in capsys.readouterr().err


def test_a_photo_without_a_person_is_a_warning(here, clips, capsys):
    """By the estimator that finds the dancer in the video."""
    video = sorted(clips.rglob("video.mp4"))[0]
    Image.fromarray(np.full((48, 32, 3), 128, np.uint8)).save(here / "wall.png")
    command = ["render", "--base", "magic", "--photo", str(here / "wall.png"), "--poses", str(video), "--estimator", "mini",
               "--steps", "1", "--end", "0.1", "--guidance", "1", "--device", "cpu", "-o", f"{here / 'out'}/", "-q"]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "warning:" in said and "wall.png" in said and "give a photo of a person" in said


def test_a_dance_in_another_palette_is_refused_by_its_name(here, capsys):
    from dreampose_cli import media
    from dreampose_cli.poses import part_labels

    table = part_labels._tables()["parula"].astype(np.uint8)
    table[0] = 0
    labels = np.zeros((96, 64), np.uint8)
    for part in range(1, 25):
        labels[8 + 3 * part : 11 + 3 * part, 12:52] = part
    media.write_frames(here / "parula.mp4", [table[labels]] * 3, fps=25.0)
    assert render(here, "magic", poses="parula.mp4") == 1
    said = capsys.readouterr().err
    assert "the palette parula on black, not viridis" in said and "Traceback" not in said


def test_several_people_are_said_and_the_largest_is_followed(tmp_path, monkeypatch):
    from dreampose_cli import media
    from dreampose_cli.poses import densepose
    from dreampose_cli.poses.extraction import load_poses
    from test_densepose import People, blue, picture, red

    densepose.ensure_torchvision_operators()
    monkeypatch.setattr(densepose, "require_trusted", lambda *_: None)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(People()), tmp_path / "people.torchscript")
    media.write_frames(tmp_path / "two.mp4", [picture(red(10), blue(50))] * 2, fps=10.0)
    notes: list[str] = []
    found, _, _ = load_poses(user_cache(), tmp_path / "two.mp4", estimator=str(tmp_path / "people.torchscript"), note=notes.append)
    assert any("shows up to 2 people at once; the largest is followed" in note for note in notes)
    columns = np.flatnonzero((found.frame(0)[0] > 0).any(0))
    assert columns.min() >= 8 and columns.max() < 34  # the red one
