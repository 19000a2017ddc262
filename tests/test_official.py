"""Official checkpoints: what an imported base renders is what the authors' test.py computes.

The reference below is written from what their code does, with the classes of diffusers and transformers alone; nothing
of our own model code is used in it. Two things of theirs are left out on purpose: the noise of the VAE's samples (its
mode is taken) and the min-max stretch of each frame (the plain decode, clamped).
"""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPVisionConfig, CLIPVisionModel

from dreampose_cli import cache as store
from dreampose_cli.__main__ import main
from dreampose_cli.bases.config import read_config
from dreampose_cli.bases.registry import list_bases
from dreampose_cli.cache import user_cache
from dreampose_cli.errors import BaseError, OutputExistsError
from dreampose_cli.inference.denoise import prepare
from dreampose_cli.networks.dreampose.conditioning import DreamPoseCondition, pose_channels
from dreampose_cli.networks.dreampose.importer import find_checkpoints, import_official
from dreampose_cli.networks.storage import load_base

SCHEDULER = {  # as in CompVis/stable-diffusion-v1-4
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.7.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
SCALE = 0.18215
S1, S2, SEED = 8.0, 3.0, 7


@dataclass
class World:
    """Tiny stand-ins for all that the authors' script loads, as modules and as the files they come in."""

    checkpoints: object
    stable_diffusion: object
    clip_folder: object
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    clip: CLIPVisionModel
    adapter: dict

    @property
    def sources(self):
        return {"stable_diffusion": str(self.stable_diffusion), "image_encoder": str(self.clip_folder)}


def tiny_unet(in_channels):
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=in_channels,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=768,
        attention_head_dim=2,
        norm_num_groups=8,
    ).eval()


def tiny_vae():
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    ).eval()


def write_stable_diffusion(folder, unet, vae):
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    (folder / "scheduler").mkdir(parents=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))


def write_whole_clip(folder, vision):
    """A CLIP checkpoint with both towers, in the names of the Hub's files."""
    folder.mkdir(parents=True)
    config = CLIPConfig(text_config={"hidden_size": 8}, vision_config=vision.config.to_dict())
    (folder / "config.json").write_text(config.to_json_string())
    tensors = {f"vision_model.{name}": tensor for name, tensor in vision.state_dict().items()}
    tensors["vision_model.embeddings.position_ids"] = torch.arange(50).view(1, -1)
    tensors |= {"text_model.final_layer_norm.weight": torch.ones(8), "logit_scale": torch.ones(1)}
    tensors["visual_projection.weight"] = torch.zeros(8, 768)
    save_file(tensors, folder / "model.safetensors")


def old_name(name):
    for new, old in OLD_NAMES.items():
        if ".attentions." in name:
            name = name.replace(f".{new}.", f".{old}.")
    return name


def parallel(tensors):
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    with torch.random.fork_rng():
        torch.manual_seed(11)
        unet, vae = tiny_unet(14), tiny_vae()
        vision = CLIPVisionConfig(
            hidden_size=768, intermediate_size=96, num_hidden_layers=2, num_attention_heads=12, image_size=224,
            patch_size=32,
        )  # fmt: skip
        clip = CLIPVisionModel(vision).eval()
        adapter = {
            "vae2clip.weight": torch.randn(768, 1280) * 0.02,
            "vae2clip.bias": torch.randn(768) * 0.1,
            "linear1.weight": torch.eye(50, 54) + torch.randn(50, 54) * 0.05,
            "linear1.bias": torch.randn(50) * 0.1,
        }
        write_stable_diffusion(folder / "sd", tiny_unet(4), tiny_vae())
    write_whole_clip(folder / "clip", clip)
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir()
    torch.save(parallel(unet.state_dict()), checkpoints / "unet_epoch_20.pth")
    torch.save(parallel(adapter), checkpoints / "adapter_20.pth")
    torch.save({old_name(name): tensor for name, tensor in vae.state_dict().items()}, checkpoints / "vae_1499.pth")
    return World(checkpoints, folder / "sd", folder / "clip", unet, vae, clip, adapter)


def smooth_picture(rng, width, height):
    return Image.fromarray(rng.integers(0, 256, (12, 9, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)


def write_poses(folder, rng, count, height, width):
    folder.mkdir()
    for n in range(count):
        uv = np.zeros((2, height, width))
        top, left = height // 5 + 3 * n, width // 4 + 2 * n
        uv[:, top : top + height // 2, left : left + width // 3] = rng.random((2, height // 2, width // 3))
        np.save(folder / f"frame_{n}_densepose.npy", uv)


# ---- the reference


class Reference:
    """The authors' test.py, stage by stage, on one key frame and a folder of pose files."""

    def __init__(self, world, picture, poses, sampler, steps):
        self.world = world
        self.scheduler = {"pndm": PNDMScheduler, "ddim": DDIMScheduler}[sampler].from_config(SCHEDULER)
        self.steps = steps
        self.frame = picture.convert("RGB").resize((512, 640))  # Pillow's default, bicubic
        self.poses = [np.load(poses / f"frame_{n}_densepose.npy") for n in range(len(list(poses.iterdir())))]

    @torch.no_grad()
    def conditions(self):
        zero_one = torch.from_numpy(np.array(self.frame)).permute(2, 0, 1)[None].float()
        self.clip_pixels = self.see(self.frame)
        self.clip_states = self.world.clip(self.clip_pixels).last_hidden_state
        self.null_states = self.world.clip(self.see(Image.new("RGB", (512, 640)))).last_hidden_state
        self.latents = self.world.vae.encode(zero_one).latent_dist.mode() * SCALE
        self.null_latents = self.world.vae.encode(torch.zeros(1, 3, 512, 640)).latent_dist.mode() * SCALE
        self.context = self.adapt(self.clip_states, self.latents)
        self.null_context = self.adapt(self.null_states, self.null_latents)
        self.start = self.world.vae.encode(zero_one / 255 * 2 - 1).latent_dist.mode() * SCALE
        self.noise = torch.randn((1, 4, 80, 64), generator=torch.Generator("cpu").manual_seed(SEED))
        return self

    @staticmethod
    def see(picture):
        """CLIP's preprocessing of 2023: shortest edge 224, centre crop, OpenAI's mean and deviation."""
        width, height = picture.size
        scale = 224 / min(width, height)
        picture = picture.resize((int(width * scale), int(height * scale)), Image.BICUBIC)
        left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
        pixels = np.array(picture.crop((left, top, left + 224, top + 224)), np.float32) / 255
        mean, deviation = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
        pixels = (pixels - np.array(mean, np.float32)) / np.array(deviation, np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1)[None]

    def adapt(self, states, latents):
        weights = self.world.adapter
        pooled = F.max_pool2d(latents, 2).reshape(1, 4, 1280)
        tokens = F.linear(pooled, weights["vae2clip.weight"], weights["vae2clip.bias"])
        tokens = torch.cat([states, tokens], dim=1)  # 54 of them
        return F.linear(tokens.transpose(1, 2), weights["linear1.weight"], weights["linear1.bias"]).transpose(1, 2)

    def window(self, n):
        """(1, 10, 80, 64): n-2..n+2, oldest first; a frame that is not there is frame n."""
        planes = []
        for k in range(n - 2, n + 3):
            uv = self.poses[k if 0 <= k < len(self.poses) else n]
            uv = torch.from_numpy(uv.astype(np.float32))[None]
            uv = F.interpolate(uv, (640, 512), mode="bilinear", align_corners=False)
            planes.append((uv - 0.5) / 0.5)
        return torch.cat(planes, dim=1)[..., ::8, ::8]

    @torch.no_grad()
    def branches(self, latents, timestep, pose):
        """null, image only, image and pose."""
        rows = [(self.null_context, 0 * pose), (self.context, 0 * pose), (self.context, pose)]
        return torch.cat(
            [self.world.unet(torch.cat([latents, p], 1), timestep, encoder_hidden_states=c).sample for c, p in rows]
        )

    @torch.no_grad()
    def render(self, n):
        """Final latents (1, 4, 80, 64) and picture (640, 512, 3) of frame n; the first branches in `first`."""
        pose = self.window(n)
        self.scheduler.set_timesteps(self.steps)
        latents = self.scheduler.add_noise(self.start, self.noise, self.scheduler.timesteps[:1])
        self.first = None
        for timestep in self.scheduler.timesteps:
            branches = self.branches(latents, timestep, pose)
            self.first = branches if self.first is None else self.first
            null, image, full = branches.chunk(3)
            guided = null + S1 * (image - null) + S2 * (full - image)
            latents = self.scheduler.step(guided, timestep, latents).prev_sample
        decoded = self.world.vae.decode(latents / SCALE).sample.clamp(0, 1)
        return latents, (decoded[0] * 255).round().byte().permute(1, 2, 0).numpy()


def difference(ours, theirs):
    """The largest difference, relative to the largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


# ---- identity


@pytest.fixture
def imported(world, capsys):
    words = ["base", "import", str(world.checkpoints), "--name", "dreampose"]
    words += ["--stable-diffusion", str(world.stable_diffusion), "--image-encoder", str(world.clip_folder)]
    assert main(words) == 0
    path = capsys.readouterr().out.strip()
    assert path == str(store.user_cache().path_of("base", "dreampose"))
    return store.user_cache().path_of("base", "dreampose")


def test_each_stage_is_the_official_one(world, imported, tmp_path):
    from dreampose_cli.inference.clip import pose_windows
    from dreampose_cli.inference.denoise import RenderSettings, render_latents
    from dreampose_cli.media.fitting import fit_picture
    from dreampose_cli.poses.files import open_poses

    rng = np.random.default_rng(0)
    picture = smooth_picture(rng, 512, 640)
    write_poses(tmp_path / "poses", rng, 3, 640, 512)
    theirs = Reference(world, picture, tmp_path / "poses", "pndm", 2).conditions()
    base = load_base(imported)
    fitted = fit_picture(np.asarray(picture), base.config.resolution, base.config.fit)
    photo = prepare(base, fitted, None)

    pixels = base.views(fitted[None]).clip
    states = base.modules["image_encoder"](pixel_values=pixels).last_hidden_state
    null_pixels, null_latents = base.null_photo()
    assert difference(pixels, theirs.clip_pixels) < 1e-6
    assert difference(states, theirs.clip_states) < 1e-4
    assert (
        difference(base.modules["image_encoder"](pixel_values=null_pixels).last_hidden_state, theirs.null_states) < 1e-4
    )
    # a VAE of random weights amplifies the rounding of its convolutions
    assert difference(photo.reference.latents, theirs.latents) < 1e-3
    assert difference(null_latents, theirs.null_latents) < 1e-3
    assert difference(photo.start, theirs.start) < 1e-3
    assert difference(photo.reference.tokens, theirs.context) < 1e-3
    assert difference(photo.reference.null_tokens, theirs.null_context) < 1e-3

    windows = torch.stack(list(pose_windows(base, open_poses(tmp_path / "poses"))))
    channels = pose_channels(base.config.network.pose, windows, base.vae_scale_factor)
    for n in (0, 1, 2):
        assert difference(channels[n : n + 1], theirs.window(n)) < 1e-6
    settings = RenderSettings("pndm", 2, {"image": S1, "pose": S2}, SEED)
    seen = []
    predict = base.predict
    base.predict = lambda *values: seen.append(predict(*values)) or seen[-1]
    final = render_latents(base, photo, windows[:1], settings)
    expected, _ = theirs.render(0)
    assert len(seen) == 3  # N steps of PNDM are N + 1 evaluations
    assert difference(seen[0], theirs.first) < 1e-3
    assert difference(final, expected) < 1e-3


@pytest.mark.parametrize(
    ("sampler", "photo", "poses", "steps"),
    [
        ("pndm", (300, 500), (256, 320), 3),
        pytest.param("ddim", (512, 640), (640, 512), 2, marks=pytest.mark.slow),
    ],
)
def test_a_render_is_the_official_one(world, imported, tmp_path, monkeypatch, capsys, sampler, photo, poses, steps):
    from dreampose_cli.inference import denoise as batches

    rng = np.random.default_rng(steps)
    picture = smooth_picture(rng, *photo)
    picture.save(tmp_path / "key_frame.png")
    write_poses(tmp_path / "poses", rng, 2, *poses)
    theirs = Reference(world, picture, tmp_path / "poses", sampler, steps).conditions()

    latents = []
    real = batches.render_latents
    monkeypatch.setattr(batches, "render_latents", lambda *a, **k: latents.append(real(*a, **k)) or latents[-1])
    words = f"render --base dreampose --photo {tmp_path}/key_frame.png --poses {tmp_path}/poses -o {tmp_path}/out/"
    words += f" --sampler {sampler} --steps {steps} --s1 {S1} --s2 {S2} --seed {SEED} --device cpu --dtype float32"
    assert main(words.split()) == 0, capsys.readouterr().err
    ours = torch.cat(latents)
    pictures = sorted((tmp_path / "out").glob("*.png"))
    assert len(pictures) == len(ours) == 2
    worst = levels = 0.0
    for n, path in enumerate(pictures):
        expected, frame = theirs.render(n)
        worst = max(worst, difference(ours[n : n + 1], expected))
        levels = max(levels, np.abs(np.asarray(Image.open(path)).astype(int) - frame).max())
        assert frame.std() > 1  # there is something to compare
    print(f"{sampler}: latents {worst:.1e}, image {levels:.0f}")
    assert worst < 1e-3
    assert levels <= 1


# ---- the import itself


def test_an_imported_base_says_what_it_is(world, imported):
    config = read_config(imported)
    assert config.name == "dreampose"
    assert config.resolution == (640, 512)
    pose, photo = config.network.pose, config.network.photo
    assert (pose.range, pose.null, config.poses.window_rule) == ((-1.0, 1.0), 0.0, "current")
    assert (photo.condition_range, photo.null_transposed) == ((0.0, 255.0), True)
    assert (config.target_range, photo.start, config.fit) == ((0.0, 1.0), "photo", "stretch")
    sampling = config.sampling
    assert (sampling.sampler, sampling.steps, sampling.guidance) == ("pndm", 100, {"image": 8.0, "pose": 3.0})
    assert config.provenance["files"] == {
        "unet": "unet_epoch_20.pth",
        "adapter": "adapter_20.pth",
        "vae": "vae_1499.pth",
    }
    assert "OpenRAIL" in config.provenance["licence"]
    assert str(world.stable_diffusion.parent) not in (imported / "base.json").read_text()  # no paths of this machine
    assert [entry.kind for entry in list_bases(user_cache()) if entry.name == "dreampose"] == ["imported"]
    files = {str(path.relative_to(imported)) for path in imported.rglob("*") if path.is_file()}
    assert files == {
        "base.json",
        "adapter/adapter.safetensors",
        "image_encoder/config.json",
        "image_encoder/model.safetensors",
        "image_encoder/preprocessor_config.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }


def test_without_a_vae_checkpoint_the_given_vae_is_taken(world, tmp_path):
    for name in ("unet_epoch_20.pth", "adapter_20.pth"):
        (tmp_path / name).write_bytes((world.checkpoints / name).read_bytes())
    folder = import_official(user_cache(), tmp_path, name="plain", **world.sources)
    ours = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    theirs = load_file(world.stable_diffusion / "vae" / "diffusion_pytorch_model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_weights_in_pytorchs_own_format_do_as_well(world, tmp_path):
    """Repositories of that time hold .bin files only."""
    sd, clip = tmp_path / "sd", tmp_path / "clip"
    for part in ("unet", "vae", "scheduler"):
        (sd / part).mkdir(parents=True)
    for name in ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"):
        (sd / name).write_bytes((world.stable_diffusion / name).read_bytes())
    vae = load_file(world.stable_diffusion / "vae" / "diffusion_pytorch_model.safetensors")
    torch.save({old_name(name): tensor for name, tensor in vae.items()}, sd / "vae" / "diffusion_pytorch_model.bin")
    clip.mkdir()
    (clip / "config.json").write_text(world.clip.config.to_json_string())
    torch.save(world.clip.state_dict(), clip / "pytorch_model.bin")
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    torch.save(world.unet.state_dict(), checkpoints / "unet_epoch_20.pth")
    torch.save(world.adapter, checkpoints / "adapter_20.pth")
    folder = import_official(user_cache(), checkpoints, name="bins", stable_diffusion=str(sd), image_encoder=str(clip))
    base = load_base(folder)
    assert torch.equal(base.vae.encoder.conv_in.weight, vae["encoder.conv_in.weight"])
    assert torch.equal(base.unet.conv_in.weight, world.unet.conv_in.weight)


def test_the_processor_beside_the_encoder_is_kept(world, tmp_path):
    clip = tmp_path / "clip"
    clip.mkdir()
    for path in world.clip_folder.iterdir():
        (clip / path.name).write_bytes(path.read_bytes())
    old = {"crop_size": 224, "do_center_crop": True, "do_normalize": True, "do_resize": True, "size": 224}
    old |= {"feature_extractor_type": "CLIPFeatureExtractor", "resample": 3}
    old |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (clip / "preprocessor_config.json").write_text(json.dumps(old))
    sources = world.sources | {"image_encoder": str(clip)}
    base = load_base(import_official(user_cache(), world.checkpoints, name="processor", **sources))
    white = np.full((640, 512, 3), 255, np.uint8)
    pixels = base.views(white[None]).clip
    assert pixels.shape == (1, 3, 224, 224)
    assert torch.allclose(pixels, torch.ones_like(pixels))


def test_which_checkpoints_are_taken(tmp_path):
    for name in ("unet_epoch_3.pth", "unet_epoch_20.pth", "adapter_3.pth", "adapter_20.pth", "vae_1499.pth", "x_9.pth"):
        (tmp_path / name).touch()
    names = lambda **k: [path.name for path in find_checkpoints(tmp_path, **k).values()]  # noqa: E731
    assert names() == ["unet_epoch_20.pth", "adapter_20.pth", "vae_1499.pth"]
    assert names(epoch=3) == ["unet_epoch_3.pth", "adapter_3.pth", "vae_1499.pth"]
    (tmp_path / "vae_3.pth").touch()
    assert names(epoch=3)[-1] == "vae_3.pth"
    with pytest.raises(BaseError, match=r"no unet_epoch_4.pth; of unet there is: 3, 20\. .*johannakarras/DreamPose"):
        find_checkpoints(tmp_path, 4)
    (tmp_path / "adapter_3.pth").unlink()
    (tmp_path / "adapter_20.pth").unlink()
    with pytest.raises(BaseError, match="no adapter_E.pth"):
        find_checkpoints(tmp_path)
    with pytest.raises(BaseError, match="is no folder"):
        find_checkpoints(tmp_path / "nowhere")


def test_what_does_not_fit_is_listed_and_nothing_is_imported(world, tmp_path):
    unet = world.unet.state_dict()
    del unet["time_embedding.linear_1.bias"], unet["conv_out.bias"]
    unet |= {f"extra.{i}": torch.zeros(1) for i in range(5)}
    unet["conv_in.weight"] = unet["conv_in.weight"][:, :4]
    torch.save(unet, tmp_path / "unet_epoch_1.pth")
    torch.save({**world.adapter, "linear1.bias": torch.zeros(50).int()}, tmp_path / "adapter_1.pth")
    with pytest.raises(BaseError) as caught:
        import_official(user_cache(), tmp_path, name="wrong", **world.sources)
    text = str(caught.value)
    assert "unet_epoch_1.pth: 2 missing (" in text
    assert "time_embedding.linear_1.bias" in text
    assert "5 surplus (extra.0, extra.1, extra.2, and 2 more)" in text
    assert "conv_in.weight is 16x4x3x3 in place of 16x14x3x3" in text
    assert "adapter_1.pth: 1 not floating point (linear1.bias is int32)" in text
    assert "nothing was imported" in text
    assert not store.user_cache().path_of("base", "wrong").exists()
    assert not list((store.user_cache().root / "partial").glob("*")) if (store.user_cache().root / "partial").exists() else True


def test_another_width_of_tokens_is_named(world, tmp_path):
    narrow = CLIPVisionModel(
        CLIPVisionConfig(hidden_size=96, intermediate_size=8, num_hidden_layers=1, num_attention_heads=3)
    )
    narrow.save_pretrained(tmp_path / "clip")
    sources = world.sources | {"image_encoder": str(tmp_path / "clip")}
    with pytest.raises(BaseError, match="tokens of width 768, but those of the image encoder are 96 wide"):
        import_official(user_cache(), world.checkpoints, name="narrow", **sources)


def test_names_are_checked_first(world, imported, capsys):
    with pytest.raises(OutputExistsError, match="--overwrite"):
        import_official(user_cache(), world.checkpoints, name="dreampose", **world.sources)
    assert import_official(user_cache(), world.checkpoints, name="dreampose", overwrite=True, **world.sources) == imported
    with pytest.raises(BaseError, match="mini is the name"):
        import_official(user_cache(), world.checkpoints, name="mini", **world.sources)
    assert main(["base", "import", str(world.checkpoints), "--name", "../x"]) == 2


def test_folders_that_lack_something_are_named(world, tmp_path):
    with pytest.raises(BaseError, match=r"vae has no config.json; give a folder in the layout of diffusers"):
        import_official(user_cache(), world.checkpoints, name="x", **world.sources | {"stable_diffusion": str(tmp_path)})
    with pytest.raises(BaseError, match="neither a folder nor a repository"):
        import_official(user_cache(), world.checkpoints, name="x", stable_diffusion="no/such/folder", image_encoder=str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BaseError, match=r"config.json is not valid JSON"):
        import_official(user_cache(), world.checkpoints, name="x", **world.sources | {"image_encoder": str(tmp_path)})
    (tmp_path / "config.json").write_text('{"hidden_size": 768}')
    with pytest.raises(BaseError, match="has no weights: neither model.safetensors nor pytorch_model.bin"):
        import_official(user_cache(), world.checkpoints, name="x", **world.sources | {"image_encoder": str(tmp_path)})


# ---- a base from plain Stable Diffusion


def test_stable_diffusion_widened_predicts_as_before(world, tmp_path):
    from dreampose_cli.training.init import starting_point

    clip = {"--image-encoder": str(world.clip_folder)}
    base = starting_point(user_cache(), str(world.stable_diffusion), clip)
    assert base.config.resolution == (640, 512)
    assert base.photo_range == base.config.target_range == (-1.0, 1.0)
    assert base.config.network.photo.start == "noise"
    plain = UNet2DConditionModel.from_pretrained(world.stable_diffusion / "unet").eval()
    latents = torch.randn(2, 4, 16, 8)
    states = torch.randn(2, 50, 768)
    pose = torch.zeros(2, 10, 16, 8)
    nothing = torch.zeros(2, 0, 16, 8)
    with torch.no_grad():
        expected = plain(latents, 500, encoder_hidden_states=states).sample
        assert torch.equal(base.predict(latents, 500, DreamPoseCondition(states, pose, nothing)), expected)
        # the new channels start at zero: no pose changes anything yet
        posed = DreamPoseCondition(states, torch.rand_like(pose), nothing)
        assert torch.allclose(base.predict(latents, 500, posed), expected, atol=1e-6)
        # and the adapter as the identity on CLIP's tokens, whatever the VAE says
        one, other = base.adapter(states, torch.randn(2, 4, 80, 64)), base.adapter(states, torch.randn(2, 4, 80, 64))
        assert torch.equal(one, other)
        assert torch.allclose(one, states, atol=1e-6)
        assert torch.allclose(base.predict(latents, 500, DreamPoseCondition(one, pose, nothing)), expected, atol=1e-5)


def test_parts_that_a_stable_diffusion_lacks_follow_the_seed(world):
    """Whatever the process drew before: a training that resumes must begin with the same."""
    from dreampose_cli.training.init import starting_model

    def begun(seed):
        torch.rand(1)
        clip = {"--image-encoder": str(world.clip_folder)}
        source = str(world.stable_diffusion)
        return starting_model(user_cache(), "paper", source, clip, None, {}, None, seed, None, print).identity["base"]

    assert begun(0) == begun(0) != begun(1)


def test_train_begins_from_stable_diffusion(world, clips, tmp_path, monkeypatch, capsys):
    import dataclasses

    from dreampose_cli.networks.dreampose import presets
    from dreampose_cli.workflows import validation

    monkeypatch.setattr(presets, "PAPER", dataclasses.replace(presets.PAPER, resolution=(48, 32)))
    words = f"train {clips} -o {tmp_path}/people --base {world.stable_diffusion} --image-encoder {world.clip_folder}"
    words += " --max-steps 1 --batch-size 1 --device cpu"
    monkeypatch.setattr(validation, "write_sample_grid", lambda *a, **k: None)  # a hundred steps of sampling
    assert main(words.split()) == 0, capsys.readouterr().err
    base = load_base(tmp_path / "people")
    assert base.unet.config.in_channels == 14
    assert base.config.provenance["from"]["stable_diffusion"] == "sd"
    assert "OpenRAIL" in base.config.provenance["licence"]
    weights = load_file(world.stable_diffusion / "vae" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(base.vae.encoder.conv_in.weight, weights["encoder.conv_in.weight"])  # frozen, as is CLIP
    assert torch.equal(
        base.modules["image_encoder"].state_dict()["pre_layrnorm.weight"], world.clip.pre_layrnorm.weight
    )
    # from a base there is an image encoder already
    assert main(f"train {clips} -o {tmp_path}/more --base {tmp_path}/people --image-encoder x".split()) == 2


def test_an_imported_base_trains_with_its_own_ranges(world, imported, clips, tmp_path):
    """Condition and target meet the VAE in different ranges there: latents are made for each."""
    from dreampose_cli.training.frames import FrameDataset
    from dreampose_cli.training.sources import encode_frames

    base = load_base(imported)
    pictures = np.random.default_rng(0).integers(0, 256, (1, 640, 512, 3), dtype=np.uint8)
    frames = FrameDataset(tmp_path, pictures, np.zeros((1, 3, 640, 512), np.uint8), [])
    target = encode_frames(user_cache(), base, frames, base.config.target_range)([0])
    condition = encode_frames(user_cache(), base, frames, base.photo_range)([0])
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        expected = world.vae.encode(pixels).latent_dist.mode() * SCALE
    assert difference(condition, expected) < 1e-3  # kept in half precision
    assert difference(target, expected) > 1e-2
