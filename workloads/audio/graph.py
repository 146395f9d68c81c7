"""Preparing an utterance as an operator graph.

=======================  ==================================================  ==============================
kind                     dims                                                meaning (inputs -> outputs)
=======================  ==================================================  ==============================
``resample``             samples, outputs, macs                              signal -> signal at 16 kHz
``log_mel``              samples, frames, fft, window, mels, mel_macs,       signal -> (mels, frames)
                         logarithms
``normalise_features``   mels, frames (with padding), valid                  (mels, frames) -> the same,
                                                                             padded
=======================  ==================================================  ==============================

``normalise_features`` needs every frame: it reads the valid ones for the mean, for the deviation, and to
scale them. Tensors are float32 in memory; the meaning is computed in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neardata.arch.precision import Format
from neardata.workloads.audio import features
from neardata.workloads.graph import Graph, Operator

FLOATS = Format("fp32")


def graph_of(samples: int, model: str = "conformer_ctc", *, rate: int = features.RATE) -> Graph:
    """The graph of preparing a signal of a number of samples; without ``resample`` at 16 kHz.

    Raises:
        InputError: an unknown model, a rate below 1.

    >>> [operator.kind for operator in graph_of(120_000, rate=48_000)]
    ['resample', 'log_mel', 'normalise_features']
    """
    work = features.work_of(samples, model, rate=rate)
    graph = Graph(f"{model} preparation", "preprocess", 1)
    signal = graph.tensor("signal", (samples,), FLOATS, "activation")
    if rate != features.RATE:
        dims = {"samples": samples, "outputs": work.resampled, "macs": work.resample_macs}
        resampled = graph.tensor("resampled", (work.resampled,), FLOATS, "activation")
        graph.add(Operator("resample", "resample", (signal,), (resampled,), dims, attributes={"rate": rate}))
        signal = resampled
    frames = work.output_bytes // (4 * features.MELS)
    graph.tensor("log_mel", (features.MELS, work.frames), FLOATS, "activation")
    graph.tensor("normalised", (features.MELS, frames), FLOATS, "activation")
    dims = {
        "samples": work.resampled, "frames": work.frames, "fft": work.fft_size, "window": features.WINDOW,
        "mels": features.MELS, "mel_macs": work.mel_macs, "logarithms": work.logarithms,
    }  # fmt: skip
    graph.add(Operator("log_mel", "log_mel", (signal,), ("log_mel",), dims))
    dims = {"mels": features.MELS, "frames": frames, "valid": work.valid_frames}
    graph.add(Operator("normalise", "normalise_features", ("log_mel",), ("normalised",), dims))
    return graph


def execute(graph: Graph, signal: features.Signal) -> dict[str, NDArray[Any]]:
    """All tensors of a graph of `graph_of`.

    Raises:
        InputError: a signal that features cannot be made of.
    """
    held: dict[str, NDArray[Any]] = {"signal": signal}
    if signal.shape != graph.tensors["signal"].shape:
        raise ValueError(f"{len(signal)} samples for {graph.tensors['signal'].shape[0]}")
    for operator in graph:
        (name,) = operator.outputs
        held[name] = evaluate(operator, held[operator.inputs[0]])
        if held[name].shape != graph.tensors[name].shape:
            raise ValueError(f"tensor '{name}': {held[name].shape} for {graph.tensors[name].shape}")
    return held


def evaluate(operator: Operator, given: NDArray[Any]) -> NDArray[Any]:
    """The output of an operator."""
    match operator.kind:
        case "resample":
            return features.resample(given, operator.attributes["rate"]).astype(np.float32)
        case "log_mel":
            return features.log_mel(given)[0]
        case "normalise_features":
            found = features.normalise(given, operator["valid"])
            return np.pad(found, ((0, 0), (0, operator["frames"] - found.shape[1])))
    raise ValueError(f"no meaning of operators of kind '{operator.kind}' here")
