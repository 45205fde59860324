"""Long recordings are processed in parts, which bounds memory and does not change the result."""
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import hyperparams
import utils
from conversion import inference
from conftest import demo_wav
from conversion.inference import Converted

HP = hyperparams.HyperParams()


class Copier:
    """A stand-in for a converter: returns each spectrogram unchanged and records how many it was given at once."""
    hp = HP

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


@pytest.mark.parametrize("seconds", [0.0, 0.01, 1.0, 2.5])
def test_mel_in_blocks_equals_the_mel_of_the_whole_recording(recording, monkeypatch, seconds):
    monkeypatch.setattr(utils, "BLOCK_FRAMES", 50)
    wav = recording[:round(seconds * HP.sample_rate) + 7]
    np.testing.assert_allclose(utils.mel_in_blocks(wav, HP), utils.spectrograms(wav, HP)[0], atol=1e-5)


@pytest.mark.parametrize("cut", [-1, 0, 3])
def test_converting_chunks_in_groups_equals_converting_them_all_at_once(recording, monkeypatch, cut):
    monkeypatch.setattr(inference, "CHUNK_SECONDS", 2.0)
    with ThreadPoolExecutor(1) as pool:
        whole = inference.convert_recording(recording, Copier(cut), pool)
        monkeypatch.setattr(inference, "CHUNKS_AT_ONCE", 2)
        copier = Copier(cut)
        grouped = inference.convert_recording(recording, copier, pool)
    assert len(grouped.chunks) == sum(copier.at_once) > 4 and max(copier.at_once) == 2
    np.testing.assert_array_equal(grouped.wav, whole.wav)
    np.testing.assert_array_equal(grouped.first.linear, whole.first.linear)
    assert grouped.stopped == whole.stopped == (cut < 0)
    # The voice is identified once, from all chunks of the first group together
    n_frames = [1 + len(chunk.wav) // HP.hop_length for chunk in grouped.chunks]
    assert copier.heard == [sum(n_frames[:2])]
