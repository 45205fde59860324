"""What looks odd in a recording is said, on standard error and on the page."""

import eval as eval_script
import eval_gan
import utils
from backend import checkpoints
from conftest import demo_wav
from corpus import analysis
from corpus import remarks as remarks_of
from evaluation import page
from hyperparams import HyperParams

import numpy as np
import pytest

HP = HyperParams()


def remarks(hertz: np.ndarray, changes: tuple = (), keeps_intervals: bool = False) -> str:
    return " | ".join(remarks_of.remarks(hertz, list(changes), HP, keeps_intervals))


def test_ordinary_speech_needs_no_remark():
    hertz = 120.0 * 2.0 ** (0.3 * np.sin(np.linspace(0, 20, 400)))
    assert not remarks(np.where(np.arange(400) % 5 > 1, hertz, 0.0))


@pytest.mark.parametrize("speaker", ["rms", "slt"])
def test_recorded_speech_does_not_sing(speaker):
    for number in (1, 4, 9):
        assert not remarks(analysis.pitch(demo_wav(speaker, f"demo_{number:03d}", HP), HP))


@pytest.mark.parametrize("vibrato", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("lowest, notes, seconds", [
    (220.0, (0, 2, 4, 5, 7, 12, 7, 4, 0), 0.6), (110.0, (0, 7, 3, 0), 1.2), (330.0, (0, 5, 0, 5, 7, 9, 5), 0.4),
    (523.0, (0, 1, 0, 1), 0.5)])
def test_a_melody_within_an_octave_is_remarked_on(lowest, notes, seconds, vibrato):
    """`vibrato`: semitones to both sides."""
    frames = round(seconds * HP.frames_per_second)
    time = np.arange(frames * len(notes)) / HP.frames_per_second
    semitones = np.repeat(notes, frames) + vibrato * np.sin(2 * np.pi * 5.5 * time)
    sung = np.arange(len(time)) % frames < 0.9 * frames  # consonants between the notes
    assert "as in singing" in remarks(np.where(sung, lowest * 2.0 ** (semitones / 12), 0.0))


@pytest.mark.parametrize("hertz, changes, said", [
    (np.zeros(100), (), "0 % of it are voiced, so the conversion is a whisper"),
    (np.where(np.arange(100) == 50, 100.0, 0.0), (), "1 % of it are voiced"),
    (220.0 * 2.0 ** np.repeat([0.0, 0.5, 1.0, 1.5, 2.0], 30), (), "as in singing"),
    (np.full(100, 120.0), (75.2, 90.0), "else speaks, or room or microphone are others, from 75, 90 s on: it is"),
    (np.full(100, 120.0), tuple(range(24)), "17, 18, 19 s on and 4 times more"),
    (np.where(np.arange(100) % 15, 0.0, 90.0), (), "7 % of it are voiced"),
    (np.zeros(4), (), "lasts 50 ms, which is no word"), (np.full(11, 120.0), (), "lasts 138 ms"),
    (np.where(np.arange(400) % 3 > 0, 100.0, 90.0 + np.arange(400) % 21), (),
     "more than half of its pitch is 99 Hz, as of creak"),
    (np.where(np.arange(400) % 3 > 0, 63.0 + np.arange(400) % 7 / 5, 70.0), (), "is 64 Hz"),
    (990.0 * 1.01 ** -np.tile(np.arange(50), 4), (), "reaches 1000 Hz, the highest that is found")])
def test_odd_recordings_are_remarked_on(hertz, changes, said):
    assert said in remarks(hertz, changes)


def test_who_keeps_intervals_is_not_told_to_keep_them():
    sung = np.repeat(220.0 * 2.0 ** np.array([0.0, 0.5, 1.0, 1.5, 2.0]), 30)
    assert "--keep-intervals" in remarks(sung) and not remarks(sung, keeps_intervals=True)
    assert "above it becomes noise" in remarks(4.5 * sung, keeps_intervals=True)


@pytest.mark.parametrize("speaker", ["rms", "slt"])
def test_speech_in_much_noise_is_no_whisper(speaker):
    """A sentence and a minute of room, or a tone without a voice's pitch, was said to become a whisper."""
    said, rng = demo_wav(speaker, "demo_001", HP), np.random.default_rng(0)
    room = rng.normal(size=60 * HP.sample_rate)
    for beside in (1e-3 * room, 0.0 * room, 0.2 * np.sin(2 * np.pi * 3000 * np.arange(len(room)) / HP.sample_rate)):
        wav = np.concatenate([said, beside]).astype(np.float32)
        hertz = analysis.pitch(wav, HP)
        assert np.mean(hertz > 0.0) < remarks_of.LEAST_VOICED
        assert not remarks_of.remarks(hertz, [], HP, loud=remarks_of.loud_frames(wav, HP).sum())
    whisper = rng.normal(size=len(said)) * np.sqrt(np.repeat(utils.frame_power(said, HP), HP.hop_length)[:len(said)])
    wav = np.concatenate([whisper, 1e-3 * room]).astype(np.float32)
    assert "so the conversion is a whisper" in remarks_of.remarks(
        analysis.pitch(wav, HP), [], HP, loud=remarks_of.loud_frames(wav, HP).sum())[0]


@pytest.mark.parametrize("speaker", ["rms", "slt"])
@pytest.mark.parametrize("first", [False, True])
def test_a_part_that_is_whispered_is_said_and_a_beep_is_no_whisper(speaker, first):
    """Half a recording became a whisper without a word, because the other half has a pitch."""
    said = np.concatenate([demo_wav(speaker, f"demo_{number:03d}", HP) for number in (1, 4)])
    level = np.sqrt(np.interp(np.arange(len(said)) / HP.hop_length, np.arange(-(-len(said) // HP.hop_length)),
                              utils.frame_power(said, HP)))
    whispered = level * np.random.default_rng(0).normal(size=len(said))
    both = np.concatenate([whispered, said] if first else [said, whispered]).astype(np.float32)
    beep = np.concatenate([said, 0.5 * np.random.default_rng(0).normal(size=32000)]).astype(np.float32)
    loud = remarks_of.loud_frames(said, HP).sum() / HP.frames_per_second  # but for its pauses
    for wav, seconds in ((both, loud), (said, 0.0), (beep, 0.0), (said[:9000], 0.0)):
        found = remarks_of.without_pitch(wav, analysis.pitch(wav, HP), HP)
        assert found == pytest.approx(seconds, rel=0.3)
    hertz = np.full(400, 120.0) * (np.arange(400) % 2)
    found = remarks_of.remarks(hertz, [], HP, False, 3.21)[0]
    assert "3.2 s of it are louder than its pauses and have no pitch" in found


@pytest.mark.parametrize("speaker, number", [("rms", 1), ("rms", 9), ("slt", 1), ("slt", 4)])
def test_noise_is_remarked_on_and_clean_speech_is_not(speaker, number):
    wav, rng = demo_wav(speaker, f"demo_{number:03d}", HP), np.random.default_rng(number)
    around = np.concatenate([np.zeros(8000, np.float32), wav, np.zeros(8000, np.float32)])  # with digital silence
    assert remarks_of.noise(wav, HP) == remarks_of.noise(around, HP) == []
    assert remarks_of.noise(wav[8000:20000], HP) == []  # a word need not have a pause
    white = rng.normal(size=len(wav))
    dull = np.convolve(white, np.ones(8), "same")
    music = sum(np.sin(2 * np.pi * hertz * np.arange(len(wav)) / HP.sample_rate) for hertz in (262, 330, 392))
    for sound in (white, dull, music):
        for below_db, said in ((8.0, True), (30.0, False)):
            gain = np.sqrt(np.mean(wav ** 2) / np.mean(sound ** 2)) * 10.0 ** (-below_db / 20.0)
            mixed = (wav + gain * sound).astype(np.float32)
            assert ["dB quieter" in text for text in remarks_of.noise(mixed, HP)] == [True] * said, below_db


def test_seconds_of_two_noisy_passages_are_two_and_scattered_noise_is_heard():
    rng, wav = np.random.default_rng(1), np.concatenate([demo_wav("slt", f"demo_{number:03d}", HP)
                                                         for number in range(1, 13)])
    noisy, seconds = wav.copy(), len(wav) / HP.sample_rate
    for part in (slice(0, 7 * HP.sample_rate), slice(len(wav) - 7 * HP.sample_rate, None)):
        noisy[part] += 0.5 * wav.std() * rng.normal(size=7 * HP.sample_rate)
    (said,) = remarks_of.noise(noisy, HP)
    first, second = said.split(" its pauses")[0].split(", ")
    assert first.split()[:3] == ["from", "0", "to"] and float(first.split()[3]) < 12.0
    assert float(second.split()[1]) > seconds - 12.0 and second.endswith(f"to {seconds:.0f} s")
    assert remarks_of.noise(noisy, HP, is_whole=False)[0].startswith("in a part its pauses")
    words = [np.pad(noisy[start:start + 16000], (0, 64000)) for start in range(0, 80000, 16000)]
    assert remarks_of.noise(np.concatenate(words), HP)[0].startswith("its pauses")


@pytest.mark.parametrize("speaker", ["rms", "slt"])
@pytest.mark.parametrize("first, last", [(0.5, 1.0), (0.0, 0.4), (0.3, 0.7), (0.0, 1.0)])
def test_noise_in_a_part_of_a_recording_is_remarked_on_with_its_seconds(speaker, first, last):
    """Judged by the pauses of the other part, noise that is louder than the speech was none."""
    wav, rng = np.concatenate([demo_wav(speaker, f"demo_{number:03d}", HP) for number in range(1, 13)]), (
        np.random.default_rng(1))
    assert not remarks_of.noise(wav, HP) and not remarks_of.noise(np.pad(wav, (0, 20 * HP.sample_rate)), HP)
    seconds, (start, end) = len(wav) / HP.sample_rate, (round(share * len(wav)) for share in (first, last))
    for below_db in (8.0, -10.0):
        noisy = wav.copy()
        noisy[start:end] += np.sqrt(np.mean(wav ** 2)) * 10.0 ** (-below_db / 20.0) * rng.normal(size=end - start)
        (said,) = remarks_of.noise(noisy, HP)
        if (first, last) == (0.0, 1.0):
            assert said.startswith("its pauses")
        else:
            found = [int(word) for word in said.split()[1:4:2]]
            assert np.abs(np.array(found) - np.array([first, last]) * seconds).max() < 4.0, said


def test_the_page_shows_remarks_beside_the_recording(tmp_path):
    rows = [{"id": "a", "audio": {}, "measures": {"x": 1.0}, "warnings": ["a.wav: <odd>"]},
            {"id": "b", "audio": {}, "measures": {"x": 2.0}}]
    page.write_page(tmp_path, "t", rows, {})
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert text.count("<small>") == 1 and "<small>a.wav: &lt;odd&gt;</small>" in text


@pytest.mark.parametrize("flags", [["a.wav", "--source", "nobody"], ["--voice", "bdl"], ["a.wav", "--channel", "0"],
                                   ["a.wav", "--voice", "bdl", "--logdir", "x"], ["a.wav", "--voice", "nobody"],
                                   ["--keep-intervals", "--trim"]])
@pytest.mark.parametrize("script", [eval_script, eval_gan])
def test_flags_that_would_be_ignored_are_refused(flags, script, capsys):
    with pytest.raises(SystemExit):
        script.parse_arguments(flags)
    assert flags[-2] in capsys.readouterr().err


@pytest.mark.parametrize("script", [eval_script, eval_gan])
def test_a_voice_is_a_folder_of_pretrained(script, monkeypatch, tmp_path):
    monkeypatch.setattr(eval_script, "HERE", tmp_path)
    assert script.parse_arguments(["a.wav"]).logdir == checkpoints.PRETRAINED
    assert script.parse_arguments(["a.wav", "--voice", "bdl"]).logdir == checkpoints.PRETRAINED.with_name("bdl")


def test_a_word_at_an_even_pitch_is_no_chant():
    """As one of 972 clean sentences of six people, of half a second."""
    pitch = 98.0 * np.where(np.arange(120) % 4, 1.0, 1.01)
    assert "chant" in remarks(pitch)
    assert not remarks(pitch[:41])


@pytest.mark.parametrize("speaker", ["rms", "slt"])
@pytest.mark.parametrize("hertz", [217.0, 440.0, 950.0])
def test_a_telephone_or_a_tone_beside_the_speech_is_said_and_is_no_part_of_the_voice(speaker, hertz):
    """The pulses of a telephone became a voice without a word, and a tone was said to sing."""
    said = np.concatenate([np.pad(demo_wav(speaker, f"demo_{number:03d}", HP), 4000) for number in (1, 4, 7)])
    seconds = np.arange(len(said)) / HP.sample_rate
    pulses = ((seconds * hertz) % 1.0 < 0.125) - 0.125
    for sound in (pulses, np.sin(2 * np.pi * hertz * seconds))[:1 + (hertz > 400.0)]:  # a low one alone has no pitch
        tone = np.pad(sound[:24000], 4000) * 0.3 * said.std() / sound.std()
        wav = np.concatenate([tone, said, tone]).astype(np.float32)
        pitch = analysis.pitch(wav, HP)
        (found,) = remarks(pitch, (), True).split(" | ")  # whoever sings hears of it, too
        assert "s of it hold a pitch of" in found and "Hz, as no voice does" in found
        assert [float(found.split()[i]) for i in (0, 8)] == pytest.approx([3.0, hertz], rel=0.25)
        assert "singing" not in remarks(pitch)
        own = analysis.pitch(said, HP)
        assert np.median(analysis.spoken_octaves(analysis.spoken(pitch, HP), HP)) == pytest.approx(
            np.median(analysis.spoken_octaves(own, HP)), abs=0.02)
        assert (analysis.spoken(own, HP) == own).all()


def test_a_word_in_creak_before_a_pause_counts_as_long_as_it_is_heard():
    """0.6 s before a pause were 1.2 s, because the pause was counted, too."""
    rng, said = np.random.default_rng(0), demo_wav("rms", "demo_001", HP)
    levels = [1.0, 0.4, 0.8, 1.2, 0.5, 1.0, 0.3, 0.7, 1.2, 0.5, 0.9]
    creak = said.std() * rng.normal(size=11000) * np.repeat(levels, 1000)
    wav = np.concatenate([said, np.zeros(4000, np.float32), creak, 1e-4 * rng.normal(size=9000)]).astype(np.float32)
    found = remarks_of.without_pitch(wav, analysis.pitch(wav, HP), HP)
    assert found == pytest.approx(11000 / HP.sample_rate, abs=0.15)
