"""Batches: they depend only on seed and step, match the features and the DTW paths, and are silent where padded."""
import collections
import errno
import os
import pathlib
import shutil

import data_load
from common.cli import UserError
from conftest import plain_corpus
from conversion import base
from corpus import analysis
from data_load import ADVERSARIAL, PAIRED, POSTNET, Corpus

import numpy as np
import pytest


@pytest.fixture(scope="module")
def corpus(demo_data, tiny_hp) -> Corpus:
    return plain_corpus(demo_data, tiny_hp)


def equal(one: dict, other: dict) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in {**one, **other})


@pytest.mark.parametrize("make", ["postnet_batch", "paired_batch"])
def test_a_batch_is_a_function_of_seed_and_step(corpus, demo_data, tiny_hp, make):
    batches = [getattr(corpus, make)(step) for step in range(6)]
    again = plain_corpus(demo_data, tiny_hp)
    for step in (4, 0, 5, 2):  # in any order, as after a resume
        assert equal(getattr(again, make)(step), batches[step])
    assert not any(equal(one, other) for one, other in zip(batches, batches[1:]))
    other_seed = plain_corpus(demo_data, tiny_hp.replace(seed=1))
    assert not any(equal(getattr(other_seed, make)(step), batches[step]) for step in range(6))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_names_of_a_batch_are_those_of_its_pairs(demo_data, tiny_hp, monkeypatch, share):
    corpus, read = plain_corpus(demo_data, tiny_hp.replace(whole_utterances=share)), []
    for pair in corpus.train:  # measured before, because this reads the features, too
        corpus.voice(pair)
    features = corpus.features
    monkeypatch.setattr(corpus, "features", lambda speaker, utterance, kind: read.append(
        (speaker, utterance, kind)) or features(speaker, utterance, kind))
    for kind, speaker, array in ((PAIRED, "rms", "linear"), (POSTNET, "slt", "mel")):
        for step in range(4):
            read.clear()
            {PAIRED: corpus.paired_batch, POSTNET: corpus.postnet_batch}[kind](step)
            names = [f"{speaker}/{pair.name}" for found in read if found[0] == speaker and found[2] == array
                     for pair in corpus.train if pair.utterance == found[1]]
            assert corpus.batch_names(kind, step) == names and names


@pytest.mark.parametrize("kind", [PAIRED, POSTNET])
def test_dataset_started_at_any_step_gives_the_same_batches(corpus, kind):
    make = {PAIRED: corpus.paired_batch, POSTNET: corpus.postnet_batch}[kind]
    batches = list(corpus.batches(kind, 3, 7))
    assert len(batches) == 4
    assert all(equal(batch, make(step)) for batch, step in zip(batches, range(3, 7)))


def test_an_adversarial_batch_holds_windows_of_speech_and_of_conversions(demo_data, tiny_hp):
    corpus, size = plain_corpus(demo_data, tiny_hp), tiny_hp.postnet_window
    conversions = [(np.full((length, tiny_hp.n_mels), i + 1.0), np.stack([np.arange(length), np.ones(length)], axis=1))
                   for i, length in enumerate((size - 5, size, 3 * size))]
    corpus.conversions = conversions
    starts, batches = set(), [corpus.adversarial_batch(step) for step in range(6)]
    for step, batch in enumerate(batches):
        assert equal(batch, corpus.adversarial_batch(step))
        assert equal({name: batch[name] for name in ("mel", "pitch", "linear", "mask")}, corpus.postnet_batch(step))
        for mel, pitch, mask in zip(batch["converted"], batch["converted_pitch"], batch["converted_mask"]):
            number, n = int(mel[0, 0]) - 1, int(mask.sum())
            start = int(pitch[0, 0])
            assert n == min(size, len(conversions[number][0])) and start + n <= len(conversions[number][0])
            assert (mel[:n] == number + 1.0).all() and not mel[n:].any() and len(mel) == size
            np.testing.assert_array_equal(pitch[:n, 0], start + np.arange(n))
            starts.add((number, start))
    assert {number for number, _ in starts} == {0, 1, 2} and len(starts) > 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_unreadable_features_are_named(demo_data, tiny_hp, tmp_path):
    shutil.copytree(demo_data, tmp_path / "data")
    path = tmp_path / "data" / "features" / "rms" / "demo_003.linear.npy"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="demo_003.linear.npy cannot be read .*run prepro.py again"):
        for _ in plain_corpus(tmp_path / "data", tiny_hp).batches(PAIRED, 0, 20):
            pass


@pytest.mark.parametrize("name, content", [
    ("prepro.json", ""), ("prepro.json", "{}"), ("prepro.json", "[]"), ("manifest.csv", "name,source\na,b\n"),
    ("manifest.csv", "name,utterance,source,split,source_seconds\na,a,b,train,x\n"),
    ("slices.csv", "source,name\nx,y\n")])
def test_damaged_table_is_named(demo_data, tiny_hp, tmp_path, name, content):
    shutil.copytree(demo_data, tmp_path / "data", ignore=shutil.ignore_patterns("*.npy"))
    (tmp_path / "data" / name).write_text(content)
    with pytest.raises(UserError, match=f"{name} is damaged or of another version .*run prepro.py again"):
        Corpus(tmp_path / "data", tiny_hp)


def test_source_is_selected_by_its_name_or_its_folder(corpus, demo_recordings, monkeypatch):
    pairs = corpus.split("test")
    monkeypatch.chdir(demo_recordings)
    for source in ("rms", "rms/", str(demo_recordings / "rms")):
        assert corpus.split("test", source) == pairs
    with pytest.raises(UserError, match="no held-out sentence of source 'slt'; there are rms"):
        corpus.split("test", "slt")
    for pair in pairs:  # folders with the same name are told apart by their parent folders
        monkeypatch.setattr(pair, "source", f"{demo_recordings.name}_rms")
    assert corpus.split("test", "rms") == pairs


@pytest.mark.parametrize("kind", [PAIRED, POSTNET, ADVERSARIAL])
def test_each_item_is_drawn_once_per_epoch(corpus, tiny_hp, kind):
    items = list(range(3 * tiny_hp.batch_size + 1))  # so that a batch crosses from one epoch to the next
    drawn = [item for step in range(len(items)) for item in corpus.sample(items, kind, step)]
    epochs = [drawn[i:i + len(items)] for i in range(0, len(drawn), len(items))]
    assert all(sorted(epoch) == items for epoch in epochs) and len(epochs) == tiny_hp.batch_size
    assert len(set(map(tuple, epochs))) == len(epochs)  # each epoch has its own order


@pytest.mark.parametrize("kind", [PAIRED, POSTNET, ADVERSARIAL])
def test_each_row_has_its_own_random_numbers(corpus, kind):
    """They also differ from the numbers that chose the batch."""
    first = [rng.random() for step in (0, 1, 7) for rng in
             (corpus.rng(kind, step), *(own for _, own in corpus.with_rngs(kind, step, list(range(5)))))]
    assert len(set(first)) == len(first) == 3 * 6


def test_all_slices_are_used_when_there_are_no_whole_utterances(demo_data, tiny_hp, monkeypatch):
    corpus = Corpus(demo_data, tiny_hp.replace(whole_utterances=0.0))
    seen = collections.Counter()
    monkeypatch.setattr(corpus, "assemble", lambda crops, rng: None)
    monkeypatch.setattr(corpus, "jitter", lambda pair, start, end, rng: seen.update([(pair.name, start, end)]))
    epochs = 2 * len(corpus.slices)  # as many batches draw each slice 2 * batch_size times
    for step in range(epochs):
        corpus.paired_batch(step)
    assert len(seen) == len(corpus.slices) and set(seen.values()) == {2 * tiny_hp.batch_size}


def test_only_training_pairs_are_in_batches(corpus):
    held_out = {pair.name for split in ("val", "test") for pair in corpus.split(split)}
    trained = {pair.name for pair in corpus.train}
    assert held_out and not held_out & trained
    assert {pair.name for pair, _, _ in corpus.slices} <= trained
    assert {pair.name for pair in corpus.target_pairs} == {pair.name for pair in corpus.by_length} == trained


def crops_of(corpus: Corpus, n: int = 40) -> list:
    rng = np.random.default_rng(0)
    return [corpus.jitter(*corpus.slices[i % len(corpus.slices)], rng) for i in range(n)]


def test_crops_contain_the_stored_features_of_their_segments(corpus, demo_data, tiny_hp):
    crops = crops_of(corpus)
    batch = corpus.assemble(crops)
    for i, (pair, start, end, source_start, source_end) in enumerate(crops):
        def stored(speaker, kind, pair=pair):
            return np.load(demo_data / "features" / speaker / f"{pair.utterance}.{kind}.npy").astype(np.float32)
        length, source_length = end - start, source_end - source_start
        voice = corpus.voice(pair)  # its mean is taken out, and the base changes nothing
        heard = stored("rms", "linear")[source_start:source_end] - voice.linear
        np.testing.assert_allclose(batch["source"][i, :source_length], heard, atol=1e-5)
        mapped = batch["mapped"][i, :source_length]
        heard = stored("rms", "mel")[source_start:source_end] - voice.mel
        np.testing.assert_allclose(mapped[:, :tiny_hp.n_mels], heard, atol=1e-5)
        contour = base.map_pitch(corpus.base, np.ravel(stored("rms", "pitch")), voice, tiny_hp)
        np.testing.assert_allclose(mapped[:, tiny_hp.n_mels:], contour[source_start:source_end], atol=1e-5)
        assert np.array_equal(batch["mel"][i, :length], stored("slt", "mel")[start:end])
        assert np.array_equal(batch["linear"][i, :length], stored("slt", "linear")[start:end])
        assert (batch["mask"][i].sum(), batch["source_mask"][i].sum()) == (length, source_length)
    assert batch["source"].shape[1] % tiny_hp.encoder_stack == 0 == batch["mel"].shape[1] % tiny_hp.r


def test_positions_are_the_dtw_path(corpus, demo_data, tiny_hp):
    crops = crops_of(corpus)
    positions = corpus.assemble(crops)["positions"]
    for (pair, start, end, source_start, _), row in zip(crops, positions):
        path = np.load(demo_data / "paths" / "rms" / f"{pair.name}.npy")
        steps = np.arange(start, end, tiny_hp.r)
        np.testing.assert_allclose(row[:len(steps)] + source_start, path[steps], atol=1e-4)


def test_voice_of_a_source_is_measured_once_for_each_base(demo_data, demo_base, tiny_hp, monkeypatch):
    corpus, find_voice, made = Corpus(demo_data, tiny_hp), base.find_voice, []
    monkeypatch.setattr(base, "find_voice", lambda *args: made.append(args) or find_voice(*args))
    corpus.use_base(demo_base)
    pair = corpus.train[0]
    for found, expected in zip(corpus.voice(pair), find_voice(demo_base, corpus.recording(pair), tiny_hp)):
        np.testing.assert_array_equal(found, expected)
    assert corpus.voice(pair) is corpus.voice(pair) and len(made) == 1
    corpus.use_base(demo_base)
    assert corpus.voice(pair) and len(made) == 2


def test_augmentation_changes_the_source_and_what_the_map_makes_of_it(corpus, tiny_hp):
    crops = crops_of(corpus, 8)
    plain, varied = corpus.assemble(crops), corpus.assemble(crops, [np.random.default_rng(i) for i in range(8)])
    for name in ("source", "mapped"):
        assert np.abs(varied[name] - plain[name]).max() > 0.05
    np.testing.assert_array_equal(varied["mapped"][:, :, tiny_hp.n_mels:], plain["mapped"][:, :, tiny_hp.n_mels:])
    assert all(np.array_equal(varied[name], plain[name]) for name in plain if name not in ("source", "mapped"))


def test_a_paired_batch_needs_a_base(demo_data, tiny_hp):
    corpus = Corpus(demo_data, tiny_hp)
    assert corpus.postnet_batch(0)
    with pytest.raises(AttributeError):
        corpus.paired_batch(0)


def test_crops_contain_the_source_segment_of_their_target(corpus, tiny_hp):
    crops = crops_of(corpus, 200)
    margins, shifts = [], set()
    for i, (pair, start, end, source_start, source_end) in enumerate(crops):
        shifts.add(start - corpus.slices[i % len(corpus.slices)][1])
        path = corpus.path(pair)
        assert 0 <= start < end <= pair.target_end and 0 <= source_start < source_end <= pair.source_end
        assert source_start <= path[start] and path[end - 1] <= source_end - 1
        margins += [path[start] - source_start, source_end - 1 - path[end - 1]]
    # Margins are random, so that an edge does not reveal the position
    assert max(margins) <= tiny_hp.slice_context + 1 and np.std(margins) > 2.0
    assert shifts == set(range(-tiny_hp.r, tiny_hp.r + 1))


def test_positions_of_whole_utterances_continue_at_slope_one_past_the_end(demo_data, tiny_hp):
    corpus = plain_corpus(demo_data, tiny_hp.replace(whole_utterances=1.0))
    batch = corpus.paired_batch(1)
    lengths = batch["mask"].sum(axis=1)
    assert set(lengths) <= {pair.target_end for pair in corpus.train}
    assert lengths.sum() <= tiny_hp.batch_size * tiny_hp.slice_max_seconds * tiny_hp.frames_per_second
    for row, source_mask, length in zip(batch["positions"], batch["source_mask"], lengths):
        past = np.arange(len(row)) * tiny_hp.r - (length - 1)
        np.testing.assert_allclose(row[past >= 0], source_mask.sum() - 1 + past[past >= 0], atol=1e-4)
        assert row[0] == 0.0 and (np.diff(row) >= 0.0).all()


@pytest.mark.parametrize("make", ["postnet_batch", "paired_batch"])
def test_features_are_silent_where_the_mask_is_zero(corpus, make):
    padded = 0
    for step in range(8):
        batch = getattr(corpus, make)(step)
        for name, array in batch.items():
            if array.ndim == 3:
                mask = batch["source_mask" if name in ("source", "mapped") else "mask"]
                spoken = array[mask == 1.0].any(axis=1).mean()
                assert not array[mask == 0.0].any() and spoken > (0.3 if name == "pitch" else 0.9)
                assert np.isin(mask, (0.0, 1.0)).all() and (np.diff(mask) <= 0.0).all()  # ones, then zeros
                padded += (mask == 0.0).sum()
        assert {array.dtype for array in batch.values()} == {np.dtype(np.float32)}
    assert padded or make == "postnet_batch"


def test_postnet_windows_pair_the_mel_with_the_linear_of_the_same_frames(demo_data, tiny_hp):
    batch = Corpus(demo_data, tiny_hp.replace(mel_blur_freq=0.0, mel_blur_time=0.0)).postnet_batch(0)
    assert batch["mel"].shape == (tiny_hp.batch_size, tiny_hp.postnet_window, tiny_hp.n_mels)
    for mel, pitch, linear in zip(batch["mel"], batch["pitch"], batch["linear"]):
        voiced = pitch[:, 1] > 0.0  # in other frames the width of the average can depend on pitch outside the window
        envelope = analysis.mel_envelope(linear[voiced], pitch[voiced, 0], tiny_hp)
        np.testing.assert_allclose(mel[voiced], envelope, atol=2e-3)
        assert voiced.sum() > 3


def test_few_files_stay_open(tmp_path):
    descriptors = pathlib.Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("open files cannot be counted here")
    before = len(os.listdir(descriptors))
    for i in range(600):
        np.save(tmp_path / f"{i}.npy", np.zeros((2, 2), np.float16))
        data_load.open_array(tmp_path / f"{i}.npy")
    assert len(os.listdir(descriptors)) - before < 100


def test_recordings_of_any_number_can_be_kept(demo_data, tiny_hp):
    """Held-out sentences of six sources, or 1,000 recordings of a target, were more files than may be open."""
    corpus = plain_corpus(demo_data, tiny_hp)
    kept = [*corpus.recording(corpus.train[0]), corpus.hertz(corpus.train[0]), corpus.pitch(corpus.train[0])]
    for array in kept:
        while array is not None:
            assert not isinstance(array, np.memmap)
            array = getattr(array, "base", None)


@pytest.mark.parametrize("number, cure", [
    (errno.EMFILE, "ulimit -n 1024"), (errno.ENFILE, "ulimit -n 1024"), (errno.EACCES, "check its permissions"),
    (errno.ENOENT, "run prepro.py again")])
def test_what_keeps_features_from_being_read_is_said(monkeypatch, tmp_path, number, cure):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(np, "load", fail)
    message = f"a.npy cannot be read .*{os.strerror(number)}.*: .*{cure}"
    with pytest.raises(UserError, match=message) as error:
        data_load.open_array(tmp_path / "a.npy")
    assert ("prepro.py" in str(error.value)) == (number in (errno.EACCES, errno.ENOENT))
