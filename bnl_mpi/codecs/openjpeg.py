"""JPEG 2000 in memory through glymur's binding of the OpenJPEG library.

glymur itself reads and writes files; here its wrapped library calls are given streams over memory, so that a
codestream never touches a disk.  Which library: the one named by BNL_MPI_OPENJPEG or by glymur's own
configuration file, else the newer of the system's and of the copy that Pillow's wheel carries (the newer is
the faster, and writes the same codestreams).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BnlError

_READ = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_SKIP = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
_SEEK = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p)
_MESSAGE = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p)

_END_OF_STREAM = ctypes.c_size_t(-1).value
_STREAM_BUFFER = 1 << 20


class CodestreamError(BnlError):
    """OpenJPEG could not code or decode an image; the message is the library's."""


def _candidates() -> Iterator[str]:
    """Libraries to choose from: the system's, then Pillow's."""
    if found := ctypes.util.find_library("openjp2"):
        yield found
    try:
        import PIL
    except ImportError:
        return
    package = Path(PIL.__file__).parent
    for folder in (package.parent / "pillow.libs", package / ".dylibs"):
        yield from map(str, sorted(folder.glob("libopenjp2*")))


def _library_version(path: str) -> tuple[int, ...]:
    try:
        library = ctypes.CDLL(path)
        library.opj_version.restype = ctypes.c_char_p
        return tuple(int(n) for n in library.opj_version().decode().split("."))
    except (OSError, AttributeError, ValueError):
        return ()


def find_library() -> str | None:
    """Path or name of the OpenJPEG library to use, or None where there is none."""
    if named := os.environ.get("BNL_MPI_OPENJPEG"):
        if not _library_version(named):
            raise BnlError(f"BNL_MPI_OPENJPEG={named}: not a loadable OpenJPEG library")
        return named
    versions = {path: _library_version(path) for path in _candidates()}
    usable = {path: version for path, version in versions.items() if version}
    return max(usable, key=lambda path: usable[path], default=None)


@contextmanager
def _pointing_glymur_at(path: str) -> Iterator[None]:
    """Let glymur, while it is imported, find `path`: it asks `ctypes.util` once, at import."""
    original = ctypes.util.find_library
    ctypes.util.find_library = lambda name: path if name == "openjp2" else original(name)
    try:
        yield
    finally:
        ctypes.util.find_library = original


@cache
def library() -> Any:
    """glymur's module of wrapped OpenJPEG calls, with a library behind it."""
    path = find_library()
    if path is None:
        raise BnlError("JPEG 2000 needs an OpenJPEG library: install Pillow from a wheel, or libopenjp2")
    with _pointing_glymur_at(path):
        import glymur.lib.openjp2 as opj
    if opj.OPENJP2 is None:
        raise BnlError("glymur was imported before bnl_mpi and found no OpenJPEG library; import bnl_mpi first")
    return opj


def version() -> str:
    return str(library().version())


class _Messages:
    """Collects the library's error messages; its warnings and informations are not for users."""

    def __init__(self, opj: Any, codec: Any) -> None:
        self.errors: list[str] = []
        self._keep = [_MESSAGE(self._error), _MESSAGE(lambda _text, _data: None)]
        opj.set_error_handler(codec, self._keep[0])
        opj.set_warning_handler(codec, self._keep[1])
        opj.set_info_handler(codec, self._keep[1])

    def _error(self, text: bytes, _data: Any) -> None:
        self.errors.append(" ".join(text.decode(errors="replace").split()))


class _Stream:
    """An OpenJPEG stream over a growing (writing) or given (reading) buffer."""

    def __init__(self, opj: Any, source: memoryview | None = None, size: int = 0) -> None:
        lib = opj.OPENJP2
        self._lib, self._position, self._length = lib, 0, 0
        reading = source is not None
        self.buffer = bytearray(size)
        self._source = source
        lib.opj_stream_create.restype = ctypes.c_void_p
        lib.opj_stream_create.argtypes = [ctypes.c_size_t, ctypes.c_int32]
        self.pointer = ctypes.c_void_p(lib.opj_stream_create(_STREAM_BUFFER, int(reading)))
        self._keep: list[Any] = [_SKIP(self._skip), _SEEK(self._seek)]
        setters: list[tuple[str, Any]] = [("skip", self._keep[0]), ("seek", self._keep[1])]
        if source is not None:
            self._length = len(source)
            lib.opj_stream_set_user_data_length.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
            lib.opj_stream_set_user_data_length(self.pointer, len(source))
            lib.opj_stream_set_user_data.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
            lib.opj_stream_set_user_data(self.pointer, None, None)
            self._keep.append(_READ(self._read))
            setters.append(("read", self._keep[-1]))
        else:
            self._keep.append(_READ(self._write))
            setters.append(("write", self._keep[-1]))
        for name, function in setters:
            setter = getattr(lib, f"opj_stream_set_{name}_function")
            setter.argtypes, setter.restype = [ctypes.c_void_p, ctypes.c_void_p], None
            setter(self.pointer, ctypes.cast(function, ctypes.c_void_p))

    def _read(self, target: int, size: int, _data: Any) -> int:
        assert self._source is not None
        piece = self._source[self._position : self._position + size]
        if not len(piece):
            return _END_OF_STREAM
        ctypes.memmove(target, bytes(piece), len(piece))
        self._position += len(piece)
        return len(piece)

    def _write(self, source: int, size: int, _data: Any) -> int:
        end = self._position + size
        if end > len(self.buffer):
            self.buffer.extend(bytes(end - len(self.buffer)))
        self.buffer[self._position : end] = (ctypes.c_char * size).from_address(source).raw
        self._position = end
        self._length = max(self._length, end)
        return size

    def _skip(self, count: int, _data: Any) -> int:
        self._position += count
        return count

    def _seek(self, position: int, _data: Any) -> int:
        self._position = position
        return 1

    def written(self) -> bytes:
        return bytes(memoryview(self.buffer)[: self._length])

    def close(self) -> None:
        self._lib.opj_stream_destroy.argtypes = [ctypes.c_void_p]
        self._lib.opj_stream_destroy(self.pointer)


def resolutions(shape: tuple[int, int], most: int = 6) -> int:
    """Wavelet resolutions for an image of (ny, nx): 6, or as many as halve the shorter side to 1."""
    return max(1, min(most, min(shape).bit_length()))


@contextmanager
def _library_calls(opj: Any, messages: _Messages, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "; ".join(dict.fromkeys(messages.errors)) or str(error)
        raise CodestreamError(f"OpenJPEG {opj.version()} can't {what}: {reason}") from error


def encode(image: np.ndarray[Any, Any], ratios: Sequence[float], *, irreversible: bool, threads: int = 1) -> bytes:
    """A J2K codestream of `image`, (ny, nx) uint8 or uint16, with one quality layer for each of `ratios`.

    A ratio is the image's bytes over the codestream's up to and with that layer, largest first.  The settings
    are those of `glymur.Jp2k(path, data=image, cratios=ratios)`.
    """
    opj = library()
    ny, nx = image.shape
    bits = image.dtype.itemsize * 8
    with ExitStack() as stack:
        parameters = opj.set_default_encoder_parameters()
        parameters.codec_fmt = opj.CODEC_J2K
        parameters.irreversible = int(irreversible)
        parameters.tcp_numlayers = len(ratios)
        for layer, ratio in enumerate(ratios):
            parameters.tcp_rates[layer] = ratio
        parameters.cp_disto_alloc = 1
        parameters.numresolution = resolutions((ny, nx))
        component = (opj.ImageComptParmType * 1)()
        component[0].dx = component[0].dy = 1
        component[0].w, component[0].h = nx, ny
        component[0].prec = component[0].bpp = bits
        target = opj.image_create(component, opj.CLRSPC_GRAY)
        stack.callback(opj.image_destroy, target)
        target.contents.x1, target.contents.y1 = nx, ny
        pixels = np.ctypeslib.as_array(target.contents.comps[0].data, shape=(ny, nx))
        np.copyto(pixels, image, casting="unsafe")
        codec = opj.create_compress(opj.CODEC_J2K)
        stack.callback(opj.destroy_codec, codec)
        messages = _Messages(opj, codec)
        with _library_calls(opj, messages, "code the image"):
            opj.setup_encoder(codec, parameters, target)
            if threads > 1:
                opj.codec_set_threads(codec, threads)
            stream = _Stream(opj, size=max(4096, int(1.1 * image.nbytes / max(1.0, min(ratios, default=1.0)))))
            stack.callback(stream.close)
            opj.start_compress(codec, target, stream.pointer)
            opj.encode(codec, stream.pointer)
            opj.end_compress(codec, stream.pointer)
        return stream.written()


def decode(codestream: Any, *, threads: int = 1) -> np.ndarray[Any, Any]:
    """The image of a J2K (or HTJ2K) codestream of one unsigned component: (ny, nx), uint8 or uint16."""
    opj = library()
    with ExitStack() as stack:
        codec = opj.create_decompress(opj.CODEC_J2K)
        stack.callback(opj.destroy_codec, codec)
        messages = _Messages(opj, codec)
        stream = _Stream(opj, source=memoryview(codestream).cast("B"))
        stack.callback(stream.close)
        with _library_calls(opj, messages, "decode the codestream"):
            opj.setup_decoder(codec, opj.set_default_decoder_parameters())
            if threads > 1:
                opj.codec_set_threads(codec, threads)
            image = opj.read_header(stream.pointer, codec)
            stack.callback(opj.image_destroy, image)
            opj.decode(codec, stream.pointer, image)
            opj.end_decompress(codec, stream.pointer)
        component = image.contents.comps[0]
        top = (1 << component.prec) - 1
        pixels = np.ctypeslib.as_array(component.data, shape=(component.h, component.w))
        # A lossy decode may pass the range of its precision; OpenJPEG clips, an HTJ2K decoder might not.
        image_type = np.uint8 if component.prec <= 8 else np.uint16
        decoded: np.ndarray[Any, Any] = np.clip(pixels, 0, top).astype(image_type)
        return decoded
