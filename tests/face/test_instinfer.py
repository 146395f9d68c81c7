"""The study of attention in drives: what its figures follow from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neardata.arch.errors import InputError
from neardata.arch.system import load_system
from neardata.instinfer_study import Testbed, _rates, _reads_again, cache_share
from neardata.sim.program import FlashAttention

ENGINE = {"gemv_gflops": 13.3, "softmax_mops": 15.1, "filter_gb_per_s": 1.79}
ECC = {"codeword_bytes": 1024, "correctable_bits": 40, "decode_ns": 0, "retry_factor": 0.5, "retries": 5}
SPARSE = {"channels": 0.125, "tokens": 0.125, "pages": 0.5, "channels_a_page": 4}


@pytest.fixture(scope="module")
def testbed() -> Testbed:
    return Testbed("a6000-instinfer", ENGINE, SPARSE)


def test_rates_follow_from_the_softmax_or_from_the_bus(testbed: Testbed) -> None:
    """Keys and values of a score are 512 bytes; a page of 4,096 bytes and its command take 290 + 2,926 ns."""
    drive = load_system("a6000-instinfer", testbed.changes).drive("csd")
    rates = _rates(drive, "opt-13b", 1536, 4, SPARSE, 0.003, ECC)
    assert rates["read_gb_per_s"] == pytest.approx(0.512 * 15.1, rel=0.01)
    assert rates["read_gb_per_s/flash_alone"] == pytest.approx(8 * 4.096 / 3.216, rel=0.01)
    assert rates["read_gb_per_s/peak"] == pytest.approx(11.2)
    assert rates["read_gb_per_s/sparse"] < rates["read_gb_per_s"]
    assert 0 <= rates["retry_per_mille"] < 0.1 < rates["retry_per_mille/flash_alone"] < 10


def test_bit_errors_give_the_retries_asked_for() -> None:
    drive = load_system("a6000-instinfer").drive("csd")
    ecc, weaker = (_reads_again(drive, 0.003, ECC | {"correctable_bits": bits}) for bits in (40, 20))
    for one in (ecc, weaker):
        assert one.retry_probability(drive.flash.page_bytes, 0) == pytest.approx(0.003, rel=1e-6)
    assert weaker.rber < ecc.rber, "fewer bit errors fail the weaker code as often"


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"retry_factor": 2}, "ecc.retry_factor"),
        ({"correctable_bit": 40}, "did you mean correctable_bits"),
        ({"correctable_bits": 2000}, "ecc: no bit errors give 0.003 retries a read"),
    ],
)
def test_a_code_that_cannot_be_is_told(changed: dict[str, float], what: str) -> None:
    with pytest.raises(InputError, match=re.escape(what)):
        _reads_again(load_system("a6000-instinfer").drive("csd"), 0.003, ECC | changed)


def test_rates_of_the_engine_reach_the_drives(testbed: Testbed) -> None:
    """Half the softmax, twice the time of attention."""
    slow = Testbed(testbed.system, {**ENGINE, "softmax_mops": 7.55}, SPARSE)
    times = []
    for bed in (testbed, slow):
        point = bed.point("opt-125m", "decode", 1024, "dense", 8)
        tasks = zip(point.program.tasks, point.report.outcomes, strict=True)
        times.append(sum(o.time_ps for t, o in tasks if isinstance(t.kernel, FlashAttention)))
        assert 0.5 < cache_share(point.report) < 1
    assert times[1] == pytest.approx(2 * times[0], rel=0.02)


def test_drives_share_the_heads(testbed: Testbed) -> None:
    """12 heads on 4 drives: a quarter of the attention each."""
    one, four = (testbed.point("opt-125m", "decode", 1024, "dense", 8, n) for n in (1, 4))
    kernels = {t.kernel for t in four.program.tasks if isinstance(t.kernel, FlashAttention)}
    assert [k.heads for k in kernels] == [3]
    assert 2 < four.tokens_per_s / one.tokens_per_s < 4


def test_the_document_shows_the_rates_of_the_study(testbed: Testbed) -> None:
    drive = load_system("a6000-instinfer", testbed.changes).drive("csd")
    rates = _rates(drive, "opt-13b", 1536, 64, SPARSE, 0.003, ECC)
    text = (Path(__file__).parents[2] / "docs" / "in_storage_attention.md").read_text()
    shown = [float(number) for number in re.findall(r"^\| .* \| ([\d.]+) \|$", text, re.MULTILINE)]
    ours = [rates[f"read_gb_per_s{name}"] for name in ("/peak", "/flash_alone", "/without_softmax", "")]
    assert shown == [pytest.approx(value, abs=0.005) for value in ours] + [7.66]
