"""Address mappings: the field-order language, the named orders, and their inverses."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neardata.arch.dram import Device, device_names, load_device, load_mapping, mapping_names
from neardata.arch.errors import InputError

DATA = Path(__file__).parents[2] / "data" / "dram"
DDR4 = load_device("ddr4-2400r")


def gzipped_rows(name: str) -> list[dict[str, str]]:
    with gzip.open(DATA / name, "rt") as stream:
        return list(csv.DictReader(stream))


def number_in(coordinates: list[int], device: Device) -> int:
    """Bank number of coordinates from the level below the channel down."""
    return int(np.ravel_multi_index(coordinates, device.counts[1:]))


def test_fields_are_packed_from_the_right() -> None:
    mapping = load_mapping(DDR4, "row bank bank_group rank column channel", channels=4)
    # 6 bits of burst offset, 2 channel, 7 column, 2 bank group, 2 bank, 16 row
    address = 3 << 6 | 5 << 8 | 1 << 15 | 2 << 17 | 40000 << 19
    channel, bank, row, column = mapping.decode(address + 63)
    assert (channel, bank, row, column) == (3, 1 * 4 + 2, 40000, 5)
    assert mapping.encode(3, 1 * 4 + 2, 40000, 5) == address
    assert mapping.text == "row:16 bank:2 bank_group:2 column:7 channel:2"


def test_last_part_of_a_split_field_holds_its_lowest_bits() -> None:
    mapping = load_mapping(DDR4, "row column bank bank_group column:2")
    *_, column = mapping.decode([0b11 << 6, 0b10001 << 12])
    assert column.tolist() == [0b11, 0b1000100]


def test_operand_of_an_xor_starts_at_its_bit() -> None:
    plain = load_mapping(DDR4, "row bank bank_group column")
    hashed = load_mapping(DDR4, "row bank^row bank_group^column[2] column")
    address = plain.encode(0, np.arange(16), 0b1101, 0b11011)
    _, banks, rows, columns = hashed.decode(address)
    groups, in_group = np.divmod(np.arange(16), 4)
    assert (banks == (groups ^ 0b10) * 4 + (in_group ^ 0b01)).all()
    assert (rows == 0b1101).all()
    assert (columns == 0b11011).all()


def test_operand_of_an_xor_is_the_field_as_it_lies_in_the_address() -> None:
    plain = load_mapping(DDR4, "row bank bank_group column")
    chained = load_mapping(DDR4, "row^column bank^row bank_group column")
    _, bank, row, _ = chained.decode(plain.encode(0, 0, 0b10, 0b01))
    assert (bank, row) == (0b10, 0b11)


def test_an_xor_given_twice_cancels() -> None:
    once = load_mapping(DDR4, "row bank bank_group column")
    twice = load_mapping(DDR4, "row bank^row^row bank_group column")
    assert np.array_equal(once.slices, twice.slices)


def test_kernel_form_is_the_xor_of_its_slices() -> None:
    mapping = load_mapping(DDR4, "MOP4CLXOR", channels=2)
    rng = np.random.default_rng(5)
    addresses = rng.integers(0, mapping.capacity_bytes, 200)
    channel, bank, row, column = mapping.decode(addresses)
    for i, address in enumerate(addresses.tolist()):
        word = 0
        for shift, mask, target in mapping.slices.tolist():
            word ^= ((address >> shift) & mask) << target
        packed = (((int(channel[i]) << 16 | int(row[i])) << 4) | int(bank[i])) << 7 | int(column[i])
        assert word == packed


@pytest.mark.parametrize("name", mapping_names())
@pytest.mark.parametrize("device", [*device_names()])
def test_named_mapping_covers_every_place_once(device: str, name: str) -> None:
    """On a device cut down to 4 rows, so that every address can be tried."""
    small = load_device(device, {"organisation.row": 4})
    mapping = load_mapping(small, name, channels=2)
    assert mapping.capacity_bytes == 2 * small.capacity_bytes
    addresses = np.arange(0, mapping.capacity_bytes, small.burst_bytes)
    places = np.stack(mapping.decode(addresses))
    assert len(np.unique(places, axis=1).T) == len(addresses)
    assert places.max(axis=1).tolist() == [1, small.n_banks - 1, 3, small.bursts_per_row - 1]
    assert np.array_equal(mapping.encode(*places), addresses)


@st.composite
def field_orders(draw: st.DrawFn) -> tuple[str, str, int]:
    """A device, any order of its fields with splits and XORs, and a channel count."""
    name = draw(st.sampled_from(device_names()))
    device, channels = load_device(name), draw(st.sampled_from([1, 2, 8]))
    fields = [*device.levels[1:], "row", "column", "channel"]
    parts = draw(st.permutations(fields))
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), "column:2")
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, len(parts))), "row:3")
    # operands that are not hashed themselves keep the mapping one-to-one
    hashed = [i for i, p in enumerate(parts) if p in device.levels]
    for i in draw(st.lists(st.sampled_from(hashed), max_size=3)):
        operand = draw(st.sampled_from(["row", "column"]))
        bit = draw(st.integers(0, (device.organisation.row if operand == "row" else 32).bit_length() - 2))
        parts[i] += f"^{operand}[{bit}]"
    return name, " ".join(parts), channels


@given(field_orders(), st.data())
def test_decode_and_encode_are_inverse(order: tuple[str, str, int], data: st.DataObject) -> None:
    name, text, channels = order
    device = load_device(name)
    mapping = load_mapping(device, text, channels)
    bursts = data.draw(st.lists(st.integers(0, mapping.capacity_bytes // device.burst_bytes - 1), min_size=1))
    addresses = np.array(bursts, dtype=np.int64) * device.burst_bytes
    places = mapping.decode(addresses)
    for numbers, count in zip(
        places, (channels, device.n_banks, device.organisation.row, device.bursts_per_row), strict=True
    ):
        assert ((numbers >= 0) & (numbers < count)).all()
    assert np.array_equal(mapping.encode(*places), addresses)
    again = load_mapping(device, mapping.text, channels)
    assert np.array_equal(again.slices, mapping.slices)
    assert again.text == mapping.text


@pytest.mark.parametrize("name", ["DDR4_2400R", "DDR5_4800AN", "LPDDR5_6400", "HBM3_6400"])
def test_robaracoch_sends_requests_where_the_tool_sent_them(name: str) -> None:
    """mix21: 1,500 random bursts within the first 2**24, a third of them writes (seed 1)."""
    device = load_device(name.replace("_", "-").lower())
    rng = np.random.Generator(np.random.PCG64(1))
    bursts = rng.integers(0, 1 << 24, 1500)
    writes = rng.random(1500) < 1 / 3
    _, bank, row, column = load_mapping(device).decode(bursts * device.burst_bytes)
    requests = set(zip(bank.tolist(), row.tolist(), column.tolist(), writes.tolist(), strict=True))

    served, first_activate = set(), None
    levels = [part.title().replace("_", "") for part in device.levels[1:]]
    for line in gzipped_rows(f"commands_ramulator21_{name}_mix21.csv.gz"):
        if line["command"] in ("ACT", "ACT1", "RD", "WR"):
            unit = number_in([int(line[level]) for level in levels], device)
            place = (unit, int(line["Row"]), int(line["Column"]), line["type"] == "1")
            first_activate = first_activate or place
            if line["command"] in ("RD", "WR"):
                served.add(place)
    assert first_activate == (int(bank[0]), int(row[0]), int(column[0]), bool(writes[0]))
    assert served <= requests
    assert len(served) >= 1500 - 64  # the trace ends when the last request is queued


@pytest.mark.parametrize("name", ["RoBaRaCoCh", "ChRaBaRoCo", "MOP4CLXOR"])
@pytest.mark.parametrize(
    "preset", ["ddr4-2400r", "ddr5-4800an", "lpddr5-6400", "gddr6-14000", "hbm2-2000", "hbm3-6400"]
)
def test_named_mapping_sends_reads_where_the_tool_sent_them(preset: str, name: str) -> None:
    """160 reads over all of two channels, whose interleaving the tool always does lowest."""
    device = load_device(preset)
    order = name if name != "ChRaBaRoCo" else f"{' '.join(device.levels[1:])} row column channel"
    mapping = load_mapping(device, order, channels=2)
    bits = (mapping.capacity_bytes // device.burst_bytes).bit_length() - 1
    bursts = [(i * 0x9E3779B97F4A7C15 % 2**64) >> (64 - bits) for i in range(160)]
    asked = set(
        zip(*(n.tolist() for n in mapping.decode(np.array(bursts) * device.burst_bytes)), strict=True)
    )
    served = set()
    for line in gzipped_rows("ramulator21_places.csv.gz"):
        if (line["device"], line["mapping"]) == (preset, name):
            channel, *coordinates = map(int, line["coordinates"].split("."))
            served.add((channel, number_in(coordinates, device), int(line["row"]), int(line["column"])))
    assert served <= asked
    assert len(served) >= 160 - 2 * 64


def test_charabaroco_has_the_channel_on_top() -> None:
    mapping = load_mapping(DDR4, "ChRaBaRoCo", channels=2)
    channel, *_ = mapping.decode([DDR4.capacity_bytes - 1, DDR4.capacity_bytes])
    assert channel.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("mapping", "channels", "message"),
    [
        ("RoBaRaCoCh", 3, "channels: must be a power of two, got 3"),
        ("RoBaRaCoCh", 0, "channels: must be a power of two, got 0"),
        ("robaracoch", 1, "mapping: unknown mapping 'robaracoch'; did you mean RoBaRaCoCh?"),
        ("", 1, "mapping: unknown mapping ''; known: ChRaBaRoCo, MOP4CLXOR, RoBaCoBgXOR, RoBaRaCoCh"),
        ("row bnk bank_group column", 1, "mapping: unknown field 'bnk'; did you mean bank, rank?"),
        ("row bank bank_group", 1, "mapping: column is missing: 7 bits belong to it"),
        ("row bank bank_group column", 2, "mapping: channel is missing: 1 bits belong to it"),
        ("row bank bank_group column column:8", 1, "mapping: column has 7 bits, not 8"),
        ("row bank bank_group column:3", 1, "mapping: column has 7 bits, not 3"),
        (
            "row row bank bank_group column",
            1,
            "mapping: 2 parts of row have no bit count; at most one may",
        ),
        (
            "row bank bank_group ^column",
            1,
            "mapping: '^column' is not of the form field[:bits][^field[bit]]",
        ),
        ("row^bank[2] bank bank_group column", 1, "mapping: 'row^bank[2]': bank has 2 bits, none from bit 2"),
        (
            "row^bank bank^row bank_group column",
            1,
            "mapping: 'row^bank bank^row bank_group column' is not one-to-one:"
            " its XORs make different addresses fall on one place",
        ),
    ],
)
def test_bad_mapping_is_told_in_one_line(mapping: str, channels: int, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_mapping(DDR4, mapping, channels)
    assert str(caught.value) == message


def test_addresses_and_places_outside_the_memory_are_rejected() -> None:
    mapping = load_mapping(DDR4)
    for address in (-64, 8 << 30):
        with pytest.raises(InputError, match=rf"^address {address:#x} is outside the 0x200000000 bytes"):
            mapping.decode([0, address])
    with pytest.raises(InputError, match=r"^no bank 16; there are 16$"):
        mapping.encode(0, [3, 16], 0, 0)


@pytest.mark.parametrize("text", [*mapping_names(), "channel row bank bank_group^row rank column"])
def test_channel_alone_is_the_channel_decoded(text: str) -> None:
    mapping = load_mapping(load_device("ddr4-2400r"), text, channels=8)
    address = np.random.default_rng(1).integers(0, mapping.capacity_bytes, 1000)
    np.testing.assert_array_equal(mapping.channel_of(address), mapping.decode(address)[0])
