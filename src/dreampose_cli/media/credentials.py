"""Content Credentials (C2PA): a manifest in the result, signed with the user's own key, that says an AI made it.

Needs the extra `c2pa`. The key file is PEM and holds the private key and its certificate, followed by those that vouch
for it (https://spec.c2pa.org, 14.5: no certificate that signed itself).
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import OutputError, UsageError
from ..version import __version__
from .files import require_file
from .metadata import DIGITAL_SOURCE_TYPE

_BLOCK = re.compile(r"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----\n?", re.DOTALL)
_TYPES = {".mp4": "video/mp4", ".png": "image/png", ".webp": "image/webp", ".gif": "image/gif"}


@dataclass(frozen=True)
class SigningKey:
    """A private key with its certificates, as PEM, and the name of its algorithm in C2PA (es256, ps256, ed25519, ...)."""

    certificates: str
    private: str
    algorithm: str


def read_signing_key(path: str | os.PathLike) -> SigningKey:
    """The key in the PEM file `path`. UsageError where it is none, or where the extra `c2pa` is not installed."""
    try:
        import c2pa  # noqa: F401  looked for now rather than after an hour of rendering
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise UsageError("--c2pa-key needs the extra c2pa: pip install 'dreampose-cli[c2pa]'.") from error
    require_file(path)
    try:
        text = Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        text = ""
    blocks = [(match[1], match[0]) for match in _BLOCK.finditer(text)]
    certificates = "".join(block for kind, block in blocks if kind == "CERTIFICATE")
    private = next((block for kind, block in blocks if kind.endswith("PRIVATE KEY")), "")
    if not certificates or not private:
        missing = "certificate" if private else "private key"
        raise UsageError(f"{path} holds no {missing} in PEM; give one file with the key and its certificates.")
    try:
        key = load_pem_private_key(private.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the private key in {path} cannot be read ({error}); give one without a password.") from error
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.key_size in (256, 384, 521):
        algorithm = {256: "es256", 384: "es384", 521: "es512"}[key.curve.key_size]
    elif isinstance(key, rsa.RSAPrivateKey):
        algorithm = "ps256"
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = "ed25519"
    else:
        raise UsageError(f"the private key in {path} is of a kind that C2PA does not know; give EC, RSA or Ed25519.")
    return SigningKey(certificates, private, algorithm)


def sign(part: Path, key: SigningKey, title: str) -> None:
    """Put a signed manifest into the file `part` (.mp4, .png, .webp or .gif). OutputError where that fails."""
    import c2pa

    signed = part.with_name(f"{part.stem}.signed{part.suffix}")
    try:
        info = c2pa.C2paSignerInfo(key.algorithm, key.certificates.encode(), key.private.encode(), None)
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(json.dumps(_manifest(title))) as builder,
            open(part, "rb") as source,
            open(signed, "w+b") as target,
        ):
            builder.sign(signer, _TYPES[part.suffix.lower()], source, target)
        os.replace(signed, part)
    except c2pa.C2paError as error:
        raise OutputError(
            f"{title} cannot be signed with the key of --c2pa-key ({error}); check its certificates."
        ) from error
    finally:
        signed.unlink(missing_ok=True)


def _manifest(title: str) -> dict[str, Any]:
    agent = {"name": "dreampose-cli", "version": __version__}
    created = {"action": "c2pa.created", "digitalSourceType": DIGITAL_SOURCE_TYPE, "softwareAgent": agent}
    return {
        "claim_generator_info": [agent],
        "title": title,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }
