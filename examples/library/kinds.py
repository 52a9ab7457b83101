"""Tells what a file is: by its first bytes, else by its name, else by how its text looks."""

from __future__ import annotations

import io
import re
import tokenize
from typing import Final

HEAD_BYTES: Final = 64 * 1024
"""How much of a file's start these functions want to see."""

EMPTY: Final = "empty"
BINARY: Final = "binary"
TEXT: Final = "text"

MAGIC: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (0, b"II*\0", "tiff"),
    (0, b"MM\0*", "tiff"),
    (0, b"%PDF-", "pdf"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b".snd\0", "au"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (0, b"\x7fELF", "elf"),
    (0, b"SQLite format 3\0", "sqlite"),
    (0, b"!<arch>\n", "ar"),
    (0, b"\0asm", "wasm"),
    (0, b"wOFF", "woff"),
    (0, b"wOF2", "woff"),
    (257, b"ustar", "tar"),
)
"""Offset, bytes that stand there, what the file is then."""

RIFF_FORMS: Final = {b"WAVE": "wav", b"WEBP": "webp", b"AVI ": "avi"}
HEIF_BRANDS: Final = frozenset({b"avif", b"heic", b"heix", b"mif1"})
BMP_HEADER_SIZES: Final = frozenset({12, 40, 52, 56, 64, 108, 124})

NAMES: Final = {
    "dockerfile": "dockerfile",
    "makefile": "makefile",
    "gnumakefile": "makefile",
}
EXTENSIONS: Final = {
    "bash": "shell", "c": "c", "cc": "c++", "cfg": "ini", "cpp": "c++", "css": "css", "csv": "csv",
    "diff": "diff", "go": "go", "h": "c", "hpp": "c++", "htm": "html", "html": "html",
    "ini": "ini", "java": "java", "js": "javascript", "json": "json", "jsonl": "json lines",
    "markdown": "markdown", "md": "markdown", "mjs": "javascript", "mk": "makefile",
    "ndjson": "json lines", "patch": "diff", "py": "python", "pyi": "python", "pyw": "python",
    "rs": "rust", "rst": "restructuredtext", "sh": "shell", "sql": "sql", "svg": "svg",
    "toml": "toml", "ts": "typescript", "tsv": "tsv", "xhtml": "html", "xml": "xml",
    "yaml": "yaml", "yml": "yaml", "zsh": "shell",
}  # fmt: skip
"""What a *text* is by its name. A name never makes a text of what is none."""

INTERPRETERS: Final = (("python", "python"), ("sh", "shell"), ("node", "javascript"))

BYTE_ORDER_MARKS: Final = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
CONTROLS: Final = bytes(sorted(set(range(32)) - set(b"\a\b\t\n\v\f\r\x1b") | {127}))
HIGH: Final = bytes(range(128, 256))
HIGH_CONTROLS: Final = bytes(range(128, 160))
MOST_HIGH: Final = 0.3
"""A Latin text has accents here and there. With more bytes beyond ASCII than this, it is none."""
MOST_CONTROLS: Final = 0.01


def by_bytes(head: bytes, name: str) -> str | None:
    """What the first bytes prove the file to be, or None where they prove nothing."""
    if not head:
        return EMPTY
    if head.startswith(b"ftyp", 4):
        return "heif" if head[8:12] in HEIF_BRANDS else "mp4"
    for offset, magic, kind in MAGIC:
        if head.startswith(magic, offset):
            return kind
    if head.startswith(b"RIFF") and head[8:12] in RIFF_FORMS:
        return RIFF_FORMS[head[8:12]]
    if head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    return _by_short_bytes(head, extension(name))


def _by_short_bytes(head: bytes, ending: str) -> str | None:
    """Marks so short that a text could begin with them: each wants a second sign."""
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in BMP_HEADER_SIZES:
        return "bmp"
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", head) or (
        ending == "bz2" and re.match(rb"BZh[1-9]", head)
    ):
        return "bzip2"
    if head.startswith(b"ID3") and len(head) > 3 and head[3] < 0x10:
        return "mp3"
    if ending == "mp3" and head[0] == 0xFF and head[1:2] >= b"\xe0":
        return "mp3"
    if head.startswith(b"MZ") and b"\0" in head:
        return "windows executable"
    if ending in ("pyc", "pyo") and head[2:4] == b"\r\n":
        return "python bytecode"
    return None


def by_text(text: str, name: str) -> str:
    """What a text is: by its file's name, else by how it begins."""
    plain = name.casefold()
    if plain in NAMES:
        return NAMES[plain]
    if extension(name) in EXTENSIONS:
        return EXTENSIONS[extension(name)]
    if shebang := re.match(r"#!\s*\S*?(?:/env\s+(?:-\S+\s+)?)?([\w.]+)(?:\s|$)", text[:256]):
        return next((kind for word, kind in INTERPRETERS if word in shebang[1]), TEXT)
    start = text.lstrip("\ufeff \t\r\n")[:512].casefold()
    if start.startswith("<svg") or (start.startswith("<?xml") and "<svg" in start):
        return "svg"
    if start.startswith(("<!doctype html", "<html")):
        return "html"
    if start.startswith("<?xml"):
        return "xml"
    return TEXT


def encodings(head: bytes, name: str) -> tuple[str, ...]:
    """Encodings that a text starting like this may be in, likeliest first; none: it is no text."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return (encoding,)
    if b"\0" in head:
        return ()
    declared = _declared(head) if EXTENSIONS.get(extension(name)) == "python" else ()
    controls = _share(CONTROLS, head)
    # Unused in Latin-1; Windows keeps its dashes and curly quotes there.
    windows = _share(HIGH_CONTROLS, head) > 0
    latin = ("cp1252", "latin-1") if windows else ("latin-1", "cp1252")
    if _is_utf8(head) and controls <= MOST_CONTROLS:
        return tuple(dict.fromkeys((*declared, "utf-8", *latin)))
    if not controls and _share(HIGH, head) <= MOST_HIGH:
        return (*declared, *latin)
    return declared


def _share(wanted: bytes, head: bytes) -> float:
    return 1 - len(head.translate(None, wanted)) / len(head)


def _declared(head: bytes) -> tuple[str, ...]:
    """The encoding that Python source names in its first two lines (PEP 263)."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(head).readline)
    except SyntaxError:
        return ()
    return (encoding,)


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The head may end in the middle of a letter, where the file goes on.
        return error.reason == "unexpected end of data" and len(head) >= HEAD_BYTES
    return True


def extension(name: str) -> str:
    """The last part of a file name, without the dot and in small letters; may be empty."""
    return name.rpartition(".")[2].casefold() if "." in name else ""
