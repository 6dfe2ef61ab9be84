"Image transforms as arrays: hand-computed sizes, invariants, parity with what they are defined by."

import numpy as np
import pytest
from PIL import Image

from unifashion.data.images import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    border_colour,
    clip_square,
    crop_to,
    fit_batch,
    fit_image,
    pad_to,
    read_batch,
    resize,
    target_pad,
    to_float,
    to_image,
)
from unifashion.data.samples import Catalogue, DataError

rng = np.random.default_rng(0)


def noise(h, w):
    return rng.integers(0, 256, (h, w, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "size, want",
    [
        ((128, 96), (128, 102)),
        ((100, 80), (100, 80)),
        ((120, 100), (120, 100)),
        ((50, 200), (160, 200)),
        ((300, 100), (300, 240)),
        ((64, 64), (64, 64)),
    ],
)
def test_target_pad_by_hand(size, want):
    image = noise(*size)
    padded = target_pad(image)
    assert padded.shape[:2] == want
    top, left = (want[0] - size[0]) // 2, (want[1] - size[1]) // 2
    assert (padded[top : top + size[0], left : left + size[1]] == image).all()
    assert padded.astype(int).sum() == image.astype(int).sum()


def test_clip_square_is_pillow_step_by_step():
    image = noise(90, 150)  # 1.67: padded to 120 x 150
    canvas = Image.new("RGB", (150, 120))
    canvas.paste(Image.fromarray(image), (0, 15))
    small = canvas.resize((280, 224), Image.Resampling.BICUBIC)  # short side 224
    assert (clip_square(image) == np.asarray(small.crop((28, 0, 252, 224)))).all()


@pytest.mark.parametrize("size", [(10, 200), (200, 10), (224, 224), (80, 60), (333, 257), (1, 1)])
@pytest.mark.parametrize("how", ["crop", "pad", "stretch", "clip"])
def test_every_way_gives_the_size(size, how):
    for height, width in ((32, 32),) if how == "clip" else ((32, 24), (24, 32), (32, 32)):
        image = fit_image(noise(*size), height, width, how)
        assert image.shape == (height, width, 3) and image.dtype == np.uint8


def test_crop_and_pad_undo_each_other():
    image = noise(64, 48)
    assert (crop_to(pad_to(image, 1, 1), 4, 3) == image).all() and (crop_to(image, 4, 3) == image).all()
    assert (pad_to(image, 64, 48) == image).all()
    assert crop_to(image, 1, 2).shape == (24, 48, 3) and pad_to(image, 1, 2).shape == (64, 128, 3)


def test_padding_takes_the_border():
    image = np.full((10, 10, 3), (200, 100, 50), np.uint8)
    image[3:7, 3:7] = 0
    assert (border_colour(image) == (200, 100, 50)).all() and (pad_to(image, 2, 1)[0] == (200, 100, 50)).all()
    assert (pad_to(image, 2, 1, fill=7)[0] == 7).all()


def test_square_canvas_of_a_drawing_comes_back():
    drawing = noise(128, 96)
    assert (fit_image(pad_to(drawing, 1, 1), 128, 96, "crop") == drawing).all()


def test_resize_is_pillow_bicubic_with_antialiasing():
    image = noise(60, 40)
    assert (
        resize(image, 20, 15) == np.asarray(Image.fromarray(image).resize((15, 20), Image.Resampling.BICUBIC))
    ).all()
    checks = np.indices((64, 64)).sum(0)[..., None].repeat(3, 2) % 2 * 255
    assert resize(checks.astype(np.uint8), 16, 16).std() < 5  # one pixel in four would be black or white


def test_floats_and_back():
    images = noise(16, 12)[None].repeat(2, 0)
    for mean, std in ((CLIP_MEAN, CLIP_STD), (IMAGENET_MEAN, IMAGENET_STD)):
        values = to_float(images, mean, std)
        assert values.shape == (2, 3, 16, 12) and values.dtype == np.float32 and values.flags.c_contiguous
        want = (images[1, 4, 5, 2] / 255 - mean[2]) / std[2]
        assert (
            values[1, 2, 4, 5] == pytest.approx(want, abs=1e-5)
            and (to_image(values, mean, std) == images).all()
        )
    with pytest.raises(ValueError, match="uint8"):
        to_float(images / 255)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4)),
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        "picture",
        None,
    ],
)
def test_no_picture(bad):
    with pytest.raises(ValueError, match="uint8"):
        fit_image(bad, 8, 8, "stretch")


def test_wrong_settings():
    with pytest.raises(ValueError, match="'squash'"):
        fit_image(noise(4, 4), 8, 8, "squash")
    with pytest.raises(ValueError, match="squares"):
        fit_image(noise(4, 4), 8, 6, "clip")
    with pytest.raises(ValueError, match="empty batch"):
        fit_batch([], 8, 8)


class Store:
    fingerprint = "store"

    def read(self, key):
        if key == 5:
            raise DataError("missing", "store", 5)
        return np.full((8 + key, 8, 3), key, np.uint8)

    def label(self, key):
        return str(key)


def test_batches():
    names = [str(k) for k in range(6)]
    c = Catalogue("x", "test", dict(id=names, product=names, text=names), Store(), list(range(6)), fit="crop")
    one, two = read_batch(c, [3, 1, 4], 8, 6), read_batch(c, [3, 1, 4], 8, 6, threads=2)
    assert one.shape == (3, 8, 6, 3) and (one == two).all() and one[:, 0, 0, 0].tolist() == [3, 1, 4]
    assert np.allclose(fit_batch(one, 8, 6, "crop"), to_float(one))
    with pytest.raises(DataError, match="row 5"):
        read_batch(c, [0, 5], 8, 6, threads=2)
