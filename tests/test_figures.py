"""The report's figures are complete and have the right units."""
import struct
import types
from concurrent.futures import ThreadPoolExecutor

from common import storage
from evaluation import figures
from hyperparams import HyperParams

import numpy as np
import pytest

HP = HyperParams()


def png_size(path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
    return struct.unpack(">II", data[16:24])


def utterance(path, dtw=True, title="a $1 title $", hp=HP) -> None:
    """Plot an utterance of 40 frames, converted from 60, with a target of 50 frames."""
    rng = np.random.default_rng(0)
    heard, written, target = (rng.random((frames, HP.n_linear)) for frames in (60, 40, 50))
    source = types.SimpleNamespace(linear=heard.astype(np.float16), hertz=np.repeat([0.0, 100.0, 0.0], 20))
    positions = np.linspace(0.0, 59.0, 40)
    output = types.SimpleNamespace(linear=written, pitch=np.stack([np.full(40, 1.0), np.arange(40) < 30], axis=1),
                                   positions=positions, weights=np.exp(-(np.arange(60) - positions[:, None]) ** 2))
    dtw_path = np.linspace(0.0, 59.0, 50) if dtw else None
    figures.plot_conversion(path, source, output, target, dtw_path, hp, title)


@pytest.fixture
def drawn_figures(monkeypatch) -> list:
    """Catches the figures instead of writing them."""
    caught = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: caught.append(figure))
    return caught


def test_figures_are_complete_and_no_other_files_remain(tmp_path):
    utterance(tmp_path / "u.png")
    figures.plot_curves(tmp_path / "c.png", {"$a$": (np.arange(1, 50), 1 / np.arange(1, 50))}, "Loss $", "L1 ^$ _$")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.png", "u.png"]
    for path in tmp_path.iterdir():
        width, height = png_size(path)
        assert 600 <= width <= 2000 and 300 <= height <= 2000


def test_empty_curves_are_left_out(tmp_path):
    figures.plot_curves(tmp_path / "c.png", {"a": ([], []), "b": ([1, 2], [0.5, 0.4])}, "Loss", "L1")
    figures.plot_curves(tmp_path / "none.png", {"a": ([], [])}, "Loss", "L1")
    assert png_size(tmp_path / "c.png") and not (tmp_path / "none.png").exists()


def test_panels_share_scales_in_seconds_and_hertz(drawn_figures):
    utterance("unused.png")
    *panels, _, bottom, _ = drawn_figures[0].axes
    second = HP.hop_length / HP.sample_rate
    for axes, frames in zip(panels, (60, 40, 50), strict=True):
        image = axes.images[0]
        assert axes.get_xlim() == pytest.approx((0.0, 60 * second))
        assert axes.get_ylim() == pytest.approx((0.0, HP.sample_rate / 2))
        assert image.get_extent() == pytest.approx((0.0, frames * second, 0.0, HP.sample_rate / 2))
        assert image.get_clim() == (0.0, 1.0)
    assert bottom.images[0].get_extent() == pytest.approx((0.0, 40 * second, 0.0, 60 * second))
    assert bottom.images[0].get_array().shape == (60, 40)


def test_a_straight_alignment_says_why_it_is_straight(drawn_figures):
    for pace in (1.0, 0.0):
        utterance("unused.png", hp=HP.replace(pace=pace))
    titles = [figure.axes[4].get_title("left") for figure in drawn_figures]
    assert titles == ["alignment", "alignment, at the source's own timing"]


def test_lines_lie_in_the_middle_of_their_frames(drawn_figures):
    utterance("unused.png")
    utterance("unused.png", dtw=False)
    drawn = [[line for line in figure.axes[4].lines if len(line.get_xdata())] for figure in drawn_figures]
    assert [len(lines) for lines in drawn] == [2, 1]
    second = HP.hop_length / HP.sample_rate
    for line, frames in zip(drawn[0], (40, 50), strict=True):
        np.testing.assert_allclose(line.get_xdata(), (np.arange(frames) + 0.5) * second)
        np.testing.assert_allclose(line.get_ydata(), (np.linspace(0.0, 59.0, frames) + 0.5) * second)
    labels = [text.get_text() for text in drawn_figures[0].axes[4].get_legend().get_texts()]
    assert labels == ["attention", "expected position", "DTW path of the target"]


def test_both_pitches_are_drawn_in_hertz_with_gaps_where_unvoiced(drawn_figures):
    utterance("unused.png")
    axes, second = drawn_figures[0].axes[3], HP.hop_length / HP.sample_rate
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["source", "converted"]
    for line, expected in zip(axes.lines, (np.repeat([np.nan, 100.0, np.nan], 20),
                                           np.repeat([2.0 * HP.pitch_middle, np.nan], [30, 10])), strict=True):
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-6)
        np.testing.assert_allclose(line.get_xdata(), second * np.arange(len(expected)))


@pytest.mark.parametrize("values, scale", [([1.0, 11.0], "log"), ([1.0, 9.0], "linear"), ([0.0, 11.0], "linear"),
                                           ([np.nan, 1.0, 11.0], "log"), ([-1.0, 20.0], "linear")])
def test_curves_are_logarithmic_only_for_wide_positive_ranges(drawn_figures, values, scale):
    figures.plot_curves("unused.png", {"training": (np.arange(len(values)), np.array(values))}, "Loss", "L1")
    assert drawn_figures[0].axes[0].get_yscale() == scale


@pytest.mark.parametrize("steps, before", [
    ([20, 40, 60, 80, 900, 920, 940], 4), ([400, 800, 1900], 2), ([400, 800, 1000, 1200, 1600], 5), ([400], 1)])
def test_a_curve_has_a_gap_where_nothing_was_logged(drawn_figures, steps, before):
    """The validation of another stage is no point of the same line."""
    values = np.arange(float(len(steps)))
    figures.plot_curves("unused.png", {"training": (steps, values)}, "Loss", "L1")
    line, gap = drawn_figures[0].axes[0].lines[0], [np.nan] * (before < len(steps))
    np.testing.assert_array_equal(line.get_xdata(), [*steps[:before], *gap, *steps[before:]])
    np.testing.assert_array_equal(line.get_ydata(), [*values[:before], *gap, *values[before:]])


def test_figures_drawn_in_threads_are_identical(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda index: utterance(tmp_path / f"{index}.png"), range(3)))
    utterance(tmp_path / "alone.png")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "x.html"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), storage.replacing(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.iterdir()] == ["x.html"] and path.read_text() == "old"
