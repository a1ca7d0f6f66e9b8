"""What a file is that is no data this version reads, by its first bytes, and what to do about it."""

from __future__ import annotations

from diagnose.errors import InputError
from diagnose.settings import printable

ARRAYS = "save its columns as arrays: numpy.savez(FILE, x=..., y=...)"
IMAGES = "save all images in one `.npz` file: numpy.savez(FILE, x=images, y=labels)"
EXPORT = "export it as `.jsonl`, as LIBSVM text, or as arrays with numpy.savez(FILE, x=..., y=...)"
MODEL = "that is a model: give it as MODEL, and the data with --data"
UTF8 = "save it as UTF-8"
UNPACK = "unpack it first: "

PACKED: tuple[tuple[bytes, str, str], ...] = (
    (b"BZh", "bzip2", UNPACK + "`bunzip2 {}`"),
    (b"\xfd7zXZ\x00", "xz", UNPACK + "`unxz {}`"),
    (b"\x28\xb5\x2f\xfd", "Zstandard", UNPACK + "`unzstd {}`"),
    (b"\x04\x22\x4d\x18", "LZ4", UNPACK + "`unlz4 {}`"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip", UNPACK + "`7z x {}`"),
    (b"Rar!", "RAR", UNPACK + "`unrar x {}`"),
)
"""Formats that hold other files, by their first bytes, with their names and a way out."""
BINARY: tuple[tuple[bytes, str, str], ...] = (
    (b"PAR1", "Parquet", EXPORT),
    (b"ARROW1", "Arrow", EXPORT),
    (b"FEA1", "Feather", EXPORT),
    (b"ORC", "ORC", EXPORT),
    (b"Obj\x01", "Avro", EXPORT),
    (b"\x93NUMPY", "a NumPy array (.npy)", "save inputs and labels together: numpy.savez(FILE, x=..., y=...)"),
    (b"\x89HDF\r\n\x1a\n", "HDF5", ARRAYS),
    (b"MATLAB 5.0", "MATLAB", ARRAYS),
    (b"\x89PNG\r\n\x1a\n", "a PNG image", IMAGES),
    (b"\xff\xd8\xff", "a JPEG image", IMAGES),
    (b"GIF8", "a GIF image", IMAGES),
    (b"II*\x00", "a TIFF image", IMAGES),
    (b"MM\x00*", "a TIFF image", IMAGES),
    (b"\x00\x00\x08\x01", "labels in the IDX format of MNIST", ARRAYS),
    (b"\x00\x00\x08\x03", "images in the IDX format of MNIST", IMAGES),
    (b"RIFF", "a RIFF file (sound or an image)", IMAGES),
    (b"%PDF", "PDF", "save its text as `.txt`"),
    (b"SQLite format 3\x00", "an SQLite database", EXPORT),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Office file", EXPORT),
    (b"GGUF", "a GGUF model", MODEL),
    (b"\xff\xfe", "text in UTF-16", UTF8),
    (b"\xfe\xff", "text in UTF-16", UTF8),
    (b"\x80\x02", "a Python pickle", ARRAYS),
    (b"\x80\x03", "a Python pickle", ARRAYS),
    (b"\x80\x04", "a Python pickle", ARRAYS),
    (b"\x80\x05", "a Python pickle", ARRAYS),
)
"""Formats that are no text, by their first bytes, with their names and a way out."""
TEXT: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a pointer to a large file, not the file", "fetch it with `git lfs pull`"),
    (b"<!doctype html", "a web page", "fetch the file itself"),
    (b"<html", "a web page", "fetch the file itself"),
    (b"%%matrixmarket", "a Matrix Market file", "save it with sklearn.datasets.dump_svmlight_file"),
    (b"@relation", "ARFF", EXPORT),
)
"""Formats that are text of another kind, in lower case."""
ZIP = b"PK\x03\x04"
INSIDE: tuple[tuple[bytes, str, str], ...] = (
    (b"[Content_Types].xml", "an Excel or Office file", EXPORT),
    (b"data.pkl", "a checkpoint of torch.save", MODEL),
    (b".npy", "a `.npz` archive under another name", "end its name in `.npz`"),
)
"""What a zip archive is, by a name of a file in it."""
ENDINGS: dict[str, tuple[str, str]] = {
    ".pt": ("a file of torch.save", MODEL),
    ".pt2": ("a file of torch.export", MODEL),
    ".pth": ("a file of torch.save", MODEL),
    ".safetensors": ("safetensors", MODEL),
    ".npy": ("a NumPy array (.npy)", "save inputs and labels together: numpy.savez(FILE, x=..., y=...)"),
    ".parquet": ("Parquet", EXPORT),
    ".pkl": ("a Python pickle", ARRAYS),
    ".pickle": ("a Python pickle", ARRAYS),
    ".zip": ("a zip archive", UNPACK + "`unzip {}`"),
    ".tar": ("a tar archive", UNPACK + "`tar -xf {}`"),
}
"""Kinds of files that are known by their names, which need not be opened."""


def refuse_packed(content: bytes, name: str) -> None:
    """Refuse what holds another file, an image or a table, under whatever name; read as text its bytes would pass for
    data.

    Raises:
        InputError: naming the format and how to unpack it.
    """
    for start, what, hint in PACKED:
        if content.startswith(start) and not content[:64].isascii():
            raise _refusal(what, hint, name)
    for start, what, hint in BINARY:
        if content.startswith(start) and b"\0" in content[:64] and hint != UTF8:
            raise _refusal(what, hint, name)
    if content[257:262] == b"ustar":
        raise _refusal("a tar archive", UNPACK + "`tar -xf {}`", name)
    if content.startswith(ZIP):
        ends = content[:4096] + content[-4096:]  # names stand before each file, and all of them at the end
        what, hint = next(((what, hint) for part, what, hint in INSIDE if part in ends), ENDINGS[".zip"])
        raise _refusal(what, hint, name)


def refuse_binary(content: bytes, name: str) -> None:
    """Refuse another format where text is expected.

    Raises:
        InputError: naming the format and what to do.
    """
    for start, what, hint in BINARY:
        if content.startswith(start):
            raise _refusal(what, hint, name)
    if content[8:9] == b"{" and content[7:8] == b"\0":
        raise _refusal(*ENDINGS[".safetensors"], name)
    head = content[:64].lstrip().lower()
    for start, what, hint in TEXT:
        if head.startswith(start):
            raise _refusal(what, hint, name)


def refuse_ending(ending: str, name: str) -> None:
    """Refuse a file that says by its name that it is no data which is read.

    Raises:
        InputError: naming the format and what to do.
    """
    if ending in ENDINGS:
        raise _refusal(*ENDINGS[ending], name)


def _refusal(what: str, hint: str, name: str) -> InputError:
    return InputError(f"{what}, not a kind of data that is read", name, hint.format(printable(name)))
