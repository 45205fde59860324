"""Measures distinguish content from babble and equal values computed by hand."""
import utils
from conftest import DEMO_IDS, demo_wav, words
from corpus import analysis
from evaluation import metrics
from hyperparams import HyperParams

import numpy as np
import pytest
import scipy.ndimage

HP = HyperParams()


@pytest.fixture(scope="module")
def sentences() -> list[np.ndarray]:
    """Mel spectrograms (T, M) of sentences by the target speaker."""
    return [utils.spectrograms(demo_wav("slt", utterance, HP), HP)[0] for utterance in DEMO_IDS[:8]]


def retrieved(mels: list[np.ndarray], candidates: list[np.ndarray]) -> int:
    """Return how many spectrograms are nearest to the candidate with the same index."""
    speech, references = ([metrics.Speech(metrics.speech_cepstra(mel, HP), None) for mel in group]
                          for group in (mels, candidates))
    distances = [metrics.retrieve(each, dict(enumerate(references))) for each in speech]
    return sum(min(distance, key=distance.get) == i for i, distance in enumerate(distances))


def test_retrieval_finds_distorted_copies(sentences):
    rng = np.random.default_rng(0)
    tilt = 0.1 * np.linspace(1.0, -1.0, HP.n_mels)
    copies = [scipy.ndimage.zoom(scipy.ndimage.gaussian_filter1d(mel, 1.5, axis=0), (1.15, 1), order=1) + tilt
              + rng.normal(0.0, 0.05, HP.n_mels) for mel in sentences]
    assert retrieved(copies, sentences) == len(sentences)


def test_retrieval_is_not_fooled_by_babble(sentences):
    average = np.concatenate(sentences).mean(axis=0)
    assert retrieved([np.tile(average, (len(mel), 1)) for mel in sentences], sentences) <= 2
    # Another sentence by the right voice is nearest to what it says, and not to what it should say
    assert retrieved(sentences[1:] + sentences[:1], sentences) == 0


def test_retrieval_ignores_the_level(sentences):
    assert retrieved([mel + 0.1 for mel in sentences], sentences) == len(sentences)


def test_distortion_of_a_recording_with_itself_is_zero(sentences):
    cepstra = metrics.speech_cepstra(sentences[0], HP)
    assert metrics.mel_cepstral_distortion(cepstra, cepstra) == 0.0


def test_distortion_is_in_decibel(sentences):
    ripple = np.cos(np.pi * 3 * (np.arange(HP.n_mels) + 0.5) / HP.n_mels)  # root mean square 1 / sqrt(2)
    mel = np.tile(0.5 + 0.1 * ripple, (30, 1))
    plain, changed = (metrics.speech_cepstra(x, HP) for x in (mel, mel + 4.0 / HP.range_db * ripple))
    assert metrics.mel_cepstral_distortion(changed, plain) == pytest.approx(4.0 / np.sqrt(2.0), rel=1e-3)


def test_distortion_ignores_tempo_and_loudness():
    wav = demo_wav("slt", "demo_003", HP)
    cepstra, other = metrics.analyse(wav, HP).cepstra, metrics.analyse(demo_wav("slt", "demo_004", HP), HP).cepstra
    linear, pitch = utils.spectrograms(0.2 * wav, HP)[1], utils.octaves(analysis.pitch(wav, HP), HP)
    frames = np.arange(0.0, len(linear) - 1, 0.8).round().astype(int)
    slow = metrics.analyse(utils.griffin_lim(linear[frames], pitch[frames], HP.replace(power=1.0)), HP).cepstra
    assert metrics.mel_cepstral_distortion(slow, cepstra) < 0.5 * metrics.mel_cepstral_distortion(other, cepstra)


def test_silent_frames_do_not_count(sentences):
    mel = sentences[0]
    padded = np.concatenate([np.zeros((40, HP.n_mels), np.float32), mel, np.zeros((40, HP.n_mels), np.float32)])
    # The level of speech is a percentile, which silence shifts: a few more frames count, but none of the silent ones
    assert metrics.mel_cepstral_distortion(metrics.speech_cepstra(padded, HP), metrics.speech_cepstra(mel, HP)) < 1.0
    assert len(metrics.speech_cepstra(mel, HP)) <= len(metrics.speech_cepstra(padded, HP)) <= len(mel)


def test_recording_does_not_differ_from_itself():
    sentence = metrics.analyse(demo_wav("slt", "demo_003", HP), HP)
    measures = metrics.compare(sentence, sentence)
    assert measures["MCD dB"] == measures["F0 RMSE Hz"] == measures["voicing error"] == 0.0
    assert measures["F0 correlation"] == pytest.approx(1.0) and measures["median F0 ratio"] == 1.0


def test_pitch_is_compared_where_both_recordings_have_one():
    low, high = (metrics.analyse(words(3, pitch=pitch), HP) for pitch in (120.0, 180.0))
    measures = metrics.compare(high, low)
    assert measures["median F0 ratio"] == pytest.approx(1.5, rel=0.02)
    assert measures["F0 RMSE Hz"] == pytest.approx(60.0, abs=8.0)
    half = high._replace(hertz=np.where(np.arange(len(high.hertz)) < len(high.hertz) // 2, high.hertz, 0.0))
    fewer = metrics.compare(half, low)
    assert fewer["F0 RMSE Hz"] == pytest.approx(60.0, abs=8.0) and fewer["voicing error"] > measures["voicing error"]


def test_whispered_speech_has_no_measures_of_pitch():
    sentence = metrics.analyse(demo_wav("slt", "demo_003", HP), HP)
    measures = metrics.compare(sentence._replace(hertz=np.zeros_like(sentence.hertz)), sentence)
    assert all(np.isnan(measures[name]) for name in ("F0 RMSE Hz", "F0 correlation", "median F0 ratio"))
    assert measures["MCD dB"] == 0.0 and measures["voicing error"] == np.mean(sentence.hertz > 0.0) > 0.3


def test_path_distance():
    assert metrics.path_distance(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0])) == 0.0
    assert metrics.path_distance(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0])) == 1.0
    # The shorter path, whichever it is, stays at its last position: the differences are 0 0 0 1 2
    assert metrics.path_distance(np.arange(3.0), np.arange(5.0)) == pytest.approx(0.6)
    assert metrics.path_distance(np.arange(5.0), np.arange(3.0)) == pytest.approx(0.6)


def test_duration_error():
    assert metrics.duration_error(115, 100) == metrics.duration_error(85, 100) == pytest.approx(0.15)
    assert metrics.duration_error(100, 100) == 0.0


def test_global_variance_ratio(sentences):
    cepstra = metrics.speech_cepstra(sentences[0], HP)
    smooth = scipy.ndimage.gaussian_filter1d(cepstra, 4.0, axis=0)
    assert metrics.global_variance_ratio(cepstra, cepstra) == pytest.approx(1.0)
    assert metrics.global_variance_ratio(smooth, cepstra) < 0.8
    assert metrics.global_variance_ratio(2.0 * cepstra, cepstra) == pytest.approx(4.0)


def test_modulation_distance_detects_smoothing_for_any_sentences(sentences):
    cepstra = [metrics.speech_cepstra(mel, HP) for mel in sentences]
    assert metrics.modulation_distance(cepstra, cepstra) == 0.0
    smooth = [scipy.ndimage.gaussian_filter1d(x, 2.0, axis=0) for x in cepstra]
    halves = metrics.modulation_distance(cepstra[:4], cepstra[4:])
    assert metrics.modulation_distance(smooth, cepstra) > 3 * halves
    # Twice the movement is four times the power
    assert metrics.modulation_distance([2.0 * x for x in cepstra], cepstra) == pytest.approx(6.02, abs=0.05)
    assert np.isfinite(metrics.modulation_spectrum(cepstra[0][:5])).all()
