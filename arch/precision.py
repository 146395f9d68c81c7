"""Number formats: bits, and the scales that go with groups of low-bit weights."""

from __future__ import annotations

from dataclasses import dataclass

from neardata.arch.errors import InputError, nearest

BITS = {
    "fp32": 32, "tf32": 32, "fp16": 16, "bf16": 16, "fp8": 8, "int64": 64, "int32": 32, "int16": 16,
    "int8": 8, "int4": 4, "int3": 3, "int2": 2, "uint8": 8,
}  # fmt: skip
"""Bits of an element, without scales."""
INTEGERS = ("int64", "int32", "int16", "int8", "int4", "int3", "int2")
"""Signed integers; ``uint8`` is for bytes, pixels and flags."""


@dataclass(frozen=True)
class Format:
    """How numbers are kept.

    >>> Format("int4", group=32).bytes_of(4096)
    2304
    """

    dtype: str
    group: int | None = None
    """Elements along the last dimension that share a 16-bit scale; None: no scales."""

    def __post_init__(self) -> None:
        if self.dtype not in BITS:
            raise InputError(f"unknown number format '{self.dtype}'{nearest(self.dtype, BITS)}")
        if self.group is not None and self.group < 1:
            raise InputError(f"a scale group holds at least one element, got {self.group}")

    @property
    def bits(self) -> int:
        """Bits of an element, without scales."""
        return BITS[self.dtype]

    def bytes_of(self, elements: int, row: int | None = None) -> int:
        """Bytes of ``elements`` numbers with their scales.

        Args:
            row: length of the last dimension, whose end also ends a group (default: all in one).
        """
        whole = -(-elements * self.bits // 8)
        if self.group is None or not elements:
            return whole
        row = row or elements
        return whole + 2 * (elements // row * -(-row // self.group) + (-(-(elements % row) // self.group)))

    def __str__(self) -> str:
        return self.dtype if self.group is None else f"{self.dtype}/g{self.group}"

    @classmethod
    def parse(cls, text: str) -> Format:
        """From ``"bf16"`` or ``"int4/g32"``."""
        dtype, slash, group = text.partition("/g")
        if slash and not group.isdigit():
            raise InputError(f"number format '{text}': expected a dtype or dtype/gN, such as int4/g32")
        return cls(dtype, int(group) if slash else None)
