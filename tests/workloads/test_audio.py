"""Speech features against recorded numbers and plain sums; damaged input told in one line."""

from __future__ import annotations

import cmath
import csv
import math
import wave
from pathlib import Path

import numpy as np
import pytest

from neardata.arch.errors import InputError
from neardata.workloads.audio import features as audio
from neardata.workloads.audio.graph import execute, graph_of

DATA = Path(__file__).parents[1] / "data/audio"


def rows(name: str) -> list[dict[str, float]]:
    with (DATA / name).open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def recorded_signal(n: int) -> np.ndarray:
    """What the recorded numbers were computed from: a tone and the noise of a 32-bit congruence."""
    state, noise = 1, []
    for _ in range(n):
        state = (1664525 * state + 1013904223) % 2**32
        noise.append(((state >> 16) - 32768) / 65536)
    tone = np.sin(2 * np.pi * 440 * (np.arange(n) / 16000)).astype(np.float32)
    return (np.float32(0.25) * tone + np.float32(0.1) * np.array(noise, np.float32)).astype(np.float32)


def test_mel_filters_are_librosas() -> None:
    filters = audio.mel_filters()
    assert filters.shape == (80, 257) and int((filters > 0).sum()) == 500
    for row in rows("mel_filters.csv"):
        found = filters[int(row["mel"])]
        assert (found > 0).sum() == row["nonzero"] and found.argmax() == row["peak_bin"]
        assert found.astype(float).sum() == pytest.approx(row["sum"], rel=1e-7)


def test_features_are_the_recorded_ones() -> None:
    found, valid = audio.log_mel(recorded_signal(40_000))
    normal = audio.normalise(found, valid)
    assert found.shape == (80, 251) and valid == 250  # 2.5 s
    for row in rows("log_mel.csv"):
        at = int(row["mel"]), int(row["frame"])
        assert found[at] == pytest.approx(row["log_mel"], abs=1e-5)
        assert normal[at] == pytest.approx(row["normalised"], abs=1e-5)
    assert not normal[:, 250].any()


def test_a_frame_by_plain_sums() -> None:
    x = audio.generated_speech(0.1, seed=2)
    found, _ = audio.log_mel(x)
    t = 4
    before = np.concatenate([[np.float32(0)], x[:-1]])
    emphasised = [float(v - np.float32(0.97) * b) for v, b in zip(x, before, strict=True)]
    power = []
    for k in range(257):
        total = 0j
        for i in range(400):
            place = 160 * t - 200 + i
            if 0 <= place < len(x):
                hann = 0.5 - 0.5 * math.cos(2 * math.pi * i / 399)
                total += hann * emphasised[place] * cmath.exp(-2j * math.pi * k * (i + 56) / 512)
        power.append(abs(total) ** 2)
    filters = audio.mel_filters().astype(float)
    for m in range(80):
        want = math.log(sum(w * p for w, p in zip(filters[m], power, strict=True)) + 2.0**-24)
        assert found[m, t] == pytest.approx(want, abs=1e-8)


def test_normalised_features_have_mean_0_and_deviation_1() -> None:
    found, valid = audio.prepare(audio.generated_speech(1.0))
    assert valid == 100 and found.shape == (80, 101)
    np.testing.assert_allclose(found[:, :valid].mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(found[:, :valid].std(axis=1, ddof=1), 1, atol=1e-3)


def test_resampling_is_the_recorded_one() -> None:
    x = recorded_signal(500)
    for row in rows("resample.csv"):
        found = audio.resample(x[: int(row["samples"])], int(row["rate"]))
        if row["place"] < 0:
            assert len(found) == row["value"]
        else:
            assert found[int(row["place"])] == pytest.approx(row["value"], abs=1e-7)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 24000, 48000])
@pytest.mark.parametrize("n", [0, 1, 7, 150])
def test_resampling_by_plain_sums(rate: int, n: int) -> None:
    x = audio.generated_speech(n / 16000, seed=n)
    assert len(x) == n
    found = audio.resample(x, rate)
    common = math.gcd(rate, 16000)
    up, down = 16000 // common, rate // common
    h = audio.resampling_filter(up, down).tolist() if up != down else [1.0]
    middle, macs = len(h) // 2, 0
    assert len(found) == -(-n * up // down)
    for m, value in enumerate(found):
        taps = [(k, m * down - k * up + middle) for k in range(n)]
        taps = [(k, tap) for k, tap in taps if 0 <= tap < len(h)]
        macs += len(taps)
        assert value == pytest.approx(sum(float(x[k]) * h[tap] for k, tap in taps), abs=1e-12)
    assert audio.resample_macs(n, rate) == (0 if up == down else macs)


def test_work_is_that_of_the_features() -> None:
    x = audio.generated_speech(2.5, rate=48000)
    found, valid = audio.prepare(x, "citrinet_512", rate=48000)
    work = audio.work_of(len(x), "citrinet_512", rate=48000)
    assert work.resampled == 40_000 and work.valid_frames == valid == 250
    assert work.output_bytes == found.astype(np.float32).nbytes
    assert work.mel_macs == 251 * 500 and work.logarithms == 251 * 80
    assert work.resample_macs == audio.resample_macs(120_000, 48000) > 39_000 * 60


def test_signals_that_cannot_be() -> None:
    with pytest.raises(InputError, match="audio: 1 frames of 10 ms; a deviation needs two"):
        audio.prepare(np.zeros(319, dtype=np.float32))
    with pytest.raises(InputError, match="audio: 0 frames"):
        audio.prepare(np.zeros(0, dtype=np.float32))
    x = audio.generated_speech(0.1)
    x[7] = np.nan
    with pytest.raises(InputError, match="audio: sample 7 is nan"):
        audio.prepare(x)
    with pytest.raises(InputError, match="model: unknown model 'citrinet'; did you mean citrinet_512"):
        audio.prepare(x, "citrinet")
    with pytest.raises(InputError, match="rates are 1 Hz or more"):
        audio.resample(x, 0)
    silent, _ = audio.prepare(np.zeros(1600, dtype=np.float32))
    assert np.abs(silent).max() < 1e-8


def test_wav_files(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"

    def write(width: int, data: bytes, channels: int = 1) -> None:
        with wave.open(str(path), "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(width)
            file.setframerate(8000)
            file.writeframes(data)

    write(2, np.array([0, 16384, -32768, 0], dtype="<i2").tobytes(), channels=2)
    samples, rate = audio.read_wav(path)
    assert rate == 8000 and samples.tolist() == [0.25, -0.5]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"a\.wav: 1 samples where 2 should be"):
        audio.read_wav(path)
    write(1, b"\x80")
    with pytest.raises(InputError, match="samples of 8 bits; 16 are read"):
        audio.read_wav(path)
    for held in (b"", b"RIFF", b"no" * 40):
        path.write_bytes(held)
        with pytest.raises(InputError, match="no whole WAV file"):
            audio.read_wav(path)
    with pytest.raises(InputError, match="No such file"):
        audio.read_wav(tmp_path / "b.wav")


@pytest.mark.parametrize(
    ("rate", "model"), [(16000, "conformer_ctc"), (48000, "citrinet_512"), (8000, "citrinet_512")]
)
def test_the_graph_prepares_the_same(rate: int, model: str) -> None:
    x = audio.generated_speech(0.7, rate=rate)
    graph = graph_of(len(x), model, rate=rate)
    found, _ = audio.prepare(x, model, rate=rate)
    np.testing.assert_array_equal(execute(graph, x)["normalised"], found)
    work = audio.work_of(len(x), model, rate=rate)
    assert ("resample" in graph) == (rate != 16000)
    assert graph.tensors["normalised"].bytes == work.output_bytes
    assert graph["log_mel"]["mel_macs"] == work.mel_macs
    with pytest.raises(ValueError, match="samples for"):
        execute(graph, x[:-1])
