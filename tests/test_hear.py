"""tools/hear.py: figures of recordings, with listeners that need no library, in the form that the gallery reads."""
import json

from common.cli import UserError
from conftest import tone, write
from tools import gallery, hear

import numpy as np
import pytest

SAID = {"a": "One two-three four.", "b": "five", "c": "Six seven"}
HEARD = {"a.converted": "1 two three", "b": "fife six", "b.source": "5!", "her-c": "six seven"}


@pytest.mark.parametrize("said, heard, wrong", [
    ("a b c", "a b c", 0), ("a b c", "a c", 1), ("a c", "a b c", 1), ("a b", "c d", 2), ("", "a b", 2), ("a b", "", 2)])
def test_edits(said, heard, wrong):
    assert hear.edits(said.split(), heard.split()) == wrong


def test_words_are_compared_without_case_hyphens_and_small_numbers():
    assert hear.words("Don't: two-three, 10!") == hear.words("don't 2 3 ten") == ["don't", "two", "three", "ten"]


SENTENCES = {"a0001": 'He said "no, sir" twice.', "a0002": "Second | third"}


@pytest.mark.parametrize("content, expected", [
    ('( a0001 "He said \\"no, sir\\" twice." )\n\n(a0002 "Second | third")\n', SENTENCES),
    ("\ufeffa0001|He said 2|He said two\r\na0002|Second\r\n", {"a0001": "He said two", "a0002": "Second"}),
    ("\n" + json.dumps(SENTENCES), SENTENCES)])
def test_words_are_read_in_three_formats(tmp_path, content, expected):
    (tmp_path / "words").write_text(content, encoding="utf-8", newline="")
    assert hear.read_words(tmp_path / "words") == expected


@pytest.mark.parametrize("content", ["a|b\nno text\n", "", "a|", "a|...", "a|b\na|c\n",
                                     '{"a": "b",\n}', '{"a": 1}', '["a"]', b"\xff\xfe", None])
def test_a_file_that_tells_no_words_is_named(tmp_path, content):
    path = tmp_path / "words"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match="words does not tell what is said .*ID"):
        hear.read_words(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Tones whose place in HEARD is their number; the embedding of a natural recording is told by its folder."""
    for number, name in enumerate(HEARD):
        write(tmp_path / "stranger" / f"{name}.wav", tone(300.0, seconds=0.1 * (number + 1)))
    for speaker in ("her", "him"):
        for name in ("a", "b"):
            write(tmp_path / speaker / f"{name}.wav", tone(300.0, seconds=1 + (speaker == "him") + (name == "a") / 2))
    places = {1.0: (1, 0), 1.5: (0, 1), 2.0: (0, 1), 2.5: (1, 0)}  # of her b and a, and his b and a

    def judge(wav):
        return list(HEARD.values())[round(10 * len(wav) / 16000) - 1], 3.0 + len(wav) / 16000, 2.0
    monkeypatch.setattr(hear, "judge", judge)
    monkeypatch.setattr(hear, "embed", lambda wav: np.array(places.get(len(wav) / 16000, (0.6, 0.8))))
    (tmp_path / "words.json").write_text(json.dumps(SAID))
    return tmp_path


def run(folder, *more, **flags) -> dict:
    flags = {"--words": "words.json", "--like": "her", "--source": "him"} | flags
    arguments = [str(folder / word) if word[:2] != "--" else word for pair in flags.items() if pair[1] for word in pair]
    assert hear.main([str(folder / "stranger"), *arguments, *map(str, more)]) == 0
    return json.loads((folder / "stranger" / "heard.json").read_text())


def test_figures_are_those_of_the_conversions_and_the_gallery_reads_them(folder, capsys):
    note = run(folder)
    # Of a one of four words is missing, of b one is wrong and one too many; her-c is right. Seven words are said
    assert note["sentences"] == 3 and note["mean"]["WER %"] == round(100 * 3 / 7, 1)
    assert note["mean"]["CER %"] == round(100 * (5 + 5 + 0) / (18 + 4 + 9), 1)  # " four"; "fife six" for "five"
    assert note["mean"]["DistillMOS"] == pytest.approx(3.0 + (0.1 + 0.2 + 0.4) / 3, abs=1e-3)
    # Likeness of a is that to her b (1, 0), of b that to her a (0, 1), of c that to the mean of both
    assert note["mean"]["likeness"] == pytest.approx((0.6 + 0.8 + 1.4 / 2 ** 0.5) / 3, abs=1e-3)
    assert note["mean"]["likeness to the source"] == pytest.approx((0.8 + 0.6 + 1.4 / 2 ** 0.5) / 3, abs=1e-3)
    assert note["mean"]["nearer to the target %"] == pytest.approx(100 / 3, abs=1e-3)
    assert note["files"]["b.source.wav"]["WER %"] == 0.0 and note["files"]["b.wav"]["WER %"] == 200.0
    assert note["said"] == {"a": SAID["a"], "b": SAID["b"], "her-c": SAID["c"]}
    assert "stranger: 3 sentences, {'WER %': 42.9" in capsys.readouterr().out
    for name in ("b", "her-c"):  # on the page each recording says what it is: ID.PART.wav
        (folder / "stranger" / f"{name}.wav").unlink()
    gallery.write_gallery(folder, folder / "index.html")
    assert "3 sentences on average: 42.9 % of words wrong" in (folder / "index.html").read_text(encoding="utf-8")


def test_the_mean_may_be_that_of_more_sentences(folder):
    (folder / "all.json").write_text(json.dumps({"sentences": 70, "mean": {"WER %": 5.8}, "files": {}}))
    note = run(folder, "--mean", folder / "all.json")
    assert (note["sentences"], note["mean"]) == (70, {"WER %": 5.8}) and len(note["files"]) == 4


def test_a_recording_whose_words_are_not_known_is_named(folder, capsys):
    write(folder / "stranger" / "z.wav", tone(300.0))
    with pytest.raises(AssertionError):
        run(folder)
    assert "z.wav: nothing tells what is said in 'z'" in capsys.readouterr().err


def test_without_words_the_reference_is_what_is_heard_in_the_recordings_of_the_target(folder, monkeypatch):
    texts = {1.5: "one two three", 1.0: "fife six"}  # of her a and her b
    monkeypatch.setattr(hear, "transcribe", lambda wav: texts[len(wav) / 16000])
    (folder / "stranger" / "her-c.wav").unlink()
    note = run(folder, **{"--words": None})
    assert note["mean"]["WER %"] == 0.0 and note["said"] == {"a": "one two three", "b": "fife six"}
    with pytest.raises(AssertionError):
        write(folder / "stranger" / "c.wav", tone(300.0, seconds=0.1))
        run(folder, **{"--words": None})  # she did not say this


def test_the_id_of_a_recording_may_follow_a_speaker_and_hold_dots(folder):
    assert hear.keys(folder / "my-voice-a01.converted.wav") == ["my-voice-a01", "voice-a01", "a01"]
    assert hear.keys(folder / "take.1.wav") == ["take.1"]
    assert hear.keys(folder / "me-chapter.000000-000500.converted.wav")[1] == "chapter.000000-000500"
    for path in (folder / "stranger").glob("*.wav"):
        path.rename(path.with_name(f"{path.stem.partition('.')[0]}.source.wav"))
    with pytest.raises(AssertionError):  # nothing is a conversion
        run(folder)
