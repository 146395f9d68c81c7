"""JPEG counts against a decoder of every coefficient; pictures as torchvision's presets prepare them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from naive import jpeg as naive
from neardata.arch.errors import InputError
from neardata.workloads.vision import images
from neardata.workloads.vision.graph import execute, graph_of
from neardata.workloads.vision.images import PRESETS, generated_image, prepare, sample_paths
from neardata.workloads.vision.jpeg import JpegWork, decode_jpeg, jpeg_work


def save(path: Path, image: np.ndarray, **options: object) -> Path:
    Image.fromarray(image).save(path, format="JPEG", **options)
    return path


def check(path: Path) -> JpegWork:
    """The counts are those of the coefficients."""
    work, d = jpeg_work(path), naive.decode(path.read_bytes())
    assert (work.width, work.height, work.restart_interval) == (d.width, d.height, d.interval)
    assert work.bits_of_mcu.tolist() == d.mcu_bits and work.mcus == len(d.mcu_bits)
    for component in work.components:
        blocks = np.array(d.blocks[component.identifier])
        assert component.blocks == len(blocks)
        assert component.nonzero == (blocks != 0).sum()
        assert component.nonzero_ac == (blocks[:, 1:] != 0).sum()
        assert component.dc_sum == blocks[:, 0].sum()
        assert component.bits == d.bits[component.identifier]
    assert work.bits == work.bits_of_mcu.sum()
    assert work.unread_bytes == 0 and work.bits <= 8 * work.scan_bytes
    return work


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 99),
    st.sampled_from([1, 30, 75, 95, 100]),
    st.sampled_from([0, 1, 2, "grey", "cmyk"]),
    st.sampled_from([0, 1, 3]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_the_coefficients(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int],
    seed: int,
    quality: int,
    sampling: int | str,
    restart: int,
    optimise: bool,
) -> None:
    path = tmp_path_factory.mktemp("jpeg") / "a.jpg"
    image = Image.fromarray(generated_image(*shape, seed))
    options: dict[str, object] = {"quality": quality, "restart_marker_blocks": restart, "optimize": optimise}
    if isinstance(sampling, str):
        image = image.convert({"grey": "L", "cmyk": "CMYK"}[sampling])
    else:
        options["subsampling"] = sampling
    image.save(path, **options)
    check(path)


def test_runs_of_sixteen_zeros_up_to_the_last_coefficient(tmp_path: Path) -> None:
    """Blocks of the highest frequency alone: three runs of 16 zeros, and no end-of-block code."""
    wave = np.cos((2 * np.arange(24) + 1) * 7 * np.pi / 16)
    grey = np.rint(128 + 90 * wave[:, None] * wave[None, :]).astype(np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(grey).save(path, quality=70)
    assert check(path).coefficients == 9
    assert np.abs(naive.grey_picture(naive.decode(path.read_bytes())) - decode_jpeg(path)[:, :, 0]).max() <= 1


def test_samples_are_generated_and_counted() -> None:
    paths = sample_paths()
    assert [path.name for path in paths] == ["a_420.jpg", "b_444.jpg", "c_grey.jpg"]
    assert sum(path.stat().st_size for path in paths) < 20_000
    for path in paths:
        check(path)
    first = decode_jpeg(paths[0]).astype(int) - generated_image(120, 160)
    assert np.abs(first).mean() < 12  # lossy, and the same picture
    assert jpeg_work(paths[0]).blocks == 80 * 6 and jpeg_work(paths[1]).blocks == 108 * 3


def test_coefficients_make_the_picture() -> None:
    grey = sample_paths()[2]
    picture = naive.grey_picture(naive.decode(grey.read_bytes()))
    difference = np.abs(picture - decode_jpeg(grey)[:, :, 0])
    assert difference.max() <= 1  # libjpeg's inverse transform is in fixed point


def test_a_file_cut_short_tells_where(tmp_path: Path) -> None:
    whole = sample_paths()[0].read_bytes()
    path = tmp_path / "a.jpg"
    for size in range(0, len(whole) - 2, 97):
        path.write_bytes(whole[:size])
        for read in (jpeg_work, decode_jpeg):
            with pytest.raises(InputError) as raised:
                read(path)
            assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"the scan ends early, in MCU \d\d of 80"):
        jpeg_work(path)


@given(st.integers(2, 10**6), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_a_changed_byte_gives_counts_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    held = bytearray(sample_paths()[2].read_bytes())
    held[place % len(held)] = value
    path = tmp_path_factory.mktemp("damage") / "a.jpg"
    path.write_bytes(held)
    for read in (jpeg_work, decode_jpeg):
        try:
            read(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def test_bytes_behind_the_last_mcu_are_told(tmp_path: Path) -> None:
    whole = sample_paths()[0].read_bytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[:-2] + b"\x12\x34" + whole[-2:])
    assert jpeg_work(path).unread_bytes == 2


def test_kinds_that_are_not_decoded(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", generated_image(30, 30), progressive=True)
    with pytest.raises(InputError, match=r"a\.jpg: a progressive JPEG file; baseline and extended"):
        jpeg_work(path)
    assert decode_jpeg(path).shape == (30, 30, 3)
    Image.fromarray(generated_image(8, 8)).save(tmp_path / "b.png")
    for read in (jpeg_work, decode_jpeg):
        with pytest.raises(InputError, match="no JPEG file"):
            read(tmp_path / "b.png")
        with pytest.raises(InputError, match="No such file"):
            read(tmp_path / "c.jpg")


def test_prepared_images(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", generated_image(375, 500), quality=95)
    image = decode_jpeg(path)
    for model, how in PRESETS.items():
        found = prepare(path, model)
        assert found.shape == (3, 224, 224) and found.dtype == np.float32
        # as the definition in float64: rounded to bytes after each pass, so at most one step of a byte away
        height, width = images.resized_shape(375, 500, how.resize)
        plain = resized(resized(image, width, 1, how.interpolation), height, 0, how.interpolation)
        top, left = images.crop_corner(height, width, 224)
        plain = plain[top : top + 224, left : left + 224]
        values = found * images.DEVIATION[:, None, None] + images.MEAN[:, None, None]
        assert np.abs(np.moveaxis(values, 0, 2) * 255 - plain).max() < 1.01
    with pytest.raises(InputError, match="model: unknown model 'swin_tt'; did you mean swin_t"):
        prepare(path, "swin_tt")


def weights(length: int, to: int, kind: str) -> list[tuple[int, np.ndarray]]:
    """Of each output: first input and weights, as Pillow defines its antialiased filters."""
    scale = length / to
    stretch = max(scale, 1.0)
    support = {"bilinear": 1.0, "bicubic": 2.0}[kind] * stretch
    rows = []
    for i in range(to):
        centre = (i + 0.5) * scale
        first, last = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), length)
        x = np.abs((np.arange(first, last) + 0.5 - centre) / stretch)
        if kind == "bilinear":
            w = np.maximum(1 - x, 0)
        else:
            a = -0.5
            near = ((a + 2) * x - (a + 3)) * x * x + 1
            far = (((x - 5) * x + 8) * x - 4) * a
            w = np.where(x < 1, near, np.where(x < 2, far, 0))
        rows.append((first, w / w.sum()))
    return rows


def resized(image: np.ndarray, to: int, axis: int, kind: str) -> np.ndarray:
    moved = np.moveaxis(image.astype(np.float64), axis, 0)
    parts = [
        np.tensordot(w, moved[first : first + len(w)], axes=1)
        for first, w in weights(moved.shape[0], to, kind)
    ]
    return np.moveaxis(np.clip(np.rint(np.stack(parts)), 0, 255), 0, axis)


@pytest.mark.parametrize(("length", "to"), [(500, 341), (375, 256), (100, 256), (7, 7), (1, 5), (3, 1)])
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_taps_are_those_of_the_filter(length: int, to: int, kind: str) -> None:
    want = length if length == to else sum(len(w) for _, w in weights(length, to, kind))
    assert images.taps(length, to, kind) == want


def test_shapes_and_corners() -> None:
    assert images.resized_shape(375, 500, 256) == (256, 341)
    assert images.resized_shape(500, 375, 232) == (309, 232)
    assert images.crop_corner(256, 341, 224) == (16, 58)
    assert images.crop_corner(227, 229, 224) == (2, 2)
    small = images.center_crop(generated_image(10, 300), 224)
    assert small.shape == (224, 224, 3) and not small[:107].any() and small[107:117].any()
    black = images.normalise(np.zeros((1, 1, 3), dtype=np.uint8)).ravel()
    np.testing.assert_allclose(black, [-2.117904, -2.0357141, -1.8044444], rtol=1e-6)


def test_work_of_preparing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", generated_image(375, 500))
    found = images.work_of(path, "mobilenet_v3_small")
    assert found.resized == (256, 341) and found.output_bytes == 3 * 224 * 224 * 4
    assert found.horizontal_taps == 3 * 375 * images.taps(500, 341, "bilinear")
    assert found.vertical_taps == 3 * 341 * images.taps(375, 256, "bilinear")
    assert found.decode.mcus == 32 * 24


@pytest.mark.parametrize("model", PRESETS)
def test_the_graph_prepares_the_same(model: str) -> None:
    for path in sample_paths():
        graph = graph_of(path, model)
        np.testing.assert_array_equal(execute(graph, path)["normalised"], prepare(path, model))
        work = images.work_of(path, model)
        assert (
            graph["decode"]["bits"] == work.decode.bits
            and graph["resize"]["vertical_taps"] == work.vertical_taps
        )
        assert graph.tensors["normalised"].bytes == work.output_bytes
        assert graph.tensors["file"].bytes == path.stat().st_size
