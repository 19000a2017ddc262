"""The Hub on loopback and its tiny repositories: what other tests build on is held to the libraries' own loaders."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tiny_hub
from hub_server import COMMIT

LATER = "f" * 40


@pytest.fixture
def client(hub, monkeypatch, tmp_path):
    """The real client's module, pointed at `hub`."""
    import huggingface_hub
    from huggingface_hub import constants, errors, utils  # noqa: F401  (they become attributes of the module)

    hub.use(monkeypatch, tmp_path / "hf")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    utils.disable_progress_bars()
    return huggingface_hub


def test_branches_commits_and_pages_of_a_listing(hub, client, monkeypatch):
    monkeypatch.setattr("hub_server._PAGE", 2)
    files = {"a.json": "{}", "deep/b.json": "{}", "deep/er/c.safetensors": b"3" * 100, "d.txt": "d", "e.txt": "e"}
    hub.add("owner/name", {"a.json": "old"}, refs=("v1", "feature/x"))
    hub.add("owner/name", files, commit=LATER)
    api = client.HfApi()
    assert api.model_info("owner/name").sha == LATER
    assert api.model_info("owner/name", revision="feature/x").sha == COMMIT
    assert set(api.list_repo_files("owner/name")) == set(files)
    entries = {e.path: e for e in api.list_repo_tree("owner/name", recursive=True) if hasattr(e, "blob_id")}
    assert set(entries) == set(files) and entries["deep/er/c.safetensors"].lfs.size == 100
    assert [e.path for e in api.get_paths_info("owner/name", ["d.txt", "none"])] == ["d.txt"]
    for revision, text in (("v1", "old"), (LATER, "{}"), ("main", "{}")):
        path = client.hf_hub_download("owner/name", "a.json", revision=revision)
        assert Path(path).read_text(encoding="utf-8") == text
    large = client.hf_hub_download("owner/name", "deep/er/c.safetensors")
    assert Path(large).read_bytes() == b"3" * 100


def test_who_may_read(hub, client):
    hub.add("owner/private", {"a.json": "{}"}, token="right")
    hub.add("owner/gated", {"a.json": "{}"}, gated=True)
    for name, problem in (
        ("owner/none", client.errors.RepositoryNotFoundError),
        ("owner/private", client.errors.RepositoryNotFoundError),
        ("owner/gated", client.errors.GatedRepoError),
    ):
        with pytest.raises(problem):
            client.hf_hub_download(name, "a.json", token=False)
    assert client.hf_hub_download("owner/private", "a.json", token="right")
    assert client.hf_hub_download("owner/gated", "a.json", token="any")
    with pytest.raises(client.errors.EntryNotFoundError):
        client.hf_hub_download("owner/gated", "b.json", token="any")


def test_a_download_resumes_where_it_broke(hub, client, monkeypatch):
    monkeypatch.setattr(client.constants, "DOWNLOAD_CHUNK_SIZE", 100)
    body = bytes(range(256)) * 40
    hub.add("owner/name", {"model.safetensors": body})
    hub.break_file("model.safetensors", after=5000, how="close", times=1)
    path = client.hf_hub_download("owner/name", "model.safetensors")
    assert Path(path).read_bytes() == body
    assert len([r for r in hub.requests if r.startswith("GET /large-storage")]) == 2  # the second for the rest alone


def test_a_client_is_killed_in_the_middle(hub, tmp_path):
    hub.add("owner/name", {"model.safetensors": b"1" * 1000})
    hub.break_file("model.safetensors", how="stall")
    code = "from huggingface_hub import snapshot_download as s; print(s('owner/name'))"
    environment = hub.environment(tmp_path)
    client = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    assert hub.stalled.wait(60)
    client.kill()
    client.wait()
    hub.mend()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(COMMIT)


def tensors(folder, name):
    return load_file(folder / name) if name.endswith(".safetensors") else torch.load(folder / name, weights_only=True)


def test_the_files_have_as_many_tensors_as_the_real_ones(tiny_repositories):
    counts = {
        "stable-diffusion-v1-5/stable-diffusion-v1-5": {"unet/diffusion_pytorch_model.safetensors": 686},
        "zcxu-eric/MagicAnimate": {
            "appearance_encoder/diffusion_pytorch_model.safetensors": 662,
            "densepose_controlnet/diffusion_pytorch_model.safetensors": 340,
            "temporal_attention/temporal_attention.ckpt": 560,
        },
        "patrolli/AnimateAnyone": {"denoising_unet.pth": 686, "reference_unet.pth": 682, "motion_module.pth": 588},
    }
    for name, files in counts.items():
        folder = tiny_hub.build(name, tiny_repositories)
        for file, count in files.items():
            state = tensors(folder, file)
            assert len(state) == count
            assert not [key for key, value in state.items() if not value.any() and not key.endswith("position_ids")]


def test_motion_keys_are_animatediffs(tiny_repositories):
    state = tensors(
        tiny_hub.build("zcxu-eric/MagicAnimate", tiny_repositories), "temporal_attention/temporal_attention.ckpt"
    )
    block = "up_blocks.3.motion_modules.2.temporal_transformer."
    inner = f"{block}transformer_blocks.0."
    assert {key.removeprefix(block) for key in state if key.startswith(block) and not key.startswith(inner)} == {
        f"{name}.{kind}" for name in ("norm", "proj_in", "proj_out") for kind in ("weight", "bias")
    }
    expected = {f"ff.net.0.proj.{kind}" for kind in ("weight", "bias")} | {"ff.net.2.weight", "ff.net.2.bias"}
    expected |= {f"{name}.{kind}" for name in ("norms.0", "norms.1", "ff_norm") for kind in ("weight", "bias")}
    for index in "01":
        attention = f"attention_blocks.{index}."
        expected |= {f"{attention}to_{part}.weight" for part in "qkv"} | {f"{attention}pos_encoder.pe"}
        expected |= {f"{attention}to_out.0.weight", f"{attention}to_out.0.bias"}
    assert {key.removeprefix(inner) for key in state if key.startswith(inner)} == expected
    assert state[f"{inner}attention_blocks.1.pos_encoder.pe"].shape == (1, 24, tiny_hub.WIDTHS[0])


def pictures(pipeline, prompt, **inputs):
    """A picture of one seed as float values, 64 x 64."""
    generator = torch.Generator().manual_seed(0)
    result = pipeline(prompt, num_inference_steps=2, generator=generator, output_type="np", **inputs)
    return result.images[0]


@pytest.mark.filterwarnings("ignore")  # deprecations inside the pipelines
def test_the_libraries_load_and_run_what_is_served(tiny_repositories):
    """Each pipeline answers its prompt, its photo, its pose: nothing is left out by a key that did not match."""
    from diffusers import (
        AutoencoderKL,
        ControlNetModel,
        StableDiffusionControlNetPipeline,
        StableDiffusionInstructPix2PixPipeline,
    )
    from transformers import CLIPVisionModelWithProjection

    base = tiny_hub.build("stable-diffusion-v1-5/stable-diffusion-v1-5", tiny_repositories)
    openpose = ControlNetModel.from_pretrained(
        tiny_hub.build("lllyasviel/control_v11p_sd15_openpose", tiny_repositories)
    )
    adapter = tiny_hub.build("h94/IP-Adapter", tiny_repositories)
    encoder = CLIPVisionModelWithProjection.from_pretrained(adapter / "models" / "image_encoder")
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        base, controlnet=openpose, image_encoder=encoder, safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    state = tensors(base, "text_encoder/model.safetensors")
    token = state["text_model.embeddings.token_embedding.weight"]
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight, token)
    assert len(pipeline.tokenizer("a red dress").input_ids) < 8  # the merges are used
    rng = np.random.default_rng(0)
    photo, other = (Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(2))
    plain = pictures(pipeline, "a red dress", image=photo)
    assert plain.shape == (64, 64, 3) and plain.std() > 0.01
    assert np.abs(plain - pictures(pipeline, "a blue coat", image=photo)).max() > 1e-3
    assert np.abs(plain - pictures(pipeline, "a red dress", image=other)).max() > 1e-3
    pipeline.load_ip_adapter(
        adapter, subfolder="models", weight_name="ip-adapter_sd15.safetensors", image_encoder_folder=None
    )
    adapted = [pictures(pipeline, "a red dress", image=photo, ip_adapter_image=person) for person in (photo, other)]
    assert np.abs(adapted[0] - plain).max() > 1e-3
    assert np.abs(adapted[0] - adapted[1]).max() > 1e-4

    pix2pix = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        tiny_hub.build("timbrooks/instruct-pix2pix", tiny_repositories),
        safety_checker=None,
        requires_safety_checker=False,
    )
    pix2pix.set_progress_bar_config(disable=True)
    edits = [pictures(pix2pix, prompt, image=photo) for prompt in ("a red dress", "a blue coat")]
    assert edits[0].shape == (64, 64, 3) and np.abs(edits[0] - edits[1]).max() > 1e-3

    folder = tiny_hub.build("stabilityai/sd-vae-ft-mse", tiny_repositories)
    keys = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert "encoder.mid_block.attentions.0.query.weight" in keys
    vae = AutoencoderKL.from_pretrained(folder)
    query = vae.encoder.mid_block.attentions[0].to_q.weight
    assert torch.equal(query, keys["encoder.mid_block.attentions.0.query.weight"])
