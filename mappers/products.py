"""How products run in a PIM memory, as data: `ProductForm`, and files of them.

A study's mapping gives forms by the names of operators, or a file that does, such as one that
``neardata search`` wrote::

    products:
      experts.down: {order: input-stationary, channels: 32, k_parts: 4, reduction: processor}
      layer0.attention.q: {order: row-stationary, own_rows: true}
      "*": {order: output-stationary}       # all others

``experts.down`` stands for the operator of all layers, ``layer0.experts.down`` for that of one. What the
units of a command do is the device's: GDDR6-AiM gives each of 16 banks an output, HBM-PIM each of 8
units 8, AttAcc each bank group one, whose inputs lie over its four banks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from neardata.arch.config_file import ConfigFile, StrictModel
from neardata.arch.dram import Device
from neardata.arch.errors import InputError, nearest
from neardata.sim.program import PimMatMul
from neardata.sim.system.pim_programs import program_of, reductions_of

SEARCHED = "searched"


class ProductForm(StrictModel):
    """One way to do a product; see `neardata.sim.program.PimMatMul`."""

    order: str = ""
    """In which a channel goes through its part: of the device's orders; empty: the device's default."""
    own_rows: bool = False
    """Outputs of a bank do not share rows, however short they are (GDDR6-AiM)."""
    channels: Annotated[int, Field(ge=1)] | None = None
    """So many hold the matrix and work, whichever are free; left out: all of the unit."""
    k_parts: Annotated[int, Field(ge=1)] = 1
    """Parts of k side by side, each on as many of the channels."""
    reduction: Literal["processor", "buffer"] | None = None
    """Who adds the partial sums of the parts; left out: the device, if it can, else the processor."""

    @field_validator("reduction")
    @classmethod
    def _of_several_parts(cls, reduction: str | None, others: ValidationInfo) -> str | None:
        if reduction is not None and others.data.get("k_parts") == 1:
            raise ValueError(
                "with k_parts 1 there are no partial sums: leave it out, or give k_parts above 1"
            )
        return reduction

    def of(self, kernel: PimMatMul, device: Device) -> PimMatMul:
        """A product in this form."""
        adds = (self.reduction or reductions_of(device)[0]) if self.k_parts > 1 else ""
        return replace(
            kernel, order=self.order, own_rows=self.own_rows, channels=self.channels, k_parts=self.k_parts,
            reduction=adds,
        )  # fmt: skip


class ProductsFile(StrictModel):
    """The YAML form of a file of forms."""

    device: str | None = None
    """It is for, to be refused on another; left out: any."""
    products: dict[str, ProductForm]
    """By operator."""


def kind_of(operator: str) -> str:
    """Name of an operator without its micro-batch and layer.

    >>> kind_of("b0/layer12.experts.gate"), kind_of("head")
    ('experts.gate', 'head')
    """
    name = operator.rpartition("/")[2]
    first, _, rest = name.partition(".")
    return rest if rest and first.startswith("layer") else name


@dataclass(frozen=True)
class Forms:
    """Forms by operator, and where they are from."""

    given: Mapping[str, ProductForm]
    device: str | None = None
    file: ConfigFile | None = None

    def key_of(self, operator: str) -> str | None:
        """The entry for an operator: of its name, of its kind, or of all."""
        return next((key for key in (operator, kind_of(operator), "*") if key in self.given), None)

    def apply(self, key: str, kernel: PimMatMul, device: Device, channels: int) -> PimMatMul:
        """A product in the form of an entry.

        Raises:
            InputError: the device cannot do it so; with file, line and key of the entry's field.
        """
        made = self.given[key].of(kernel, device)
        try:
            program_of(replace(made, m=1), device, channels)  # says what does not fit the banks, too
        except InputError as error:
            field = (error.key,) if error.key in ProductForm.model_fields else ()
            raise self.error(error.message, key, *field) from None
        return made

    def check(self, operators: Iterable[str], device: Device | None) -> None:
        """Refuse entries for operators that there are not, and a file for another device.

        Raises:
            InputError: with file, line and key.
        """
        if device is not None and self.device is not None and self.device != device.name:
            problem = f"the forms are for '{self.device}', the memory is '{device.name}'"
            raise self.error(problem) if self.file is None else self.file.error(problem, "device")
        known = {name for operator in operators for name in (operator, kind_of(operator), "*")}
        for key in self.given:
            if key not in known:
                kinds = {name for name in known if kind_of(name) == name}
                raise self.error(f"the model has no such product{nearest(key, kinds)}", key)

    def error(self, message: str, *keys: str) -> InputError:
        """Placed at an entry."""
        if self.file is not None:
            return self.file.error(message, "products", *keys)
        return InputError(message, key=".".join(("mapping.products", *keys)))


def read_forms(products: Mapping[str, ProductForm] | str) -> Forms:
    """The forms of a mapping; none where they are to be searched.

    Raises:
        InputError: a file that is no file of forms, with its line and key.
    """
    if not isinstance(products, str):
        return Forms(products)
    if products == SEARCHED:
        return Forms({})
    path = Path(products)
    if path.suffix not in (".yaml", ".yml"):
        problem = f"'{products}' is neither '{SEARCHED}' nor a file .yaml, nor forms by operator"
        raise InputError(problem, key="mapping.products")
    file = ConfigFile(path)
    read = file.parse(ProductsFile)
    return Forms(read.products, read.device, file)
