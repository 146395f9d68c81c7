"""Energy: closed forms worked out by hand, in SI units, and what must scale with what."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from neardata.arch.dram import Device, device_names, load_device
from neardata.sim.dram import energy as energy_module
from neardata.sim.dram.config import load_profile
from neardata.sim.dram.energy import energy
from neardata.sim.dram.request import simulate
from neardata.sim.dram.trace import RequestChunk

TCK = 0.833  # ns, DDR4-2400
DEVICES = 8
# Micron MT40A1G8, mA and V
IDD0, IDD2N, IDD3N, IDD4R, IDD4W, IDD5B, IPP3N = 48, 34, 43, 135, 123, 250, 3
VDD, VPP = 1.2, 2.5


@pytest.fixture(scope="module")
def ddr4() -> Device:
    return load_device("ddr4-2400r")


def test_stream_of_reads_with_one_row_open(ddr4):
    """n reads nCCDS apart in rows opened once: IDD4R all the time, but for the activations."""
    n, activations = 10_000, 4
    cycles = 4 * n
    report = energy(ddr4, {"ACT": activations, "RD": n}, cycles, cycles, 1)
    time_ns = cycles * TCK
    activate_pj = VDD * (IDD0 * 55 - IDD3N * 39 - IDD2N * 16) * TCK * DEVICES
    assert report.time_ns == pytest.approx(time_ns)
    assert report.total_pj == pytest.approx(
        VDD * IDD4R * time_ns * DEVICES + VPP * IPP3N * time_ns * DEVICES + activations * activate_pj
    )
    assert report.items_pj["RD"] == pytest.approx(VDD * (IDD4R - IDD3N) * time_ns * DEVICES)
    # 8 x (1.2 V x 135 mA + 2.5 V x 3 mA) = 1.356 W
    assert report.average_mw == pytest.approx(1356, rel=1e-3)


def test_idle_with_refresh(ddr4):
    """IDD5B for nRFC of every nREFI, IDD2N in between."""
    n = 100
    cycles = n * 9364
    report = energy(ddr4, {"REFab": n}, 0, cycles, 1)
    refreshing = n * 433 * TCK
    idle = cycles * TCK - refreshing
    pumps = VPP * IPP3N * cycles * TCK
    assert report.total_pj == pytest.approx(DEVICES * (VDD * (IDD5B * refreshing + IDD2N * idle) + pumps))
    assert report.total_j == pytest.approx(report.total_pj * 1e-12)


def test_activations_at_the_row_cycle_draw_idd0(ddr4):
    """One bank cycled at nRC, open nRAS of it: what IDD0 is measured with."""
    n = 1000
    report = energy(ddr4, {"ACT": n, "PREpb": n}, n * 39, n * 55, 1)
    assert report.total_pj == pytest.approx(DEVICES * (VDD * IDD0 + VPP * IPP3N) * n * 55 * TCK)


def test_time_counts_in_nanoseconds_not_cycles(ddr4):
    """The same cycles at half the clock take twice the energy (DRAMsim3 forgets tCK)."""
    slow = load_device("ddr4-2400r", {"timing.tCK_ps": 1666, "timing.rate": 1200})
    counts = {"ACT": 10, "RD": 100, "WR": 50, "REFab": 1}
    fast = energy(ddr4, counts, 3000, 9364, 1)
    assert energy(slow, counts, 3000, 9364, 1).total_pj == pytest.approx(2 * fast.total_pj)


def test_ddr5_pump_currents_count_above_their_standby():
    ddr5 = load_device("ddr5-4800an")
    report = energy(ddr5, {"ACT": 1, "REFab": 1}, 0, 0, 1)
    row_ns, open_ns, refresh_ns = (n * 0.416 for n in (111, 77, 710))
    core = 103 * row_ns - (92 + 50 / 32) * open_ns - 92 * (row_ns - open_ns)
    assert report.items_pj["ACT"] == pytest.approx(4 * (1.1 * core + 1.8 * (8 - 7) * row_ns))
    assert report.items_pj["REFab"] == pytest.approx(4 * (1.1 * (277 - 92) + 1.8 * (28 - 7)) * refresh_ns)


def test_ddr5_standby_grows_with_the_open_banks():
    ddr5 = load_device("ddr5-4800an")
    n = 1000
    idd0 = energy(ddr5, {"ACT": n}, n * 77, n * 111, 1, open_bank_cycles=n * 77)
    pumps = 1.8 * 8 * n * 77 + 1.8 * 8 * n * 34  # IPP0 above IPP3N is in the activation
    assert idd0.total_pj == pytest.approx(4 * (1.1 * 103 * n * 111 + pumps) * 0.416)
    all_open = energy(ddr5, {}, n, n, 1, open_bank_cycles=32 * n)
    assert all_open.total_pj == pytest.approx(4 * (1.1 * 142 + 1.8 * 7) * n * 0.416)
    assert energy(ddr5, {}, n, n, 1).total_pj == pytest.approx(all_open.total_pj)  # not told: all


def test_a_full_turn_of_partial_refreshes_takes_what_one_of_all_banks_does():
    ddr5, hbm3 = load_device("ddr5-4800an"), load_device("hbm3-6400")
    whole = energy(hbm3, {"REFab": 1}, 0, 0, 1).items_pj["REFab"]
    assert energy(hbm3, {"REFpb": 32}, 0, 0, 1).items_pj["REFpb"] == pytest.approx(whole)
    assert whole == pytest.approx(32 * 1818)
    # in nREFI cycles there is one REFab, or nREFI / nREFIsb REFsb of half a bank's share each
    whole = energy(ddr5, {"REFab": 1171}, 0, 0, 1).items_pj["REFab"]
    assert energy(ddr5, {"REFsb": 9375}, 0, 0, 1).items_pj["REFsb"] == pytest.approx(whole)


def test_hbm_from_energies_of_the_literature():
    hbm2 = load_device("hbm2-2000")
    report = energy(hbm2, {"ACT": 3, "RD": 10, "WRA": 5, "PREpb": 3}, 0, 1000, 1)
    bits = 256
    assert report.items_pj == {
        "ACT": pytest.approx(3 * 909),
        "RD": pytest.approx(10 * 2.68 * bits),
        "WRA": pytest.approx(5 * 2.68 * bits),
        "standby, rows open": 0,
        "standby, rows closed": pytest.approx(48 * 1000),  # mW x ns = pJ
        "I/O": pytest.approx(15 * 0.8 * bits),
    }
    assert report.status == "literature"
    # two pseudo-channels, each open half the time
    half = energy(hbm2, {}, 1000, 1000, 1)
    assert half.total_pj == pytest.approx((48 + 66) / 2 * 1000)


def test_channels_multiply_standby_only(ddr4):
    one = energy(ddr4, {"RD": 10}, 0, 1000, 1)
    two = energy(ddr4, {"RD": 10}, 0, 1000, 2)
    assert two.items_pj["RD"] == one.items_pj["RD"]
    assert two.items_pj["standby, rows closed"] == pytest.approx(2 * one.items_pj["standby, rows closed"])


def test_each_rank_has_its_standby(ddr4):
    ranks = load_device("ddr4-2400r", {"organisation.rank": 2})
    assert energy(ranks, {}, 500, 1000, 1).items_pj["standby, rows closed"] == pytest.approx(
        3 * energy(ddr4, {}, 500, 1000, 1).items_pj["standby, rows closed"]
    )


def test_more_open_cycles_than_there_are_is_an_error(ddr4):
    with pytest.raises(ValueError, match="1001 open cycles of 1000"):
        energy(ddr4, {}, 1001, 1000, 1)
    with pytest.raises(ValueError, match="-1"):
        energy(ddr4, {"RD": -1}, 0, 1000, 1)


def test_what_has_no_energy_is_named():
    assert energy(load_device("hbm3-6400"), {"RFMab": 2, "PREab": 1}, 0, 10, 1).unmodelled == ("RFMab",)


def test_interface_and_pumps_that_are_not_known_are_named(ddr4):
    moved = {"RD": 1, "REFab": 1}
    assert energy(ddr4, moved, 0, 10, 1).unmodelled == ("VPP in refresh", "I/O")
    assert energy(ddr4, {"ACT": 1}, 0, 10, 1).unmodelled == ()  # nothing moved, nothing left out
    assert energy(load_device("ddr5-4800an"), moved, 0, 10, 1).unmodelled == ("I/O",)
    assert energy(load_device("hbm2-2000"), moved, 0, 10, 1).unmodelled == ()
    # the energies of LPDDR5's reads and writes include the interface
    assert energy(load_device("lpddr5-6400"), moved, 0, 10, 1).unmodelled == ("standby",)


def test_values_that_are_given_are_counted(ddr4):
    given = load_device("ddr4-2400r", {"energy.io_pj_per_bit": 4.5, "energy.IPP5B": 5, "energy.IDD4R": 140})
    counts = {"RD": 10, "WR": 5, "REFab": 2}
    plain, changed = energy(ddr4, counts, 0, 1000, 1), energy(given, counts, 0, 1000, 1)
    assert changed.unmodelled == ()
    assert changed.items_pj["I/O"] == pytest.approx(15 * 64 * 8 * 4.5)
    more = {name: changed.items_pj[name] - pj for name, pj in plain.items_pj.items()}
    assert more["RD"] == pytest.approx(10 * VDD * (140 - IDD4R) * 4 * TCK * DEVICES)
    assert more["REFab"] == pytest.approx(2 * VPP * (5 - IPP3N) * 433 * TCK * DEVICES)
    assert more["WR"] == 0
    # no longer the data sheet's
    assert (plain.status, changed.status) == ("data sheet", "assumed")
    assert changed.source.endswith(
        "Changed: energy.io_pj_per_bit = 4.5, energy.IPP5B = 5, energy.IDD4R = 140"
    )


def test_energies_of_commands_can_be_given():
    aim = load_device("gddr6-aim", {"command_energy_pj.MAC16": 100})
    assert energy(aim, {"MAC16": 1}, 0, 10, 1).items_pj["MAC16"] == 16 * 100


BUILT = """
standard: COUNTS
source: made up for this test
prefetch: 4
command_bus: single
data_bus_at: channel
refresh_at: channel
levels: [bank]
read_latency: nCL
write_latency: nCL
commands:
  ACTall: {at: channel, needs: [closed], leaves: open}
  MAC: {at: channel, bus: column, computes: true}
  RD: {at: bank, bus: column, data: read}
presets:
  plain:
    source: made up
    organisation: {levels: {bank: 4}, row: 16, column: 16, width: 64, device_width: 64}
    timing: {tCK_ps: 1000, nBL: 2, nCL: 4}
  own:
    source: made up
    organisation: {levels: {bank: 4}, row: 16, column: 16, width: 64, device_width: 64}
    timing: {tCK_ps: 1000, nBL: 2, nCL: 4}
    command_energy_pj: {MAC: 7}
  both:
    source: made up
    organisation: {levels: {bank: 4}, row: 16, column: 16, width: 64, device_width: 64}
    timing: {tCK_ps: 1000, nBL: 2, nCL: 4}
    command_energy_pj: {MAC: 7}
    energy:
      {kind: per_bit, source: made up, status: assumed, activate_pj: 10, read_pj_per_bit: 1,
       write_pj_per_bit: 1, io_pj_per_bit: 2, refresh_pj_per_bank: 1, background_mw: 0}
"""


def test_energies_given_command_by_command(tmp_path):
    path = tmp_path / "counts.yaml"
    path.write_text(BUILT)
    counts = {"ACTall": 1, "MAC": 3, "RD": 1}
    assert energy(load_device(f"{path}:plain"), counts, 0, 10, 1) is None
    own = energy(load_device(f"{path}:own"), counts, 0, 10, 1)
    assert own.items_pj == {"MAC": 3 * 4 * 7}  # per bank
    assert own.unmodelled == ("ACTall", "RD", "standby", "I/O")
    both = energy(load_device(f"{path}:both"), counts, 0, 10, 1)
    assert both.items_pj == {"ACTall": 4 * 10, "MAC": 84, "RD": 256, "I/O": 512}
    assert both.unmodelled == ("standby",)


@pytest.mark.parametrize("name", [n for n in device_names() if load_device(n).preset.energy])
def test_every_shipped_device_states_its_source_and_adds_up(name):
    device = load_device(name)
    counts = {command: 3 for command in device.command_names}
    report = energy(device, counts, 100, 1000, 1)
    assert report.source and report.status in ("data sheet", "literature", "assumed")
    assert all(np.isfinite(pj) and pj >= 0 for pj in report.items_pj.values())
    assert report.total_pj == pytest.approx(sum(report.items_pj.values()))
    assert set(report.items_pj) <= {*device.command_names, "standby, rows open", "standby, rows closed",
                                    "standby", "I/O"}  # fmt: skip


def test_simulated_stream_draws_the_closed_form(ddr4):
    """Sequential reads that keep rows open: the run's own counters give the data-sheet power."""
    n = 20_000
    address = np.arange(n, dtype=np.int64) * 64
    config = load_profile("ramulator21-frfcfs", {"refresh": "none"})
    run = simulate(ddr4, [RequestChunk(address, np.zeros(n, dtype=bool))], config)
    report = energy(ddr4, run.command_counts, run.open_cycles, run.cycles_to_drain, 1)
    assert run.command_counts["RD"] == n
    time_ns = run.cycles_to_drain * TCK
    activate_pj = VDD * (IDD0 * 55 - IDD3N * 39 - IDD2N * 16) * TCK * DEVICES
    standby = (VDD * IDD3N + VPP * IPP3N) * time_ns * DEVICES  # a row is open but for the first cycle or so
    reads = VDD * (IDD4R - IDD3N) * 4 * n * TCK * DEVICES
    assert report.total_pj == pytest.approx(
        standby + reads + run.command_counts["ACT"] * activate_pj, rel=1e-4
    )


def test_docstring_example():
    result = doctest.testmod(energy_module)
    assert result.attempted and not result.failed
