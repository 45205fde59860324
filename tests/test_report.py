"""The report's files appear whole, in the right units, and its page survives hostile names."""
import html.parser
import struct
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import report
import utils
from hyperparams import HyperParams

HP = HyperParams()
NASTY = """a"b'<script>alert(1)</script>&amp; ü"""


def png_size(path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
    return struct.unpack(">II", data[16:24])


def utterance(path, dtw=True, title="a $1 title $") -> None:
    """40 frames out of 60, the target 50 frames long."""
    rng = np.random.default_rng(0)
    panels = {name: rng.random((frames, HP.n_linear)) for name, frames in (("source", 60), ("out", 40), ("target", 50))}
    positions = np.linspace(0.0, 59.0, 40)
    alignment = np.exp(-(np.arange(60) - positions[:, None]) ** 2)
    report.plot_utterance(path, panels, alignment, positions, np.linspace(0.0, 59.0, 50) if dtw else None, HP, title)


@pytest.fixture
def figures(monkeypatch) -> list:
    """Catches the figures instead of writing them."""
    caught = []
    monkeypatch.setattr(report, "save_figure", lambda figure, path: caught.append(figure))
    return caught


class Page(html.parser.HTMLParser):
    """Collects tags with their attributes, and the cells of each table row as text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.rows, self.in_cell = [], [], False
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("th", "td")

    def handle_data(self, data):
        if self.in_cell:
            self.rows[-1][-1] += data

    def all(self, name) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == name]


def test_pictures_are_whole_and_nothing_else_remains(tmp_path):
    utterance(tmp_path / "u.png")
    report.plot_curves(tmp_path / "c.png", {"$a$": (np.arange(1, 50), 1 / np.arange(1, 50))}, "Loss $", "L1 ^$ _$")
    report.plot_durations(tmp_path / "d.png", {"rms": [1.0, 2.0, 2.5], "slt": [1.5]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.png", "d.png", "u.png"]
    for path in tmp_path.iterdir():
        width, height = png_size(path)
        assert 600 <= width <= 2000 and 300 <= height <= 2000


def test_empty_curves_and_speakers_still_give_a_picture(tmp_path):
    report.plot_curves(tmp_path / "c.png", {}, "Loss", "L1")
    report.plot_durations(tmp_path / "d.png", {"rms": []})
    assert png_size(tmp_path / "c.png") and png_size(tmp_path / "d.png")


def test_panels_share_scales_in_seconds_and_hertz(figures):
    utterance("unused.png")
    *panels, bottom, _ = figures[0].axes[:5]
    second = HP.hop_length / HP.sample_rate
    for axes, frames in zip(panels, (60, 40, 50), strict=True):
        image = axes.images[0]
        assert axes.get_xlim() == pytest.approx((0.0, 60 * second))
        assert axes.get_ylim() == pytest.approx((0.0, HP.sample_rate / 2))
        assert image.get_extent() == pytest.approx((0.0, frames * second, 0.0, HP.sample_rate / 2))
        assert image.get_clim() == (0.0, 1.0)
    assert bottom.images[0].get_extent() == pytest.approx((0.0, 40 * second, 0.0, 60 * second))
    assert bottom.images[0].get_array().shape == (60, 40)


def test_lines_lie_in_the_middle_of_their_frames(figures):
    utterance("unused.png")
    utterance("unused.png", dtw=False)
    drawn = [[line for line in figure.axes[3].lines if len(line.get_xdata())] for figure in figures]
    assert [len(lines) for lines in drawn] == [2, 1]
    second = HP.hop_length / HP.sample_rate
    for line, frames in zip(drawn[0], (40, 50), strict=True):
        np.testing.assert_allclose(line.get_xdata(), (np.arange(frames) + 0.5) * second)
        np.testing.assert_allclose(line.get_ydata(), (np.linspace(0.0, 59.0, frames) + 0.5) * second)
    labels = [text.get_text() for text in figures[0].axes[3].get_legend().get_texts()]
    assert labels == ["attention", "expected position", "DTW path of the target"]


@pytest.mark.parametrize("values, scale", [([1.0, 11.0], "log"), ([1.0, 9.0], "linear"), ([0.0, 11.0], "linear"),
                                           ([np.nan, 1.0, 11.0], "log"), ([-1.0, 20.0], "linear")])
def test_curves_are_logarithmic_only_where_it_helps(figures, values, scale):
    report.plot_curves("unused.png", {"training": (np.arange(len(values)), np.array(values))}, "Loss", "L1")
    assert figures[0].axes[0].get_yscale() == scale


def test_a_curve_has_a_gap_where_nothing_was_logged(figures):
    steps, values = [20, 40, 60, 80, 900, 920, 940], np.arange(7.0)
    report.plot_curves("unused.png", {"training": (steps, values)}, "Loss", "L1")
    line = figures[0].axes[0].lines[0]
    np.testing.assert_array_equal(line.get_xdata(), [*steps[:4], np.nan, *steps[4:]])
    np.testing.assert_array_equal(line.get_ydata(), [*values[:4], np.nan, *values[4:]])


def test_durations_use_common_bins_and_count_all(figures):
    report.plot_durations("unused.png", {"rms": [1.0, 2.0, 3.0], "slt": [2.0, 4.0]})
    texts = [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]
    assert texts == ["rms: 3 recordings, 0.1 min", "slt: 2 recordings, 0.1 min"]
    left, right = zip(*(patch.get_path().get_extents().intervalx for patch in figures[0].axes[0].patches))
    assert left == pytest.approx((1.0, 1.0)) and right == pytest.approx((4.0, 4.0))


def test_threads_draw_the_same_pictures(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda index: utterance(tmp_path / f"{index}.png"), range(3)))
    utterance(tmp_path / "alone.png")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_failure_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "x.html"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), utils.replacing(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == tmp_path
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.iterdir()] == ["x.html"] and path.read_text() == "old"


@pytest.mark.parametrize("value, text", [(1.23456, "1.23"), (99.97, "100"), (1234.5, "1234"), (0.0, "0.00"), (7, "7"),
                                         (True, "yes"), (np.bool_(False), "no"), (None, "\u2013"),
                                         (np.float32(0.05), "0.0500"), ("text", "text"), ([5.0, 6.25], "5.00, 6.25"),
                                         (float("nan"), "nan")])
def test_values_are_shown_for_people(value, text):
    assert report.shown(value) == text


def test_page_shows_every_row_and_measure(tmp_path):
    rows = [{"id": f"demo_{n}", "audio": {"source": "s.wav", "converted": "c.wav"}, "picture": "p.png",
             "measures": {"MCD (dB)": 5.0 + n, "stopped": n == 1, "F0 error (Hz)": None}} for n in range(2)]
    rows[0]["audio"]["target"] = "t.wav"
    rows[1]["measures"]["late"] = float("nan")
    report.write_page(tmp_path / "new", "Results", rows, {"MCD (dB)": 5.4321, "preset": "demo"})
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["index.html"]
    page = Page(tmp_path / "new" / "index.html")
    assert page.rows[:2] == [["MCD (dB)", "5.43"], ["preset", "demo"]]
    assert page.rows[2] == ["utterance", "source", "converted", "target", *rows[1]["measures"]]
    assert page.rows[3] == ["demo_0", "", "", "", "5.00", "no", "\u2013", "\u2013"]
    assert page.rows[5] == ["demo_1", "", "", "\u2013", "6.00", "yes", "\u2013", "nan"]       # no target
    values = [attributes["data-value"] for _, attributes in page.tags if "data-value" in attributes]
    assert values == ["demo_0", "5.0", "0.0", "", "", "demo_1", "6.0", "1.0", "", ""]
    assert [audio["preload"] for audio in page.all("audio")] == ["none"] * 5
    assert [image["loading"] for image in page.all("img")] == ["lazy"] * 2
    assert sum("aria-sort" in attributes for attributes in page.all("th")) == len(page.all("button")) == 5


def test_page_loads_nothing_from_elsewhere(tmp_path):
    report.write_page(tmp_path, "Results", [{"id": "a", "audio": {"source": "s.wav"}, "picture": "p.png",
                                             "measures": {"MCD (dB)": 5.0}}], {"preset": "demo"})
    text = (tmp_path / "index.html").read_text(encoding="utf-8").lower()
    assert "<style>" in text and "<script>" in text
    for elsewhere in ("://", "url(//", '="//', "@import"):
        assert elsewhere not in text


def test_page_escapes_names_and_links_to_files_that_exist(tmp_path):
    for name in ("a \"b'c ü&#?%41.wav", "p 1.png"):
        (tmp_path / "so und").mkdir(exist_ok=True)
        (tmp_path / "so und" / name).write_bytes(b"")
    row = {"id": NASTY, "audio": {NASTY: "so und/a \"b'c ü&#?%41.wav"}, "picture": "so und/p 1.png",
           "measures": {NASTY: 1.0}}
    report.write_page(tmp_path, NASTY, [row], {NASTY: NASTY, "list": [NASTY]})
    page = Page(tmp_path / "index.html")
    assert len(page.all("script")) == 1 and "src" not in page.all("script")[0]
    assert page.rows[:4] == [[NASTY, NASTY], ["list", NASTY], ["utterance", NASTY, NASTY], [NASTY, "", "1.00"]]
    assert page.all("audio")[0]["aria-label"] == f"{NASTY}, {NASTY}"
    links = [attributes[name] for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    assert len(links) == 2
    for link in links:
        assert urllib.parse.urlsplit(link)[:2] == ("", "") and not link.startswith("/")
        assert (tmp_path / urllib.parse.unquote(urllib.parse.urlsplit(link).path)).is_file()
