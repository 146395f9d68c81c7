"""PIM kernels as command programs: the work done, the rules kept, the work shared out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neardata.arch.dram import load_device
from neardata.arch.errors import InputError
from neardata.sim.dram import aim_matmul, attacc, attacc_matmul
from neardata.sim.dram.checker import check
from neardata.sim.dram.pim import run_program
from neardata.sim.dram.program import Program
from neardata.sim.program import PimAttention, PimMatMul
from neardata.sim.system.pim_programs import device_of, family_of, least_cycles, macs_per_cycle, program_of

AIM, HBM, ATT = "gddr6-aim", "hbm-pim", "attacc-hbm3"
ORDERS = {AIM: aim_matmul.ORDERS, HBM: ("",), ATT: attacc_matmul.ORDERS}
MAC = {AIM: "MAC16", HBM: "RDPIM", ATT: "MACAB"}
LANES_OF_A_MAC = {AIM: 16 * 16, HBM: 8 * 16, ATT: 64 * 16}

SHAPES = [  # m, n, k, channels
    (1, 1, 1, 1), (1, 1, 1, 3), (1, 17, 31, 2), (1, 512, 1024, 4), (3, 77, 130, 2), (2, 127, 1021, 3),
    (5, 130, 64, 2), (2, 300, 2049, 2), (1, 97, 4099, 5), (7, 33, 17, 1),
]  # fmt: skip
CASES = [(d, o, *s) for d in ORDERS for o in ORDERS[d] for s in SHAPES]


def ceil(a: int, b: int) -> int:
    return -(-a // b)


def padded_macs(device: str, m: int, n: int, k: int) -> int:
    """Counted block by block of outputs; every block does all of its bursts or tiles of the input."""
    outputs, inputs = {AIM: (16, 16), HBM: (64, 128), ATT: (16, 64)}[device]
    total = 0
    for _ in range(m):
        for first in range(0, n, outputs):
            assert first < n
            for _ in range(0, k, inputs):
                total += outputs * inputs
    return total


def cut(report):
    return report.cycles, report.command_counts, dict(report.phase_cycles), [g.cycles for g in report.groups]


@pytest.mark.parametrize("device, order, m, n, k, channels", CASES)
def test_matmul(device, order, m, n, k, channels):
    kernel = PimMatMul(m, n, k, order)
    program = program_of(kernel, device, channels)
    model = device_of(device)
    report = run_program(program, device=model, record_commands=True)
    done = report.command_counts[MAC[device]] * LANES_OF_A_MAC[device]
    assert done == padded_macs(device, m, n, k) >= kernel.macs
    assert report.channels <= channels
    for group in report.groups:
        assert check(group.command_log, refresh_interval_check=program.refresh != "none") == []
    assert cut(run_program(program, device=model)) == cut(report)
    assert run_program(program, device=model, jump=False, runs=False, fold=False).cycles == report.cycles
    assert Program.from_dict(program.to_dict()).groups == program.groups


@pytest.mark.parametrize("device", ORDERS)
def test_programs_end_where_they_start(device):
    """The same steps again are accepted, and find the same device: banks closed, first mode."""
    for order in ORDERS[device]:
        program = program_of(PimMatMul(2, 97, 2049, order), device, 2)
        twice = Program(device, (program.groups[0].__class__(1, program.groups[0].body * 2),))
        report = run_program(twice, device=device_of(device), record_commands=True)
        assert check(report.groups[0].command_log) == []


@pytest.mark.parametrize("device", ORDERS)
def test_channels_with_less_work_end_earlier(device):
    blocks = {AIM: 16, HBM: 64, ATT: 16}[device]
    program = program_of(PimMatMul(1, 7 * blocks, 512), device, 3)
    report = run_program(program, device=device_of(device))
    assert [g.channels for g in report.groups] == [1, 2]
    assert report.groups[0].cycles > report.groups[1].cycles
    assert run_program(program_of(PimMatMul(1, blocks, 512), device, 3)).channels == 1


@pytest.mark.parametrize("device", ORDERS)
def test_a_matrix_larger_than_the_banks(device):
    with pytest.raises(InputError, match=r"a 1048576 x 8192 matrix would take \d+ bytes .*there are \d+"):
        program_of(PimMatMul(1, 1 << 20, 8192), device, 1)


def test_the_default_order_is_the_fastest():
    model = device_of(AIM)
    for m, n, k, channels in [(1, 512, 512, 2), (1, 64, 4096, 4), (16, 512, 1024, 8), (4, 256, 128, 8)]:
        cycles = {
            order: run_program(program_of(PimMatMul(m, n, k, order), AIM, channels), device=model).cycles
            for order in aim_matmul.ORDERS
        }
        default = run_program(program_of(PimMatMul(m, n, k), AIM, channels), device=model).cycles
        assert default <= 1.02 * min(cycles.values()), cycles


def test_cycles_of_an_order_without_refresh():
    """The closed form that chooses the order, against the simulation."""
    model = device_of(AIM)
    for m, n, k, channels in [(1, 4096, 4096, 32), (4, 512, 4096, 32), (2, 2048, 256, 8)]:
        tiling = aim_matmul.Tiling(k, model.bursts_per_row)
        for order in aim_matmul.ORDERS:
            program = program_of(PimMatMul(m, n, k, order), AIM, channels)
            cycles = run_program(program, device=model, refresh="none").cycles
            passes = ceil(ceil(n, 16), channels)
            assert aim_matmul.cycles_of_order(order, m, passes, tiling, model) == pytest.approx(
                cycles, rel=0.06
            )


def test_results_of_many_vectors_are_read_in_between():
    """More vectors than there are rows for their results: the modes are left to read some."""
    report = run_program(program_of(PimMatMul(9000, 64, 128), HBM, 1))
    assert report.command_counts["WRSB"] == 3
    reads = 3 * 32 + 9000 * 64  # parking, twice in each stay; a burst of each output
    assert report.command_counts["RD"] == reads


def test_families():
    assert [family_of(device_of(name)) for name in (*ORDERS, "attacc-hbm3-npc", "hbm-pim-asbuilt")] == [
        "aim", "hbm-pim", "attacc", "attacc", "hbm-pim",
    ]  # fmt: skip
    with pytest.raises(InputError, match="no program generator fits the commands of 'ddr4-2400r'"):
        program_of(PimMatMul(1, 1, 1), "ddr4-2400r", 1)
    with pytest.raises(InputError, match="'sideways' is not one of output-stationary"):
        program_of(PimMatMul(1, 1, 1, "sideways"), AIM, 1)
    with pytest.raises(InputError, match="must be at least 1, got 0"):
        program_of(PimMatMul(1, 0, 1), HBM, 1)


ATTENTION = [  # context, heads, kv_heads, qk, v, channels
    ((1,), 1, 1, 1, 1, 1), ((100, 37, 600), 6, 2, 40, 80, 4), ((300,), 5, 5, 64, 64, 3),
    ((513, 513), 4, 4, 128, 128, 2), ((1100, 17), 6, 2, 128, 128, 5), ((70,), 14, 2, 192, 128, 2),
    ((33, 34, 35), 12, 12, 64, 64, 7),
]  # fmt: skip


def attention_macs(device: str, kernel: PimAttention) -> dict[str, int]:
    """Counted head by head: outputs and inputs are padded to what one command or tile takes."""
    outputs, inputs = {AIM: (16, 16), HBM: (64, 128), ATT: (16, 64)}[device]
    done = {"scores": 0, "values": 0}
    for length in kernel.context:
        for _ in range(kernel.heads):
            done["scores"] += ceil(length, outputs) * outputs * ceil(kernel.qk, inputs) * inputs
            if device == ATT:  # positions over bank groups, columns over banks
                done["values"] += ceil(length, 16) * 16 * ceil(kernel.v, 64) * 64
            else:
                done["values"] += ceil(kernel.v, outputs) * outputs * ceil(length, inputs) * inputs
    return done


@pytest.mark.parametrize("device", ORDERS)
@pytest.mark.parametrize("shape", ATTENTION, ids=str)
def test_attention(device, shape):
    *sizes, channels = shape
    kernel = PimAttention(*sizes)
    model = device_of(device)
    program = program_of(kernel, device, channels)
    report = run_program(program, device=model, record_commands=True)
    expected = attention_macs(device, kernel)
    assert (
        report.command_counts[MAC[device]] * LANES_OF_A_MAC[device] == sum(expected.values()) >= kernel.macs
    )
    assert {"scores", "values"} <= set(report.phase_cycles)
    for group in report.groups:
        assert check(group.command_log) == []
    assert cut(run_program(program, device=model)) == cut(report)
    assert run_program(program, device=model, jump=False, runs=False, fold=False).cycles == report.cycles
    assert Program.from_dict(program.to_dict()).groups == program.groups


@pytest.mark.parametrize("device", [AIM, HBM])
def test_stages_of_attention(device):
    done = {}
    for stage in ("scores", "values"):
        kernel = PimAttention((100, 700), 8, 2, 64, 96, stage)
        report = run_program(program_of(kernel, device, 3), device=device_of(device))
        done[stage] = report.command_counts[MAC[device]] * LANES_OF_A_MAC[device]
        assert done[stage] >= kernel.macs
        assert set(report.phase_cycles) <= {"", stage}
    assert done == attention_macs(device, kernel)
    with pytest.raises(InputError, match="has a softmax unit"):
        program_of(kernel, ATT, 3)


def test_attention_of_equal_heads_is_that_of_the_tool():
    """On AttAcc: the program whose cycles tests/sim/dram/test_attacc.py compares with attacc_simulator."""
    for heads, length in [(3, 2048), (130, 2176)]:
        expected = run_program(attacc.attention(heads, length)).cycles
        kernel = PimAttention((length,) * heads, 1, 1, 128, 128)
        assert run_program(program_of(kernel, ATT, 16)).cycles == expected


def test_attention_larger_than_the_banks():
    for device in ORDERS:
        with pytest.raises(InputError, match=r"keys and values of 4000000 positions would take \d+ bytes"):
            program_of(PimAttention((4_000_000,), 8, 8, 128, 128), device, 1)
    with pytest.raises(InputError, match="must be a multiple of 3 kv_heads, got 8"):
        program_of(PimAttention((10,), 8, 3, 128, 128), AIM, 1)
    with pytest.raises(InputError, match="context: must be at least 1, got 0"):
        program_of(PimAttention((10, 0), 8, 8, 128, 128), AIM, 1)


def test_a_refresh_that_falls_due_early():
    for device in ORDERS:
        kernel = PimMatMul(1, 64, 512)
        report = run_program(program_of(kernel, device, 1, first_refresh=100), device=device_of(device))
        without = run_program(program_of(kernel, device, 1), device=device_of(device))
        assert (report.refreshes > 0) and without.refreshes == 0
        assert report.cycles > without.cycles


def test_long_contexts_keep_pseudo_channels_busy():
    """Few blocks of values: their positions are cut into parts."""
    kernel = PimAttention((4096,), 4, 4, 64, 64, "values")
    report = run_program(program_of(kernel, HBM, 16), device=device_of(HBM))
    assert [g.channels for g in report.groups] == [16]
    assert report.command_counts[MAC[HBM]] * LANES_OF_A_MAC[HBM] == attention_macs(HBM, kernel)["values"]


def test_figures_of_the_document():
    """docs/pim_kernels.md: cycles and share of the peak rate."""
    text = (Path(__file__).parents[3] / "docs" / "pim_kernels.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (Pim\w+)(\(.*\)) \| ([\w-]+), (\d+) \| (\d+) \| (\d+) % \|$", text, re.MULTILINE)
    assert len(rows) == 7
    for kind, arguments, device, channels, cycles, share in rows:
        sizes = eval(arguments)
        kernel = PimMatMul(*sizes) if kind == "PimMatMul" else PimAttention(*sizes)
        report = run_program(program_of(kernel, device, int(channels)), device=device_of(device))
        assert report.cycles == int(cycles)
        peak = macs_per_cycle(device) * int(channels) * report.cycles
        assert round(100 * kernel.macs / peak) == int(share)


def test_a_device_with_overrides_is_the_one_that_programs_are_made_for():
    """Fewer rows hold less, slower commands take longer."""
    kernel = PimMatMul(1, 4096, 4096)
    small = load_device(ATT, {"organisation.row": 64})
    with pytest.raises(InputError, match=r"128 rows of each.* \(64 rows\)") as caught:
        program_of(kernel, small, 4)
    assert caught.value.key == "banks"
    program_of(kernel, ATT, 4)
    slow = load_device(AIM, {"timing.nMODCH": 400})
    assert macs_per_cycle(load_device(AIM, {"timing.nCCDL": 4})) == 64
    assert least_cycles(PimMatMul(1, 64, 64, "row-stationary"), slow, 1) > 400


@pytest.mark.parametrize(
    "device, overrides, message",
    [
        (HBM, {"organisation.row": 8192}, "has 8192 rows; its program generator addresses row 16383"),
        (ATT, {"organisation.rank": 1}, "2 x 1 x 4 x 4 banks of 32-byte bursts"),
        (ATT, {"organisation.column": 64}, "bursts in a row; its program generator works on 32"),
    ],
)
def test_an_organisation_that_no_generator_works_on(device, overrides, message):
    with pytest.raises(InputError, match=message):
        program_of(PimMatMul(1, 1, 1), load_device(device, overrides), 1)


def test_values_of_attacc_have_rows_of_their_own():
    with pytest.raises(InputError, match=r"there are \d+ \(twice 0 rows\)"):
        program_of(PimAttention((4096,) * 8, 8, 8, 128, 128), load_device(ATT, {"organisation.row": 8192}), 1)
