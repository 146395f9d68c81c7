"""Memory request traces, read from files in bounded memory."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from neardata.arch.errors import InputError
from neardata.sim.dram.trace_text import TextBlocks, text_format

NPY_MAGIC = b"\x93NUMPY"
GZIP_MAGIC = b"\x1f\x8b"
HEAD = 1 << 16
"""Bytes looked at to tell the form."""
FIELDS = ("address", "write", "arrival")
LATEST_ARRIVAL = 1 << 40
"""Cycles: about a minute of memory time, all refreshes of which are simulated."""


@dataclass(frozen=True)
class RequestChunk:
    """Consecutive requests, in program order."""

    address: NDArray[np.int64]
    """(n,) byte addresses."""
    is_write: NDArray[np.bool_]
    """(n,)"""
    arrival: NDArray[np.int64] | None = None
    """(n,) simulated cycle before which the request is not sent; None: as soon as accepted."""

    def __len__(self) -> int:
        return len(self.address)


class Trace:
    """A trace file: iterate over it for `RequestChunk` objects. See `open_trace`."""

    def __init__(self, path: Path, *, chunk: int, capacity_bytes: int | None) -> None:
        self.path, self.chunk, self.capacity_bytes = path, chunk, capacity_bytes
        try:
            self._raw = io.BufferedReader(io.FileIO(path), HEAD)
            self._size = path.stat().st_size if path.is_file() else 0
            self._stream: io.BufferedReader[Any] = self._raw
            if self._raw.peek(HEAD).startswith(GZIP_MAGIC):
                self._stream = io.BufferedReader(cast(Any, gzip.GzipFile(fileobj=self._raw)), HEAD)
            head = self._stream.peek(HEAD)
        except (OSError, EOFError, zlib.error) as error:
            raise self._unreadable(error) from None
        if not head.strip():
            raise InputError("empty trace", file=path)
        self._is_npy = head.startswith(NPY_MAGIC)
        self._form = None if self._is_npy else text_format(path, head)

    def _unreadable(self, error: Exception) -> InputError:
        reason = getattr(error, "strerror", None) or str(error)
        return InputError(f"cannot be read: {reason}", file=self.path)

    @property
    def fraction_read(self) -> float:
        """Share of the file read so far, 0 to 1 (0 where its size is unknown: a pipe)."""
        if self._raw.closed:
            return 1.0
        return min(self._raw.tell() / self._size, 1.0) if self._size else 0.0

    def __iter__(self) -> Iterator[RequestChunk]:
        """Read the rest of the file. Raises `InputError` as `open_trace` does."""
        found = False
        try:
            for chunk in self._npy() if self._is_npy else self._text():
                found = found or len(chunk) > 0
                yield chunk
        except (OSError, EOFError, zlib.error) as error:
            raise self._unreadable(error) from None
        finally:
            self._stream.close()
            self._raw.close()
        if not found:
            raise InputError("empty trace", file=self.path)

    def _text(self) -> Iterator[RequestChunk]:
        assert self._form is not None
        waiting: list[RequestChunk] = []
        for address, is_write, arrival, lines in TextBlocks(self.path, self._stream, self._form):
            self._check(address, arrival, lines)
            waiting.append(RequestChunk(address, is_write, arrival))
            if sum(map(len, waiting)) >= self.chunk:
                yield _joined(waiting)
                waiting = []
        if waiting:
            yield _joined(waiting)

    def _npy(self) -> Iterator[RequestChunk]:
        count, row = self._npy_header()
        assert row.names is not None
        for start in range(0, count, self.chunk):
            n = min(self.chunk, count - start)
            data = self._stream.read(n * row.itemsize)
            if len(data) != n * row.itemsize:
                raise InputError(f"ends before request {count}, the last in its header", file=self.path)
            rows = np.frombuffer(data, dtype=row)
            lines = np.arange(start + 1, start + n + 1)
            # an address of 2**63 or more turns negative and is rejected as such
            address = np.ascontiguousarray(rows["address"]).astype(np.int64)
            arrival = None
            if "arrival" in row.names:
                arrival = np.ascontiguousarray(rows["arrival"]).astype(np.int64)
            self._check(address, arrival, lines)
            is_write = np.zeros(n, dtype=bool)
            if "write" in row.names:
                is_write = rows["write"] == 1
                if (bad := np.flatnonzero(~is_write & (rows["write"] != 0))).size:
                    message = f"write must be 0 or 1, got {rows['write'][bad[0]]}"
                    raise InputError(message, file=self.path, line=int(lines[bad[0]]))
            yield RequestChunk(address, is_write, arrival)

    def _npy_header(self) -> tuple[int, np.dtype[np.void]]:
        """Number of requests, and a structure with the fields of one."""
        try:
            version = npy.read_magic(self._stream)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read(self._stream)
        except ValueError as error:
            raise InputError(f"not a .npy file: {error}", file=self.path) from None
        fields: list[tuple[str, Any]] = []
        if dtype.names and len(shape) == 1:
            fields = [(name, dtype[name]) for name in dtype.names]
            row = dtype
        elif len(shape) == 1 or (len(shape) == 2 and shape[1] in (2, 3) and not fortran):
            fields = [(name, dtype) for name in FIELDS[: shape[1] if len(shape) == 2 else 1]]
            row = np.dtype(fields)
        names = {name for name, _ in fields}
        if "address" not in names or names - set(FIELDS) or any(t.kind not in "iub" for _, t in fields):
            order = " in Fortran order" if fortran and len(shape) > 1 else ""
            raise InputError(
                "expected integer addresses (n,), rows (n, 2) of address, write or (n, 3) of address, write, "
                f"arrival, or a structure of these fields; got {dtype} of shape {shape}{order}",
                file=self.path,
            )
        return shape[0], row

    def _check(
        self, address: NDArray[np.int64], arrival: NDArray[np.int64] | None, lines: NDArray[np.int64]
    ) -> None:
        if not len(address):
            return
        if arrival is not None and (arrival.min() < 0 or arrival.max() > LATEST_ARRIVAL):
            where = int(np.argmax((arrival < 0) | (arrival > LATEST_ARRIVAL)))
            message = f"arrival {arrival[where]} is not a cycle from 0 to {LATEST_ARRIVAL}"
            raise InputError(message, file=self.path, line=int(lines[where]))
        capacity = self.capacity_bytes
        if address.min() < 0:
            where = int(np.argmax(address < 0))
            raise InputError(f"negative address {address[where]}", file=self.path, line=int(lines[where]))
        if capacity is not None and address.max() >= capacity:
            where = int(np.argmax(address >= capacity))
            raise InputError(
                f"address 0x{address[where]:x} is beyond the memory's {capacity} bytes (0x{capacity:x})",
                file=self.path, line=int(lines[where]),
            )  # fmt: skip


def open_trace(path: str | Path, *, chunk: int = 1 << 20, capacity_bytes: int | None = None) -> Trace:
    """A trace file as an iterable of `RequestChunk` of about ``chunk`` requests each.

    The form is told by the content; any of them may be compressed with gzip:

    * ``LD ADDRESS`` / ``ST ADDRESS`` a line (Ramulator), address decimal or ``0x`` hexadecimal;
    * ``ADDRESS READ|WRITE CYCLE`` a line (DRAMsim3), address hexadecimal with or without ``0x``;
    * CSV with the header ``address,write`` or ``address,write,arrival`` (any order);
    * ``.npy``: integers (n,) = addresses of reads; (n, 2) or (n, 3), columns address, write (0
      or 1), arrival; or a structure with these field names.

    Blank lines and lines that begin with ``#`` are skipped in text.

    Args:
        capacity_bytes: addresses from here on are errors.

    Raises:
        InputError: unreadable or empty file, unknown form; while iterating: a malformed line
            (file, line, content), an address beyond the capacity. A line of a ``.npy`` file is
            a request, counted from 1.
    """
    return Trace(Path(path), chunk=chunk, capacity_bytes=capacity_bytes)


def _joined(chunks: list[RequestChunk]) -> RequestChunk:
    if len(chunks) == 1:
        return chunks[0]
    arrivals = [c.arrival for c in chunks if c.arrival is not None]
    return RequestChunk(
        np.concatenate([c.address for c in chunks]),
        np.concatenate([c.is_write for c in chunks]),
        np.concatenate(arrivals) if arrivals else None,
    )
