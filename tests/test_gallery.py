"""The page to listen to: what it holds, and that it is refused when a sample was not measured."""
import json

from common.cli import UserError
from conftest import tone, write
from tools import gallery

import pytest

FIGURES = {"WER %": 12.5, "DistillMOS": 3.25, "DNSMOS": 3.0, "likeness": 0.85}


def samples(folder, **files: dict):
    """Write samples/stranger with recordings of these figures (name without .wav -> figures), and heard.json."""
    for name in files:
        write(folder / "samples" / "stranger" / f"{name}.wav", tone(200.0, seconds=0.3))
    (folder / "samples" / "stranger" / "heard.json").write_text(json.dumps({
        "sentences": 32, "mean": {**FIGURES, "WER %": 7.1}, "said": {"a & b": "words < all"},
        "files": {f"{name}.wav": figures for name, figures in files.items()}}), encoding="utf-8")
    return folder / "samples"


def test_page_plays_each_part_of_a_sentence_beside_its_figures(tmp_path):
    found = samples(tmp_path, **{"a & b.converted": {**FIGURES, "heard": "words <all>"},
                                 "a & b.2017": {**FIGURES, "WER %": 0.0}, "a & b.source": {"heard": "words"}})
    page = tmp_path / "docs" / "index.html"
    gallery.write_gallery(found, page)
    text = page.read_text(encoding="utf-8")
    parts = [text.index(f"../samples/stranger/a%20%26%20b.{part}.wav") for part in ("source", "converted", "2017")]
    assert parts == sorted(parts) and text.count("<audio") == 3
    assert "12.5 % of words wrong, D 3.2, O 3.0, likeness 0.85" in text and "0.0 % of words wrong" in text
    assert "32 sentences on average: 7.1 % of words wrong" in text
    assert "words &lt; all" in text and "words &lt;all&gt;" in text and "Nothing but a recording" in text
    assert "Ten minutes of both" not in text  # there are no samples of it
    before = page.read_bytes()
    gallery.write_gallery(found, page)
    assert page.read_bytes() == before


def test_sample_without_figures_is_refused(tmp_path):
    found = samples(tmp_path, **{"a.converted": FIGURES})
    write(found / "stranger" / "b.converted.wav", tone(200.0, seconds=0.3))
    with pytest.raises(UserError, match="heard.json has no figures of b.converted.wav: measure"):
        gallery.write_gallery(found, tmp_path / "index.html")
    with pytest.raises(UserError, match="holds no samples"):
        gallery.write_gallery(tmp_path / "nowhere", tmp_path / "index.html")
    assert not (tmp_path / "index.html").exists()


def test_page_of_the_repository_is_made_from_its_samples(tmp_path):
    page = gallery.ROOT / "docs" / "index.html"
    made = gallery.ROOT / "docs" / ".made.html"  # beside it, so that the links are the same
    try:
        gallery.write_gallery(gallery.ROOT / "samples", made)
        assert made.read_bytes() == page.read_bytes()
    finally:
        made.unlink(missing_ok=True)
