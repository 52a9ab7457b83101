"""Pictures, sounds and archives, read from real bytes made here."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import math
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.library import archives, samples
from examples.library.analysis import Analysis, Corrupt, LibraryError, Truncated, analyse
from examples.library.archives import Archive
from examples.library.images import Image
from examples.library.sound import Sound


def look(folder: Path, data: bytes) -> Analysis:
    place = folder / "file"
    place.write_bytes(data)
    return analyse(place)


def bmp(width: int, height: int) -> bytes:
    pixels = bytes(width * 4 * abs(height))
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 32, 0, len(pixels), 0, 0, 0, 0)
    return struct.pack("<2sIII", b"BM", 54 + len(pixels), 0, 54) + header + pixels


def old_bmp(width: int, height: int) -> bytes:
    return struct.pack("<2sIII", b"BM", 26, 0, 26) + struct.pack("<IHHHH", 12, width, height, 1, 24)


def webp(chunk: bytes, data: bytes) -> bytes:
    body = b"WEBP" + chunk + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


LOSSY = b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 300 | 1 << 14, 200)
LOSSLESS = b"\x2f" + ((300 - 1) | (200 - 1) << 14).to_bytes(4, "little") + bytes(5)
EXTENDED = bytes(4) + (299).to_bytes(3, "little") + (199).to_bytes(3, "little")


@pytest.mark.parametrize(
    ("data", "kind", "image"),
    [
        (samples.picture_png(300, 200), "png", Image(width=300, height=200)),
        (samples.picture_gif(30, 20), "gif", Image(width=30, height=20)),
        (samples.picture_jpeg(4, 3), "jpeg", Image(width=32, height=24)),
        (bmp(30, 20), "bmp", Image(width=30, height=20)),
        (bmp(30, -20), "bmp", Image(width=30, height=20)),
        (old_bmp(30, 20), "bmp", Image(width=30, height=20)),
        (webp(b"VP8 ", LOSSY), "webp", Image(width=300, height=200)),
        (webp(b"VP8L", LOSSLESS), "webp", Image(width=300, height=200)),
        (webp(b"VP8X", EXTENDED), "webp", Image(width=300, height=200)),
    ],
    ids=["png", "gif", "jpeg", "bmp", "bmp-top-down", "bmp-old", "vp8", "vp8l", "vp8x"],
)
def test_the_measures_of_a_picture_are_read(
    tmp_path: Path, data: bytes, kind: str, image: Image
) -> None:
    found = look(tmp_path, data)
    assert (found.type, found.image) == (kind, image)


def test_bytes_behind_a_picture_do_not_matter(tmp_path: Path) -> None:
    for data in (samples.picture_png(3, 2), samples.picture_gif(3, 2), samples.picture_jpeg(1, 1)):
        assert look(tmp_path, data + b"appended by a camera").image is not None


def test_the_frames_of_an_animation_are_counted(tmp_path: Path) -> None:
    still = samples.picture_gif(8, 8)
    frame = still[19:-1]
    pause = b"\x21\xf9\x04\0\x0a\0\0\0"
    found = look(tmp_path, still[:19] + (pause + frame) * 3 + b"\x3b")
    assert found.image == Image(width=8, height=8, frames=3)


def test_the_end_mark_of_a_jpeg_is_found_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jpeg = samples.picture_jpeg(5, 5)
    for block in range(1, 12):
        monkeypatch.setattr("examples.library.images.BLOCK", block)
        assert look(tmp_path, jpeg).image == Image(width=40, height=40)


def wav(
    data: bytes, *, bits: int, coding: int = 1, channels: int = 1, declared: int | None = None
) -> bytes:
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", coding, channels, 8000, 8000 * frame, frame, bits)
    size = len(data) if declared is None else declared
    chunks = b"LIST\3\0\0\0odd\0" + b"fmt " + struct.pack("<I", len(form)) + form
    body = b"WAVE" + chunks + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def sine(loudness: float) -> list[float]:
    return [loudness * math.sin(2 * math.pi * at / 16) for at in range(8000)]


def packed(values: list[float], bits: int) -> bytes:
    full = 2 ** (bits - 1) - 1
    if bits == 8:
        return bytes(round(value * full) + 128 for value in values)
    return b"".join(
        round(value * full).to_bytes(bits // 8, "little", signed=True) for value in values
    )


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_a_sine_at_half_scale_peaks_6_db_below_full_and_its_mean_9(
    tmp_path: Path, bits: int
) -> None:
    found = look(tmp_path, wav(packed(sine(0.5), bits), bits=bits)).sound
    assert found is not None
    assert (found.channels, found.rate, found.bits, found.seconds) == (1, 8000, bits, 1.0)
    # Eight bits have a hundred steps to half scale, hence the width.
    assert found.peak_dbfs == pytest.approx(-6.02, abs=0.08 if bits == 8 else 0.011)
    assert found.rms_dbfs == pytest.approx(-9.03, abs=0.08 if bits == 8 else 0.011)


@pytest.mark.parametrize(("bits", "code"), [(32, "f"), (64, "d")])
def test_floating_point_sound_is_measured_too(tmp_path: Path, bits: int, code: str) -> None:
    data = struct.pack(f"<8000{code}", *sine(0.5))
    found = look(tmp_path, wav(data, bits=bits, coding=3)).sound
    assert found is not None
    assert (found.peak_dbfs, found.rms_dbfs) == (-6.02, -9.03)


def test_the_most_negative_sample_is_full_scale(tmp_path: Path) -> None:
    found = look(tmp_path, wav(struct.pack("<h", -32768), bits=16)).sound
    assert found is not None
    assert (found.peak_dbfs, found.rms_dbfs) == (0.0, 0.0)


@pytest.mark.parametrize(
    "data",
    [
        wav(bytes(800), bits=16),
        wav(b"\x80" * 800, bits=8),
        wav(b"", bits=16),
        wav(struct.pack("<f", math.nan), bits=32, coding=3),
        wav(bytes(800), bits=8, coding=7),
    ],
    ids=["zeros", "centre", "nothing", "not-a-number", "unknown-coding"],
)
def test_what_has_no_level_has_none(tmp_path: Path, data: bytes) -> None:
    found = look(tmp_path, data).sound
    assert found is not None
    assert (found.peak_dbfs, found.rms_dbfs) == (None, None)


def test_duration_and_level_count_all_channels(tmp_path: Path) -> None:
    left_only = struct.pack("<hh", 16384, 0) * 4000
    found = look(tmp_path, wav(left_only, bits=16, channels=2)).sound
    assert found == Sound(
        channels=2, rate=8000, bits=16, seconds=0.5, peak_dbfs=-6.02, rms_dbfs=-9.03
    )


def test_sound_written_into_a_pipe_reaches_to_the_end_of_the_file(tmp_path: Path) -> None:
    found = look(tmp_path, wav(bytes(16_000), bits=16, declared=0xFFFFFFFF)).sound
    assert found is not None
    assert found.seconds == 1.0


def test_an_extensible_wav_is_read_by_the_coding_within(tmp_path: Path) -> None:
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 8000, 16_000, 2, 16, 22, 16, 4)
    form += struct.pack("<H14x", 1)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data\2\0\0\0" + struct.pack("<h", -32768)
    found = look(tmp_path, b"RIFF" + struct.pack("<I", len(body)) + body).sound
    assert found is not None
    assert found.peak_dbfs == 0.0


def test_a_wav_whose_frames_do_not_fit_its_channels_is_corrupt(tmp_path: Path) -> None:
    data = bytearray(wav(bytes(16), bits=16))
    at = data.index(b"fmt ") + 20
    data[at : at + 2] = struct.pack("<H", 3)
    with pytest.raises(Corrupt, match="frames of 3 bytes"):
        look(tmp_path, bytes(data))


def test_a_flac_tells_its_length_without_being_decoded(tmp_path: Path) -> None:
    packed_facts = 44_100 << 44 | (2 - 1) << 41 | (16 - 1) << 36 | 44_100 * 3
    stream = bytes(10) + packed_facts.to_bytes(8) + bytes(16)
    found = look(tmp_path, b"fLaC\x80\0\0\x22" + stream)
    assert found.type == "flac"
    assert found.sound == Sound(channels=2, rate=44_100, bits=16, seconds=3.0)


def zip_of(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "12345")
    return file.getvalue()


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("a", "b", "c"), "zip"),
        ((), "zip"),
        (("jobbus/__init__.py", "jobbus-1.dist-info/WHEEL"), "whl"),
        (("[Content_Types].xml", "word/document.xml"), "docx"),
        (("[Content_Types].xml", "xl/workbook.xml"), "xlsx"),
        (("mimetype", "META-INF/container.xml"), "epub"),
        (("mimetype", "content.xml"), "opendocument"),
        (("META-INF/MANIFEST.MF",), "jar"),
    ],
)
def test_a_zip_is_known_by_what_is_in_it(tmp_path: Path, names: tuple[str, ...], kind: str) -> None:
    found = look(tmp_path, zip_of(*names))
    assert found.type == kind
    assert found.archive == Archive(entries=len(names), unpacked=5 * len(names))


def test_a_zip_with_a_damaged_directory_is_corrupt(tmp_path: Path) -> None:
    data = zip_of("a").replace(b"PK\1\2", b"PK\7\7")
    with pytest.raises(Corrupt):
        look(tmp_path, data)


def tar_of(*sizes: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, size in enumerate(sizes):
            member = tarfile.TarInfo(f"member-{number}")
            member.size = size
            archive.addfile(member, io.BytesIO(bytes(size)))
    return file.getvalue()


def test_the_members_of_a_tar_are_counted(tmp_path: Path) -> None:
    found = look(tmp_path, tar_of(100, 2000))
    assert (found.type, found.archive) == ("tar", Archive(entries=2, unpacked=2100))


def test_a_tar_cut_within_a_member_is_truncated(tmp_path: Path) -> None:
    with pytest.raises(Truncated):
        look(tmp_path, tar_of(100, 20_000)[:5000])


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (gzip.compress(b"x" * 3000), "gzip"),
        (gzip.compress(b"x" * 1000) + gzip.compress(b"x" * 2000), "gzip"),
        (bz2.compress(b"x" * 3000), "bzip2"),
        (lzma.compress(b"x" * 3000), "xz"),
    ],
    # Named, since gzip writes the time of day into its bytes and a test keeps its name.
    ids=["gzip", "two gzip members", "bzip2", "xz"],
)
def test_a_compressed_file_is_unpacked_to_its_end(tmp_path: Path, data: bytes, kind: str) -> None:
    found = look(tmp_path, data)
    assert (found.type, found.archive) == (kind, Archive(unpacked=3000))
    with pytest.raises(Truncated):
        look(tmp_path, data[:-5])


def test_nobody_unpacks_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "UNPACK_LIMIT", 1000)
    assert look(tmp_path, gzip.compress(b"x" * 3_000_000)).archive == Archive()


WHOLE = (
    samples.picture_png(9, 9),
    samples.picture_gif(9, 9),
    samples.picture_jpeg(1, 1),
    webp(b"VP8X", EXTENDED),
    bmp(2, 2),
    wav(bytes(8), bits=16),
    zip_of("a"),
    tar_of(10),
    gzip.compress(b"abc"),
    bz2.compress(b"abc"),
    lzma.compress(b"abc"),
)


@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    st.integers(0, 10_000),
)
def test_damage_is_always_one_of_our_own_errors(
    whole: bytes, damage: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(whole[: max(1, length)])
    for at, byte in damage:
        data[at % len(data)] = byte
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(LibraryError):
        assert look(Path(folder), bytes(data)).size == len(data)
