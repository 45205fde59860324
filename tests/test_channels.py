"""Of channels that do not hold the same sound the better one is used, and this is said."""
import numpy as np
import pytest

import prepro
import utils
from common import audio_files
from conftest import demo_wav, words, write
from hyperparams import HyperParams

HP = HyperParams()
SPEECH = demo_wav("slt", "demo_001", HP)
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


def test_a_channel_that_is_named_is_used_and_one_that_is_missing_refused(tmp_path):
    found = load(tmp_path, SPEECH, words(7, seconds=len(SPEECH) / 16000), channel=1)
    assert not found.warnings and correlation(found.wav, SPEECH) > 0.99
    with pytest.raises(audio_files.BadAudio, match="a.wav: has 2 channels, --channel 3"):
        load(tmp_path, SPEECH, SPEECH, channel=3)


def test_a_recording_with_one_channel_needs_no_choice(tmp_path):
    found = load(tmp_path, SPEECH, channel=2)
    assert not found.warnings and correlation(found.wav, SPEECH) > 0.99


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
        assert ("--channel chooses another" in capsys.readouterr().err) == (not flags)
    audio_files.save_wav(tmp_path / "alone.wav", words(0, seconds=1.2, pitch=110.0), HP)
    prepro.compute_features(tmp_path / "alone.wav", tmp_path / "alone", HP)
    alone = np.load(tmp_path / "alone.mel.npy")
    assert mels[1].shape == alone.shape and np.abs(mels[1] - alone).max() < 0.02
    assert mels[0].shape != alone.shape or np.abs(mels[0] - alone).max() > 0.1
    assert np.array_equal(mels[1], mels[2])


@pytest.mark.parametrize("number", ["0", "-1", "left", "1.5"])
def test_channels_are_counted_from_1(capsys, number):
    with pytest.raises(SystemExit):
        prepro.parse_arguments(["--target", "x", "--data", "y", f"--channel={number}"])
    assert "--channel: counts from 1" in capsys.readouterr().err
