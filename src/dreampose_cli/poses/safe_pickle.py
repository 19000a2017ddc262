"""Pickles of tensors, read without trusting them: plain ones, and those that `torch.save` puts into a zip.

A pickle is a program. This reader lets it name a handful of things and builds numpy arrays from them itself; whatever
else it names is refused by that name. torch is not needed, and nothing of it runs.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..errors import PoseError

_TYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save before it wrote zips, and of storages within plain pickles
_FAULTS = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError, ImportError,
    struct.error, OverflowError, MemoryError, RecursionError, zipfile.BadZipFile, zlib.error, NotImplementedError,
    RuntimeError, AssertionError,
)  # fmt: skip  # all that a damaged pickle or zip can raise


class _Fixed:
    """A pickle may hand any object a new state; these keep the one that was checked."""

    def __setstate__(self, state: object) -> None:
        raise ValueError("a pickle changes a tensor")


class Tensor(_Fixed):
    """A tensor in a file, read from there when its `array` is asked for."""

    def __init__(self, storage: Storage, offset: int, size: tuple, stride: tuple) -> None:
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or not all(type(n) is int and 0 <= n < 1 << 40 for n in numbers):
            raise ValueError("a tensor makes no sense")
        if math.prod(size) and offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) >= storage.length:
            raise ValueError("a tensor reaches beyond its storage")
        if math.prod(size) > storage.length:
            raise ValueError("a tensor is larger than its storage")
        self.shape = tuple(size)
        self._storage, self._offset, self._stride = storage, offset, tuple(stride)

    def array(self) -> np.ndarray:
        """Its numbers, a fresh array. Raises ValueError (or what a zip raises) if the file is damaged."""
        flat = self._storage.read()
        if not math.prod(self.shape):
            return np.zeros(self.shape, flat.dtype)
        steps = [step * flat.itemsize for step in self._stride]
        return np.lib.stride_tricks.as_strided(flat[self._offset :], self.shape, steps, writeable=False).copy()


class Storage(_Fixed):
    """The numbers behind tensors: bytes, or a member of a zip."""

    def __init__(self, kind: str, length: int) -> None:
        if type(length) is not int or not 0 <= length < 1 << 40:
            raise ValueError("a storage makes no sense")
        self.kind, self.length = np.dtype(kind), length
        self.bytes: bytes | None = None
        self.member: tuple[Path, str] | None = None

    def read(self) -> np.ndarray:
        data = self.bytes
        if data is None and self.member:
            with zipfile.ZipFile(self.member[0]) as archive:
                data = archive.read(self.member[1])
        if data is None or len(data) < self.length * self.kind.itemsize:
            raise ValueError("a storage is cut short")
        return np.frombuffer(data, self.kind, self.length)


def read_pickle(path: Path, known: Mapping[str, Iterable[str]], purpose: str) -> object:
    """The contents of the pickle at `path`: lists, dicts, numbers and text as they are, tensors as `Tensor`.

    known: names of classes for each pattern of modules; their instances become dicts of their attributes, wrapped in
    `Record`. purpose: what such a file is expected to be, for the sentences. Raises PoseError: foreign names, damage,
    a zip that unpacks to far more than its size.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path, known)
        with path.open("rb") as file:
            return _Unpickler(file, path.stat().st_size, known).load()
    except _Refused as refusal:
        raise PoseError(f"{path} is refused: it asks for {refusal}, which {purpose} has no use for.") from None
    except OSError as error:
        raise PoseError(f"{path} cannot be read: {error.strerror or error}; check its permissions.") from error
    except _FAULTS as error:
        raise PoseError(f"{path} is cut short, damaged or not {purpose}; copy it again.") from error


class Record:
    """An instance of a class that was known by name; its attributes are in `values`."""

    values: dict

    def __setstate__(self, state: object) -> None:
        self.values = dict(state) if isinstance(state, dict) else {}


class _Refused(Exception):
    """Something the pickle names and is not given."""


class _Bounded:
    """A file that is never asked for more than it has: a pickle's lengths are not to be believed."""

    def __init__(self, file, size: int) -> None:
        self._file, self._size = file, size
        self.readline = file.readline

    def read(self, count: int) -> bytes:
        return self._file.read(max(0, min(count, self._size - self._file.tell())))


class _Unpickler(pickle._Unpickler):
    """In Python, not in C: there a single number in a pickle can claim all memory (the size of its memo)."""

    def __init__(self, file, size: int, known: Mapping[str, Iterable[str]], place=None) -> None:
        super().__init__(_Bounded(file, size), encoding="latin1")
        self._known, self._place = known, place
        self._record = type("Record", (Record,), {})  # of its own: a hostile pickle could set attributes of a class

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return self._rebuild
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return self._nested
        if (module, name) == ("_codecs", "encode"):
            return self._bytes
        if any(re.fullmatch(pattern, module) and name in names for pattern, names in self._known.items()):
            return self._record
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: object) -> Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or pid[1] not in _TYPES.values():
            raise ValueError("a storage makes no sense")
        storage = Storage(pid[1], pid[4])
        if self._place is None:
            raise ValueError("a storage has no place")
        self._place(str(pid[2]), storage)
        return storage

    def _rebuild(self, storage: Storage, offset: int, size: tuple, stride: tuple, *_: object) -> Tensor:
        if not isinstance(storage, Storage):
            raise ValueError("a tensor has no storage")
        return Tensor(storage, offset, size, stride)

    def _bytes(self, text: str, encoding: str) -> bytes:
        """Bytes as pickles of protocol 2 write them."""
        if encoding != "latin1":
            raise ValueError("bytes make no sense")
        return text.encode("latin1")

    def _nested(self, data: bytes) -> Storage:
        """A storage within a plain pickle: what torch.save wrote before it wrote zips. Read as strictly."""
        file = io.BytesIO(data)
        storages: dict[str, Storage] = {}

        def load() -> object:
            return _Unpickler(file, len(data), {}, storages.__setitem__).load()

        if load() != _MAGIC or load() != 1001:
            raise ValueError("a storage is of another format")
        load()  # about the machine that wrote it
        storage, keys = load(), load()
        if not isinstance(storage, Storage) or not isinstance(keys, list):
            raise ValueError("a storage is none")
        for key in keys:
            (length,) = struct.unpack("<q", file.read(8))
            if length != storages[key].length:
                raise ValueError("a storage contradicts itself")
            storages[key].bytes = file.read(length * storages[key].kind.itemsize)
        return storage


def _read_zip(path: Path, known: Mapping[str, Iterable[str]]) -> object:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        unpacked, size = sum(member.file_size for member in members.values()), path.stat().st_size
        if unpacked > 4 * size + (1 << 20):  # torch.save does not compress
            raise PoseError(
                f"{path} is refused: it would unpack to {unpacked / max(size, 1):.0f} times its size, as no file of "
                "torch.save does."
            )
        root = next(
            (name.removesuffix("data.pkl") for name in members if re.fullmatch(r"([^/]+/)?data\.pkl", name)), None
        )
        if root is None:
            raise ValueError("no data.pkl")
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("big-endian")

        def place(key: str, storage: Storage) -> None:
            name = f"{root}data/{key}"
            if members[name].file_size < storage.length * storage.kind.itemsize:
                raise ValueError("a storage is cut short")
            storage.member = (path, name)

        program = archive.read(f"{root}data.pkl")
        return _Unpickler(io.BytesIO(program), len(program), known, place).load()
