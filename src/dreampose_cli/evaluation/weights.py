"""The pretrained weights of the feature metrics: where they come from, what they must hash to, and getting them once.

Files of torch's model zoo lie where torch keeps them (TORCH_HOME), those of the Hub in the Hub's cache (HF_HOME): what
other tools have downloaded is used. Every file is hashed before it is used. Nothing is ever downloaded unasked.
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ..atomic import atomic_file
from ..reporting import Progress

REACHABLE_WITHIN = 10.0  # seconds
_CHUNK = 1 << 20
_unreachable: set[str] = set()  # hosts that did not answer in this process: asked once


class Missing(Exception):
    """A metric is unavailable; the text is the reason, for the table and the JSON document."""


@dataclass(frozen=True)
class Weights:
    """One file of weights: from `url`, or (repository, revision) on the Hub."""

    file: str
    sha256: str
    megabytes: int
    url: str | None = None
    repository: str | None = None
    revision: str | None = None
    licence: str = ""

    @property
    def source(self) -> str:
        """The source, in words."""
        return self.url or f"https://huggingface.co/{self.repository}/resolve/{self.revision}/{self.file}"

    @property
    def host(self) -> str:
        """The source in short."""
        return f"{self.repository} on the Hub" if self.repository else _host(self.url or "")

    def describe(self) -> dict[str, str]:
        return {"file": self.file, "source": self.source, "sha256": self.sha256, "licence": self.licence}


ALEXNET = Weights(
    "alexnet-owt-7be5be79.pth",
    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    244,
    url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    licence="BSD-3-Clause (torchvision), trained on ImageNet",
)
VGG16 = Weights(
    "vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    553,
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
    licence="BSD-3-Clause (torchvision), trained on ImageNet",
)
_LPIPS = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1"
LPIPS_ALEX = Weights(
    "lpips-0.1-alex.pth",
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    1,
    url=f"{_LPIPS}/alex.pth",
    licence="BSD-2-Clause",
)
LPIPS_VGG = Weights(
    "lpips-0.1-vgg.pth",
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    1,
    url=f"{_LPIPS}/vgg.pth",
    licence="BSD-2-Clause",
)
INCEPTION = Weights(
    "inception-2015-12-05.pt",
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    96,
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    licence="Apache-2.0 (the network), converted by NVIDIA",
)
I3D = Weights(
    "i3d_torchscript.pt",
    "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    51,
    repository="flateon/FVD-I3D-torchscript",
    revision="1c2d61711c52571ad617a1063e6fa691b212e184",
    licence="Apache-2.0 (the network), converted by the authors of StyleGAN-V",
)
CLIP = Weights(
    "pytorch_model.bin",
    "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
    605,
    repository="openai/clip-vit-base-patch32",
    revision="3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    licence="MIT (OpenAI)",
)

CLIP_TOKENIZER = Weights(
    "tokenizer.json",
    "b556ac8c99757ffb677208af34bc8c6721572114111a6e0aaf5fa69ff0b8d842",
    2,
    repository=CLIP.repository,
    revision=CLIP.revision,
    licence=CLIP.licence,
)


def locate(weights: Weights) -> Path | None:
    """The file on this machine, None where it is not there."""
    if weights.repository is not None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(weights.repository, weights.file, revision=weights.revision)
        return Path(found) if isinstance(found, str) else None
    path = _zoo() / weights.file
    return path if path.is_file() else None


def obtain(weights: Weights, *, fetch: bool, progress: Progress | None = None) -> Path:
    """The file, hashed; downloaded where it is not here and `fetch` is set. Raises Missing with the reason."""
    path = locate(weights)
    if path is None:
        if not fetch:
            raise Missing(
                f"weights not here, {weights.megabytes} MB ({weights.file} from {weights.host}); --metrics all, or the "
                "metric's name, downloads them once"
            )
        return _from_hub(weights, progress) if weights.repository else _download(weights, progress)
    _verify(path, weights)
    return path


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc


def _verify(path: Path, weights: Weights) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != weights.sha256:
        raise Missing(
            f"{path} is not the file that was published (its SHA-256 is {found[:16]}..., not {weights.sha256[:16]}...); "
            "remove it, then --metrics all downloads it again"
        )


def _from_hub(weights: Weights, progress: Progress | None) -> Path:
    from ..bases.hub import fetch_file
    from ..errors import EvaluationError

    assert weights.repository is not None and weights.revision is not None
    try:
        path = fetch_file(weights.repository, weights.file, weights.revision, error=EvaluationError, progress=progress)
    except EvaluationError as error:
        raise Missing(str(error).rstrip(".")) from error
    _verify(path, weights)
    return path


def _download(weights: Weights, progress: Progress | None) -> Path:
    """From the URL, hashed on the way; whole or not at all."""
    assert weights.url is not None
    host = _host(weights.url)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise Missing(f"{weights.file} is not on this machine, and HF_HUB_OFFLINE forbids to download it")
    if host in _unreachable:
        raise Missing(f"{weights.file} is not on this machine, and {host} cannot be reached")
    target = _zoo() / weights.file
    digest, done = hashlib.sha256(), 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as part:
            with urllib.request.urlopen(weights.url, timeout=REACHABLE_WITHIN) as answer, part.open("wb") as file:
                while block := answer.read(_CHUNK):
                    file.write(block)
                    digest.update(block)
                    done += len(block)
                    if progress:
                        progress(done // 10**6, max(weights.megabytes, done // 10**6), f"MB of {weights.file}")
            if digest.hexdigest() != weights.sha256:
                raise Missing(
                    f"what {weights.source} gave is not the file that was published: its SHA-256 is "
                    f"{digest.hexdigest()[:16]}..., not {weights.sha256[:16]}..."
                )
    except urllib.error.HTTPError as error:
        raise Missing(f"{weights.source} answered with status {error.code}; try again later") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        _unreachable.add(host)
        reason = getattr(error, "reason", None) or error
        raise Missing(f"{weights.file} is not on this machine, and {host} cannot be reached ({reason})") from error
    except OSError as error:
        raise Missing(f"{weights.file} cannot be saved in {target.parent}: {error.strerror or error}") from error
    return target


def _zoo() -> Path:
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"
