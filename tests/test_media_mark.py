"""That an AI made it: the IPTC digital source type in XMP, and Content Credentials signed with a key made here."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreampose_cli import media
from dreampose_cli.errors import OutputError, UsageError
from dreampose_cli.media.credentials import read_signing_key
from dreampose_cli.media.metadata import DIGITAL_SOURCE_TYPE, NOTICE

NAMES = ["out.mp4", "out.gif", "out.webp", "out.png", "out/"]
MADE = {"notice": NOTICE, "seed": 7}


def clip(name: str) -> list[np.ndarray]:
    return [np.full((32, 48, 3), 60 * k, np.uint8) for k in range(1 if name == "out.png" else 3)]


def xmp_of(path: Path) -> list[str]:
    """The XMP packets of a file, found by the rules of its format."""
    if path.is_dir():
        return [packet for file in sorted(path.iterdir()) for packet in xmp_of(file)]
    data = path.read_bytes()
    if path.suffix == ".mp4":
        packets, place = [], 0
        while place < len(data):
            size = int.from_bytes(data[place : place + 4], "big")
            uuid = data[place + 8 : place + 24].hex() == "be7acfcb97a942e89c71999491e3afac"
            if data[place + 4 : place + 8] == b"uuid" and uuid:
                packets.append(data[place + 24 : place + size].decode())
            place += size
        assert place == len(data)
        return packets
    if path.suffix == ".gif":
        _, found, rest = data.partition(b"\x21\xff\x0bXMP DataXMP")
        packet, ended, after = rest.partition(b"\x01" + bytes(range(255, -1, -1)) + b"\x00")
        assert bool(found) == bool(ended) and (not found or after[0] in b"\x21\x2c")
        return [packet.decode()] if found else []
    with Image.open(path) as picture:
        found = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp")
    return [found.decode() if isinstance(found, bytes) else found] if found else []


@pytest.mark.parametrize("name", NAMES)
def test_results_of_an_ai_say_so(tmp_path, name):
    path = media.write_frames(
        tmp_path / name if "." in name else f"{tmp_path}/{name}", clip(name), fps=8, metadata=MADE
    )
    packets = xmp_of(path)
    assert len(packets) == (3 if name == "out/" else 1)
    assert all(f'DigitalSourceType="{DIGITAL_SOURCE_TYPE}"' in packet for packet in packets)
    assert media.read_metadata(path) == MADE
    assert len(list(media.open_frames(path))) == len(clip(name))


@pytest.mark.parametrize("name", NAMES)
def test_other_results_do_not(tmp_path, name):
    for metadata in (None, {"mannequin": "m"}):
        place = f"{tmp_path}/{name}"
        path = media.write_frames(place, clip(name), fps=8, metadata=metadata, overwrite=True)
        assert xmp_of(path) == []


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> dict[str, str]:
    """A private key, its certificate, and that of the authority that signed it, as PEM."""
    pytest.importorskip("c2pa")
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def named(name):
        attributes = [(x509.NameOID.ORGANIZATION_NAME, "A test"), (x509.NameOID.COMMON_NAME, name)]
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])

    def certificate(name, key, issuer, issuer_key, authority):
        now = datetime.datetime.now(datetime.UTC)
        usage = dict.fromkeys(
            ["content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"], False
        )
        usage |= {"decipher_only": False, "digital_signature": not authority}
        usage |= {"key_cert_sign": authority, "crl_sign": authority}
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        )
        if not authority:
            email = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(email, critical=False)
        signed = builder.sign(issuer_key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode()

    root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "private": private.decode(),
        "own": certificate("A signer", key, "A root", root, False),
        "root": certificate("A root", root, "A root", root, True),
    }


@pytest.mark.parametrize("name", NAMES)
def test_content_credentials_are_signed_and_verify(tmp_path, keys, name):
    import c2pa

    (tmp_path / "key.pem").write_text(keys["private"] + keys["own"] + keys["root"])
    key = read_signing_key(tmp_path / "key.pem")
    assert key.algorithm == "es256"
    path = media.write_frames(f"{tmp_path}/{name}", clip(name), fps=8, metadata=MADE, signing_key=key)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["key.pem", path.name])
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in files:
        with c2pa.Reader(str(file)) as reader:
            document = json.loads(reader.json())
        manifest = document["manifests"][document["active_manifest"]]
        (action,) = [
            action
            for assertion in manifest["assertions"]
            if assertion["label"].startswith("c2pa.actions")
            for action in assertion["data"]["actions"]
        ]
        assert action["digitalSourceType"] == DIGITAL_SOURCE_TYPE
        assert manifest["signature_info"]["issuer"] == "A test"
        failures = {status["code"] for status in document.get("validation_status", [])}
        assert failures <= {"signingCredential.untrusted"}  # nobody knows this authority, and nothing else is amiss
    assert media.read_metadata(path) == MADE
    assert len(list(media.open_frames(path))) == len(clip(name))
    data = bytearray(files[0].read_bytes())
    place = data.rindex(b"mdat") + 40 if name == "out.mp4" else len(data) - 30
    data[place] ^= 1
    (tmp_path / f"changed{files[0].suffix}").write_bytes(data)
    with c2pa.Reader(str(tmp_path / f"changed{files[0].suffix}")) as reader:
        codes = {status["code"] for status in json.loads(reader.json())["validation_status"]}
    assert any("mismatch" in code for code in codes)


def test_render_signs_what_it_makes(tmp_path, keys, tiny_base, clip):
    import c2pa

    from dreampose_cli.__main__ import main

    (tmp_path / "key.pem").write_text(keys["private"] + keys["own"] + keys["root"])
    photo, poses = clip / "frames" / "00000.png", clip / "video.poses"
    words = ["render", "--poses", poses, "--photo", photo, "--photo-pose", poses, "--base", tiny_base, "--end", 0.01]
    words += ["--steps", 1, "--c2pa-key", tmp_path / "key.pem", "-o", tmp_path / "out.png", "-q"]
    assert main([str(word) for word in words]) == 0
    with c2pa.Reader(str(tmp_path / "out.png")) as reader:
        assert json.loads(reader.json())["active_manifest"]
    assert media.read_metadata(tmp_path / "out.png")["notice"] == NOTICE


def test_keys_that_are_none_are_refused_before_the_work(tmp_path, keys):
    file = tmp_path / "key.pem"
    for text, reason in (
        (keys["private"], "no certificate"),
        (keys["own"], "no private key"),
        ("hello", "no private key"),
        (keys["own"] + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "cannot be read"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=reason):
            read_signing_key(file)
    file.write_text(keys["private"] + keys["root"])  # of another key, and an authority's
    with pytest.raises(OutputError, match="cannot be signed with the key"):
        media.write_frames(tmp_path / "out.png", clip("out.png"), fps=8, signing_key=read_signing_key(file))
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]
