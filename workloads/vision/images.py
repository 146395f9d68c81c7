"""Images as classifiers take them: resized, cropped, normalised, as torchvision's presets do it.

``ImageClassification`` of torchvision 0.29.2 (``transforms/_presets.py``): the short side to 256 (Swin-T:
232, bicubic), antialiased; centre crop 224; divided by 255; mean and standard deviation of ImageNet. Resizing
is Pillow's, on bytes, which is what torchvision does with PIL images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neardata.arch.errors import InputError, nearest
from neardata.workloads.vision.jpeg import JpegWork, decode_jpeg, jpeg_work

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32)


@dataclass(frozen=True)
class Preset:
    """How a model's images are prepared."""

    resize: int
    """Pixels of the short side."""
    crop: int
    interpolation: Literal["bilinear", "bicubic"]
    source: str


_TORCHVISION = "torchvision 0.29.2, weights' transforms (transforms/_presets.py)"
PRESETS = {
    "mobilenet_v3_small": Preset(256, 224, "bilinear", _TORCHVISION),
    "squeezenet1_1": Preset(256, 224, "bilinear", _TORCHVISION),
    "swin_t": Preset(232, 224, "bicubic", _TORCHVISION),
}
"""By torchvision's name of the model."""


@dataclass(frozen=True)
class ImageWork:
    """What preparing one image takes, after its JPEG is decoded."""

    decode: JpegWork
    resized: tuple[int, int]
    """Height and width."""
    horizontal_taps: int
    """Multiply-accumulates of the horizontal pass, three channels."""
    vertical_taps: int
    cropped_pixels: int
    output_bytes: int
    """float32, three channels."""


def preset(name: str) -> Preset:
    """A preset by the model's name.

    Raises:
        InputError: there is none of the name.
    """
    if name not in PRESETS:
        raise InputError(f"unknown model '{name}'{nearest(name, PRESETS)}", key="model")
    return PRESETS[name]


def resized_shape(height: int, width: int, short: int) -> tuple[int, int]:
    """The short side becomes ``short``, the other int(short * long / short side).

    >>> resized_shape(375, 500, 256)
    (256, 341)
    """
    if height <= width:
        return short, int(short * width / height)
    return int(short * height / width), short


def crop_corner(height: int, width: int, crop: int) -> tuple[int, int]:
    """Top and left of a centre crop: halves are rounded to the even number.

    >>> crop_corner(256, 341, 224), crop_corner(225, 227, 224)
    ((16, 58), (0, 2))
    """
    return round((height - crop) / 2.0), round((width - crop) / 2.0)


def resize(image: NDArray[np.uint8], short: int, interpolation: str) -> NDArray[np.uint8]:
    """(height, width, 3) with the short side resized, by Pillow: antialiased, in fixed point."""
    from PIL import Image

    height, width = resized_shape(image.shape[0], image.shape[1], short)
    if (height, width) == image.shape[:2]:
        return image
    how = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    return np.asarray(Image.fromarray(image).resize((width, height), how))


def center_crop(image: NDArray[np.uint8], crop: int) -> NDArray[np.uint8]:
    """(crop, crop, 3) of the middle; a smaller image is padded with zeros first.

    Padding: as torchvision, (crop - side) // 2 before and the rest behind.
    """
    height, width = image.shape[:2]
    add = [(max(crop - side, 0) // 2, (max(crop - side, 0) + 1) // 2) for side in (height, width)]
    if any(side for pair in add for side in pair):
        image = np.pad(image, (*add, (0, 0)))
    top, left = crop_corner(image.shape[0], image.shape[1], crop)
    return image[top : top + crop, left : left + crop]


def normalise(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(3, height, width): (x / 255 - mean) / deviation, each step in float32."""
    scaled = image.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(np.moveaxis((scaled - MEAN) / DEVIATION, 2, 0))


def prepare(path: str | Path, model: str) -> NDArray[np.float32]:
    """A JPEG file as a model takes it: (3, 224, 224) float32.

    Raises:
        InputError: an unknown model, a file that is no whole JPEG.

    >>> prepare(sample_paths()[0], "swin_t").shape
    (3, 224, 224)
    """
    how = preset(model)
    return normalise(center_crop(resize(decode_jpeg(path), how.resize, how.interpolation), how.crop))


def taps(length: int, to: int, interpolation: str) -> int:
    """Taps of one row (or column) resized: those of Pillow's antialiased filter that lie in the row.

    The filter's support is 1 (bilinear) or 2 (bicubic), times the scale where it shrinks; taps run from
    int(centre - support + 0.5) to int(centre + support + 0.5), within the row.

    >>> taps(4, 4, "bilinear"), taps(8, 4, "bilinear")
    (4, 14)
    """
    if length == to:
        return length
    scale = length / to
    support = {"bilinear": 1.0, "bicubic": 2.0}[interpolation] * max(scale, 1.0)
    centres = (np.arange(to) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), length)
    return int((last - first).sum())


def work_of(path: str | Path, model: str) -> ImageWork:
    """What preparing a JPEG file takes.

    Pillow resizes across first, in the rows that the other pass needs (all of them here), then down; a pass
    that keeps the size is left out.

    Raises:
        InputError: an unknown model, a file that is no whole baseline JPEG.
    """
    how, decoded = preset(model), jpeg_work(path)
    height, width = resized_shape(decoded.height, decoded.width, how.resize)
    across = down = 0
    if width != decoded.width:
        across = 3 * decoded.height * taps(decoded.width, width, how.interpolation)
    if height != decoded.height:
        down = 3 * width * taps(decoded.height, height, how.interpolation)
    return ImageWork(decoded, (height, width), across, down, how.crop**2, 3 * 4 * how.crop**2)


def sample_paths() -> list[Path]:
    """Small generated JPEG files that ship with the package: 4:2:0, 4:4:4 and grey."""
    return sorted((Path(__file__).parent / "data").glob("*.jpg"))


def generated_image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """(height, width, 3): colour gradients, discs with edges, and noise; the same for the same seed."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    image = np.stack([255 * x / width, 255 * y / height, 127 + 90 * np.sin(x / 9) * np.cos(y / 13)], axis=2)
    for _ in range(6):
        cy, cx = draw.uniform(0, height), draw.uniform(0, width)
        r = draw.uniform(0.05, 0.33) * min(height, width)
        image[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = draw.uniform(0, 255, 3)
    return np.clip(np.rint(image + draw.normal(0, 6, image.shape)), 0, 255).astype(np.uint8)
