"""The colours of phones: profiles, wide gamuts, HDR, HEIC, interlaced frames, and what a result says of its own."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from dreampose_cli import media
from dreampose_cli.media import photos

PATCHES = np.array([[200, 60, 60], [60, 140, 90], [128, 128, 128], [60, 70, 160]], np.uint8)


def display_p3() -> bytes:
    """An ICC profile of Display P3 (primaries of DCI-P3, white of D65, curve of sRGB), version 4, written by hand."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    def text(words: str) -> bytes:
        letters = words.encode("utf-16-be")
        return b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(letters), 28) + letters

    curve = b"para\0\0\0\0\0\3\0\0" + b"".join(
        struct.pack(">i", round(value * 65536)) for value in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    )
    tags = {
        b"desc": text("A wide one"),
        b"cprt": text("none"),
        b"wtpt": xyz(0.9642, 1.0, 0.82491),
        b"rXYZ": xyz(0.51512, 0.24120, -0.00105),  # adapted to D50, as a profile wants them
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.15710, 0.06657, 0.78407),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content
    size = start + len(body)
    header = struct.pack(
        ">I4sI4s4s4s12s4s", size, b"\0\0\0\0", 0x04000000, b"mntr", b"RGB ", b"XYZ ", bytes(12), b"acsp"
    )
    header += bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return header + table + body


def from_p3(values: np.ndarray) -> np.ndarray:
    """Display P3 as sRGB by the definitions: linear light, P3 to XYZ, XYZ to sRGB, and the curve again."""
    to_xyz = np.array([[0.486571, 0.265668, 0.198217], [0.228975, 0.691739, 0.079287], [0.0, 0.045113, 1.043944]])
    to_srgb = np.array(
        [[3.240970, -1.537383, -0.498611], [-0.969244, 1.875968, 0.041555], [0.055630, -0.203977, 1.056972]]
    )
    coded = values / 255
    light = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    light = np.clip(light @ to_xyz.T @ to_srgb.T, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def patches() -> np.ndarray:
    """Four patches of one colour each, (64, 64, 3)."""
    return PATCHES.reshape(2, 2, 3).repeat(32, 0).repeat(32, 1)


def colours_of(picture: np.ndarray) -> np.ndarray:
    return picture[16::32, 16::32].reshape(4, 3).astype(int)


def ffmpeg(*arguments: str | Path, feed: bytes = b"") -> None:
    subprocess.run([get_ffmpeg_exe(), "-loglevel", "error", "-y", *map(str, arguments)], input=feed, check=True)


@pytest.mark.parametrize("name", ["photo.png", "photo.jpg", "photo.webp", "photo.tif", "photo.heic", "photo.avif"])
def test_a_photo_in_display_p3_becomes_srgb(tmp_path, name):
    photos.known_formats()  # HEIC can be written too, from here on
    options = {"quality": 100, "subsampling": 0} if name.endswith("jpg") else {"quality": 100}
    Image.fromarray(patches()).save(tmp_path / name, icc_profile=display_p3(), **options)
    found = colours_of(media.read_photo(tmp_path / name))
    assert np.abs(found - from_p3(PATCHES)).max() <= 4
    assert np.abs(found - PATCHES.astype(int)).max() > 10  # what would be seen without the profile


def test_profiles_of_transparent_grey_and_damaged_pictures(tmp_path):
    clear = np.dstack([patches(), np.full((64, 64), 255, np.uint8)])
    clear[:8, :8, 3] = 0
    Image.fromarray(clear).save(tmp_path / "clear.png", icc_profile=display_p3())
    read = media.read_photo(tmp_path / "clear.png")
    assert np.abs(colours_of(read) - from_p3(PATCHES)).max() <= 2
    assert read[:8, :8].min() == 255
    for name, mode, profile in (
        ("damaged.png", "RGB", b"no profile at all"),
        ("cut.png", "RGB", display_p3()[:300]),
        ("other.png", "L", display_p3()),
    ):
        plain = Image.fromarray(patches()).convert(mode)
        plain.save(tmp_path / name, icc_profile=profile)
        assert np.array_equal(media.read_photo(tmp_path / name), np.array(plain.convert("RGB")))


def test_heic_is_upright_and_a_cut_one_is_refused(tmp_path):
    photos.known_formats()
    picture = np.zeros((48, 80, 3), np.uint8)
    picture[:24, :, 0] = 200
    tags = Image.Exif()
    tags[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(picture).save(tmp_path / "phone.HEIC", format="HEIF", quality=95, exif=tags.tobytes())
    read = media.read_photo(tmp_path / "phone.HEIC")
    assert read.shape == (80, 48, 3)
    assert read[40, 40, 0] > 150 > 50 > read[40, 8, 0]
    (tmp_path / "cut.heic").write_bytes((tmp_path / "phone.HEIC").read_bytes()[:-200])
    with pytest.raises(media.photos.MediaError, match=r"cut\.heic"):
        media.read_photo(tmp_path / "cut.heic")


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_video_is_mapped_to_an_ordinary_screen(tmp_path, transfer):
    """PQ and HLG made from an ordinary picture, whose white is 203 cd/m2, come back as that picture."""
    coded = f"zscale=p=bt2020:t={transfer}:m=bt2020nc:r=tv:npl=203,format=yuv420p10le"
    ffmpeg(
        *["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x64", "-r", "8", "-i", "-", "-vf"],
        f"format=gbrp,setparams=color_primaries=bt709:color_trc=bt709,zscale=t=linear:npl=203,format=gbrpf32le,{coded}",
        *["-c:v", "libx265", "-x265-params", "log-level=none:lossless=1", tmp_path / "hdr.mp4"],
        feed=patches().tobytes() * 3,
    )
    info = media.probe_video(tmp_path / "hdr.mp4")
    assert (info.colours.hdr, info.colours.primaries, info.frames) == (True, "bt2020", 3)
    frames = list(media.read_video(tmp_path / "hdr.mp4"))
    assert len(frames) == 3
    difference = np.abs(colours_of(frames[1]) - PATCHES.astype(int))
    assert difference[1:].max() <= 3  # the middle of the range is kept
    assert difference[0].max() <= 12  # what is bright is compressed


def test_a_wide_gamut_video_becomes_srgb(tmp_path):
    ffmpeg(
        *["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x64", "-r", "8", "-i", "-", "-vf"],
        "scale=out_color_matrix=bt709,format=yuv444p,setparams=colorspace=bt709:color_primaries=smpte432:color_trc=bt709",
        *["-c:v", "libx264", "-qp", "1", tmp_path / "p3.mp4"],
        feed=patches().tobytes() * 2,
    )
    found = colours_of(next(media.read_video(tmp_path / "p3.mp4")))
    assert np.abs(found - from_p3(PATCHES)).max() <= 6  # another curve, of BT.709, hardly matters in the middle


def test_high_definition_that_says_nothing_is_bt709(tmp_path):
    picture = patches().repeat(12, 0).repeat(20, 1)[:720, :1280]
    for matrix in ("bt709", "bt601"):
        ffmpeg(
            *["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "1280x720", "-r", "8", "-i", "-"],
            *["-vf", f"scale=out_color_matrix={matrix},format=yuv420p,setparams=colorspace=unknown"],
            *["-c:v", "libx264", "-preset", "ultrafast", "-qp", "2", tmp_path / f"{matrix}.mkv"],
            feed=picture.tobytes(),
        )
    right = next(media.read_video(tmp_path / "bt709.mkv"))[180, 320].astype(int)
    wrong = next(media.read_video(tmp_path / "bt601.mkv"))[180, 320].astype(int)
    assert np.abs(right - PATCHES[0].astype(int)).max() <= 4 < np.abs(wrong - PATCHES[0].astype(int)).max()


def test_interlaced_frames_are_made_whole(tmp_path):
    """A bar moves by 8 columns a frame: in a frame of two moments its edges are combs, after the filter they are not."""
    moments = np.zeros((24, 64, 64, 3), np.uint8)
    for k, picture in enumerate(moments):
        picture[:, 4 + 2 * k : 12 + 2 * k] = 255
    ffmpeg(
        *["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x64", "-r", "50", "-i", "-"],
        *["-vf", "format=yuv420p,tinterlace=interleave_top,setfield=tff", "-c:v", "libx264", "-qp", "1"],
        *["-flags", "+ilme+ildct", "-x264opts", "tff=1", tmp_path / "tv.mp4"],
        feed=moments.tobytes(),
    )
    info = media.probe_video(tmp_path / "tv.mp4")
    assert info.colours.interlaced
    frames = [frame[..., 1].astype(int) for frame in media.read_video(tmp_path / "tv.mp4")]
    assert (len(frames), info.frames, info.fps) == (12, 12, 25)
    for frame in frames[1:-1]:
        assert np.abs(frame[20:44:2] - frame[21:45:2]).mean() < 4  # 16 with the combs


def test_a_written_video_names_its_colours_completely(tmp_path):
    path = media.write_frames(tmp_path / "out.mp4", [patches()] * 2, fps=30)
    words = subprocess.run([get_ffmpeg_exe(), "-i", path], capture_output=True, text=True).stderr
    assert "yuv420p(tv, bt709, progressive)" in words  # one name where matrix, primaries and transfer agree
    assert path.read_bytes().count(b"colrnclx\0\x01\0\x01\0\x01") == 1
    assert np.abs(colours_of(next(media.read_video(path))) - PATCHES.astype(int)).max() <= 3
