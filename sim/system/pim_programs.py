"""Command programs of the PIM kernels: `program_of`.

A kernel says what is computed; the device's generator in `neardata.sim.dram` says with which
commands. The generator is chosen by the command set, so that presets of users work too.
Every program starts and ends with closed banks in the device's first mode: tasks can follow each
other in any order.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from neardata.arch.dram import Device, load_device
from neardata.arch.errors import InputError
from neardata.sim.dram import (
    aim,
    aim_attention,
    aim_matmul,
    attacc,
    attacc_attention,
    attacc_matmul,
    hbm_pim,
    hbm_pim_attention,
    hbm_pim_matmul,
)
from neardata.sim.dram.program import Program
from neardata.sim.program import PimAttention, PimMatMul

Family = Literal["aim", "hbm-pim", "attacc"]

COMMANDS: dict[Family, frozenset[str]] = {
    "aim": frozenset({"ACT16", "MAC16", "PREA", "WRGB", "WRMAC16", "RDMAC16", "TMODR", "TMODM"}),
    "hbm-pim": frozenset(
        {"ACTHAB", "PREHAB", "RDPIM", "WRPIM", "WRREG", "WRHAB", "WRSB", "WRPIMON", "WRPIMOFF"}
    ),
    "attacc": frozenset({"ACTAB", "MACAB", "PREA", "WRGB", "MVGB", "MVSB", "SFM"}),
}
"""What a generator issues beside ordinary commands."""


ORGANISATION: dict[Family, tuple[tuple[int, ...], int | None, int]] = {
    "aim": ((1, 4, 4), None, 1),
    "hbm-pim": ((1, 4, 2, 2), hbm_pim.COLUMNS, hbm_pim.REGISTER_ROW + 1),
    "attacc": ((1, 2, 2, 4, 4), attacc.COLUMNS, 1),
}
"""What a generator is written for: nodes of each level, bursts of a row where they are fixed, least rows."""


def device_of(device: Device | str) -> Device:
    """A device as it is, or the preset of that name, or of FILE.yaml[:PRESET]."""
    return device if isinstance(device, Device) else _preset(device)


@lru_cache(maxsize=64)
def _preset(name: str) -> Device:
    """`load_device`, remembered: reading a preset takes longer than running a kernel."""
    return load_device(name)


def family_of(device: Device) -> Family:
    """Whose generators fit the device's commands.

    Raises:
        InputError: nobody's, or an organisation that the generator is not written for.

    >>> family_of(device_of("attacc-hbm3-npc"))
    'attacc'
    """
    names = set(device.command_names)
    for family, needed in COMMANDS.items():
        if needed <= names:
            _check_organisation(device, family)
            return family
    missing = ", ".join(
        f"{family} ({', '.join(sorted(needed - names)[:3])} ...)" for family, needed in COMMANDS.items()
    )
    raise InputError(
        f"no program generator fits the commands of '{device.name}'; missing for {missing}", key="device"
    )


def _check_organisation(device: Device, family: Family) -> None:
    counts, bursts, rows = ORGANISATION[family]
    if device.counts != counts or device.burst_bytes != 2 * aim.LANES:
        there, wanted = (
            f"{' x '.join(map(str, n[1:]))} banks of {size}-byte bursts"
            for n, size in ((device.counts, device.burst_bytes), (counts, 2 * aim.LANES))
        )
        problem, key = f"has {there}; its program generator works on {wanted}", "organisation"
    elif bursts is not None and device.bursts_per_row != bursts:
        problem = f"has {device.bursts_per_row} bursts in a row; its program generator works on {bursts}"
        key = "organisation.column"
    elif device.organisation.row < rows:
        problem = f"has {device.organisation.row} rows; its program generator addresses row {rows - 1}"
        key = "organisation.row"
    else:
        return
    raise InputError(f"'{device.name}' {problem}", key=key)


def program_of(
    kernel: PimMatMul | PimAttention,
    device: Device | str,
    channels: int,
    *,
    first_refresh: int | None = None,
) -> Program:
    """The command program of a kernel on so many channels of a device.

    Args:
        device: with the overrides of its unit; or the name of a preset as it is, or FILE.yaml[:PRESET].
        channels: AiM: channels; HBM-PIM: pseudo-channels; AttAcc: channels of two pseudo-channels.
        first_refresh: clock cycle in which the first refresh falls due (default: after one interval, so
            that a kernel shorter than that meets none; tasks one after the other go on with the rest).

    Raises:
        InputError: a device without generator, a size below 1, an order the generator has not, or
            operands larger than the banks (bytes needed and there are named).

    >>> program_of(PimMatMul(m=1, n=4096, k=4096), "gddr6-aim", 32).name
    'matmul 1x4096x4096 input-stationary'
    """
    model = device_of(device)
    family = family_of(model)
    make: Any = _matmul if isinstance(kernel, PimMatMul) else _attention
    program: Program = make(kernel, model, family, channels)
    return program if first_refresh is None else replace(program, first_refresh=first_refresh)


def _matmul(kernel: PimMatMul, device: Device, family: Family, channels: int) -> Program:
    """Parts of k one beside the other, each with its own channels."""
    used = check_form(kernel, device, channels) // kernel.k_parts
    kernel = with_order(kernel, device, channels)
    made = {}
    for start, stop in kernel.parts:
        if stop - start not in made:
            made[stop - start] = _product(kernel, stop - start, device, family, used)
    programs = [made[stop - start] for start, stop in kernel.parts]
    if len(programs) == 1:
        return programs[0]
    groups = tuple(group for program in programs for group in program.groups)
    reopen = next((program.refresh for program in programs if program.refresh), None)
    return replace(
        programs[0], groups=groups, refresh=reopen, name=f"{programs[0].name}, {len(programs)} parts"
    )


def with_order(kernel: PimMatMul, device: Device, channels: int) -> PimMatMul:
    """With the order named in which the device goes through a product: where it is empty, the default."""
    if kernel.order:
        return kernel
    family = family_of(device)
    if family != "aim":
        return replace(kernel, order="output-stationary")
    part = max(stop - start for start, stop in kernel.parts)
    tiling = aim_matmul.Tiling(part, device.bursts_per_row, own_rows=kernel.own_rows)
    passes = -(-kernel.n // (aim_matmul.BANKS * ((kernel.channels or channels) // kernel.k_parts)))
    return replace(kernel, order=aim_matmul.fastest_order(kernel.m, passes, tiling, device))


def _product(kernel: PimMatMul, k: int, device: Device, family: Family, channels: int) -> Program:
    """One part of k, on its channels."""
    m, n, order = kernel.m, kernel.n, kernel.order or None
    make: Any
    if family == "aim":
        make, options = aim_matmul.matmul, {"order": order, "own_rows": kernel.own_rows}
    elif family == "attacc":
        make, options = attacc_matmul.matmul, {"order": order}
    else:
        make, options = hbm_pim_matmul.matmul, {}
    program: Program = make(m, n, k, channels=channels, device=device, **options)
    return program


ORDERS: dict[Family, tuple[str, ...]] = {
    "aim": aim_matmul.ORDERS,
    "hbm-pim": ("output-stationary",),
    "attacc": attacc_matmul.ORDERS,
}
REDUCTIONS: dict[Family, tuple[str, ...]] = {
    "aim": ("processor",),
    "hbm-pim": ("processor",),
    "attacc": ("buffer", "processor"),
}
"""Who can add partial sums of parts of k, the device's own unit first: AttAcc's buffer die has adders."""


def check_form(kernel: PimMatMul, device: Device | str, channels: int) -> int:
    """Whether a device of so many channels can do a product as its kernel says, room apart.

    Returns:
        the channels that work.

    Raises:
        InputError: with the field as key, and what is allowed.

    >>> check_form(PimMatMul(1, 64, 64, channels=4, k_parts=2, reduction="processor"), "gddr6-aim", 32)
    4
    """
    model = device_of(device)
    family = family_of(model)

    def refuse(key: str, message: str) -> InputError:
        return InputError(message, key=key)

    for name, value in (("m", kernel.m), ("n", kernel.n), ("k", kernel.k), ("channels", channels)):
        if value < 1:
            raise refuse(name, f"must be at least 1, got {value}")
    if kernel.order and kernel.order not in ORDERS[family]:
        known = ", ".join(ORDERS[family])
        raise refuse("order", f"'{kernel.order}' is not one of {known}, the orders of '{model.name}'")
    if kernel.own_rows and family != "aim":
        raise refuse("own_rows", f"outputs never share rows on '{model.name}'; allowed: false")
    used = channels if kernel.channels is None else kernel.channels
    if not 1 <= used <= channels:
        raise refuse("channels", f"must be from 1 to {channels}, the channels of the unit, got {used}")
    if kernel.k_parts < 1 or used % kernel.k_parts or kernel.k_parts > kernel.k:
        allowed = ", ".join(str(d) for d in divisors(used) if d <= kernel.k)
        raise refuse(
            "k_parts",
            f"{used} channels in equal numbers, and at least 1 of k {kernel.k} each, allow {allowed}; "
            f"got {kernel.k_parts}",
        )
    allowed = ", ".join(REDUCTIONS[family])
    if kernel.k_parts == 1 and kernel.reduction:
        raise refuse("reduction", f"with k in 1 part there are no sums to add; got '{kernel.reduction}'")
    if kernel.k_parts > 1 and kernel.reduction not in REDUCTIONS[family]:
        raise refuse(
            "reduction", f"partial sums of '{model.name}' are added by {allowed}; got '{kernel.reduction}'"
        )
    return used


def reductions_of(device: Device | str) -> tuple[str, ...]:
    """Who can add partial sums, the device's own unit first: for `PimMatMul.reduction`.

    >>> reductions_of("gddr6-aim"), reductions_of("attacc-hbm3")
    (('processor',), ('buffer', 'processor'))
    """
    return REDUCTIONS[family_of(device_of(device))]


SUMS_OF_A_BURST: dict[Family, int] = {
    "aim": aim_matmul.BANKS,  # stated: RD_MAC reads the accumulators of 16 banks in one burst
    "attacc": attacc.SCORES_COLLECTED,  # stated by our program: a bank group's 16 sums move with one MVSB
    "hbm-pim": aim.LANES,  # assumed: the host adds a burst's 16 lanes as it reads them, to a number as wide
}
"""How many partial sums are in a burst of 32 bytes: each of 16 bits on all three devices."""


def partial_sum_bytes(kernel: PimMatMul, device: Device | str) -> int:
    """Bytes of the partial sums of all parts of a product, on their way to be added: as the device reads
    them out.

    >>> partial_sum_bytes(PimMatMul(1, 4096, 4096, k_parts=4, reduction="processor"), "gddr6-aim")
    32768
    """
    model = device_of(device)
    return kernel.partial_sums * model.burst_bytes // SUMS_OF_A_BURST[family_of(model)]


def divisors(number: int) -> list[int]:
    """Of a number, from 1."""
    return [d for d in range(1, number + 1) if number % d == 0]


def forms_of(device: Device | str, k: int) -> tuple[tuple[str, bool], ...]:
    """Orders in which the device can go through a matrix of k inputs, each with shared and, where that is
    something else, with own rows: fields of `PimMatMul`.

    >>> forms_of("hbm-pim", 100)
    (('output-stationary', False),)
    """
    model = device_of(device)
    family = family_of(model)
    orders = ORDERS[family]
    if family == "attacc" and k <= attacc_matmul.PART * attacc_matmul.PARTS:
        orders = orders[:1]  # one segment: both are the same
    shared = family == "aim" and aim_matmul.Tiling(k, model.bursts_per_row).share > 1
    return tuple((order, own) for order in orders for own in (False, True)[: 1 + shared])


def least_cycles(kernel: PimMatMul, device: Device | str, channels: int) -> int:
    """Cycles (ticks of the device) below which `program_of` cannot be, refreshes apart; the order is named.

    >>> least_cycles(PimMatMul(1, 4096, 4096, "input-stationary"), "gddr6-aim", 32)
    8760
    """
    model = device_of(device)
    family = family_of(model)
    channels = (kernel.channels or channels) // kernel.k_parts
    m, n, k = kernel.m, kernel.n, max(stop - start for start, stop in kernel.parts)
    if family == "aim":
        order: Any = kernel.order
        passes = -(-n // (aim_matmul.BANKS * channels))
        tiling = aim_matmul.Tiling(k, model.bursts_per_row, own_rows=kernel.own_rows)
        return aim_matmul.least_cycles(order, m, max(passes, 1), tiling, model)
    if family == "attacc":
        lines = -(-n // (attacc_matmul.LINE * channels))
        return attacc_matmul.least_cycles(m, lines, attacc_matmul.Tiling(k), model)
    tiles = -(-n // (hbm_pim_matmul.TILE_OUTPUTS * channels))
    return hbm_pim_matmul.least_cycles(m, tiles, -(-k // hbm_pim_matmul.TILE_INPUTS), model)


def macs_per_cycle(device: Device | str) -> float:
    """Most multiply-accumulates of a channel in a cycle: lanes of all units over the distance of commands.

    >>> macs_per_cycle("gddr6-aim"), macs_per_cycle("hbm-pim")
    (128.0, 32.0)
    """
    model = device_of(device)
    lanes, distance = {
        "aim": (aim_matmul.BANKS * aim_matmul.LANES, "nCCDL"),
        "hbm-pim": (hbm_pim_matmul.UNITS * hbm_pim_matmul.LANES, "nCCDL"),
        "attacc": (attacc_matmul.LINE * attacc_matmul.PART, "nCCDAB"),
    }[family_of(model)]
    return lanes / model.timing[distance]


def _attention(kernel: PimAttention, device: Device, family: Family, channels: int) -> Program:
    sizes = {"heads": kernel.heads, "kv_heads": kernel.kv_heads, "qk": kernel.qk, "v": kernel.v}
    sizes |= {"channels": channels, "context": min(kernel.context, default=0)}
    for name, value in sizes.items():
        if value < 1:
            raise InputError(f"must be at least 1, got {value}", key=name)
    group, rest = divmod(kernel.heads, kernel.kv_heads)
    if rest:
        raise InputError(f"must be a multiple of {kernel.kv_heads} kv_heads, got {kernel.heads}", key="heads")
    shape = (kernel.context, group, kernel.kv_heads, kernel.qk, kernel.v)
    if family == "attacc":
        if kernel.stage != "both":
            raise InputError(f"'{device.name}' has a softmax unit: it does both stages at once", key="stage")
        return attacc_attention.attention(*shape, channels=channels, device=device)
    stages = ("scores", "values") if kernel.stage == "both" else (kernel.stage,)
    if family == "aim":
        return aim_attention.attention(*shape, channels=channels, device=device, stages=stages)
    return hbm_pim_attention.attention(*shape, channels=channels, device=device, stages=stages)
