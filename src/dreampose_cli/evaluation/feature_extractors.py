"""The feature metrics' networks, each behind one small interface, and what they need before they can be used.

AlexNet and VGG-16 are plain stacks of convolutions, written out here (Krizhevsky 2014, Simonyan and Zisserman 2015) so
that torchvision, which breaks where it does not match torch, need not be there; the weights are torchvision's own.
Inception and I3D are the TorchScript files that this field uses, CLIP is transformers'.

All take frames as uint8 (N, H, W, 3) and take care of the range their network wants: LPIPS and VGG [-1, 1], CLIP its mean
and deviation, Inception and I3D bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import weights as files
from .weights import Missing, Progress, Weights, obtain

NEEDS: dict[str, tuple[Weights, ...]] = {
    "lpips_alex": (files.ALEXNET, files.LPIPS_ALEX),
    "lpips_vgg": (files.VGG16, files.LPIPS_VGG),
    "vgg": (files.VGG16,),
    "fid": (files.INCEPTION,),
    "fvd": (files.I3D,),
    "clip": (files.CLIP,),
    "clip_photo": (files.CLIP,),
    "clip_text": (files.CLIP, files.CLIP_TOKENIZER),
}

# Layers of torchvision's `features`: channels of a convolution with its kernel, stride and padding, "relu", "pool".
_ALEXNET = ((64, 11, 4, 2), "relu", "pool", (192, 5, 1, 2), "relu", "pool", (384, 3, 1, 1), "relu") + (
    ((256, 3, 1, 1), "relu") * 2
)
_VGG16 = tuple(
    step
    for depth, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    for step in (*(((depth, 3, 1, 1), "relu") * count), "pool")
)[:-1]
BACKBONES: dict[str, tuple[tuple[Any, ...], int, tuple[int, ...]]] = {  # layers, pooling window, after which LPIPS looks
    "alex": (_ALEXNET, 3, (1, 4, 7, 9, 11)),
    "vgg": (_VGG16, 2, (3, 8, 15, 22, 29)),
}
TEXT_TOKENS, END_OF_TEXT = 77, 49407  # of CLIP: how many it reads, and the last of each text
# LPIPS' own scaling of [-1, 1]: ImageNet's mean and deviation, rounded
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Backbone(nn.Module):
    """The convolutions of AlexNet ("alex") or VGG-16 ("vgg"), under torchvision's names."""

    def __init__(self, name: str) -> None:
        super().__init__()
        layers, window, self.taps = BACKBONES[name]
        channels = 3
        modules: list[nn.Module] = []
        for layer in layers:
            if layer == "relu":
                modules.append(nn.ReLU())
            elif layer == "pool":
                modules.append(nn.MaxPool2d(window, 2))
            else:
                width, *how = layer
                modules.append(nn.Conv2d(channels, width, *how))
                channels = width
        self.features = nn.Sequential(*modules)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each tap."""
        sizes = [module.out_channels for module in self.features if isinstance(module, nn.Conv2d)]
        convolutions = [i for i, module in enumerate(self.features) if isinstance(module, nn.Conv2d)]
        return tuple(sizes[max(k for k, i in enumerate(convolutions) if i < tap)] for tap in self.taps)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Pictures (N, 3, H, W) in [-1, 1] -> the features at each tap, (N, C, h, w)."""
        x = (pictures - self.get_buffer("shift")) / self.get_buffer("scale")
        found = []
        for i, module in enumerate(self.features):
            x = module(x)
            if i in self.taps:
                found.append(x)
        return found

    def read(self, state: dict[str, Tensor]) -> None:
        """Take torchvision's weights; its classifier is left out."""
        self.load_state_dict({key: value for key, value in state.items() if key.startswith("features.")})


class Perceptual:
    """LPIPS 0.1 (Zhang et al. 2018) and the VGG distance from one pass of one backbone.

    LPIPS: at each tap features are divided by their length over the channels, squared differences are weighted by the
    published head, averaged over the picture and summed over the taps. VGG: the mean absolute difference of the features
    at each tap, averaged over the taps (after Johnson et al. 2016, who square it).
    """

    def __init__(self, backbone: Backbone, heads: list[Tensor] | None, lpips: str, plain: str | None = None) -> None:
        self.backbone, self.heads, self.lpips, self.plain = backbone.eval(), heads, lpips, plain
        self.device = next(backbone.parameters()).device

    @torch.inference_mode()
    def __call__(self, predicted: np.ndarray, reference: np.ndarray) -> dict[str, list[float]]:
        """Frames (N, H, W, 3) of both -> the distances of each pair, by metric."""
        count = len(predicted)
        both = signed(np.concatenate([predicted, reference])).to(self.device)
        distance, plain = torch.zeros(count, device=self.device), torch.zeros(count, device=self.device)
        taps = self.backbone(both)
        for tap, x in enumerate(taps):
            a, b = x[:count], x[count:]
            plain += (a - b).abs().mean((1, 2, 3)) / len(taps)
            if self.heads is not None:
                squared = (_normalised(a) - _normalised(b)).square()
                distance += (squared * self.heads[tap].to(x)).sum(1).mean((1, 2))
        results = {self.lpips: distance.tolist()} if self.heads is not None else {}
        return results | ({self.plain: plain.tolist()} if self.plain else {})


def signed(frames: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _normalised(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)


class ClipSimilarity:
    """Cosines of CLIP's embeddings (ViT-B/32) of the predicted frame and of the reference frame, the photo and the prompt.

    text (1, D): the prompt's embedding, where there is a prompt.
    """

    def __init__(self, model: nn.Module, processor: Callable, text: Tensor | None = None) -> None:
        self.model, self.processor, self.text = model.eval(), processor, text
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def __call__(
        self, predicted: np.ndarray, reference: np.ndarray, photo: np.ndarray | None = None
    ) -> dict[str, list[float]]:
        """Frames (N, H, W, 3) of both, and a photo (H, W, 3) of any size -> the cosines of each frame, by metric."""
        pictures = [*predicted, *reference, *([] if photo is None else [photo])]
        pixels = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
        embedded = F.normalize(self.model(pixel_values=pixels.to(self.device)).image_embeds.double(), dim=-1)
        count = len(predicted)
        others = {"clip": embedded[count : 2 * count]}
        if photo is not None:
            others["clip_photo"] = embedded[-1:]
        if self.text is not None:
            others["clip_text"] = F.normalize(self.text.to(embedded), dim=-1)
        return {key: (embedded[:count] * other).sum(-1).tolist() for key, other in others.items()}


class Inception:
    """FID's features: a TorchScript module, uint8 (N, 3, H, W) and return_features=True -> (N, 2048)."""

    def __init__(self, module: torch.jit.ScriptModule, device: torch.device) -> None:
        self.module, self.device = module, device

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Frames (N, H, W, 3) -> features (N, D)."""
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).contiguous()
        return _features(self.module(pixels.to(self.device), return_features=True), len(frames), "Inception")


class I3d:
    """FVD's features: a TorchScript module, uint8 (N, 3, T, H, W), rescaled and resized inside -> logits (N, 400)."""

    def __init__(self, module: torch.jit.ScriptModule, device: torch.device) -> None:
        self.module, self.device = module, device

    @torch.inference_mode()
    def __call__(self, window: np.ndarray) -> np.ndarray:
        """A window of frames (T, H, W, 3) -> features (1, D)."""
        pixels = torch.from_numpy(np.ascontiguousarray(window)).permute(3, 0, 1, 2)[None].contiguous()
        out = self.module(pixels.to(self.device), rescale=True, resize=True, return_features=True)
        return _features(out, 1, "I3D")


def _features(out: Tensor, count: int, name: str) -> np.ndarray:
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != count or not out.isfinite().all():
        raise Missing(f"the {name} file gives no features of one row a sample")
    return out.double().cpu().numpy()


def load(
    metric: str, device: torch.device, *, fetch: bool, progress: Progress | None = None, prompt: str | None = None
):
    """The network of a metric (`vgg` and `lpips_vgg` share one, and so do those of CLIP, of which `clip_text` needs the
    prompt). Raises Missing with the reason."""
    paths = [obtain(needed, fetch=fetch, progress=progress) for needed in NEEDS[metric]]
    try:
        if metric in ("lpips_alex", "lpips_vgg", "vgg"):
            return _perceptual(metric, paths, device)
        if metric in ("clip", "clip_photo", "clip_text"):
            return _clip(paths, device, prompt)
        module = load_script(paths[0], device)
        return Inception(module, device) if metric == "fid" else I3d(module, device)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise Missing(f"its weights in {paths[0]} cannot be used ({reason})") from error


def load_script(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    """A TorchScript file in eval mode."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*deprecated", category=DeprecationWarning)
        return torch.jit.load(path, map_location=device).eval()


def _perceptual(metric: str, paths: list[Path], device: torch.device) -> Perceptual:
    name = "alex" if metric == "lpips_alex" else "vgg"
    backbone = Backbone(name)
    backbone.read(torch.load(paths[0], map_location="cpu", weights_only=True))
    heads = None
    if len(paths) > 1:
        heads = read_heads(torch.load(paths[1], map_location="cpu", weights_only=True), backbone)
    return Perceptual(backbone.to(device), heads, f"lpips_{name}", "vgg" if name == "vgg" else None)


def read_heads(state: dict[str, Tensor], backbone: Backbone) -> list[Tensor]:
    """The published heads lin0..lin4, (1, C, 1, 1) each."""
    heads = [state[f"lin{k}.model.1.weight"] for k in range(len(backbone.taps))]
    for head, width in zip(heads, backbone.widths, strict=True):
        if tuple(head.shape) != (1, width, 1, 1):
            raise ValueError(f"a head is {tuple(head.shape)}, not (1, {width}, 1, 1)")
    return heads


def _clip(paths: list[Path], device: torch.device, prompt: str | None) -> ClipSimilarity:
    """ViT-B/32 as OpenAI published it: transformers' default configs, and the image processor of 2021."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    model = CLIPVisionModelWithProjection(CLIPVisionConfig())
    state = torch.load(paths[0], map_location="cpu", weights_only=True)
    model.load_state_dict(clip_state(state, model.state_dict()))
    text = None
    if len(paths) > 1 and prompt is not None:
        # the end of the text, where it is pooled, is the tokenizer's last token; the default config has another number
        encoder = CLIPTextModelWithProjection(CLIPTextConfig(eos_token_id=END_OF_TEXT))
        encoder.load_state_dict(clip_state(state, encoder.state_dict(), "text_model"))
        text = embed_text(encoder, paths[1], prompt)
    return ClipSimilarity(model.to(device), CLIPImageProcessorPil(), text)


@torch.inference_mode()
def embed_text(encoder: nn.Module, tokenizer: Path, prompt: str) -> Tensor:
    """CLIP's embedding of a prompt, (1, D), by a tokenizer.json. Raises ValueError where it has more tokens than CLIP reads."""
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(tokenizer)).encode(prompt).ids
    if len(ids) > TEXT_TOKENS:
        raise ValueError(f"the prompt has {len(ids)} tokens, and CLIP reads {TEXT_TOKENS}: give a shorter --prompt")
    return encoder.eval()(input_ids=torch.tensor([ids])).text_embeds.double()


def clip_state(
    state: dict[str, Tensor], wanted: dict[str, Tensor], part: str = "vision_model"
) -> dict[str, Tensor]:
    """One part of a whole CLIP's weights, of vision or of text ("text_model"), under the names that `wanted` has."""
    found = {}
    for key in wanted:
        names = (key, f"{part}.{key}", key.removeprefix(f"{part}."))
        name = next((name for name in names if name in state), None)
        if name is None:
            raise KeyError(f"the file has no {key}")
        found[key] = state[name]
    return found
