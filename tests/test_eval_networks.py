"""The feature metrics' plumbing with random weights of the real classes, TorchScript stand-ins, and Frechet distances."""

import contextlib
import hashlib
import math
import warnings

import numpy as np
import pytest
import torch

from dreampose_cli.evaluation import feature_extractors as networks
from dreampose_cli.evaluation import weights
from dreampose_cli.evaluation.frechet import Gaussian, frechet, frechet_distance
from dreampose_cli.evaluation.scoring import evaluate, rows_per_frame
from dreampose_cli.evaluation.weights import Missing, Weights
from test_eval import noise, write

# ---- Frechet distances


def test_frechet_distance_of_normal_distributions_in_closed_form():
    eye = np.eye(3)
    assert frechet(np.zeros(3), eye, np.array([1.0, 2, 2]), eye) == 9
    # diagonal covariances: the sum of (difference of deviations)^2
    a, b = np.array([1.0, 4, 9]), np.array([4.0, 1, 0])
    assert frechet(np.zeros(3), np.diag(a), np.ones(3), np.diag(b)) == pytest.approx(
        3 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    )
    # commuting covariances, rotated together
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    assert frechet(np.zeros(3), q @ np.diag(a) @ q.T, np.zeros(3), q @ np.diag(b) @ q.T) == pytest.approx(
        ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    )
    # two dimensions: tr sqrt(AB) = sqrt(tr AB + 2 sqrt(det AB))
    a, b = np.array([[2.0, 0.5], [0.5, 1]]), np.array([[1.0, -0.3], [-0.3, 3]])
    product = a @ b
    root = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    assert frechet(np.zeros(2), a, np.zeros(2), b) == pytest.approx(np.trace(a) + np.trace(b) - 2 * root)


def test_running_sums_are_the_mean_and_covariance():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(57, 5)) + 1e6  # far from zero, where naive sums of squares lose everything
    total = Gaussian()
    for piece in (x[:1], x[1:20], x[20:20], x[20:]):
        total.add(piece)
    assert total.count == 57
    assert total.mean == pytest.approx(x.mean(0), rel=1e-14)
    assert total.covariance == pytest.approx(np.cov(x, rowvar=False), rel=1e-6)
    with pytest.raises(ValueError, match="finite"):
        total.add(np.full((1, 5), np.nan))


def test_frechet_distance_with_fewer_samples_than_dimensions():
    rng = np.random.default_rng(2)
    a, b = Gaussian(), Gaussian()
    assert frechet_distance(a, b) is None
    x = rng.normal(size=(4, 30))
    a.add(x)
    b.add(x)
    assert frechet_distance(a, b) == 0
    moved = Gaussian()
    moved.add(x + 2)
    assert frechet_distance(a, moved) == pytest.approx(30 * 4, rel=1e-6)
    wide = Gaussian()
    wide.add(3 * x)
    covariance = np.trace(np.cov(x, rowvar=False))
    assert frechet_distance(a, wide) == pytest.approx(4 * (x.mean(0) ** 2).sum() + 4 * covariance, rel=1e-5)


# ---- LPIPS and VGG


@pytest.fixture(scope="module", params=["alex", "vgg"])
def perceptual(request):
    torch.manual_seed(0)
    backbone = networks.Backbone(request.param)
    heads = [torch.rand(1, width, 1, 1) for width in backbone.widths]
    return networks.Perceptual(backbone, heads, f"lpips_{request.param}", "vgg" if request.param == "vgg" else None)


def test_backbones_have_torchvisions_names_and_shapes():
    alex = {key: tuple(value.shape) for key, value in networks.Backbone("alex").state_dict().items()}
    assert alex["features.0.weight"] == (64, 3, 11, 11)
    assert alex["features.10.weight"] == (256, 256, 3, 3)
    assert len(alex) == 10
    vgg = {key: tuple(value.shape) for key, value in networks.Backbone("vgg").state_dict().items()}
    convolutions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert list(vgg) == [f"features.{i}.{part}" for i in convolutions for part in ("weight", "bias")]
    assert vgg["features.28.weight"] == (512, 512, 3, 3)
    assert networks.Backbone("vgg").widths == (64, 128, 256, 512, 512)
    assert networks.Backbone("alex").widths == (64, 192, 384, 256, 256)


def test_lpips_is_its_definition(perceptual):
    a, b = noise(1, 2, (70, 64)), noise(2, 2, (70, 64))
    found = perceptual(a, b)
    expected, plain = np.zeros(2), np.zeros(2)
    with torch.no_grad():
        taps = [perceptual.backbone(networks.signed(clip)) for clip in (a, b)]
    for x, y, head in zip(*taps, perceptual.heads, strict=True):
        x, y, w = x.double().numpy(), y.double().numpy(), head.double().numpy()
        plain += np.abs(x - y).mean((1, 2, 3)) / 5
        x, y = (z / (np.sqrt((z**2).sum(1, keepdims=True)) + 1e-10) for z in (x, y))
        expected += (w * (x - y) ** 2).sum(1).mean((1, 2))
    assert found[perceptual.lpips] == pytest.approx(expected, rel=1e-4)
    assert set(found) == {perceptual.lpips} | ({"vgg"} if perceptual.plain else set())
    if perceptual.plain:
        assert found["vgg"] == pytest.approx(plain, rel=1e-4)
    assert perceptual(a, a)[perceptual.lpips] == [0, 0]


def test_the_network_gets_minus_one_to_one():
    """The trap of the common script: [0, 1] fed to a network that wants [-1, 1]."""
    black, white = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 255, np.uint8)
    assert networks.signed(black).unique().tolist() == [-1]
    assert networks.signed(white).unique().tolist() == [1]
    seen = []
    backbone = networks.Backbone("alex")
    backbone.features[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        backbone(networks.signed(np.full((1, 64, 64, 3), 255, np.uint8)))
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx((1 - mean) / deviation, abs=1e-4)  # ImageNet's white


def test_the_reference_library_agrees(perceptual):
    lpips = pytest.importorskip("lpips", reason="the package lpips is not needed, and compared with where it is")
    name = perceptual.lpips.removeprefix("lpips_")
    theirs = lpips.LPIPS(net=name, pretrained=False, pnet_rand=True, verbose=False).eval()
    names = [name for name, _ in theirs.net.named_parameters()]
    ours = perceptual.backbone.state_dict()
    with torch.no_grad():
        for path, value in zip(names, ours.values(), strict=True):
            theirs.net.get_parameter(path).copy_(value)
        for head, layer in zip(perceptual.heads, theirs.lins, strict=True):
            layer.model[-1].weight.copy_(head)
        a, b = noise(1, 2, (70, 64)), noise(2, 2, (70, 64))
        expected = theirs(networks.signed(a), networks.signed(b)).flatten().tolist()
    assert perceptual(a, b)[perceptual.lpips] == pytest.approx(expected, rel=1e-5)


def test_published_heads_are_read_and_others_refused():
    backbone = networks.Backbone("alex")
    state = {f"lin{k}.model.1.weight": torch.rand(1, width, 1, 1) for k, width in enumerate(backbone.widths)}
    assert [head.shape[1] for head in networks.read_heads(state, backbone)] == list(backbone.widths)
    with pytest.raises(ValueError, match="a head is"):
        networks.read_heads(state, networks.Backbone("vgg"))


# ---- CLIP


def test_clip_similarity_with_the_real_classes():
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, projection_dim=16
    )
    model = CLIPVisionModelWithProjection(config)
    similarity = networks.ClipSimilarity(model, CLIPImageProcessorPil())
    a, b = noise(1, 3), noise(2, 3)
    assert similarity(a, a)["clip"] == pytest.approx([1, 1, 1], abs=1e-9)
    found = similarity(a, b)["clip"]
    assert all(-1 <= value < 1 for value in found)
    assert similarity(b, a)["clip"] == pytest.approx(found, abs=1e-6)  # float32, and another order of the batch
    state = {f"{key}": value for key, value in model.state_dict().items()} | {"text_model.x": torch.zeros(1)}
    assert set(networks.clip_state(state, model.state_dict())) == set(model.state_dict())
    with pytest.raises(KeyError, match="the file has no"):
        networks.clip_state({}, model.state_dict())


@pytest.fixture
def whole_clip(hub, tmp_path, monkeypatch):
    """A whole CLIP at tiny size on the Hub, with its tokenizer: the model."""
    import transformers
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    small["projection_dim"] = 16
    folder = tmp_path / "clip"
    tokenizer = transformers.CLIPTokenizer.from_pretrained(_tokenizer_in(folder))
    tokenizer._tokenizer.save(str(folder / "tokenizer.json"))
    text = small | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=small, projection_dim=16)).eval()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    monkeypatch.setattr(transformers, "CLIPVisionConfig", lambda: CLIPVisionConfig(**small))
    monkeypatch.setattr(transformers, "CLIPTextConfig", lambda **_: CLIPTextConfig(**text))
    hub.add("openai/clip", folder, commit="1" * 40)
    hub.use(monkeypatch, tmp_path / "hf")
    names = ("pytorch_model.bin", "tokenizer.json")
    served = [
        Weights(name, hashlib.sha256((folder / name).read_bytes()).hexdigest(), 1, repository="openai/clip", revision="1" * 40)
        for name in names
    ]
    needs = {"clip": served[:1], "clip_photo": served[:1], "clip_text": served}
    monkeypatch.setattr(networks, "NEEDS", networks.NEEDS | needs)
    return model, tokenizer


def _tokenizer_in(folder):
    from tiny_hub import write_tokenizer

    folder.mkdir()
    write_tokenizer(folder)
    return folder


def test_clip_scores_against_photo_and_prompt_from_the_hub(whole_clip, hub, tmp_path, capsys):
    """Frame against reference, photo and prompt, from one pass; the figures are those of transformers' whole CLIP."""
    import json

    from transformers import CLIPImageProcessorPil

    from dreampose_cli.__main__ import main

    model, tokenizer = whole_clip
    photos, clips = tmp_path / "photos", {"one": noise(1, 3), "two": noise(2, 3)}
    for name, clip in clips.items():
        write(tmp_path / "ours" / name, clip)
        write(tmp_path / "theirs" / name, clip[::-1])
    write(photos / "one", noise(3, 1))
    words = ["eval", tmp_path / "ours", tmp_path / "theirs", "--photo", photos, "--prompt", "a red dress", "--json"]
    words += ["--size", "native", "--metrics", "clip,clip_photo,clip_text"]
    assert main([str(word) for word in words]) == 0
    document = json.loads(capsys.readouterr().out)
    first, second = (clip["metrics"] for clip in document["clips"])
    assert second["clip_photo"] is None and document["metrics"]["clip_photo"] == first["clip_photo"]
    pixels = CLIPImageProcessorPil()(images=[*clips["one"], noise(3, 1)[0]], return_tensors="pt")
    with torch.no_grad():
        out = model(**tokenizer(["a red dress"], return_tensors="pt"), **pixels)
    frames, photo = out.image_embeds[:3], out.image_embeds[3]
    assert first["clip_photo"] == pytest.approx(float((frames @ photo).mean()), abs=1e-5)
    assert first["clip_text"] == pytest.approx(float((frames @ out.text_embeds[0]).mean()), abs=1e-5)
    assert first["clip"] == pytest.approx(float((frames * frames.flip(0)).sum(-1).mean()), abs=1e-5)
    assert document["protocol"]["prompt"] == "a red dress"
    # one picture is the photo of all clips, and a prompt that CLIP cannot read whole is a reason
    words[words.index(photos)] = photos / "one" / "00000.png"
    words[words.index("a red dress")] = "red " * 80
    assert main([str(word) for word in words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert all(clip["metrics"]["clip_photo"] is not None for clip in document["clips"])
    assert "the prompt has 82 tokens, and CLIP reads 77" in document["reasons"]["clip_text"]


def test_a_frames_clip_similarity_does_not_hide_the_clips_name(tmp_path, monkeypatch):
    monkeypatch.setattr(
        networks, "load", lambda key, *_, **__: lambda a, b: {"clip": [0.5] * len(a)} if key == "clip" else None
    )
    found = evaluate(*(write(tmp_path / name, noise(1, 2)) for name in "ab"), metrics=("clip",), keep_frames=True)
    assert list(rows_per_frame(found)) == [{"name": "a", "frame": i, "clip": 0.5} for i in range(2)]


def test_a_network_that_fails_on_the_way_is_missing_and_the_others_come(tmp_path, monkeypatch):
    calls = []

    def lpips(a, b):
        calls.append(len(a))
        if len(calls) == 2:
            raise RuntimeError("Kernel size can't be greater than actual input size")
        return {"lpips_vgg": [0.25] * len(a), "vgg": [0.5] * len(a)}

    stand_ins = {"lpips_vgg": lpips, "vgg": lpips, "clip": lambda a, b: {"clip": [0.5] * len(a)}}
    monkeypatch.setattr(networks, "load", lambda key, *_, **__: stand_ins[key])
    for side in "ab":
        (tmp_path / side).mkdir()
        for clip in ("one", "two"):
            write(tmp_path / side / clip, noise(1, 9))
    found = evaluate(tmp_path / "a", tmp_path / "b", metrics=("ssim", "lpips_vgg", "vgg", "clip"), keep_frames=True)
    assert (found.metrics["ssim"], found.metrics["clip"]) == (1, 0.5)
    assert calls == [8, 1]  # not asked again
    for key in ("lpips_vgg", "vgg"):  # eight frames' mean is no mean
        assert found.metrics[key] is None
        assert "its network failed on frames of" in found.reasons[key] and "Kernel size" in found.reasons[key]
        assert all(clip.metrics[key] is None and key not in clip.per_frame for clip in found.clips)
    assert "lpips_vgg" not in found.spread


# ---- FID and FVD


class InceptionLike(torch.nn.Module):
    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        x = img.float().mean(dim=(2, 3)) / 255
        return x if return_features else x.sum(1, keepdim=True)


class I3dLike(torch.nn.Module):
    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        assert rescale and resize and return_features
        return torch.cat([x.float().mean(dim=(2, 3, 4)), x.float().diff(dim=2).abs().mean(dim=(2, 3, 4))], dim=1) / 255


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """TorchScript files of the interfaces of Inception and I3D where torch keeps its weights and the Hub its own."""
    zoo = tmp_path / "torch" / "checkpoints"
    zoo.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(zoo.parent))
    stand_ins = {}
    with _quiet():
        for key, module in (("fid", InceptionLike()), ("fvd", I3dLike())):
            path = zoo / f"{key}.pt"
            torch.jit.script(module).save(str(path))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            stand_ins[key] = (Weights(path.name, digest, 1, url="https://nowhere.invalid/x"),)
    monkeypatch.setattr(networks, "NEEDS", networks.NEEDS | stand_ins)
    return zoo


@contextlib.contextmanager
def _quiet():
    with warnings.catch_warnings():  # torch.jit is deprecated, and what these files are
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def test_fid_and_fvd_through_torchscript(scripts, tmp_path):
    a, b = noise(1, 37), noise(2, 37)
    left, right = write(tmp_path / "a", a), write(tmp_path / "b", b)
    found = evaluate(left, right, metrics=("fid", "fvd", "l1"))
    sums = Gaussian(), Gaussian()
    for total, clip in zip(sums, (a, b), strict=True):
        total.add(clip.mean((1, 2)) / 255)
    assert found.metrics["fid"] == pytest.approx(frechet_distance(*sums), rel=1e-4)
    assert found.metrics["fvd"] > 0
    assert (found.protocol["fid_frames"], found.protocol["fvd_windows"]) == (37, 2)  # two windows of 16; 5 frames left
    assert found.protocol["networks"]["fid"][0]["file"] == "fid.pt"
    assert "fid" not in found.reasons and "fvd" not in found.reasons
    same = evaluate(left, left, metrics=("fid", "fvd"))
    assert (same.metrics["fid"], same.metrics["fvd"]) == (0, 0)
    assert evaluate(left, right).metrics["fid"] == found.metrics["fid"]  # weights that are here are used unasked


def test_fvd_needs_two_windows(scripts, tmp_path):
    found = evaluate(*(write(tmp_path / name, noise(1, 20)) for name in "ab"))
    assert found.metrics["fvd"] is None
    assert found.reasons["fvd"] == "needs two windows of 16 frames, and there is 1"
    assert found.metrics["fid"] == 0


def test_a_file_with_another_interface_is_a_reason(scripts, tmp_path):
    with _quiet():
        torch.jit.script(torch.nn.Identity()).save(str(scripts / "fid.pt"))
    found = evaluate(*(write(tmp_path / name, noise(1, 2)) for name in "ab"), metrics=("fid", "ssim"))
    assert "is not the file that was published" in found.reasons["fid"]
    assert found.metrics["ssim"] == 1


# ---- weights


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(weights, "_unreachable", set())
    source = tmp_path / "source.bin"
    source.write_bytes(b"weights" * 1000)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return Weights("w.bin", digest, 1, url=source.as_uri()), tmp_path / "torch" / "checkpoints"


def test_weights_are_downloaded_once_and_hashed(zoo):
    wanted, folder = zoo
    with pytest.raises(Missing, match="--metrics all"):
        weights.obtain(wanted, fetch=False)
    seen = []
    path = weights.obtain(wanted, fetch=True, progress=lambda *words: seen.append(words))
    assert path == folder / "w.bin" and seen
    assert [entry.name for entry in folder.iterdir()] == ["w.bin"]
    stamp = path.stat().st_mtime_ns
    assert weights.obtain(wanted, fetch=True).stat().st_mtime_ns == stamp
    path.write_bytes(b"damaged")
    with pytest.raises(Missing, match="not the file that was published"):
        weights.obtain(wanted, fetch=True)


def test_a_download_of_something_else_is_thrown_away(zoo):
    wanted, folder = zoo
    wrong = Weights(wanted.file, "0" * 64, 1, url=wanted.url)
    with pytest.raises(Missing, match="its SHA-256 is"):
        weights.obtain(wrong, fetch=True)
    assert list(folder.iterdir()) == []


def test_an_unreachable_host_is_asked_once(zoo, monkeypatch):
    import urllib.error

    asked = []

    def refuse(url, timeout):
        asked.append(url)
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(weights.urllib.request, "urlopen", refuse)
    for name in ("one", "two"):
        with pytest.raises(Missing, match="cannot be reached"):
            weights.obtain(Weights(name, "0" * 64, 1, url=f"https://nowhere.invalid/{name}"), fetch=True)
    assert len(asked) == 1


def test_every_file_has_a_source_and_a_checksum():
    for files in networks.NEEDS.values():
        for file in files:
            assert len(file.sha256) == 64 and int(file.sha256, 16)
            assert file.source.startswith("https://") and file.licence
