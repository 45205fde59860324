"""Of channels that do not hold the same sound the better one is used, and this is said."""
import pathlib

import data_load
import prepro
import utils
from common import audio_files
from common.cli import UserError
from conftest import demo_wav, words, write
from corpus import analysis
from evaluation import heldout
from hyperparams import HyperParams

import numpy as np
import pytest
import scipy.signal

HP = HyperParams()
SPEECH = demo_wav("slt", "demo_001", HP)
MAN = demo_wav("rms", "demo_005", HP)
SECONDS = np.arange(len(SPEECH)) / 16000
NOISE = 10 ** (-50 / 20) * np.random.default_rng(0).normal(size=(2, len(SPEECH))).astype(np.float32)


def load(tmp_path, *channels: np.ndarray, **options) -> audio_files.Recording:
    return utils.load_recording(write(tmp_path / "a.wav", np.stack(channels, axis=1), subtype="FLOAT"), HP, **options)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    n = min(len(a), len(b))
    return float(np.corrcoef(a[:n], b[:n])[0, 1])


@pytest.mark.parametrize("other", [SPEECH, 0.5 * SPEECH, SPEECH + 0.05 * np.roll(SPEECH, 400)])
def test_channels_with_the_same_sound_are_averaged_without_a_word(tmp_path, other):
    found = load(tmp_path, SPEECH + NOISE[0], other + NOISE[1])
    assert not found.warnings and correlation(found.wav, utils.load_recording(tmp_path / "a.wav", HP).wav) > 0.99


def test_a_silent_channel_is_left_out_without_a_word(tmp_path):
    found = load(tmp_path, 1e-4 * NOISE[0], SPEECH)
    assert not found.warnings and correlation(found.wav, SPEECH) > 0.99


@pytest.mark.parametrize("other, words_of_it", [
    (-SPEECH, "one is inverted"), (-0.7 * SPEECH, "one is inverted"), (np.roll(SPEECH, 160), "two microphones"),
    (words(7, seconds=len(SPEECH) / 16000), "two people")])
def test_channels_that_differ_are_named_and_one_is_used(tmp_path, other, words_of_it):
    other = np.resize(other, len(SPEECH))
    found = load(tmp_path, SPEECH + NOISE[0], other + NOISE[1])
    assert words_of_it in found.warnings[0] and "a.wav" in found.warnings[0] and "--channel" in found.warnings[0]
    assert max(abs(correlation(found.wav, utils.load_recording(tmp_path / "a.wav", HP, channel=n).wav))
               for n in (1, 2)) > 0.999


def test_the_channel_whose_speech_stands_higher_above_its_pauses_is_used(tmp_path):
    noisy = -SPEECH + 30 * NOISE[1]
    assert "channel 1 of 2" in load(tmp_path, SPEECH + NOISE[0], noisy).warnings[0]
    assert "channel 2 of 2" in load(tmp_path, noisy, SPEECH + NOISE[0]).warnings[0]


def rumble(hertz: float, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * hertz * SECONDS).astype(np.float32)


@pytest.mark.parametrize("common", [rumble(9.0), rumble(50.0) + rumble(150.0, 0.3), rumble(60.0), np.float32(0.4)])
def test_what_lies_below_speech_does_not_hide_that_a_channel_is_inverted(tmp_path, common):
    found = load(tmp_path, SPEECH + common, common - SPEECH)
    assert "one is inverted" in found.warnings[0]
    band = scipy.signal.butter(8, 300, "highpass", fs=16000, output="sos")
    assert abs(correlation(*(scipy.signal.sosfilt(band, wav) for wav in (found.wav, SPEECH)))) > 0.98


def test_a_channel_of_hum_is_left_out_without_a_word(tmp_path):
    found = load(tmp_path, rumble(50.0), SPEECH, SPEECH)
    assert not found.warnings and correlation(found.wav, SPEECH) > 0.99


@pytest.mark.parametrize("other", [
    np.where(np.arange(len(SPEECH)) % 1600, 0.0, 0.9), np.where(np.arange(len(SPEECH)) % 5000, 0.0, 0.9),
    600 * NOISE[1] * (SECONDS % 2 < 1), 60 * NOISE[1] * (SECONDS % 0.6 < 0.3),
    rumble(1000.0) * (SECONDS % 1 < 0.2)], ids=["clicks", "rare clicks", "bursts", "short bursts", "beeps"])
def test_a_channel_is_not_speech_because_it_is_loud_at_times(tmp_path, other):
    for channels in ((other, SPEECH + NOISE[0]), (SPEECH + NOISE[0], other)):
        found = load(tmp_path, *(channel.astype(np.float32) for channel in channels))
        assert found.warnings and correlation(found.wav, SPEECH) > 0.99


@pytest.mark.parametrize("decibel", [0, -3, -6])
def test_a_channel_with_loud_noise_is_not_mixed_with_a_clean_one(tmp_path, decibel):
    noisy = SPEECH + SPEECH.std() * 10 ** (decibel / 20) * NOISE[1] / NOISE.std()
    assert "channel 1 of 2" in load(tmp_path, SPEECH, noisy).warnings[0]
    assert "channel 2 of 2" in load(tmp_path, noisy, SPEECH).warnings[0]


@pytest.mark.parametrize("decibel", [-6, -10])
@pytest.mark.parametrize("start", [0, 30000])
def test_two_people_who_are_heard_in_both_channels_are_not_mixed(tmp_path, decibel, start):
    both = np.zeros((2, start + len(SPEECH) + len(MAN)), np.float32)
    both[0, :len(SPEECH)], both[1, start:start + len(MAN)] = SPEECH, MAN
    assert "two people" in load(tmp_path, *(both + 10 ** (decibel / 20) * both[::-1])).warnings[0]


@pytest.mark.parametrize("milliseconds", [0.2, 0.3, 0.6])
@pytest.mark.parametrize("speech", [SPEECH, MAN], ids=["woman", "man"])
def test_channels_that_are_apart_by_a_part_of_a_millisecond_are_not_mixed(tmp_path, speech, milliseconds):
    spectrum = np.fft.rfft(speech)
    shift = np.exp(-2j * np.pi * np.fft.rfftfreq(len(speech), 1 / 16000) * milliseconds / 1000)
    late = 0.9 * np.fft.irfft(spectrum * shift, len(speech))
    assert "two microphones" in load(tmp_path, speech, late).warnings[0]


@pytest.mark.parametrize("seed", range(3))
def test_the_room_between_two_microphones_is_nothing_to_warn_of(tmp_path, seed):
    rng = np.random.default_rng(seed)
    echoes = rng.normal(size=(2, 4800)) * np.exp(-np.arange(4800) / 900) * (np.arange(4800) > 50)
    echoes *= 0.6 / np.linalg.norm(echoes, axis=1, keepdims=True)  # 4 dB below the direct sound
    speech = (SPEECH, MAN)[seed % 2]
    found = load(tmp_path, *(speech + scipy.signal.fftconvolve(speech, echo)[:len(speech)] for echo in echoes))
    assert not found.warnings


def test_a_channel_that_is_named_is_used_and_one_that_is_missing_refused(tmp_path):
    found = load(tmp_path, SPEECH, words(7, seconds=len(SPEECH) / 16000), channel=1)
    assert not found.warnings and correlation(found.wav, SPEECH) > 0.99
    with pytest.raises(audio_files.BadAudio, match="a.wav: has 2 channels, --channel 3"):
        load(tmp_path, SPEECH, SPEECH, channel=3)


@pytest.mark.parametrize("channel", [1, 2])
def test_a_recording_with_one_channel_has_no_second_one_which_is_said(tmp_path, channel):
    found = load(tmp_path, SPEECH, channel=channel)
    assert correlation(found.wav, SPEECH) > 0.99
    assert found.warnings == [f"{tmp_path / 'a.wav'}: has one channel: --channel 2 chooses nothing in it"][:channel - 1]


@pytest.mark.usefixtures("serial")
def test_preparation_uses_the_channel_that_is_named(tmp_path, capsys):
    """The features of another channel are not taken for those of this one."""
    for number, name in enumerate("abcd"):
        spoken, noise = (words(seed, seconds=1.2, pitch=110.0) for seed in (number, 9))
        write(tmp_path / "anna" / f"{name}.wav", np.stack([noise, spoken], axis=1))
        write(tmp_path / "bert" / f"{name}.wav", words(number, seconds=1.3, pitch=180.0))
    mels = []
    for flags in (["--channel", "1"], ["--channel", "2"], ["--channel", "2"], []):
        prepro.main(["--source", f"{tmp_path / 'anna'}", "--target", f"{tmp_path / 'bert'}", "--unpaired",
                     "--data", f"{tmp_path / 'data'}", *flags])
        mels.append(np.load(tmp_path / "data" / "features" / "anna" / "a.mel.npy"))
        corpus = data_load.Corpus(tmp_path / "data", HP)
        tested = corpus.split("test")[0]  # evaluation hears what the features were made from
        heard = analysis.extract(heldout.load_segment(corpus, tested, "source"), HP)
        made = np.load(tmp_path / "data" / "features" / "anna" / f"{tested.utterance}.linear.npy")
        np.testing.assert_allclose(heard.linear, made, atol=0.01)
        assert ("--channel chooses another" in capsys.readouterr().err) == (not flags)
    audio_files.save_wav(tmp_path / "alone.wav", words(0, seconds=1.2, pitch=110.0), HP)
    prepro.compute_features(tmp_path / "alone.wav", tmp_path / "alone", HP)
    alone = np.load(tmp_path / "alone.mel.npy")
    assert mels[1].shape == alone.shape and np.abs(mels[1] - alone).max() < 0.02
    assert mels[0].shape != alone.shape or np.abs(mels[0] - alone).max() > 0.1
    assert np.array_equal(mels[1], mels[2])
    heldout.load_once.cache_clear()
    write(pathlib.Path(tested.source_file), words(7))  # its features and its sound were then those of two recordings
    with pytest.raises(UserError, match=f"{tested.source_file} is not the recording that .* were made of: run prepro"):
        heldout.load_segment(corpus, tested, "source")
    pathlib.Path(tested.source_file).unlink()
    with pytest.raises(UserError, match=f"{tested.source_file} does not exist, but features in .*: move record"):
        heldout.load_segment(corpus, tested, "source")


@pytest.mark.parametrize("number", ["0", "-1", "left", "1.5"])
def test_channels_are_counted_from_1(capsys, number):
    with pytest.raises(SystemExit):
        prepro.parse_arguments(["--target", "x", "--data", "y", f"--channel={number}"])
    assert f"--channel: {number!r} is no whole number from 1 on" in capsys.readouterr().err
