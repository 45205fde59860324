"""Recordings of many sentences are cut at pauses, and their segments are distributed among the splits."""
import data_load
from conftest import demo_wav, words, write
from hyperparams import HyperParams

import numpy as np
import pytest
from test_prepro import IDS, prepare, record

pytestmark = pytest.mark.usefixtures("serial")
SENTENCES = ["demo_001", "demo_003", "demo_004", "demo_006", "demo_007", "demo_008"]


@pytest.fixture(scope="module")
def chapter(tmp_path_factory):
    """One recording of six sentences by each of two speakers, who pause differently."""
    folder = tmp_path_factory.mktemp("chapter")
    for speaker, pauses in (("rms", [0.5, 0.3, 0.4, 0.8, 0.4]), ("slt", [0.3, 0.9, 0.6, 0.3, 0.8])):
        parts = [demo_wav(speaker, SENTENCES[0], HyperParams())]
        for utterance, pause in zip(SENTENCES[1:], pauses):
            parts += [np.zeros(round(16000 * pause), np.float32), demo_wav(speaker, utterance, HyperParams())]
        write(folder / speaker / "chapter.wav", np.concatenate(parts))
    return folder


def cut(folder, *more, data="data", seconds=3.5):
    return prepare(folder, "--set", f"max_seconds={seconds}", *more, data=data, source="rms", target="slt")


def test_long_recordings_are_cut_and_every_split_gets_segments(chapter):
    pairs = sorted(cut(chapter).values(), key=lambda pair: pair.target_start)
    assert len(pairs) >= 5 and {pair.utterance for pair in pairs} == {"chapter"}
    usable = [pair for pair in pairs if pair.split != "dropped"]
    order = [pair.split for pair in usable]
    assert order == sorted(order, key=["train", "val", "test"].index) and set(order) == {"train", "val", "test"}
    assert max(pair.target_seconds for pair in usable) <= 3.5
    assert all(one.target_end <= other.target_start for one, other in zip(pairs, pairs[1:]))
    corpus = data_load.Corpus(chapter / "data", HyperParams())
    assert {pair.name for pair in corpus.target_pairs} == {pair.name for pair in usable if pair.split == "train"}
    for pair in usable:
        path = np.load(chapter / "data" / "paths" / "rms" / f"{pair.name}.npy")
        assert len(path) == pair.target_end - pair.target_start and path[-1] == pair.source_end - pair.source_start - 1


def test_preparing_with_another_segment_length_computes_new_paths(chapter):
    cut(chapter, data="twice")
    for pair in cut(chapter, data="twice", seconds=6.0).values():
        if not pair.reason:
            path = np.load(chapter / "twice" / "paths" / "rms" / f"{pair.name}.npy")
            assert len(path) == pair.target_end - pair.target_start
            assert path[-1] == pair.source_end - pair.source_start - 1


def test_a_long_recording_can_be_held_out(tmp_path):
    folder = tmp_path
    for speaker, pitch in (("anna", 180.0), ("bert", 110.0)):
        record(folder, speaker, IDS)
        write(folder / speaker / "chapter.wav", np.concatenate([
            np.pad(words(i, seconds=2.0, pitch=pitch), (0, 6400)) for i in range(4)]))
    (folder / "heldout").write_text("chapter\n")
    pairs = prepare(folder, "--set", "max_seconds=6", "--heldout", folder / "heldout").values()
    assert {pair.split for pair in pairs if pair.utterance == "chapter"} <= {"test", "dropped"}
    assert {pair.utterance for pair in pairs if pair.split == "test"} == {"chapter"}
