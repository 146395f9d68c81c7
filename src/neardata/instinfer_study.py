"""Study model of attention in computational storage drives: InstInfer, published as InstAttention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from neardata.arch.config_file import first_problem
from neardata.arch.errors import InputError
from neardata.arch.storage import Ecc, Ssd
from neardata.arch.system import StorageUnit, load_system
from neardata.sim.program import FlashAttention, FlashIo, Transfer
from neardata.sim.system.report import SystemReport
from neardata.sim.system.storage import StorageEngine
from neardata.study import Point, Study, SystemChoice, run_point
from neardata.workloads.llm.model import load_model

Figures = dict[str, float]
DRIVES = "csd"
UNLIMITED = 1e9


def instinfer(
    system: str,
    engine: Mapping[str, float],
    model: str,
    prompt: int,
    generated: int,
    others: Mapping[str, Mapping[str, Any]],
    sparse: Mapping[str, Any],
    batches: Mapping[str, int],
    many_drives: int,
    retries_per_read: float,
    ecc: Mapping[str, Any],
    erase_cycles: int,
    drive_tib: float,
    drives_of_endurance: int,
) -> Figures:
    """Rates of reads and writes of the drives, throughputs of the systems over each other, shares of decode,
    scaling, and what reading again costs.

    A decoded token is that of the mean context, of which all times are linear functions where its pages
    are full, as those of 1,536 positions are.

    Args:
        engine: rates of the drives' engines, as `neardata.arch.storage.AttentionEngine` names them.
        others: model, prompt and generated tokens, GPUs, and batches of FlexGen and of InstInfer, by a name.
        sparse: of the mapping.
        batches: ``middle`` and ``large`` ones; ``flexgen_two`` and ``deepspeed``, where these do best.
        retries_per_read: mean, in the worst case.
        ecc: of the drives in the worst case, as `neardata.arch.storage.Ecc` names it, without its bit errors.
    """
    context = prompt + generated // 2
    middle, large = batches["middle"], batches["large"]

    testbed = Testbed(system, engine, sparse)

    def point(kind: str, batch: int, drives: int = 1) -> Point:
        return testbed.point(model, "decode", context, kind, batch, drives)

    figures: Figures = {}
    speed: dict[tuple[str, int, int], float] = {}
    for kind, batch, drives in (
        ("dense", middle, 1), ("dense", large, 1), ("dense", middle, 2), ("dense", large, 2),
        ("dense", large, many_drives), ("sparse", middle, 1), ("sparse", large, 1), ("sparse", middle, 2),
        ("sparse", large, many_drives), ("ranked", large, 1), ("ssd", middle, 1),
        ("ssd", batches["flexgen_two"], 1), ("host", batches["deepspeed"], 1),
    ):  # fmt: skip
        found = point(kind, batch, drives)
        speed[kind, batch, drives] = found.tokens_per_s
        figures[f"tokens_per_s/{kind}/{batch}/{drives}"] = found.tokens_per_s
        figures[f"kv_percent/{kind}/{batch}/{drives}"] = 100 * cache_share(found.report)
    ssd, deepspeed = speed["ssd", middle, 1], speed["host", batches["deepspeed"], 1]
    figures |= {
        "over_flexgen": speed["dense", middle, 1] / ssd,
        "sparse_over_dense": speed["sparse", large, 1] / speed["dense", large, 1],
        "ranked_over_dense": speed["ranked", large, 1] / speed["dense", large, 1],
        "sparse_over_flexgen": speed["sparse", large, 1] / ssd,
        "over_deepspeed_percent": 100 * (speed["dense", large, 1] / deepspeed - 1),
        "two/over_flexgen": speed["dense", large, 2] / speed["ssd", batches["flexgen_two"], 1],
        "many/dense": speed["dense", large, many_drives] / speed["dense", large, 1],
        "many/sparse": speed["sparse", large, many_drives] / speed["sparse", large, 1],
    }
    for name, other in others.items():
        at = int(other["prompt"]) + int(other["generated"]) // 2
        rates = {
            kind: testbed.point(other["model"], "decode", at, kind, batch, 1, other["gpus"]).tokens_per_s
            for kind, batch in (
                ("ssd", other["flexgen"]),
                ("dense", other["batch"]),
                ("sparse", other["batch"]),
            )
        }
        figures |= {f"{name}/{kind}": rates[kind] / rates["ssd"] for kind in ("dense", "sparse")}
    drive = load_system(system, testbed.changes).drive(DRIVES)
    figures |= _rates(drive, model, context, middle, sparse, retries_per_read, ecc)
    figures |= _volumes(testbed, model, prompt, generated, middle)
    cache_bytes = _cache_bytes(model)
    figures["kv_mib_per_token"] = cache_bytes / 2**20
    written = drives_of_endurance * drive_tib * 2**40 * erase_cycles
    figures["endurance_kilotokens"] = written / cache_bytes / 1000
    return figures


@dataclass(frozen=True)
class Testbed:
    """Where everything runs."""

    system: str
    engine: Mapping[str, float]
    sparse: Mapping[str, Any]

    @property
    def changes(self) -> dict[str, Any]:
        """Of the system's file: rates of the engines."""
        unit = load_system(self.system).units[DRIVES]
        assert isinstance(unit, StorageUnit)
        rates = {f"attention.{name}": value for name, value in self.engine.items()}
        return {f"units.{DRIVES}.overrides": {**unit.overrides, **rates}}

    def point(
        self, model: str, phase: str, context: int, kind: str, batch: int, drives: int = 1, gpus: int = 1
    ) -> Point:
        """A step: ``kind`` is attention in drives (``dense``, ``sparse``, and ``ranked``, without a softmax
        of approximate scores), or the memory that keys and values are sent from."""
        mapping: dict[str, Any] = {"attention": DRIVES, "pipeline": gpus}
        if kind in ("sparse", "ranked"):
            mapping["sparse"] = {**self.sparse, "ranked": kind == "ranked"}
        elif kind != "dense":
            mapping = {"caches": kind, "pipeline": gpus}
        choice = {
            "system": self.system, "mapping": mapping, "set": self.changes,
            "units": {DRIVES: drives, "gpu": gpus},
        }  # fmt: skip
        study = Study(
            title=model, model=model, phase=phase, context=context, batch=(batch,),
            weights="fp16", activations="fp16", cache="fp16",
            systems={kind: SystemChoice.model_validate(choice)},
        )  # fmt: skip
        return run_point(study, kind, batch)


def cache_share(report: SystemReport) -> float:
    """Of the critical path: drives, and links that carry keys, values, queries and results."""
    kernels = (FlashAttention, FlashIo, Transfer)
    passed = sum(
        ps for i, ps in report.critical_ps.items() if isinstance(report.program.tasks[i].kernel, kernels)
    )
    return passed / report.time_ps


def _heads(model: str) -> tuple[int, int, int]:
    """Query heads, key heads, and their width."""
    found = load_model(model)
    return found.heads, found.kv_heads, found.head_dim


def _cache_bytes(model: str) -> int:
    """Of a position of a sequence, in FP16."""
    _, kv_heads, width = _heads(model)
    return load_model(model).layers * 2 * kv_heads * width * 2


def _rates(
    drive: Ssd,
    model: str,
    context: int,
    batch: int,
    sparse: Mapping[str, Any],
    retries: float,
    given: Mapping[str, Any],
) -> Figures:
    """GB/s of pages while a drive does attention, and without one limit after another."""
    heads, kv_heads, width = _heads(model)
    kernel = FlashAttention(
        (context,) * batch, heads, kv_heads, width, width, page_bytes=drive.flash.page_bytes
    )
    some = replace(
        kernel, channels_kept=round(width * sparse["channels"]), tokens_kept=sparse["tokens"],
        pages_read=sparse["pages"], channels_a_page=sparse["channels_a_page"],
    )  # fmt: skip
    unlimited = {"gemv_gflops": UNLIMITED, "softmax_mops": UNLIMITED, "filter_gb_per_s": UNLIMITED}

    def rate(what: FlashAttention, **changes: float) -> float:
        outcome = StorageEngine(_with_engine(drive, changes)).run(what)
        return outcome.memory_bytes / outcome.time_ps * 1e3

    worst = drive.model_copy(update={"ecc": _reads_again(drive, retries, given)})
    small = replace(kernel, context=(context,) * 4)

    def slower(**changes: float) -> float:
        clean, again = (StorageEngine(_with_engine(d, changes)).run(small).time_ps for d in (drive, worst))
        return 1000 * (again / clean - 1)

    return {
        "read_gb_per_s": rate(kernel),
        "read_gb_per_s/two_heads_in_flight": rate(kernel, heads_in_flight=2),
        "read_gb_per_s/without_softmax": rate(kernel, softmax_mops=UNLIMITED),
        "read_gb_per_s/flash_alone": rate(kernel, **unlimited),
        "read_gb_per_s/peak": drive.flash.channels * drive.bus.gb_per_s,
        "read_gb_per_s/sparse": rate(some),
        "retry_per_mille": slower(),
        "retry_per_mille/flash_alone": slower(**unlimited),
    }


def _with_engine(drive: Ssd, changes: Mapping[str, float]) -> Ssd:
    """The drive, its attention engine changed."""
    assert drive.attention is not None
    return drive.model_copy(update={"attention": drive.attention.model_copy(update=changes)})


def _reads_again(drive: Ssd, retries: float, given: Mapping[str, Any]) -> Ecc:
    """A correction of errors with bit errors so that a read is tried again so often.

    Raises:
        InputError: it cannot be, or no rate of bit errors up to 0.05 gives these retries, to a millionth.
    """
    low, high = 0.0, 0.05
    for _ in range(60):
        rber = (low + high) / 2
        data = {**given, "rber": rber, "source": "solved for the retries of a read"}
        try:
            ecc = Ecc.model_validate(data)
        except ValidationError as error:
            keys, message = first_problem(Ecc, error, data)
            raise InputError(message, key=".".join(map(str, ["ecc", *keys]))) from None
        found = ecc.retry_probability(drive.flash.page_bytes, 0)
        if found < retries:
            low = rber
        else:
            high = rber
    if abs(found - retries) > 1e-6 * retries:
        raise InputError(
            f"no bit errors give {retries} retries a read; the nearest are {found:.6g}", key="ecc"
        )
    return ecc


def _volumes(testbed: Testbed, model: str, prompt: int, generated: int, batch: int) -> Figures:
    """What passes between processor, drive and flash, GB; and the rate at which a prompt's rows are made."""
    layers = load_model(model).layers
    position = _cache_bytes(model) * batch
    written = position * prompt
    read = position * sum(range(prompt + 1, prompt + generated + 1))
    prefill = testbed.point(model, "prefill", prompt, "ssd", batch)
    on_drive = testbed.point(model, "prefill", prompt, "dense", batch)
    return {
        "prefill_write_gb/layer": written / layers / 1e9,
        "decode_read_gb/layer": read / layers / 1e9,
        "read_over_prefill_write": read / written,
        "prefill_write_gb_per_s": written * 1e3 / prefill.step_ps,
        "prefill_write_gb_per_s/flash": written * 1e3 / on_drive.step_ps,
    }
