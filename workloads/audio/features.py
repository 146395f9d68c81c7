"""Speech as acoustic models take it: resampled, log-mel features, normalised.

Features are those of NeMo's ``FilterbankFeatures`` (nemo_toolkit 3.0.0, ``collections/asr/parts``) with the
constants of its Citrinet and Conformer configurations; the mel filters are librosa's (Slaney's scale and
normalisation). Resampling is ``scipy.signal.resample_poly``'s. All in float64 but the
pre-emphasis, which is in float32.
"""

from __future__ import annotations

import functools
import math
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError, nearest

Signal = NDArray[np.float32]
Features = NDArray[np.float64]

RATE = 16_000
"""Samples a second."""
FFT = 512
WINDOW = 400
"""Samples of a window: 25 ms."""
HOP = 160
"""Samples between windows: 10 ms."""
MELS = 80
EMPHASIS = 0.97
GUARD = 2.0**-24
"""Added before the logarithm."""
SPREAD_GUARD = 1e-5
"""Added to the standard deviation."""
PAD_TO = {"citrinet_512": 16, "conformer_ctc": 0}
"""Frames are padded to a multiple of this, by model; 0: not."""
HALF_LENGTH = 10
"""Resampling: zero crossings on each side of the filter."""
KAISER_BETA = 5.0


@dataclass(frozen=True)
class AudioWork:
    """What the features of one signal take."""

    samples: int
    """At the source's rate."""
    resampled: int
    """At 16 kHz."""
    resample_macs: int
    frames: int
    """Windows that are transformed; the last of them is masked."""
    valid_frames: int
    fft_size: int
    window_multiplications: int
    power_multiplications: int
    """Squares of real and imaginary parts."""
    mel_macs: int
    """Weights that are not zero, in each frame."""
    logarithms: int
    normalised: int
    """Values of valid frames: read for the mean, for the deviation, and scaled."""
    output_bytes: int
    """float32, with padding."""


def resampling_filter(up: int, down: int) -> NDArray[np.float64]:
    """Taps of the low-pass filter at ``up`` times the source's rate: a Kaiser window of beta 5 on a sinc that
    cuts at 1 / max(up, down), gain ``up``; none where both are 1.

    >>> len(resampling_filter(1, 3))
    61
    """
    top = max(up, down)
    half = HALF_LENGTH * top
    taps = np.sinc(np.arange(-half, half + 1) / top) * np.kaiser(2 * half + 1, KAISER_BETA)
    return up * taps / taps.sum()


def resample(x: Signal, rate: int, to: int = RATE) -> NDArray[np.float64]:
    """A signal at another rate: (ceil(n * to / rate),).

    y[m] = sum over k of x[k] h[m * down - k * up + middle], up / down = to / rate in lowest terms; zeros lie
    outside. Only taps that meet samples are multiplied.

    Raises:
        InputError: a rate below 1.

    >>> resample(np.ones(6, dtype=np.float32), 32_000).shape
    (3,)
    """
    up, down = _ratio(rate, to)
    if up == down:
        return x.astype(np.float64)
    h = resampling_filter(up, down)
    middle, n = len(h) // 2, len(x)
    m = np.arange(-(-n * up // down))
    # of each output: the last sample whose tap is there, and those before it
    last = (m * down + middle) // up
    found = np.zeros(len(m))
    for back in range(len(h) // up + 1):
        k = last - back
        tap = m * down - k * up + middle
        use = (k >= 0) & (k < n) & (tap < len(h))
        found[use] += x[k[use]] * h[tap[use]]
    return found


def resample_macs(n: int, rate: int, to: int = RATE) -> int:
    """Multiply-accumulates of `resample` for n samples.

    >>> resample_macs(1000, 16_000), resample_macs(1000, 32_000)
    (0, 20290)
    """
    up, down = _ratio(rate, to)
    if up == down:
        return 0
    half = HALF_LENGTH * max(up, down)
    m = np.arange(-(-n * up // down))
    first = np.maximum(-(-(m * down - half) // up), 0)
    last = np.minimum((m * down + half) // up, n - 1)
    return int(np.maximum(last - first + 1, 0).sum())


def _ratio(rate: int, to: int) -> tuple[int, int]:
    if rate < 1 or to < 1:
        raise InputError(f"rates are 1 Hz or more, got {rate} and {to}", key="rate")
    common = math.gcd(rate, to)
    return to // common, rate // common


def mel_of(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's scale: linear to 1 kHz (15 mel), logarithmic above, 27 mel for a factor of 6.4."""
    log = 15 + np.log(np.maximum(hertz, 1.0) / 1000) * (27 / np.log(6.4))
    return np.where(hertz < 1000, hertz * 3 / 200, log)


def hertz_of(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `mel_of`."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * (np.log(6.4) / 27)))


@functools.cache
def mel_filters() -> NDArray[np.float32]:
    """(80, 257) triangles of equal area between neighbours on the mel scale, 0 to 8 kHz.

    >>> int((mel_filters() > 0).sum())
    500
    """
    edges = hertz_of(np.linspace(0.0, mel_of(np.array([RATE / 2]))[0], MELS + 2))
    bins = np.arange(FFT // 2 + 1) * (RATE / FFT)
    left, middle, right = (edges[i : i + MELS, None] for i in range(3))
    rising, falling = (bins - left) / (middle - left), (right - bins) / (right - middle)
    triangles = np.maximum(0, np.minimum(rising, falling)) * (2 / (right - left))
    filters: NDArray[np.float32] = triangles.astype(np.float32)
    filters.flags.writeable = False
    return filters


@functools.cache
def window() -> NDArray[np.float64]:
    """(512,) symmetric Hann window of 400, zeros on both sides."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))
    side = (FFT - WINDOW) // 2
    padded = np.pad(hann, (side, FFT - WINDOW - side))
    padded.flags.writeable = False
    return padded


def emphasised(x: Signal) -> Signal:
    """x[t] - 0.97 x[t - 1], in float32; the first sample stays."""
    return np.concatenate([x[:1], x[1:] - np.float32(EMPHASIS) * x[:-1]])


def log_mel(x: Signal) -> tuple[Features, int]:
    """Log-mel features (80, 1 + n // 160) and how many frames are valid, n // 160.

    Frame t is centred on sample 160 t (zeros outside), windowed, transformed; log(mel filters times power +
    2**-24).

    Args:
        x: (n,) samples at 16 kHz.

    Raises:
        InputError: a sample that is no number.
    """
    if not np.isfinite(x).all():
        place = int(np.flatnonzero(~np.isfinite(x))[0])
        raise InputError(f"sample {place} is {x[place]}", key="audio")
    padded = np.pad(emphasised(x.astype(np.float32, copy=False)).astype(np.float64), FFT // 2)
    frames = 1 + (len(padded) - FFT) // HOP
    places = HOP * np.arange(frames)[:, None] + np.arange(FFT)
    spectrum = np.fft.rfft(padded[places] * window(), axis=1)
    power = spectrum.real**2 + spectrum.imag**2
    return np.log(mel_filters().astype(np.float64) @ power.T + GUARD), len(x) // HOP


def normalise(features: Features, valid: int) -> Features:
    """Each feature less its mean over the valid frames, divided by their standard deviation (of n - 1) plus
    1e-5; frames that are not valid become 0.

    Raises:
        InputError: fewer than two valid frames.
    """
    if valid < 2:
        raise InputError(f"{valid} frames of 10 ms; a deviation needs two", key="audio")
    seen = features[:, :valid]
    mean = seen.mean(axis=1, keepdims=True)
    deviation = np.sqrt(((seen - mean) ** 2).sum(axis=1, keepdims=True) / (valid - 1))
    found = np.zeros_like(features)
    found[:, :valid] = (seen - mean) / (deviation + SPREAD_GUARD)
    return found


def prepare(x: Signal, model: str = "conformer_ctc", *, rate: int = RATE) -> tuple[Features, int]:
    """A signal as a model takes it: features (80, frames), and how many of them are valid.

    Raises:
        InputError: an unknown model, a rate below 1, less than two frames, a sample that is no number.

    >>> found, valid = prepare(generated_speech(2.5), "citrinet_512")
    >>> found.shape, valid
    ((80, 256), 250)
    """
    pad_to = _pad_to(model)
    features, valid = log_mel(resample(x, rate).astype(np.float32))
    found = normalise(features, valid)
    return np.pad(found, ((0, 0), (0, _padding(found.shape[1], pad_to)))), valid


def _pad_to(model: str) -> int:
    if model not in PAD_TO:
        raise InputError(f"unknown model '{model}'{nearest(model, PAD_TO)}", key="model")
    return PAD_TO[model]


def _padding(frames: int, pad_to: int) -> int:
    return -frames % pad_to if pad_to else 0


def work_of(samples: int, model: str = "conformer_ctc", *, rate: int = RATE) -> AudioWork:
    """What preparing a signal of a number of samples takes.

    >>> found = work_of(40_000)
    >>> found.valid_frames, found.mel_macs
    (250, 125500)
    """
    pad_to = _pad_to(model)
    up, down = _ratio(rate, RATE)
    resampled = -(-samples * up // down)
    frames, valid = 1 + resampled // HOP, resampled // HOP
    bins = FFT // 2 + 1
    nonzero = int((mel_filters() > 0).sum())
    total = frames + _padding(frames, pad_to)
    return AudioWork(
        samples, resampled, resample_macs(samples, rate), frames, valid, FFT, frames * WINDOW,
        2 * frames * bins, frames * nonzero, frames * MELS, valid * MELS, total * MELS * 4,
    )  # fmt: skip


def read_wav(path: str | Path) -> tuple[Signal, int]:
    """Samples of a 16-bit PCM WAV file, -1 to 1, channels averaged, and their rate.

    Raises:
        InputError: no WAV file of 16 bits, one that is cut short.
    """
    path = Path(path)
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            frames, data = file.getnframes(), file.readframes(file.getnframes())
    except FileNotFoundError:
        raise InputError("cannot be read: No such file or directory", file=path) from None
    except (wave.Error, EOFError, OSError) as error:
        raise InputError(f"no whole WAV file: {error or 'it ends early'}", file=path) from None
    if width != 2:
        raise InputError(f"samples of {8 * width} bits; 16 are read", file=path)
    if len(data) != frames * channels * width:
        got = len(data) // (channels * width)
        raise InputError(f"{got} samples where {frames} should be", file=path)
    samples = np.frombuffer(data, "<i2").reshape(-1, channels).astype(np.float32) / np.float32(32768)
    return samples.mean(axis=1, dtype=np.float32), rate


def generated_speech(seconds: float, *, rate: int = RATE, seed: int = 0) -> Signal:
    """A gliding voice of ten harmonics in syllables, with noise; the same for the same seed."""
    draw = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (120 * t + 8 * np.sin(2 * np.pi * 0.7 * t))
    voice = sum(np.sin(k * phase) / k for k in range(1, 11))
    syllables = np.maximum(np.sin(2 * np.pi * 3.1 * t), 0)
    return (0.1 * voice * syllables + 0.003 * draw.standard_normal(len(t))).astype(np.float32)
