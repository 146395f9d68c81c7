"""Columns over channels and dies."""

from __future__ import annotations

import pytest

from neardata.arch.errors import InputError
from neardata.arch.storage import load_ssd
from neardata.mappers.column_layout import lay_columns, place
from neardata.sim.storage.state import plane_order
from neardata.workloads.recsys import graph_of, load_spec, read_parquet, sample_path


def test_pages_fill_the_drive_in_its_order_and_none_is_shared() -> None:
    ssd = load_ssd("smartssd")
    spec = load_spec("rm1")
    table = read_parquet(sample_path(), spec.columns)
    graph = graph_of(spec, table)
    layout = lay_columns([graph] * 5, ssd)
    taken = [page for c in layout.chunks for page in range(c.first, c.first + c.pages)]
    assert taken == list(range(layout.pages))
    assert sum(c.bytes for c in layout.chunks) == 5 * sum(c.work.compressed_bytes for c in table.chunks)
    assert all((c.pages - 1) * 16384 < c.bytes <= c.pages * 16384 for c in layout.chunks)
    counts = layout.per_channel()
    assert sum(counts) == layout.pages and max(counts) - min(counts) <= 1
    for chunk in layout.chunks:
        assert layout.channels_of(chunk) == min(chunk.pages, 8)
        assert layout.dies_of(chunk) == min(chunk.pages, ssd.flash.dies)


@pytest.mark.parametrize("order", ["CWDP", "PDWC", "WCPD"])
def test_a_round_of_pages_is_on_every_plane_once(order: str) -> None:
    ssd = load_ssd("smartssd", {"mapping.allocation": order})
    places = {tuple(sorted(place(ssd, page).items())) for page in range(ssd.flash.planes)}
    assert len(places) == ssd.flash.planes
    assert place(ssd, 0) == place(ssd, ssd.flash.planes)
    flash = ssd.flash
    number = [
        ((at["C"] * flash.chips_per_channel + at["W"]) * flash.dies_per_chip + at["D"]) * flash.planes_per_die
        + at["P"]
        for at in (place(ssd, page) for page in range(flash.planes))
    ]
    assert number == plane_order(ssd).tolist()  # the drive's engine


def test_too_much_for_a_drive_is_told() -> None:
    spec = load_spec("rm1")
    graph = graph_of(spec, read_parquet(sample_path(), spec.columns))
    small = load_ssd("smartssd", {"flash.blocks_per_plane": 8, "flash.pages_per_block": 1})
    with pytest.raises(InputError, match="do not fit smartssd"):
        lay_columns([graph] * 30, small)
