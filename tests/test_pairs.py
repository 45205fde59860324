"""Pairs that do not say the same words are seen, by the distance of their recordings from those of other names."""
import contextlib
import os
import pathlib
import shutil

import prepro
from common.cli import UserError
from conftest import DEMO_IDS, TINY, demo_wav, words, write
from corpus import alignment, analysis, demo, manifest, mismatch
from hyperparams import HyperParams

import numpy as np
import pytest
import soundfile

SENTENCES = 14


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Sentences of two speakers, of their own pace and pitch."""
    folder = tmp_path_factory.mktemp("spoken")
    for speaker, pace, pitch in (("man", 1.0, 110.0), ("woman", 1.1, 210.0)):
        for number in range(SENTENCES + 1):
            write(folder / speaker / f"{number:02d}.wav", words(number, seconds=pace * (1.2 + 0.1 * (number % 4)),
                                                                pitch=pitch))
    return folder


def prepare(spoken, tmp_path, said_by_her, sentences: int = SENTENCES, takes: int = 1) -> list[manifest.Pair]:
    """Prepare pairs in which the woman says sentence `said_by_her(n)` where the man says sentence n, or as many takes
    of fewer sentences."""
    for number in range(sentences):
        for speaker, sentence in (("man", number), ("woman", said_by_her(number))):
            (tmp_path / speaker).mkdir(exist_ok=True)
            content = (spoken / speaker / f"{sentence // takes:02d}.wav").read_bytes()
            # No two are the same: the last sample differs
            (tmp_path / speaker / f"{number:02d}.wav").write_bytes(content[:-2] + bytes([number, 0]))
    corpora, target = manifest.gather([tmp_path / "man"], tmp_path / "woman", "(.*)")
    return prepro.prepare(corpora, target, tmp_path / "data", TINY)


def test_right_pairs_are_kept(spoken, tmp_path, serial):
    assert not [pair for pair in prepare(spoken, tmp_path, lambda number: number) if pair.reason]


def test_noise_does_not_make_other_words(tmp_path, serial):
    """A noisy recording is as far from its partner as a clean one is from other words."""
    rng = np.random.default_rng(0)
    for number in range(SENTENCES):
        level, seconds = np.random.default_rng(number + 50).uniform(-40.0, 0.0, 7), 1.2 + 0.1 * (number % 4)
        for speaker, pace, pitch in (("man", 1.0, 110.0), ("woman", 1.1, 210.0)):
            wav = words(number, seconds=pace * seconds, pitch=pitch)
            wav *= 10 ** (np.interp(np.arange(len(wav)), np.linspace(0, len(wav), 7), level) / 20)
            noise = (number % 2) * (speaker == "man") * 0.5 * wav.std() * rng.normal(size=len(wav))
            write(tmp_path / speaker / f"{number:02d}.wav", wav + noise)
    corpora, target = manifest.gather([tmp_path / "man"], tmp_path / "woman", "(.*)")
    assert not any(pair.reason for pair in prepro.prepare(corpora, target, tmp_path / "data", TINY))


def test_several_takes_of_a_sentence_are_no_other_words(spoken, tmp_path, serial, capsys):
    assert not any(pair.reason for pair in prepare(spoken, tmp_path, lambda number: number, 24, takes=4))
    assert "goes with" not in capsys.readouterr().err


def test_pairs_that_are_wrong_from_some_sentence_on_are_dropped(spoken, tmp_path, serial, capsys):
    pairs = prepare(spoken, tmp_path, lambda number: number + (number >= 10))
    assert {pair.name for pair in pairs if "other words" in pair.reason} == {"10", "11", "12", "13"}
    assert "11 to 13 of man fit the target's recording before the one of their name: 11 goes with 10" in (
        capsys.readouterr().err)


def test_segments_of_a_recording_are_not_to_be_renamed(spoken, tmp_path, serial, capsys, monkeypatch):
    def renamed(pairs, *rest):
        for pair in pairs:
            pair.utterance = "chapter"
        monkeypatch.setattr(mismatch.pairing, "load_mels", lambda pair, *_: load(
            pair.__class__(**{**pair.__dict__, "utterance": pair.name}), *_))
        drop(pairs, *rest)
        for pair in pairs:
            pair.utterance = pair.name
    drop, load = mismatch.drop, mismatch.pairing.load_mels
    monkeypatch.setattr(mismatch, "drop", renamed)
    prepare(spoken, tmp_path, lambda number: number + (number >= 10))
    assert "goes with" not in capsys.readouterr().err


def test_the_pairs_of_a_right_order_are_not_called_misplaced(spoken, tmp_path, serial, capsys):
    prepare(spoken, tmp_path, lambda number: {3: 9, 9: 3}.get(number, number))  # two are exchanged
    assert "fit the target's recording" not in capsys.readouterr().err


@pytest.mark.parametrize("sentences", [3, 4])
@pytest.mark.parametrize("right", [True, False])
def test_few_pairs_are_compared_with_each_other(spoken, tmp_path, serial, sentences, right):
    with contextlib.nullcontext() if right else pytest.raises(UserError, match="do not say the same words"):
        pairs = prepare(spoken, tmp_path, lambda number: number if right else number + 5, sentences)
        assert not any(pair.reason for pair in pairs)


def test_a_single_pair_cannot_be_compared_which_is_said(spoken, tmp_path, serial, capsys):
    shutil.copytree(spoken / "man", tmp_path / "child")
    for number in range(1, SENTENCES + 1):
        (tmp_path / "child" / f"{number:02d}.wav").unlink()
    for speaker in ("man", "woman"):
        shutil.copytree(spoken / speaker, tmp_path / speaker)
    corpora, target = manifest.gather([tmp_path / "man", tmp_path / "child"], tmp_path / "woman", "(.*)")
    prepro.prepare(corpora, target, tmp_path / "data", TINY)
    assert capsys.readouterr().err.count("child and woman have too few sentences in common") == 1


@pytest.mark.parametrize("said_by_her, fit", [
    (lambda number: number + 1, "01 to 13 of man .* before the one of their name: 01 goes with 00"),
    (lambda number: max(number - 1, 0), "01 to 12 of man .* after the one of their name: 01 goes with 02"),
    (lambda number: number + (number >= 5), "06 to 13 of man .* before the one of their name: 06 goes with 05"),
    (lambda number: max(number - 2, 0), "0[01] to 11 of man .* two after the one of their name: 0[01] goes with 0[23]"),
    (lambda number: number ^ 1, r"\d dB\. Rename"),  # without advice, for there is no order in it
    (lambda number: (7 + number) % SENTENCES, r"\d dB\. Rename"),
    (lambda number: (5 * number) % SENTENCES, "do not say the same words")])
def test_a_pairing_that_is_wrong_as_a_whole_is_refused(spoken, tmp_path, serial, said_by_her, fit):
    with pytest.raises(UserError, match=f"(?s)man and woman.*{fit}") as refused:
        prepare(spoken, tmp_path, said_by_her)
    assert "--unpaired" in str(refused.value) and not (tmp_path / "data" / "manifest.csv").exists()


def test_a_few_pairs_that_are_one_file_off_get_the_right_advice(spoken, tmp_path, serial):
    with pytest.raises(UserError, match="before the one of their name: 01 goes with 00"):
        prepare(spoken, tmp_path, lambda number: number + 1, 12)


def chapter(spoken, path, sentences: list[str]) -> None:
    """Sentences one after the other, with pauses between them, as one long recording."""
    pause = np.zeros(6400, np.float32)
    write(path, np.concatenate([part for name in sentences for part in (soundfile.read(spoken / name)[0], pause)]))


@pytest.mark.parametrize("order, refused", [
    (range(14), False), ([10, 11, 12, 13, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3], True), (range(13, -1, -1), True)])
def test_long_recordings_of_other_words_are_refused(spoken, tmp_path, serial, order, refused):
    """The segments of one recording are compared with each other; its paragraphs may be in another order."""
    chapter(spoken, tmp_path / "man" / "one.wav", [f"man/{number:02d}.wav" for number in range(14)])
    chapter(spoken, tmp_path / "woman" / "one.wav", [f"woman/{number:02d}.wav" for number in order])
    corpora, target = manifest.gather([tmp_path / "man"], tmp_path / "woman", "(.*)")
    with pytest.raises(UserError, match="do not say the same words") if refused else contextlib.nullcontext():
        pairs = prepro.prepare(corpora, target, tmp_path / "data", TINY.replace(max_seconds=4.0))
        assert len(pairs) > 5 and not any("other words" in pair.reason for pair in pairs)


def test_another_recording_of_the_same_name_time_and_size_is_noticed(spoken, tmp_path):
    """Archives and `cp -p` bring such files."""
    path, stem = tmp_path / "a.wav", tmp_path / "features" / "a"
    shutil.copy(spoken / "man" / "01.wav", path)
    before = path.stat()
    frames, reason, *_ = prepro.compute_features(path, stem, TINY)
    assert frames and not reason
    mel = stem.with_name("a.mel.npy").read_bytes()
    write(path, words(33, seconds=1.3, pitch=210.0))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    prepro.compute_features(path, stem, TINY)
    assert stem.with_name("a.mel.npy").read_bytes() != mel


@pytest.mark.parametrize("named, kept", [(8.4, True), (8.8, False)])
def test_a_pair_that_is_hardly_better_than_others_is_kept_if_it_is_the_best(monkeypatch, named, kept):
    """The 12 others of its kind are far better, so the limit is far below it."""
    def distances(*_):
        found = {shift: 9.0 + 0.02 * np.arange(12) % 0.1 for shift in range(12)}
        found[0] = np.where(np.arange(12) == 5, named, 5.0)
        found[4][5] = 8.6  # of another name
        return np.vectorize(lambda i, j: found[(j - i) % 12][i])
    monkeypatch.setattr(mismatch, "distances", distances)
    pairs = [manifest.Pair(f"{n:02d}", f"{n:02d}", "man", "train") for n in range(12)]
    mismatch.drop(pairs, None, "woman", TINY)
    assert [pair.name for pair in pairs if pair.reason] == ([] if kept else ["05"])


@pytest.mark.parametrize("source, target, better, kept", [
    (5, 6, 6.6, False), (4, 5, 6.6, False), (5, 6, 7.6, True), (4, 5, 8.8, True)])
def test_a_doubtful_pair_is_dropped_if_another_name_clearly_fits_better(monkeypatch, source, target, better, kept):
    """Of two paragraphs that were exchanged, one sentence in sixteen stayed in training."""
    costs = np.random.default_rng(0).normal(9.0, 0.4, (12, 12))
    np.fill_diagonal(costs, 6.6)
    costs[5, 5] = 7.7
    costs[source, target] = better  # a neighbour in the order of names, whom the ten others leave out
    monkeypatch.setattr(mismatch, "distances", lambda *_: lambda i, j: costs[i, np.asarray(j) % 12])
    pairs = [manifest.Pair(f"{n:02d}", f"{n:02d}", "man", "train") for n in range(12)]
    mismatch.drop(pairs, None, "woman", TINY)
    fits = f"{target:02d} of woman" if source == 5 else f"{source:02d} of man"
    assert {pair.name: pair.reason for pair in pairs if pair.reason} == (
        {} if kept else {"05": f"{fits} fits better: other words?"})


def test_only_the_demo_under_its_own_names_need_not_be_checked(tmp_path):
    own = {speaker: manifest.find_utterances(demo.RECORDINGS / speaker, "(.*)") for speaker in ("rms", "slt")}
    assert len(own["rms"]) == 248 and demo.holds(own)
    shifted = dict(zip(sorted(own["slt"]), [own["slt"][name] for name in sorted(own["slt"])[1:]]))
    assert not demo.holds(own | {"slt": shifted})
    copy = shutil.copy(own["slt"]["demo_001"], tmp_path)
    assert not demo.holds({"rms": own["rms"], "slt": {"demo_001": pathlib.Path(copy)}})


def test_the_demo_is_not_checked(tmp_path, serial, monkeypatch):
    monkeypatch.setattr(mismatch, "drop", lambda *_: pytest.fail("it loses sentences that are right"))
    corpora = {speaker: {name: demo.RECORDINGS / speaker / f"{name}.ogg" for name in DEMO_IDS[:4]}
               for speaker in ("rms", "slt")}
    assert not any(pair.reason for pair in prepro.prepare(corpora, "slt", tmp_path / "data", TINY))


@pytest.mark.parametrize("seed", range(5))
def test_the_limit_of_other_words_lies_between_them_and_the_same_words(seed):
    """With two of five paragraphs exchanged it rose to what other words have, and half of these stayed."""
    rng = np.random.default_rng(seed)
    right, wrong = rng.normal(-1.1, 0.3, 60), rng.normal(0.0, 0.38, 60)
    limit = mismatch.find_limit(np.concatenate([right[:24], wrong[:16]]), 0.38)
    assert np.mean(right <= limit) > 0.9 and np.mean(wrong <= limit) < 0.2
    for own in (right, np.concatenate([right, wrong[:3]])):  # few are of other words, so it may be wider
        assert np.mean(right <= mismatch.find_limit(own, 0.38)) > 0.95 and mismatch.find_limit(own, 0.38) > limit
    assert mismatch.find_limit(wrong, 0.38) == -np.inf


@pytest.mark.parametrize("fault", ["", "left out", "said twice"])
def test_a_sentence_that_is_left_out_of_a_long_recording_is_not_trained_on(tmp_path, serial, fault):
    """Its segment holds other words in a third of its length, which its mean distance does not tell."""
    hp, ids = HyperParams(), [f"demo_{number:03d}" for number in range(1, 29)]
    changed = ids[:16] + ids[16:17] * {"": 1, "left out": 0, "said twice": 2}[fault] + ids[17:]
    pause = np.zeros(6400, np.float32)
    for speaker, said in (("rms", ids), ("slt", changed)):
        write(tmp_path / speaker / "one.wav", np.concatenate(
            [part for name in said for part in (demo_wav(speaker, name, hp), pause)]))
    corpora, target = manifest.gather([tmp_path / "rms"], tmp_path / "slt", "(.*)")
    pairs = prepro.prepare(corpora, target, tmp_path / "data", hp.replace(max_seconds=6.0))
    begins = sum(len(demo_wav("rms", name, hp)) + len(pause) for name in ids[:16]) / hp.hop_length
    ends = begins + (len(demo_wav("rms", ids[16], hp)) + len(pause)) / hp.hop_length
    dropped = [pair for pair in pairs if pair.split == "dropped"]
    assert len(pairs) - len(dropped) >= 8
    for pair in dropped:
        assert fault and pair.source_start < ends + 800 and pair.source_end > begins - 800, pair
        assert "words" in pair.reason
    if fault:
        assert any(pair.source_start < ends and pair.source_end > begins for pair in dropped)


def test_a_false_start_is_no_part_of_the_sentence(serial):
    hp, found = HyperParams(), {}
    for name in ("demo_002", "demo_003", "demo_007"):
        mels = [analysis.extract(demo_wav(speaker, name, hp), hp).mel.astype(np.float32) for speaker in ("rms", "slt")]
        for start in (0, 110):
            both = [np.concatenate([mels[0][:start], mels[0]]), mels[1]]
            features = [alignment.alignment_features(mel, hp) for mel in both]
            features = [each - each.mean(axis=0) for each in features]
            positions, _ = alignment.warp(*features)
            for order in (1, -1):  # whoever it is who says it twice
                place = positions if order > 0 else np.interp(
                    np.arange(len(both[0])), positions, np.arange(len(both[1])))
                pace = (len(mels[0]) / len(mels[1])) ** order
                found.setdefault(start, []).append(alignment.unlike(
                    place, features[::order], [*map(alignment.speaking, both)][::order], pace, hp)[0])
    assert max(found[0]) < 0.2 and min(found[110]) > 0.2 and np.mean(found[110]) > mismatch.LEFT_OUT


def test_who_speaks_unlike_the_target_everywhere_is_not_dropped():
    pairs = [manifest.Pair(f"{number}", f"{number}", "a", "train") for number in range(10)]
    mismatch.drop_partly(pairs[:7], [(9.0, 9.0)] * 7)  # too few to tell
    mismatch.drop_partly(pairs, [(1.0, 5.0)] * 10)
    assert not any(pair.reason for pair in pairs)
    mismatch.drop_partly(pairs, [(0.1, 5.0)] * 8 + [(1.0, 5.0), (0.1, 9.0)])
    assert [pair.split for pair in pairs] == ["train"] * 8 + ["dropped"] * 2
    assert "1.0 s of speech are in one recording alone" in pairs[8].reason and "9.0 dB higher for" in pairs[9].reason
