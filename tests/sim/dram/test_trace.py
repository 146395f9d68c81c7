"""Trace files: every form gives the same requests, and a bad line is named."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neardata.arch.errors import InputError
from neardata.sim.dram import trace_text
from neardata.sim.dram.trace import open_trace
from neardata.sim.dram.trace_text import DRAMSIM3, RAMULATOR, parse_block, parse_lines, text_format

ADDRESS = np.array([0, 64, 0x3FFFFFC0, 4096, 0x7F_FFFF_FFC0, 128], dtype=np.int64)
IS_WRITE = np.array([0, 1, 0, 0, 1, 1], dtype=bool)
ARRIVAL = np.array([0, 3, 3, 17, 1000, 123456789], dtype=np.int64)


def ramulator(number="0x{:x}"):
    pairs = zip(ADDRESS.tolist(), IS_WRITE, strict=True)
    return "".join(f"{'ST' if w else 'LD'} {number.format(a)}\n" for a, w in pairs)


def dramsim3(prefix="0x"):
    rows = zip(ADDRESS.tolist(), IS_WRITE, ARRIVAL, strict=True)
    return "".join(f"{prefix}{a:X} {'WRITE' if w else 'READ'} {t}\n" for a, w, t in rows)


def csv(arrival):
    rows = zip(ADDRESS.tolist(), IS_WRITE, ARRIVAL, strict=True)
    header = "address,write" + (",arrival" if arrival else "")
    return header + "\n" + "".join(f"{a},{w:d}" + (f",{t}" if arrival else "") + "\n" for a, w, t in rows)


def read(path, **options):
    chunks = list(open_trace(path, **options))
    arrivals = [c.arrival for c in chunks]
    return (
        np.concatenate([c.address for c in chunks]),
        np.concatenate([c.is_write for c in chunks]),
        None if arrivals[0] is None else np.concatenate(arrivals),
    )


def assert_requests(path, *, arrival, **options):
    address, is_write, at = read(path, **options)
    assert address.dtype == np.int64 and is_write.dtype == np.bool_
    assert address.tolist() == ADDRESS.tolist()
    assert is_write.tolist() == IS_WRITE.tolist()
    assert at is None if not arrival else at.tolist() == ARRIVAL.tolist()


TEXTS = {
    "ramulator": (ramulator(), False),
    "ramulator decimal": (ramulator("{}"), False),
    "ramulator, last line open": (ramulator().rstrip("\n"), False),
    "ramulator, carriage returns": (ramulator().replace("\n", "\r\n"), False),
    "ramulator, comments": ("# from a core\n\n" + ramulator() + "\n# end", False),
    "ramulator, spaces": (ramulator().replace(" ", " \t ").replace("LD", "  LD"), False),
    "dramsim3": (dramsim3(), True),
    "dramsim3 without 0x": (dramsim3(""), True),
    "dramsim3 in lower case": (dramsim3().lower(), True),
    "csv": (csv(False), False),
    "csv with arrivals": (csv(True), True),
    "csv with spaces": (csv(True).replace(",", " , "), True),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", TEXTS)
def test_text_forms_give_the_same_requests(tmp_path, name, packed):
    text, arrival = TEXTS[name]
    path = tmp_path / "t.trace"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert_requests(path, arrival=arrival)


def test_csv_columns_in_any_order(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("arrival,write,address\n7,1,0x40\n")
    assert [c.tolist() for c in read(path)] == [[64], [True], [7]]


STRUCTURE = np.dtype([("address", "<u8"), ("write", "?"), ("arrival", "<i4")])
ARRAYS = {
    "three columns": (np.stack([ADDRESS, IS_WRITE, ARRIVAL], axis=1), True),
    "two columns": (np.stack([ADDRESS, IS_WRITE], axis=1), False),
    "big endian": (np.stack([ADDRESS, IS_WRITE], axis=1).astype(">i8"), False),
    "structure": (
        np.array(list(zip(ADDRESS, IS_WRITE, ARRIVAL, strict=True)), dtype=STRUCTURE), True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_give_the_same_requests(tmp_path, name, packed):
    array, arrival = ARRAYS[name]
    np.save(tmp_path / "t.npy", array)
    path = tmp_path / "t.npy"
    if packed:
        path = tmp_path / "t.npy.gz"
        path.write_bytes(gzip.compress((tmp_path / "t.npy").read_bytes()))
    assert_requests(path, arrival=arrival, chunk=4)


def test_plain_addresses_are_reads(tmp_path):
    np.save(tmp_path / "t.npy", ADDRESS)
    address, is_write, arrival = read(tmp_path / "t.npy")
    assert address.tolist() == ADDRESS.tolist() and not is_write.any() and arrival is None


def test_chunks_hold_about_as_many_requests_as_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(trace_text, "BLOCK", 64)
    path = tmp_path / "t.trace"
    path.write_text(ramulator() * 50)
    trace = open_trace(path, chunk=40)
    sizes = [len(chunk) for chunk in trace]
    assert sum(sizes) == 300
    assert all(40 <= size < 60 for size in sizes[:-1])
    assert trace.fraction_read == 1.0
    assert read(path)[0].tolist() == ADDRESS.tolist() * 50


BAD = {
    "missing address": ("LD 0x40\nLD\nLD 0x80\n", "t:2: expected 'LD|ST ADDRESS', got 'LD'"),
    "unknown operation": ("LD 0x40\nLX 0x80\n", "t:2: expected 'LD|ST ADDRESS', got 'LX 0x80'"),
    "not a number": ("# c\nLD 0x40\nST 0xg0\n", "t:3: expected 'LD|ST ADDRESS', got 'ST 0xg0'"),
    "hexadecimal without 0x": ("LD 4f\n", "t:1: expected 'LD|ST ADDRESS', got 'LD 4f'"),
    "nothing after 0x": ("LD 0x\n", "t:1: expected 'LD|ST ADDRESS', got 'LD 0x'"),
    "negative": ("LD -64\n", "t:1: expected 'LD|ST ADDRESS', got 'LD -64'"),
    "too many words": ("LD 64 1\n", "t:1: expected 'LD|ST ADDRESS', got 'LD 64 1'"),
    "words shifted": ("LD 64 ST\n0\n", "t:1: expected 'LD|ST ADDRESS', got 'LD 64 ST'"),
    "two to the 63": ("LD 0x8000000000000000\n", "t:1: number too large in 'LD 0x8000000000000000'"),
    "control character": ("LD\x0164\nLD 64\n", "got 'LD\\x0164'"),
    "not UTF-8": (b"LD 64\nLD \xff\n", "t:2: expected 'LD|ST ADDRESS', got 'LD \\xff'"),
    "no cycle": ("0x40 READ 1\n0x40 WRITE\n", "t:2: expected 'ADDRESS READ|WRITE CYCLE', got '0x40 WRITE'"),
    "operation": ("0x40 READ 1\n0x40 REND 1\n", "t:2: expected 'ADDRESS READ|WRITE CYCLE'"),
    "csv flag": ("address,write\n64,0\n64,2\n", "t:3: expected 'address,write', got '64,2'"),
    "csv empty field": ("address,write\n64,,\n", "t:2: expected 'address,write', got '64,,'"),
    "csv fields": ("address,write\n64,0,5\n", "t:2: expected 'address,write', got '64,0,5'"),
    "csv header": ("address,size\n64,0\n", "t:1: expected the columns address,write[,arrival], got"),
    "csv without header": ("64,0\n", "t:1: not a trace: expected 'LD|ST ADDRESS',"),
    "empty": ("", "t: empty trace"),
    "only comments": ("# nothing\n\n", "t: empty trace"),
    "only a header": ("address,write\n", "t: empty trace"),
    "a long line": ("LD 64\nLD " + "0" * 3_000_000, "t:2: line longer than 4096 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named(tmp_path, monkeypatch, name):
    text, message = BAD[name]
    monkeypatch.chdir(tmp_path)
    Path("t").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        read("t")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_line_numbers_count_through_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(trace_text, "BLOCK", 4096)
    path = tmp_path / "t"
    path.write_text("LD 0x40\n" * 5000 + "LD 0x4O\n" + "LD 0x40\n" * 10)
    with pytest.raises(InputError, match=r"t:5001: .* got 'LD 0x4O'"):
        read(path)


@pytest.mark.parametrize("form", ["text", "npy"])
def test_an_address_beyond_the_capacity_is_named(tmp_path, form):
    path = tmp_path / "t"
    if form == "text":
        path.write_text("# comment\n" + ramulator())
    else:
        path.write_bytes(b"")
        np.save(path.open("wb"), ADDRESS)
    line = 6 if form == "text" else 5
    with pytest.raises(
        InputError, match=rf"t:{line}: address 0x7fffffffc0 is beyond the memory's 4294967296"
    ):
        read(path, capacity_bytes=1 << 32)
    assert len(read(path, capacity_bytes=1 << 39)[0]) == len(ADDRESS)


BAD_ARRAYS = {
    "floats": (np.zeros(3), "expected integer addresses"),
    "four columns": (np.zeros((3, 4), int), r"got int64 of shape \(3, 4\)"),
    "column-major": (np.asfortranarray(np.zeros((3, 2), int)), "in Fortran order"),
    "other fields": (np.zeros(3, dtype=[("addr", "i8")]), "expected integer addresses"),
    "flag": (np.array([[64, 0], [64, 2]]), "t.npy:2: write must be 0 or 1, got 2"),
    "negative": (np.array([64, -64]), "t.npy:2: negative address -64"),
    "no requests": (np.zeros(0, int), "empty trace"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_a_bad_array_is_told(tmp_path, name):
    array, message = BAD_ARRAYS[name]
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "t.npy")


def test_files_cut_short_are_told(tmp_path):
    np.save(tmp_path / "t.npy", ADDRESS)
    (tmp_path / "t.npy").write_bytes((tmp_path / "t.npy").read_bytes()[:-8])
    with pytest.raises(InputError, match="ends before request 6"):
        read(tmp_path / "t.npy")
    # incompressible enough that the cut falls beyond the first bytes looked at
    words = np.random.default_rng(1).integers(0, 1 << 40, 200_000)
    whole = gzip.compress("".join(f"LD {w}\n" for w in words.tolist()).encode())
    (tmp_path / "t.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"t\.gz: cannot be read: .*ended"):
        read(tmp_path / "t.gz")


def test_unreadable_files_are_told(tmp_path):
    with pytest.raises(InputError, match="none: cannot be read: No such file or directory"):
        open_trace(tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        open_trace(tmp_path)
    with pytest.raises(InputError, match="not a trace"):
        (tmp_path / "elf").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(1000))
        open_trace(tmp_path / "elf")


WORD = st.sampled_from(
    ["LD", "ST", "READ", "write", "0", "7", "12", "0x1f", "0XAB", "1f", "ffffffffffffffff",
     "999999999999999999", "9999999999999999999", "0x", "x", "#", "-1", "LDD", ""]
)  # fmt: skip
LINE = st.lists(WORD, min_size=0, max_size=4).map(" ".join)
GOOD = st.one_of(
    st.builds("{} {}".format, st.sampled_from(["LD", "ST"]), st.sampled_from(["0x1f", "12", "0X0"])),
    st.builds(
        "{} {} {}".format, st.sampled_from(["1f", "0x2"]), st.sampled_from(["READ", "write"]), st.just("3")
    ),
    st.builds("{},{}".format, st.sampled_from(["12", "0x0"]), st.sampled_from(["0", "1", "01"])),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(GOOD, LINE), min_size=1, max_size=4), st.sampled_from([RAMULATOR, DRAMSIM3, "csv"]))
def test_blocks_agree_with_lines(lines, form):
    """What the block parser takes, the line parser takes with the same result."""
    if form == "csv":
        form = text_format(Path("t"), b"address,write\n")
    text = ("\n".join(lines) + "\n").encode()
    block = parse_block(text, form, 1)
    if block is not None:
        expected = parse_lines(text, form, 1, Path("t"))
        for got, want in zip(block, expected, strict=True):
            assert (got is None) == (want is None)
            assert got is None or got.tolist() == want.tolist()


def test_well_formed_lines_take_the_block_parser():
    for text, form in ((ramulator(), RAMULATOR), (dramsim3(), DRAMSIM3), (dramsim3(""), DRAMSIM3)):
        assert parse_block(text.encode(), form, 1) is not None
