"""The results page shows all measures side by side and every sentence, and it escapes hostile names."""
import html.parser
import urllib.parse

from evaluation import page

import numpy as np
import pytest

NASTY = """a"b'<script>alert(1)</script>&amp; ü"""


class Page(html.parser.HTMLParser):
    """Collects tags with their attributes, and the cells of each table row as text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.rows, self.in_cell, self.hidden = [], [], False, False
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.hidden = tag == "section" and "hidden" in dict(attributes) or self.hidden
        if tag == "tr":
            self.rows += [] if self.hidden else [[]]
        elif tag in ("th", "td") and not self.hidden:
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("th", "td")
        self.hidden = self.hidden and tag != "section"

    def handle_data(self, data):
        if self.in_cell:
            self.rows[-1][-1] += data

    def all(self, name) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.mark.parametrize("value, text", [(1.23456, "1.23"), (99.97, "100"), (1234.5, "1234"), (0.0, "0.00"), (7, "7"),
                                         (True, "yes"), (np.bool_(False), "no"), (None, "\u2013"),
                                         (np.float32(0.05), "0.0500"), ("text", "text"),
                                         (float("nan"), "\u2013"), (np.float32("inf"), "\u2013")])
def test_values_are_formatted_for_readers(value, text):
    assert page.format_value(value) == text


def test_page_shows_every_row_and_measure(tmp_path):
    rows = [{"id": f"demo_{n}", "audio": {"source": "s.wav", "converted": "c.wav"}, "picture": "p.png",
             "measures": {"MCD (dB)": 5.0 + n, "stopped": n == 1, "F0 error (Hz)": None}} for n in range(2)]
    rows[0]["audio"]["target"] = "t.wav"
    rows[1]["measures"]["late"] = float("nan")
    page.write_page(tmp_path / "new", "Results", rows, {"MCD (dB)": 5.4321, "preset": "demo"})
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["index.html"]
    parsed = Page(tmp_path / "new" / "index.html")
    assert parsed.rows[:2] == [["MCD (dB)", "5.43"], ["preset", "demo"]]
    assert parsed.rows[2] == ["utterance", "converted", "source", "target", *rows[1]["measures"]]
    assert parsed.rows[3] == ["demo_0", "", "", "", "5.00", "no", "\u2013", "\u2013"]
    assert parsed.rows[5] == ["demo_1", "", "", "\u2013", "6.00", "yes", "\u2013", "\u2013"]       # no target
    values = [attributes["data-value"] for _, attributes in parsed.tags if "data-value" in attributes]
    assert values == ["demo_0", "5.0", "0.0", "", "", "demo_1", "6.0", "1.0", "", ""]
    assert [audio["preload"] for audio in parsed.all("audio")] == ["none"] * 5
    assert [image["loading"] for image in parsed.all("img")] == ["lazy"] * 2
    assert sum("aria-sort" in attributes for attributes in parsed.all("th")) == len(parsed.all("button")) == 5


def test_page_loads_no_external_resources(tmp_path):
    page.write_page(tmp_path, "Results", [{"id": "a", "audio": {"source": "s.wav"}, "picture": "p.png",
                                           "measures": {"MCD (dB)": 5.0}}], {"preset": "demo"})
    text = (tmp_path / "index.html").read_text(encoding="utf-8").lower()
    assert "<style>" in text and "<script>" in text
    for elsewhere in ("://", "url(//", '="//', "@import"):
        assert elsewhere not in text


def test_page_escapes_names_and_links_to_existing_files(tmp_path):
    for name in ("a \"b'c ü&#?%41.wav", "p 1.png"):
        (tmp_path / "so und").mkdir(exist_ok=True)
        (tmp_path / "so und" / name).write_bytes(b"")
    row = {"id": NASTY, "audio": {NASTY: "so und/a \"b'c ü&#?%41.wav"}, "picture": "so und/p 1.png",
           "measures": {NASTY: 1.0}}
    page.write_page(tmp_path, NASTY, [row], {NASTY: NASTY})
    parsed = Page(tmp_path / "index.html")
    assert len(parsed.all("script")) == 1 and "src" not in parsed.all("script")[0]
    assert parsed.rows[:3] == [[NASTY, NASTY], ["utterance", NASTY, NASTY], [NASTY, "", "1.00"]]
    assert parsed.all("audio")[0]["aria-label"] == f"{NASTY}, {NASTY}"
    links = [attributes[name] for _, attributes in parsed.tags for name in ("src", "href") if name in attributes]
    assert len(links) == 2
    for link in links:
        assert urllib.parse.urlsplit(link)[:2] == ("", "") and not link.startswith("/")
        assert (tmp_path / urllib.parse.unquote(urllib.parse.urlsplit(link).path)).is_file()


SUMMARY = {"utterances": 2, "content retrieval among the held-out": "2 of 2", "MCD gap closed": 0.5, "MCD dB": 6.0,
           "MCD dB of the source": 9.0, "MCD dB of the copy": 3.0, "F0 RMSE Hz": 12.5,
           "F0 RMSE Hz of the target": 2.5, "reference": "none"}
BESIDE = [["", "converted", "source", "copy", "target"],
          ["MCD dB", 6.0, 9.0, 3.0, None],
          ["MCD gap closed", 0.5, None, None, None],
          ["content retrieval among the held-out", "2 of 2", None, None, None],
          ["F0 RMSE Hz", 12.5, None, None, 2.5]]


def test_side_by_side_arranges_the_summary_in_columns():
    columns, rows, facts = page.side_by_side(SUMMARY)
    assert [["", *columns], *([name, *values] for name, values in rows.items())] == BESIDE
    assert facts == {"utterances": 2, "reference": "none"}


def test_page_explains_each_measure_and_which_direction_is_better(tmp_path):
    page.write_page(tmp_path, "Results", [], SUMMARY)
    parsed = Page(tmp_path / "index.html")
    assert parsed.rows[0] == ["measure", *BESIDE[0][1:], "what it is"]
    for cells, (name, *values) in zip(parsed.rows[1:], BESIDE[1:]):
        assert cells[:-1] == [name, *("" if value is None else page.format_value(value) for value in values)]
        assert "better" in cells[-1]
    assert parsed.rows[len(BESIDE):][:2] == [["utterances", "2"], ["reference", "none"]]
    assert all("better" in about or "best" in about for about in page.MEASURES.values())


def test_terminal_shows_the_same_summary_in_aligned_columns(capsys):
    page.print_summary(SUMMARY)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["utterances", "2"] and len(lines) == 2 + len(BESIDE)
    assert lines[2].split() == " ".join(BESIDE[0]).split()
    for column, end in (("converted", "12.5"), ("target", " 2.50")):  # numbers end below the ends of names
        assert lines[-1].index(end) + len(end) == lines[2].index(column) + len(column)


@pytest.mark.parametrize("summary, explains", [({"converted": 1}, True), ({"MCD dB": 3.6}, False)])
def test_page_of_own_recordings_says_what_is_in_its_columns(tmp_path, summary, explains):
    page.write_page(tmp_path, "mine", [], summary)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert f"<p {'' if explains else 'hidden'}>Source: your recording" in text
