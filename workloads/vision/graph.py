"""Preparing a picture as an operator graph.

====================  ===================================================  ============================
kind                  dims                                                 meaning (inputs -> outputs)
====================  ===================================================  ============================
``jpeg_decode``       file_bytes, scan_bytes, mcus, blocks, coefficients,  bytes -> (height, width, 3)
                      bits, pixels
``resize``            m and n (height and width that come out),            bytes -> bytes
                      horizontal_taps, vertical_taps
``center_crop``       m, n                                                 bytes -> bytes
``normalise_pixels``  m, n                                                 bytes -> float32 (3, m, n)
====================  ===================================================  ============================
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from neardata.arch.precision import Format
from neardata.workloads.graph import Graph, Operator
from neardata.workloads.vision import images
from neardata.workloads.vision.jpeg import decode_jpeg

BYTES, FLOATS = Format("uint8"), Format("fp32")


def graph_of(path: str | Path, model: str) -> Graph:
    """The graph of preparing one JPEG file; a step that changes nothing is in it too.

    Raises:
        InputError: an unknown model, a file that is no whole baseline JPEG.

    >>> [operator.kind for operator in graph_of(images.sample_paths()[0], "swin_t")]
    ['jpeg_decode', 'resize', 'center_crop', 'normalise_pixels']
    """
    how, work = images.preset(model), images.work_of(path, model)
    decoded, (height, width), crop = work.decode, work.resized, how.crop
    graph = Graph(f"{model} preparation", "preprocess", 1)
    graph.tensor("file", (decoded.file_bytes,), BYTES, "activation")
    graph.tensor("picture", (decoded.height, decoded.width, 3), BYTES, "activation")
    graph.tensor("resized", (height, width, 3), BYTES, "activation")
    graph.tensor("cropped", (crop, crop, 3), BYTES, "activation")
    graph.tensor("normalised", (3, crop, crop), FLOATS, "activation")
    counts = ("file_bytes", "scan_bytes", "mcus", "blocks", "coefficients", "bits", "pixels")
    dims = {name: int(getattr(decoded, name)) for name in counts}
    graph.add(Operator("decode", "jpeg_decode", ("file",), ("picture",), dims))
    dims = {
        "m": height, "n": width, "horizontal_taps": work.horizontal_taps, "vertical_taps": work.vertical_taps,
    }  # fmt: skip
    how_to = {"short": how.resize, "interpolation": how.interpolation}
    graph.add(Operator("resize", "resize", ("picture",), ("resized",), dims, attributes=how_to))
    square = {"m": crop, "n": crop}
    graph.add(Operator("crop", "center_crop", ("resized",), ("cropped",), square))
    graph.add(Operator("normalise", "normalise_pixels", ("cropped",), ("normalised",), square))
    return graph


def execute(graph: Graph, path: str | Path) -> dict[str, NDArray[Any]]:
    """All tensors of a graph of `graph_of` but the file's bytes.

    Raises:
        InputError: no whole JPEG.
    """
    held: dict[str, NDArray[Any]] = {}
    for operator in graph:
        given = held.get(operator.inputs[0])
        found = decode_jpeg(path) if given is None else evaluate(operator, given)
        (name,) = operator.outputs
        if found.shape != graph.tensors[name].shape:
            raise ValueError(f"tensor '{name}': {found.shape} for {graph.tensors[name].shape}")
        held[name] = found
    return held


def evaluate(operator: Operator, given: NDArray[Any]) -> NDArray[Any]:
    """The output of an operator behind the decoder."""
    match operator.kind:
        case "resize":
            return images.resize(given, operator.attributes["short"], operator.attributes["interpolation"])
        case "center_crop":
            return images.center_crop(given, operator["m"])
        case "normalise_pixels":
            return images.normalise(given)
    raise ValueError(f"no meaning of operators of kind '{operator.kind}' here")
