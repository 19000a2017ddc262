"""The repositories that people's bases come from, in their layout on the Hub but at tiny size and with random weights.

Names of files and keys, what configs say and leave out, and what lies next to the needed files (old checkpoints, safety
checkers: nothing may fetch them) are as in the real repositories; widths are 32 to 96, pictures 64 x 64. No weight is
zero: where training starts from zero, as in a ControlNet's last convolutions, random values stand, or a test of the
arithmetic behind them would see nothing. `build(name, folder)` writes one repository, `REPOSITORIES` lists them,
`serve(hub, folder)` puts all of them onto a `HubServer`; fixture `tiny_hub` in conftest.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hub_server import COMMIT, HubServer

WIDTHS = (32, 64, 96, 96)  # four levels, the last two alike, as in Stable Diffusion 1.5; its group norms have 32 groups
CONTEXT = 32  # width of the text's, and of the image's, tokens: 768 at full size
PICTURE = 64  # pixels; latents are an eighth of it
GUIDER_WIDTHS = (16, 32, 96, 256)  # of the conditioning embedding, which every member of the family has alike

_ATTENTION = "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"
_UP = "UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"

_TABLES = ("token_embedding.weight", "position_embedding.weight")

State = dict[str, torch.Tensor]


# Weights


def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """`module` with random weights that keep activations near one and of which none is zero; in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim > 1:
                value.copy_(noise * (0.5 if name.endswith(_TABLES) else value[0].numel() ** -0.5))
            else:  # biases, and the scales of norms, which are near one
                value.copy_(noise * 0.05 + (1.0 if name.endswith("weight") else 0.0))
    return module.eval()


def write_config(folder: Path, module: Any, *, drop: tuple[str, ...] = (), **more: Any) -> None:
    """config.json as diffusers of the weights' time wrote it: no private keys of today."""
    config = dict(json.loads(module.to_json_string())) | more
    config = {name: value for name, value in config.items() if name not in drop}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))


def write_weights(path: Path, state: State, *, half: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().contiguous().clone() for name, value in state.items()}
    if half:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    if path.suffix == ".safetensors":
        save_file(state, path, metadata={"format": "pt"})
    else:
        torch.save(state, path)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def unwanted(folder: Path, *names: str) -> None:
    """Files of the real repository that nobody may download: their content is not what their name says."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not to be downloaded\n")


# Networks


def unet(seed: int, in_channels: int = 4):
    """Stable Diffusion 1.5's UNet: 686 tensors, "attention_head_dim": 8 meaning eight heads."""
    from diffusers import UNet2DConditionModel

    return randomise(
        UNet2DConditionModel(
            sample_size=PICTURE // 8,
            in_channels=in_channels,
            block_out_channels=WIDTHS,
            down_block_types=_ATTENTION,
            up_block_types=_UP,
            cross_attention_dim=CONTEXT,
            attention_head_dim=8,
        ),
        seed,
    )


def controlnet(seed: int):
    """340 tensors; the convolutions that start at zero are random like all others."""
    from diffusers import ControlNetModel

    return randomise(
        ControlNetModel(
            block_out_channels=WIDTHS,
            down_block_types=_ATTENTION,
            cross_attention_dim=CONTEXT,
            attention_head_dim=8,
            conditioning_embedding_out_channels=GUIDER_WIDTHS,
        ),
        seed,
    )


def autoencoder(seed: int):
    from diffusers import AutoencoderKL

    levels = len(WIDTHS)
    return randomise(
        AutoencoderKL(
            block_out_channels=(32,) * levels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=32,
            sample_size=PICTURE,
        ),
        seed,
    )


def text_encoder(seed: int, vocabulary: int):
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=CONTEXT,
        intermediate_size=2 * CONTEXT,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=CONTEXT,
        bos_token_id=0,
        eos_token_id=2,  # as the file says; the end of a text is found as its largest number
        pad_token_id=1,
    )
    return randomise(CLIPTextModel(config), seed)


def vision_encoder(seed: int, projection: int = CONTEXT):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=projection,
        image_size=224,
        patch_size=32,
    )
    return randomise(CLIPVisionModelWithProjection(config), seed)


def motion_modules(seed: int, *, mid_block: bool, length: int) -> State:
    """AnimateDiff-v1's names: 560 tensors without a mid block, 588 with one; positions for `length` frames."""
    from diffusers import MotionAdapter

    adapter = MotionAdapter(
        block_out_channels=WIDTHS,
        motion_layers_per_block=2,
        motion_num_attention_heads=8,
        motion_norm_num_groups=32,
        motion_max_seq_length=length,
        use_motion_mid_block=mid_block,
    )
    return animatediff_names(randomise(adapter, seed).state_dict())


def animatediff_names(state: State) -> State:
    """The weights of motion modules by AnimateDiff's names in place of those of diffusers."""
    old: State = {}
    for name, value in state.items():
        place, number, rest = name.partition("motion_modules.")[0::1]
        index, _, rest = rest.partition(".")
        for new, former in (
            ("pos_embed.", "attention_blocks.0.pos_encoder."),
            ("attn1.", "attention_blocks.0."),
            ("attn2.", "attention_blocks.1."),
            ("norm1.", "norms.0."),
            ("norm2.", "norms.1."),
            ("norm3.", "ff_norm."),
        ):
            rest = rest.replace(f"transformer_blocks.0.{new}", f"transformer_blocks.0.{former}")
        key = f"{place}{number}{index}.temporal_transformer.{rest}"
        old[key] = value
        if rest.endswith("attention_blocks.0.pos_encoder.pe"):  # the same sinusoid, once for each attention
            old[key.replace("attention_blocks.0", "attention_blocks.1")] = value
    return old


# Text


def write_tokenizer(folder: Path) -> int:
    """CLIP's tokenizer over single bytes and a few merges; the size of its vocabulary."""
    letters = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = [chr(code) for code in letters]
    symbols += [chr(0x100 + number) for number in range(256 - len(letters))]  # the bytes that cannot be seen
    merges = ["r e", "re d</w>", "d r", "dr e", "s s</w>", "dre ss</w>"]
    words = symbols + [symbol + "</w>" for symbol in symbols] + [merge.replace(" ", "") for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    write_json(folder / "vocab.json", {word: number for number, word in enumerate(words)})
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special["pad_token"] = "<|endoftext|>"
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        special | {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77,
                   "name_or_path": "openai/clip-vit-large-patch14", "tokenizer_class": "CLIPTokenizer"},
    )  # fmt: skip
    return len(words)


def write_text_encoder(folder: Path, seed: int, vocabulary: int, *, half: bool) -> None:
    """Keys begin with `text_model.`, and a buffer of positions lies among them, as in the files of 2022."""
    model = text_encoder(seed, vocabulary)
    state = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in model.state_dict().items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    write_weights(folder / "model.safetensors", state)
    if half:
        write_weights(folder / "model.fp16.safetensors", state, half=True)
    write_json(folder / "config.json", {**model.config.to_diff_dict(), "architectures": ["CLIPTextModel"]})


def write_vision_encoder(folder: Path, seed: int, *, file: str, projection: int = CONTEXT) -> None:
    model = vision_encoder(seed, projection)
    write_weights(folder / file, model.state_dict())
    write_json(folder / "config.json",
               {**model.config.to_diff_dict(), "architectures": ["CLIPVisionModelWithProjection"]})  # fmt: skip


def write_preprocessor(folder: Path) -> None:
    clip = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    clip |= {"crop_size": 224, "size": 224, "resample": 3, "do_resize": True, "do_center_crop": True}
    clip |= {"do_normalize": True, "do_convert_rgb": True, "feature_extractor_type": "CLIPFeatureExtractor"}
    write_json(folder / "preprocessor_config.json", clip)


# Repositories


def stable_diffusion(folder: Path, *, seed: int = 1, in_channels: int = 4, half: bool = True) -> None:
    """`unet/ text_encoder/ tokenizer/ vae/ scheduler/ feature_extractor/`, float32 and (`half`) fp16 variants."""
    vocabulary = write_tokenizer(folder / "tokenizer")
    write_text_encoder(folder / "text_encoder", seed + 1, vocabulary, half=half)
    for name, module in (("unet", unet(seed, in_channels)), ("vae", autoencoder(seed + 2))):
        state = module.state_dict()
        write_config(folder / name, module)
        write_weights(
            folder / name / "diffusion_pytorch_model.safetensors", old_names(state) if name == "vae" else state
        )
        if half:
            write_weights(folder / name / "diffusion_pytorch_model.fp16.safetensors", state, half=True)
    write_preprocessor(folder / "feature_extractor")
    scheduler = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
    }
    scheduler |= {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}
    scheduler |= {"clip_sample": False, "trained_betas": None}
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_index(folder, "StableDiffusionPipeline", "PNDMScheduler")
    unwanted(folder, "v1-5-pruned.safetensors", "v1-5-pruned-emaonly.ckpt", "safety_checker/model.safetensors")
    unwanted(
        folder, "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.non_ema.safetensors", "README.md"
    )


def write_index(folder: Path, pipeline: str, scheduler: str) -> None:
    """model_index.json; the safety checker that it names is not part of what can be loaded here."""
    index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": "0.6.0"}
    index |= {"feature_extractor": ["transformers", "CLIPImageProcessor"], "scheduler": ["diffusers", scheduler]}
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    write_json(folder / "model_index.json", index)


def old_names(state: State) -> State:
    """An autoencoder's state with the attention keys of 2022: query, key, value, proj_attn."""
    pairs = (("to_q.", "query."), ("to_k.", "key."), ("to_v.", "value."), ("to_out.0.", "proj_attn."))
    renamed: State = {}
    for name, value in state.items():
        if ".attentions." in name:
            for new, former in pairs:
                name = name.replace(new, former)
        renamed[name] = value
    return renamed


def finetuned_vae(folder: Path, *, seed: int = 10) -> None:
    """The files lie in the repository's root, and the config knows no scaling factor."""
    module = autoencoder(seed)
    keys = ("_class_name", "act_fn", "block_out_channels", "down_block_types", "in_channels", "latent_channels")
    keys += ("layers_per_block", "norm_num_groups", "out_channels", "sample_size", "up_block_types")
    config = {name: value for name, value in json.loads(module.to_json_string()).items() if name in keys}
    write_json(folder / "config.json", config | {"_diffusers_version": "0.4.2"})
    write_weights(folder / "diffusion_pytorch_model.safetensors", old_names(module.state_dict()))
    unwanted(folder, "diffusion_pytorch_model.bin", "README.md")


def appearance_state(module: torch.nn.Module) -> State:
    """MagicAnimate's appearance encoder: a UNet's state without the 24 tensors behind the last block it needs: 662."""
    last = "up_blocks.3.attentions.2."
    kept = (f"{last}norm.", f"{last}proj_in.", f"{last}transformer_blocks.0.norm1.")
    return {
        name: value
        for name, value in module.state_dict().items()
        if not name.startswith(("conv_norm_out.", "conv_out.")) and (not name.startswith(last) or name.startswith(kept))
    }


def magicanimate(folder: Path, *, seed: int = 20, prefix: str = "", wrapped: bool = False) -> None:
    """`appearance_encoder/ densepose_controlnet/ temporal_attention/`; `prefix` and `wrapped` as some checkpoints have."""
    appearance, control = unet(seed), controlnet(seed + 1)
    write_config(folder / "appearance_encoder", appearance, _class_name="AppearanceEncoderModel")
    write_weights(folder / "appearance_encoder/diffusion_pytorch_model.safetensors", appearance_state(appearance))
    write_config(folder / "densepose_controlnet", control)
    write_weights(folder / "densepose_controlnet/diffusion_pytorch_model.safetensors", control.state_dict())
    motion = motion_modules(seed + 2, mid_block=False, length=24)
    checkpoint: Any = {f"{prefix}{name}": value for name, value in motion.items()}
    if wrapped:
        checkpoint = {"state_dict": checkpoint, "global_step": 1}
    (folder / "temporal_attention").mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, folder / "temporal_attention" / "temporal_attention.ckpt")
    unwanted(folder, "README.md", "appearance_encoder/old.bin", "original/everything.ckpt")


def animate_anyone(folder: Path, *, seed: int = 30) -> None:
    """Four plain state dicts: a whole stage-one UNet (686), a reference UNet (682), the pose guider, 21 motion modules."""
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

    folder.mkdir(parents=True, exist_ok=True)
    guider = randomise(ControlNetConditioningEmbedding(WIDTHS[0], 3, GUIDER_WIDTHS), seed + 2)
    reference = {
        name: value
        for name, value in unet(seed + 1).state_dict().items()
        if not name.startswith(("conv_norm_out.", "conv_out."))
    }
    write_weights(folder / "denoising_unet.pth", unet(seed).state_dict())
    write_weights(folder / "reference_unet.pth", reference)
    write_weights(folder / "pose_guider.pth", guider.state_dict())
    write_weights(folder / "motion_module.pth", motion_modules(seed + 3, mid_block=True, length=32))
    unwanted(folder, "README.md", "config.json")


def image_variations(folder: Path, *, seed: int = 40) -> None:
    """`image_encoder/` of the image variations: CLIP's vision half with its projection, a pickle."""
    write_vision_encoder(folder / "image_encoder", seed, file="pytorch_model.bin")
    write_preprocessor(folder / "feature_extractor")
    unwanted(folder, "unet/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.bin", "README.md")


def instruct_pix2pix(folder: Path, *, seed: int = 50) -> None:
    """Stable Diffusion's layout with a UNet of eight input channels and an ancestral Euler scheduler."""
    stable_diffusion(folder, seed=seed, in_channels=8)
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) | {"_class_name": "EulerAncestralDiscreteScheduler"}
    write_json(path, {name: value for name, value in config.items() if name not in ("set_alpha_to_one", "clip_sample")})
    write_index(folder, "StableDiffusionInstructPix2PixPipeline", "EulerAncestralDiscreteScheduler")
    for path in folder.glob("v1-5-*"):
        path.unlink()
    unwanted(folder, "instruct-pix2pix-00-22000.ckpt", "instruct-pix2pix-00-22000.safetensors")


def openpose_controlnet(folder: Path, *, seed: int = 60) -> None:
    module = controlnet(seed)
    write_config(folder, module)
    write_weights(folder / "diffusion_pytorch_model.safetensors", module.state_dict())
    write_weights(folder / "diffusion_pytorch_model.fp16.safetensors", module.state_dict(), half=True)
    unwanted(folder, "diffusion_pytorch_model.bin", "README.md")


def ip_adapter(folder: Path, *, seed: int = 70) -> None:
    """`models/ip-adapter_sd15.safetensors`: 4 image tokens, keys and values by the number of each attention layer.

    Layers are counted in the order of the UNet's attention processors, self-attention included: 1, 3, ... are the others.
    """
    generator = torch.Generator().manual_seed(seed)
    network = unet(seed)
    tokens, projection = 4, 64

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * shape[-1] ** -0.5

    state = {"image_proj.proj.weight": random(tokens * CONTEXT, projection)}
    state |= {"image_proj.proj.bias": random(tokens * CONTEXT) * 0.1}
    state |= {"image_proj.norm.weight": 1 + random(CONTEXT) * 0.1, "image_proj.norm.bias": random(CONTEXT) * 0.1}
    modules = dict(network.named_modules())
    for number, name in enumerate(network.attn_processors):
        if name.endswith("attn2.processor"):
            width = modules[name.removesuffix(".processor")].to_k.out_features
            state[f"ip_adapter.{number}.to_k_ip.weight"] = random(width, CONTEXT)
            state[f"ip_adapter.{number}.to_v_ip.weight"] = random(width, CONTEXT)
    write_weights(folder / "models" / "ip-adapter_sd15.safetensors", state)
    write_vision_encoder(folder / "models/image_encoder", seed + 1, file="model.safetensors", projection=projection)
    unwanted(folder, "models/ip-adapter_sd15.bin", "sdxl_models/ip-adapter_sdxl.safetensors", "README.md")
    unwanted(folder, "models/image_encoder/pytorch_model.bin", "models/ip-adapter-plus_sd15.safetensors")


REPOSITORIES: dict[str, Callable[[Path], None]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": stable_diffusion,
    "stabilityai/sd-vae-ft-mse": finetuned_vae,
    "zcxu-eric/MagicAnimate": magicanimate,
    "patrolli/AnimateAnyone": animate_anyone,
    "lambdalabs/sd-image-variations-diffusers": image_variations,
    "timbrooks/instruct-pix2pix": instruct_pix2pix,
    "lllyasviel/control_v11p_sd15_openpose": openpose_controlnet,
    "h94/IP-Adapter": ip_adapter,
}
# The commits of the real repositories, where they are known; a base's pin must be served under its own name.
COMMITS = {
    "zcxu-eric/MagicAnimate": "3d80ae8c50b289e55ee68deecc83afaab9c6a382",
    "patrolli/AnimateAnyone": "7fd8ff9dfb0e75c7b7fa2689e4795347b5996b9a",
}


def build(name: str, folder: Path) -> Path:
    """Write the repository `name` into `folder`/owner/name, if it is not there yet."""
    target = folder / name
    if not target.is_dir():
        REPOSITORIES[name](target)
    return target


def serve(hub: HubServer, folder: Path, names: tuple[str, ...] = (), commits: dict[str, str] | None = None) -> None:
    """Put the repositories `names` (default: all) onto `hub`, built in `folder`; `commits` overrides `COMMITS`."""
    for name in names or REPOSITORIES:
        hub.add(name, build(name, folder), commit=(COMMITS | (commits or {})).get(name, COMMIT))
