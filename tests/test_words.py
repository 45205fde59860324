"""Recognised words: rates computed by hand, transcripts from files, results, and a stand-in for the recogniser."""
import importlib.util
import json
import math
import pathlib
import sys
import types

import numpy as np
import pytest

import eval as eval_script
from evaluation import heldout, listening
from common.cli import UserError
from corpus.manifest import Pair
from conftest import tone
from hyperparams import HyperParams

DEMO = pathlib.Path(listening.__file__).resolve().parents[1] / "data" / "demo"
HP = HyperParams()
counting = pytest.mark.skipif(not all(map(importlib.util.find_spec, ("jiwer", "inflect"))),
                              reason="jiwer and inflect are missing: install requirements/test.txt")


@pytest.mark.parametrize("text, expected", [
    ("Author of the danger trail, Philip Steels, etc.", "author of the danger trail philip steels etc"),
    ("The judge\u2019s \u2018well-known\u2019 dog -- it's 'here'", "the judge's well known dog it's here"),
    ("caf\u00e9_x\u2026and/or", "caf\u00e9 x and or"), ("...", ""),
])
def test_case_punctuation_and_hyphens_do_not_count(text, expected):
    assert listening.normalise_text(text) == expected


@counting
@pytest.mark.parametrize("text, expected", [
    ("7 men, 1,234 dogs", "seven men one thousand two hundred thirty four dogs"), ("in 1842.", "in eighteen forty two"),
    ("the 21st", "the twenty first"), ("3.5 % of 40", "three point five percent of forty"), ("B2B", "b two b"),
    ("fifty per cent", "fifty percent")])
def test_numbers_are_written_out(text, expected):
    assert listening.normalise_text(text) == expected


@counting
@pytest.mark.parametrize("reference, heard, word_rate, character_rate", [
    ("The cat sat.", "the cat sat", 0.0, 0.0),
    ("the cat sat on the mat", "the cat sit on mat", 200 / 6, 500 / 22),  # "sat" and "the"; a letter and "the "
    ("a", "a b c", 200.0, 400.0),
    ("cat", "", 100.0, 100.0),
    ("two cats", "2 cats", 0.0, 0.0),
    ("", "noise", math.nan, math.nan)])
def test_error_rates_equal_values_computed_by_hand(reference, heard, word_rate, character_rate):
    rates = listening.error_rates([listening.compare(reference, heard)])
    assert rates == pytest.approx({"WER %": word_rate, "CER %": character_rate}, nan_ok=True)


@counting
def test_error_rates_weight_sentences_by_their_length():
    compared = [listening.compare("one two three four", "one two three four"), listening.compare("x", "y")]
    assert listening.error_rates(compared) == pytest.approx({"WER %": 20.0, "CER %": 100 / 19})


@counting
def test_words_are_aligned():
    assert listening.compare("a big cat sat here", "big hat sat here now").alignment == [
        ("delete", "a", ""), ("equal", "big", "big"), ("substitute", "cat", "hat"), ("equal", "sat here", "sat here"),
        ("insert", "", "now")]


WORDS = {"a0001": 'He said "no, sir" twice.', "a0002": "Second | third"}


@pytest.mark.parametrize("content, expected", [
    ('( a0001 "He said \\"no, sir\\" twice." )\n\n(a0002 "Second | third")\n', WORDS),
    ("\ufeffa0001|He said 2|He said two\r\na0002|Second\r\n", {"a0001": "He said two", "a0002": "Second"}),
    ("\n" + json.dumps(WORDS), WORDS)])
def test_transcripts_are_read_in_three_formats(tmp_path, content, expected):
    (tmp_path / "words").write_text(content, encoding="utf-8", newline="")
    assert listening.read_transcripts(tmp_path / "words") == expected


@pytest.mark.parametrize("content, message", [
    ("", "words: is empty; give"), ("a|b\nno text\n", 'words, line 2: holds no id with a text; write ( id "text" )'),
    ("a|\n", "words, line 1: holds no id"), ("|b\n", "words, line 1: holds no id"),
    ('( a "b )\n', "words, line 1: holds no id"), ("a|b\na|c\n", "words, line 2: 'a' is there for the second time"),
    ('{"a": "b",\n}', "words, line 2: is no JSON"), ('{"a": 1}', "words: must be one JSON object"),
    ('["a"]', "words: must be one JSON object"), ('{"a": " "}', "words, 'a': holds no id"),
    (b"\xff\xfe", "words is no text in UTF-8: save it")])
def test_error_for_a_bad_transcript_file_says_what_to_do(tmp_path, content, message):
    path = tmp_path / "words"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        listening.read_transcripts(path)
    assert str(error.value).startswith(str(tmp_path / message.split(",")[0].split(":")[0].split(" is")[0]))
    assert message in str(error.value)


def test_missing_transcript_file_is_reported(tmp_path):
    with pytest.raises(UserError, match="nowhere cannot be read"):
        listening.read_transcripts(tmp_path / "nowhere")


def pairs(folder: pathlib.Path) -> list[Pair]:
    """A whole recording, one whose id is a part of its file name, and a segment of a long one."""
    return [Pair("a1", "a1", "s", target_file=str(folder / "a1.wav")),
            Pair("2", "2", "s", target_file=str(folder / "a2.wav")),
            Pair("a3.000-100", "a3", "s", target_file=str(folder / "a3.wav"))]


def test_transcripts_are_found_by_id_or_file_name_and_segments_need_their_own(tmp_path):
    path = tmp_path / "words"
    path.write_text("a1|one\na2|two\na3|three\n")
    assert heldout.find_words(pairs(tmp_path)[:2], path) == ["one", "two"]
    with pytest.raises(UserError, match="words lacks 1 of 3 held-out sentences, for instance 'a3.000-100': add"):
        heldout.find_words(pairs(tmp_path), path)
    path.write_text("a1|one\na2|two\na3.000-100|piece\n")
    assert heldout.find_words(pairs(tmp_path), path) == ["one", "two", "piece"]


def test_arctic_transcripts_are_found_beside_the_recordings(tmp_path):
    assert heldout.find_words(pairs(tmp_path), None) is None
    (tmp_path / "txt.done.data").write_text('( a1 "one" )\n( a2 "two" )\n')
    assert heldout.find_words(pairs(tmp_path)[:2], None) == ["one", "two"]
    assert heldout.find_words(pairs(tmp_path), None) is None  # some are missing


SAID = ["the cat sat", "a <b> & dog ran"]
HEARD = {"": ["the cat sit", "dog ran"], " of the source": SAID, " of the copy": ["the cat", "a b and dog ran"],
         " of the target": ["the cats sat", "a b dog ran"]}


@pytest.fixture
def listened(monkeypatch):
    """Evaluate two sentences with stand-ins for a recogniser and opinion scores, with or without true words."""
    monkeypatch.setattr(listening, "mos_available", lambda: True)
    monkeypatch.setattr(listening, "estimate_mos", lambda wav, hp: {"DNSMOS OVRL": float(wav[0])})
    wavs = {kind: [np.array([10.0 * number + i]) for i in range(2)] for number, kind in enumerate(HEARD)}
    texts = {float(wav[0]): text for kind in HEARD for wav, text in zip(wavs[kind], HEARD[kind])}

    def listen(true_words):
        return heldout.listen(wavs, true_words, lambda wav: texts[float(wav[0])], HP,
                                 lambda function, items, doing: list(map(function, items)))
    return listen


@counting
def test_true_words_are_the_reference_for_all_audio(listened):
    rows, rates, words = listened(SAID)
    assert rates.pop("words' reference") == "true words"
    assert rates == pytest.approx({"WER %": 100 * 4 / 8, "CER %": 100 * 9 / 26, "WER % of the source": 0.0,
                                   "CER % of the source": 0.0, "WER % of the copy": 100 * 1 / 8,
                                   "CER % of the copy": 100 * 4 / 26, "WER % of the target": 100 * 2 / 8,
                                   "CER % of the target": 100 * 5 / 26})
    assert rows[0]["WER %"] == pytest.approx(100 / 3) and rows[1]["WER %"] == 60.0
    assert rows[1]["DNSMOS OVRL"] == 1.0 and rows[0]["DNSMOS OVRL of the target"] == 30.0
    assert words[0]["recognised"][" of the copy"] == "the cat" and words[1]["reference"] == SAID[1]


@counting
def test_target_is_the_reference_without_true_words(listened):
    rows, rates, words = listened(None)
    assert rates["words' reference"] == "heard in the target's recording"
    assert not any("of the target" in name for name in rates)  # compared with itself it would have no errors
    assert "DNSMOS OVRL of the target" in rows[0]
    assert words[0]["reference"] == "the cats sat" and rates["WER %"] == pytest.approx(100 * 4 / 7)


@counting
def test_recognised_words_are_in_the_json_file_the_terminal_and_the_page(listened, tmp_path, capsys):
    measures, rates, words = listened(SAID)
    rows = [{"id": f"s-{i}", "audio": {"converted": "c.wav"}, "words": words[i], "measures": {
        name: value for name, value in measures[i].items() if " of the " not in name}} for i in range(2)]
    heldout.finish(tmp_path, "Results", rows, {"utterances": 2} | rates)
    saved = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert saved["summary"]["WER %"] == 50.0 and saved["utterances"]["s-1"]["WER %"] == 60.0
    assert saved["words"]["s-1"] == {"reference": SAID[1], "converted": "dog ran", "source": SAID[1],
                                     "copy": "a b and dog ran", "target": "a b dog ran"}
    printed = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["WER", "%", "50.0", "0.00", "12.5", "25.0"] for line in printed)
    assert any(line.endswith("true words") for line in printed)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "the cat <mark>sit</mark>" in html and "<del>a b and</del> dog ran" in html and "<b> & dog" not in html


@pytest.mark.parametrize("model, recogniser, scores, line", [
    (None, True, True, "not measured: word error rate (--asr MODEL)\n"),
    (None, False, False, "not measured: word error rate, opinion scores; it takes pip install -r requirements/asr.txt "
                         "and --asr MODEL\n"),
    ("small.en", False, True, "not measured: word error rate; it takes pip install -r requirements/asr.txt\n"),
    ("small.en", True, False, "not measured: opinion scores; it takes pip install -r requirements/asr.txt\n"),
    ("small.en", True, True, "")])
def test_measures_left_out_are_reported_in_one_line(monkeypatch, capsys, model, recogniser, scores, line):
    monkeypatch.setattr(listening, "asr_available", lambda: recogniser)
    monkeypatch.setattr(listening, "mos_available", lambda: scores)
    monkeypatch.setattr(listening, "Recogniser", lambda *arguments: arguments)
    assert heldout.load_recogniser(model, HP) == ((model, HP) if model and recogniser else None)
    assert capsys.readouterr().out == line


@pytest.mark.parametrize("arguments, message", [
    (["a.wav", "--out", "x", "--asr", "small.en"], "held-out sentences"),
    (["--transcripts", "x"], "needs --asr MODEL")])
def test_incompatible_flags_are_refused(capsys, arguments, message):
    with pytest.raises(SystemExit):
        eval_script.parse_arguments(arguments)
    assert message in capsys.readouterr().err


def stand_in(monkeypatch, model) -> None:
    """Replace the library of the recogniser, whose models are downloaded."""
    monkeypatch.setitem(sys.modules, "faster_whisper", types.SimpleNamespace(WhisperModel=model))


def test_recogniser_hears_16_kHz_and_joins_the_segments(monkeypatch):
    heard = []

    def transcribe(wav, **settings):
        heard.append(wav)
        return iter([types.SimpleNamespace(text=" The cat"), types.SimpleNamespace(text=" sat. ")]), None
    stand_in(monkeypatch, lambda name, **settings: types.SimpleNamespace(transcribe=transcribe))
    recogniser = listening.Recogniser("small.en", HP.replace(sample_rate=22050))
    assert recogniser(tone(440.0, 22050)) == "The cat sat."
    assert heard[0].dtype == np.float32
    np.testing.assert_allclose(heard[0][100:-100], tone(440.0)[100:-100], atol=0.01)


def test_model_that_cannot_be_loaded_is_reported(monkeypatch):
    def load(name, **settings):
        raise RuntimeError("no model.bin\nand more")
    stand_in(monkeypatch, load)
    with pytest.raises(UserError, match=r"--asr here cannot be loaded \(no model.bin\); give a name such as small.en"):
        listening.Recogniser("here", HP)
