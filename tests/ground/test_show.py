"The pictures and tables of every chapter: what is refused, what is deterministic, what may never be mixed."

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from unifashion.ground import show as s
from unifashion.ground import tables


def noise(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def test_as_bytes_takes_the_usual_kinds():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert s.as_bytes(grey).shape == (3, 4, 3)
    assert s.as_bytes(grey / 255).dtype == np.uint8 and (s.as_bytes(grey / 255) == s.as_bytes(grey)).all()
    assert set(np.unique(s.as_bytes(grey > 5))) == {0, 255}
    assert s.as_bytes(Image.fromarray(noise(5, 6))).shape == (5, 6, 3)
    assert s.as_bytes(np.zeros((2, 2, 4), np.uint8)).shape == (2, 2, 3)


@pytest.mark.parametrize(
    "wrong, word",
    [
        (np.zeros((2, 2, 2), np.uint8), "shape"),
        (np.full((2, 2), 9.0), r"\[9, 9\]"),
        (np.full((2, 2), np.nan), "float"),
        (np.zeros((2, 2), np.int32), "int32"),
        (np.zeros((0, 4), np.uint8), "shape"),
        (np.zeros(4), "shape"),
    ],
)
def test_as_bytes_refuses_with_a_reason(wrong, word):
    with pytest.raises(ValueError, match=word):
        s.as_bytes(wrong)


def test_grid_places_images_at_whole_pixels():
    images = [noise(12, 10, i) for i in range(5)]
    figure = s.grid(images, columns=3, scale=1, gap=10)
    pixels = np.asarray(Image.open(__import__("io").BytesIO(s.png_bytes(figure, colors=0))))
    assert pixels.shape[:2] == (10 + 2 * 22, 10 + 3 * 20)
    assert (pixels[10:22, 10:20] == images[0]).all() and (pixels[32:44, 30:40] == images[4]).all()


def test_grid_refuses_what_does_not_match():
    with pytest.raises(ValueError, match="no images"):
        s.grid([])
    with pytest.raises(ValueError, match="2 images but 1 titles"):
        s.grid([noise(4, 4)] * 2, titles=["one"])
    with pytest.raises(ValueError, match="2 images but 3 captions"):
        s.show([noise(4, 4)] * 2, ["a"] * 3)


def test_wrap_fits_and_loses_nothing():
    text = "a professionally worded description of an extraordinarilylongwordedgarment in $9 blue"
    lines = s.wrap_text(text, 90)
    assert max(s.text_width(line) for line in lines) <= 90
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert s.wrap_text("one\ntwo", 500) == ["one", "two"] and s.wrap_text("", 50) == [""]


def test_saved_pictures_are_deterministic_small_and_without_metadata(tmp_path):
    make = lambda: s.grid([noise(64, 48, i) for i in range(6)], titles=list("abcdef"), scale=1)
    a, b = s.save_figure(make(), tmp_path / "a.png"), s.save_figure(make(), tmp_path / "b.png")
    assert a.read_bytes() == b.read_bytes() and a.stat().st_size <= 80 * 1024
    assert Image.open(a).info == {} and sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_save_figure_shrinks_then_gives_up(tmp_path):
    figure = s.grid([noise(128, 96, i) for i in range(8)], scale=1)
    assert s.save_figure(figure, tmp_path / "tight.png", max_kib=40).stat().st_size <= 40 * 1024
    with pytest.raises(ValueError, match="over 1;"):
        s.save_figure(figure, tmp_path / "no.png", max_kib=1)
    with pytest.raises(ValueError, match="png"):
        s.save_figure(figure, tmp_path / "no.jpg")
    assert [p.name for p in tmp_path.iterdir()] == ["tight.png"]


def test_table_markdown():
    text = tables.table_markdown([{"a": 1.0, "b": None}, {"a": float("nan"), "b": "x|y\nz"}]).splitlines()
    assert text == ["| a | b |", "| --: | --- |", "| 1.00 |  |", "|  | x\\|y z |"]


def test_reported_and_measured_never_share_a_line():
    rows = [
        dict(row="x", metric="m", value=41.0, low=40.0, high=42.0, reported=87.38, status="not comparable"),
        dict(row="y", metric="m", reported=80.0, status="not run"),
        dict(row="z", metric="m", status="not run"),
    ]
    lines = tables.beside_reported(rows, {"m": "M"}, here="mini", digits=1).splitlines()[2:]
    assert lines == [
        "| x | *paper* | *87.4* |  |",
        "| x | mini | 41.0<br><sub>40.0 – 42.0</sub> | not comparable |",
        "| y | *paper* | *80.0* | not run |",
        "| z | mini |  | not run |",
    ]


def test_interval_bars_keeps_rows_without_a_value():
    figure = tables.interval_bars(
        [dict(row="a", value=50.0, low=45.0, high=55.0), dict(row="b"), dict(row="c", reported=70.0)]
    )
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]
    assert [t.get_text().strip() for t in figure.axes[0].texts] == ["not run"]


def test_torch_and_pyplot_stay_out():
    code = (
        "import sys, unifashion.ground.show; bad = {'torch', 'transformers', 'diffusers', "
        "'matplotlib.pyplot'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
