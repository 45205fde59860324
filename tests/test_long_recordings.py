"""Long recordings are processed in parts, which bounds memory and does not change the result."""
import re
from concurrent.futures import ThreadPoolExecutor

import hyperparams
import utils
from conftest import demo_wav
from conversion import inference
from conversion.chunks import Chunk, join, split_at_pauses
from conversion.inference import Converted

import numpy as np
import pytest

HP = hyperparams.HyperParams()


class Copier:
    """A stand-in for a converter: returns each spectrogram unchanged and records how many it was given at once."""
    hp = HP

    keep_intervals = False

    def __init__(self, cut: int = -1):
        self.at_once, self.cut, self.heard = [], cut, []

    def find_voice(self, source):
        self.heard.append(len(source.linear))
        return "whose"

    def __call__(self, sources, voices):
        assert voices == ["whose"] * len(sources)
        first = sum(self.at_once)
        self.at_once.append(len(sources))
        return [Converted(None, np.zeros((len(source.linear), 2)), source.linear.astype(np.float32), None, None,
                          first + i != self.cut) for i, source in enumerate(sources)]


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    """Six sentences with pauses between them."""
    pause = np.zeros(HP.sample_rate // 2, np.float32)
    return np.concatenate([x for n in range(1, 7) for x in (demo_wav("rms", f"demo_{n:03d}", HP), pause)])


@pytest.mark.parametrize("at_once", [1, 8])
def test_it_is_said_at_which_second_somebody_else_begins_to_speak(recording, monkeypatch, at_once):
    """Also where the border of two groups of chunks lies between them, and where the first one speaks again."""
    monkeypatch.setattr(inference, "CHUNKS_AT_ONCE", at_once)
    monkeypatch.setattr("conversion.chunks.CHUNK_SECONDS", 4.0)
    other = np.concatenate([np.pad(demo_wav("slt", f"demo_{n:03d}", HP), (0, 8000)) for n in range(1, 5)])
    begins = np.cumsum([len(recording), len(other)]) / HP.sample_rate
    with ThreadPoolExecutor(1) as pool:
        alone, both = (inference.convert_recording(wav, Copier(), pool).remarks for wav in (
            recording, np.concatenate([recording, other, recording])))
    found = [text for text in both if "somebody else speaks" in text]
    seconds = [float(number) for number in re.findall(r"\d+", found[0].partition(" s on")[0])]
    np.testing.assert_allclose(seconds, begins, atol=1.0)
    assert len(found) == 1 and not alone


@pytest.mark.parametrize("below_db, said", [(20.0, False), (55.0, True)])
def test_speech_far_below_another_sound_is_not_silenced_without_a_word(recording, below_db, said):
    """Speech 55 dB below a second of static became silence, and only the static was spoken of."""
    static = np.random.default_rng(0).uniform(-0.9, 0.9, 16000)
    quiet = recording * np.sqrt(np.mean(static ** 2) / np.mean(recording ** 2)) * 10.0 ** (-below_db / 20.0)
    wav = utils.normalise_loudness(np.concatenate([static, np.zeros(8000), quiet]).astype(np.float32), HP)
    with ThreadPoolExecutor(1) as pool:
        found = inference.convert_recording(wav, Copier(), pool).remarks
        clean = inference.convert_recording(np.pad(recording, 16000), Copier(), pool).remarks
    assert any("become silence" in text for text in found) == said and not clean


@pytest.mark.parametrize("seconds", [0.0, 0.01, 1.0, 2.5])
def test_mel_in_blocks_equals_the_mel_of_the_whole_recording(recording, monkeypatch, seconds):
    monkeypatch.setattr(utils, "BLOCK_FRAMES", 50)
    wav = recording[:round(seconds * HP.sample_rate) + 7]
    np.testing.assert_allclose(utils.mel_in_blocks(wav, HP), utils.spectrograms(wav, HP)[0], atol=1e-5)


@pytest.mark.parametrize("cut", [-1, 0, 3])
def test_converting_chunks_in_groups_equals_converting_them_all_at_once(recording, monkeypatch, cut):
    monkeypatch.setattr("conversion.chunks.CHUNK_SECONDS", 2.0)
    with ThreadPoolExecutor(1) as pool:
        whole = inference.convert_recording(recording, Copier(cut), pool)
        monkeypatch.setattr(inference, "CHUNKS_AT_ONCE", 2)
        copier = Copier(cut)
        grouped = inference.convert_recording(recording, copier, pool)
    assert len(grouped.chunks) == sum(copier.at_once) > 4 and max(copier.at_once) == 2
    np.testing.assert_array_equal(grouped.wav, whole.wav)
    np.testing.assert_array_equal(grouped.first.linear, whole.first.linear)
    assert grouped.stopped == whole.stopped == (cut < 0)
    # The voice is measured once, on the speech of the first group
    n_frames = [1 + len(chunk.wav) // HP.hop_length for chunk in grouped.chunks]
    assert len(copier.heard) == 1 and 0.5 * sum(n_frames[:2]) < copier.heard[0] <= sum(n_frames[:2])


@pytest.mark.parametrize("factor", [0.1, 0.3, 0.7])
def test_a_quiet_part_is_converted_at_the_usual_level_and_stays_as_quiet_as_it_is(factor, monkeypatch):
    """What was ten decibels quieter than the rest came out as loud as that, and as another sound."""
    monkeypatch.setattr("conversion.chunks.CHUNK_SECONDS", 3.0)
    said = np.concatenate([demo_wav("rms", "demo_001", HP), np.zeros(HP.sample_rate, np.float32)])
    levels = []

    class Listener(Copier):
        def __call__(self, sources, voices):
            levels.extend(np.percentile(source.mel.mean(axis=1), 80) for source in sources)
            return super().__call__(sources, voices)
    with ThreadPoolExecutor(1) as pool:
        found = inference.convert_recording(np.concatenate([said, factor * said]), Listener(), pool)
    first, second = (np.sqrt(np.mean(np.square(part))) for part in np.split(found.wav, 2))
    assert len(found.chunks) == 2 and levels[0] == pytest.approx(levels[1], abs=0.5 / HP.range_db)
    assert second / first == pytest.approx(factor, rel=0.1)
    assert [chunk.gain for chunk in split_at_pauses(0.3 * said, HP)] == [1.0]  # alone, it has the recording's level
    loud = split_at_pauses(np.concatenate([said, 3.0 * said]), HP)
    assert [chunk.gain for chunk in loud] == pytest.approx([1.0, 1.0], abs=0.1)  # it may be no speech


@pytest.fixture(scope="module")
def sentence() -> np.ndarray:
    return demo_wav("rms", "demo_002", HP)


def kept(wav: np.ndarray, first: int, last: int) -> float:
    """Share of the samples from `first` to `last` that the chunks of a recording hold."""
    held = np.zeros(len(wav), bool)
    for chunk in split_at_pauses(wav, HP):
        held[chunk.start:chunk.start + len(chunk.wav)] = True
    return held[first:last].mean()


@pytest.mark.parametrize("sound", ["slam", "ring", "clapping", "near voice"])
@pytest.mark.parametrize("before", [True, False])
def test_speech_beside_something_much_louder_is_kept(sentence, sound, before):
    """It was trimmed as silence, by the level of what was loud."""
    time, rng = np.arange(2 * HP.sample_rate) / HP.sample_rate, np.random.default_rng(1)
    loud = {"slam": rng.standard_normal(len(time)) * np.exp(-20.0 * time), "ring": np.sin(2 * np.pi * 1400.0 * time),
            "clapping": rng.standard_normal(len(time)) * np.exp(-30.0 * (time % 0.2)),
            "near voice": 3.0 * demo_wav("slt", "demo_004", HP)}[sound].astype(np.float32)
    pause, faint = np.zeros(HP.sample_rate // 2, np.float32), 0.03 * sentence / np.abs(sentence).max()
    parts = [loud, pause, faint] if before else [faint, pause, loud]
    wav = utils.normalise_loudness(np.concatenate(parts), HP)
    first = len(loud) + len(pause) if before else 0
    assert kept(wav, first + 3200, first + len(faint) - 3200) > 0.9


def test_noise_alone_adds_nothing_to_a_chunk(sentence):
    noise = 1e-4 * np.random.default_rng(2).standard_normal(2 * HP.sample_rate).astype(np.float32)
    wav = utils.normalise_loudness(np.concatenate([noise, sentence, noise]), HP)
    assert kept(wav, 0, len(noise) - 4800) == kept(wav, len(wav) - len(noise) + 4800, len(wav)) == 0.0


@pytest.mark.parametrize("speakers", [("rms", "slt"), ("slt", "rms"), ("rms", "slt", "rms", "slt")])
def test_chunks_end_where_somebody_else_begins_to_speak(speakers):
    parts = [demo_wav(speaker, f"demo_{number:03d}", HP) for number, speaker in enumerate(speakers, 1)]
    pause = np.zeros(HP.sample_rate // 3, np.float32)
    begins = np.cumsum([0, *(len(part) + len(pause) for part in parts)])[:-1]
    wav = np.concatenate([x for part in parts for x in (part, pause)])
    starts = np.array([chunk.start for chunk in split_at_pauses(wav, HP)])
    assert len(starts) == len(speakers) and np.abs(starts - begins).max() < 0.3 * HP.sample_rate
    assert len(split_at_pauses(wav, HP, one_voice=True)) < len(speakers)


@pytest.mark.parametrize("speaker", ["rms", "slt"])
@pytest.mark.parametrize("db", [-24.0, -12.0, 12.0, 18.0])
def test_who_goes_away_from_the_microphone_is_nobody_else(speaker, db):
    """Of speech that is far below the rest, spectra hold a part only, which seemed to be another person's."""
    said = [np.pad(demo_wav(speaker, f"demo_{number:03d}", HP), 2400) for number in range(1, 13)]
    room = 3e-5 * np.random.default_rng(0).standard_normal(sum(map(len, said)))
    steps = [10.0 ** (db / 20.0 * (number // 3 % 2)) for number in range(12)]
    wav = np.concatenate([step * part for step, part in zip(steps, said)]) + room
    chunks = split_at_pauses(utils.normalise_loudness(wav.astype(np.float32), HP), HP)
    assert {chunk.person for chunk in chunks} == {0}


@pytest.mark.parametrize("db", [-18.0, 18.0])
def test_somebody_else_who_is_farther_away_is_heard(db):
    said = [np.pad(step * demo_wav(speaker, f"demo_{number:03d}", HP), 2400)
            for speaker, step in (("rms", 1.0), ("slt", 10.0 ** (db / 20.0))) for number in range(1, 4)]
    chunks = split_at_pauses(utils.normalise_loudness(np.concatenate(said).astype(np.float32), HP), HP)
    first = [chunk.person for chunk in chunks if chunk.start < sum(map(len, said[:3])) - 4800]
    assert set(first) == {0} and {chunk.person for chunk in chunks[len(first):]} == {1}


def test_every_chunk_begins_at_its_sources_time(recording):
    """Put one after the other, chunks that are shorter or longer than their sources would drift away from them."""
    silence = np.zeros(2 * HP.sample_rate, np.float32)
    wav = np.concatenate([silence, recording, silence, silence])
    with ThreadPoolExecutor(1) as pool:
        made = inference.convert_recording(wav, Copier(-1), pool)
    assert abs(len(made.wav) - len(wav)) <= HP.hop_length and made.chunks[0].start >= 1.9 * HP.sample_rate
    assert np.abs(made.wav[:int(1.9 * HP.sample_rate)]).max() == 0.0
    for chunk in made.chunks:
        begins = np.abs(made.wav[chunk.start:chunk.start + 3200]).max()
        assert begins > 0.01 > np.abs(made.wav[chunk.start - 800:chunk.start - 400]).max()


def test_chunks_that_are_longer_than_their_sources_do_not_overlap_and_find_back():
    chunks = [Chunk(np.zeros(1000, np.float32), start) for start in (0, 1000, 5000)]
    voices = [np.full(1500, 0.1, np.float32) for _ in chunks]
    wav = join(chunks, voices, HP, 8000)
    assert len(wav) == 8000 and np.flatnonzero(wav)[0] < 100 and not wav[3000:5000].any() and wav[5100:6400].all()


@pytest.mark.parametrize("whispers", [False, True])
def test_what_is_whispered_in_one_of_the_chunks_is_said(recording, whispers):
    rng = np.random.default_rng(0)
    level = np.abs(np.sin(np.arange(4 * HP.sample_rate) / 2000)) * 0.1
    after = np.concatenate([np.zeros(8000), whispers * level * rng.normal(size=len(level))]).astype(np.float32)
    with ThreadPoolExecutor(1) as pool:
        found = inference.convert_recording(np.concatenate([recording, after]), Copier(), pool)
    assert any("louder than its pauses and have no pitch" in text for text in found.remarks) is whispers
