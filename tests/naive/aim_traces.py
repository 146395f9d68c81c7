"""AiM instruction traces: the micro-traces of aim_simulator, its GEMV in two orders, and random ones."""

from __future__ import annotations

import math
import random

ALL = "0xffffffff"


def micro(name: str) -> list[str]:
    """Lines of aim_simulator's ``test/micro_NAME.trace`` (comments left out)."""
    lines: list[str] = []
    for i in range(1024):
        match name:
            case "macab_1024_16banks":
                lines += [f"AiM MAC_ABK 64 {ALL} {i}"]
            case "ewmul_16banks":
                lines += [f"AiM EWMUL 64 {ALL} {i}"]
            case "rdmac_1024_16banks":
                lines += [f"AiM RD_MAC 8 {ALL}"]
            case "wrab_1024_1bank":
                lines += [f"AiM WR_ABK 4 0x80000000 {i}"]
            case "wrbias_1024_16banks":
                lines += [f"AiM WR_BIAS 4 {ALL}"]
            case "wrbias_mac_af_rdaf_16banks":
                lines += [f"AiM WR_BIAS 4 {ALL}", f"AiM MAC_ABK 64 {ALL} 0", f"AiM AF {ALL}"]
                lines += [f"AiM RD_AF 4 {ALL}"]
            case "wrbias_mac_rdmac_mac_16banks":
                lines += [f"AiM WR_BIAS 4 {ALL}", f"AiM MAC_ABK 64 {ALL} 0", f"AiM RD_MAC 4 {ALL}"]
                lines += [f"AiM MAC_ABK 64 {ALL} 1"]
            case "wrgb_gbbk_bggb_16banks":
                lines += [f"AiM WR_GB 64 0 {ALL}", f"AiM COPY_GBBK 64 {ALL} 0 {i}"]
                lines += [f"AiM COPY_BKGB 64 {ALL} 8 {i}"]
            case _:
                raise ValueError(name)
    return [*lines, "AiM ISR_EOC"]


def gemv(outputs: int, inputs: int, channels: int, order: str) -> list[str]:
    """A matrix-vector product, instruction by instruction."""
    mask = hex((1 << channels) - 1)
    passes, segments = math.ceil(outputs / (channels * 16)), math.ceil(inputs / 1024)
    sizes = [math.ceil(min(1024, inputs - 1024 * s) / 16) for s in range(segments)]
    lines: list[str] = []
    if order == "output-stationary":
        for p in range(passes):
            lines.append(f"AiM WR_BIAS 0 {mask}")
            for s, n in enumerate(sizes):
                lines += [f"AiM WR_GB {n} 0 {mask}", f"AiM MAC_ABK {n} {mask} {p * segments + s}"]
            lines.append(f"AiM RD_MAC 0 {mask}")
    else:
        for s, n in enumerate(sizes):
            lines.append(f"AiM WR_GB {n} 0 {mask}")
            for p in range(passes):
                lines += [f"AiM WR_BIAS 0 {mask}", f"AiM MAC_ABK {n} {mask} {s * passes + p}"]
                lines.append(f"AiM RD_MAC 0 {mask}")
    return [*lines, "AiM EOC"]


def drawn(seed: int) -> list[str]:
    """Up to 60 instructions of all kinds; single banks use other rows than all banks together."""
    rng = random.Random(seed)
    lines = []
    for _ in range(rng.randint(5, 60)):
        n, row, bank = rng.choice([1, 2, 5, 40, 64]), rng.randint(0, 3), rng.randint(0, 15)
        lines.append(
            rng.choice(
                [
                    f"AiM WR_GB {n} 0 {ALL}",
                    f"AiM WR_BIAS 0 {ALL}",
                    f"AiM RD_MAC 0 {ALL}",
                    f"AiM RD_AF 0 {ALL}",
                    f"AiM COPY_BKGB {n} {ALL} {bank} {row + 4}",
                    f"AiM COPY_GBBK {n} {ALL} {bank} {row + 4}",
                    f"AiM MAC_SBK {n} {ALL} {bank} {row + 4}",
                    f"AiM MAC_ABK {n} {ALL} {row}",
                    f"AiM AF {ALL}",
                    f"AiM EWMUL {n} {ALL} {row}",
                    "AiM SYNC",
                ]
            )
        )
    return [*lines, "AiM EOC"]


MICRO = (
    "macab_1024_16banks", "ewmul_16banks", "rdmac_1024_16banks", "wrab_1024_1bank", "wrbias_1024_16banks",
    "wrbias_mac_af_rdaf_16banks", "wrbias_mac_rdmac_mac_16banks", "wrgb_gbbk_bggb_16banks",
)  # fmt: skip


def lines(name: str) -> list[str]:
    """By the name a row of ``tests/data/pim/aim.csv`` has."""
    kind, _, rest = name.partition(":")
    if kind == "micro":
        return micro(rest)
    if kind == "gemv":
        outputs, inputs, channels, order = rest.split(",")
        return gemv(int(outputs), int(inputs), int(channels), order)
    return drawn(int(rest))
