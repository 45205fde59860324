"""Recordings without a parallel partner: how they are prepared, held out, converted and measured."""
import json
import types

import data_load
import prepro
import utils
from common import audio_files
from common.cli import UserError
from conftest import TINY, leftovers, no_workers, plain_base, words
from conversion.inference import Converted
from corpus import analysis, manifest
from corpus.analysis import Features
from evaluation import figures, heldout

import numpy as np
import pytest
from test_prepro import IDS, prepare, read_slices, record

OTHERS = ["f", "g", "h", "i", "j", "k"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings of anna and bert; data/ is prepared from those in anna/other, whose names bert's do not share."""
    folder = tmp_path_factory.mktemp("unpaired")
    record(folder, "anna", OTHERS, "other/{}.wav")
    record(folder, "anna", IDS)
    record(folder, "bert", IDS)
    (folder / "heldout").write_text("c\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepro, "workers", no_workers)
        prepare(folder, source="anna/other")
    return folder


@pytest.fixture
def corpus(folder) -> data_load.Corpus:
    found = data_load.Corpus(folder / "data", TINY)
    found.use_base(plain_base(TINY))
    return found


def frames(data, speaker: str, pairs: list) -> set[bytes]:
    """The linear spectra of the source segments of pairs, each frame as bytes."""
    return {row.tobytes() for pair in pairs for row in analysis.load(
        data / "features" / speaker / pair.utterance).linear[pair.source_start:pair.source_end]}


def check_spliced(data, pairs: list, source: str, pool: set[str]) -> None:
    """Check that the spliced pairs are made of the recordings `pool` of a source and of no others."""
    spliced = [pair for pair in pairs if pair.spliced and not pair.reason]
    learnt = frames(data, source, [types.SimpleNamespace(utterance=name, source_start=0, source_end=None)
                                   for name in pool])
    made = frames(data, f"{source}.spliced", spliced)
    assert len(made) > 50 and made <= learnt
    for pair in spliced:
        path = np.load(data / "paths" / source / f"{pair.name}.npy")
        np.testing.assert_array_equal(path, np.arange(pair.target_end - pair.target_start))
    assert {row["name"] for row in read_slices(data)} == {pair.name for pair in spliced if pair.split == "train"}


def test_folders_without_a_name_in_common_become_spliced_pairs(folder):
    pairs = manifest.read_manifest(folder / "data")
    assert {pair.source for pair in pairs} == {"other"}
    spliced, (tested,) = [[pair for pair in pairs if pair.spliced == kind] for kind in (1, 0)]
    assert sorted(pair.name for pair in spliced) == [f"{name}.spliced" for name in IDS]
    assert {pair.split for pair in spliced} == {"train", "val"}
    assert tested.split == "test" and not tested.has_partner and tested.utterance in OTHERS
    check_spliced(folder / "data", pairs, "other", set(OTHERS) - {tested.utterance})


def test_unpaired_ignores_matching_names_except_for_held_out_sentences(folder, serial):
    pairs = prepare(folder, "--unpaired", "--heldout", folder / "heldout", data="forced").values()
    (tested,) = [pair for pair in pairs if pair.split == "test"]
    assert tested.name == "c" and tested.has_partner and tested.target_file.endswith("bert/c.wav")
    path = np.load(folder / "forced" / "paths" / "anna" / "c.npy")
    assert len(path) == tested.target_end and path[-1] == tested.source_end - 1  # bert is slower
    assert {pair.name for pair in pairs} - {"c"} == {f"{name}.spliced" for name in "abde"}
    check_spliced(folder / "forced", pairs, "anna", set("abde"))


def test_what_the_target_says_in_a_test_sentence_is_not_spliced_of_other_sources(folder, serial):
    """Beside a source with pairs, the sounds of another one make all sentences but those that are held out."""
    pairs = prepare(folder, "--source", folder / "anna" / "other", data="mixed").values()
    held = {pair.utterance for pair in pairs if pair.split == "test" and pair.source == "anna"}
    spliced = {pair.utterance: (pair.split, pair.reason) for pair in pairs if pair.spliced}
    assert held and spliced.keys() == set(IDS)
    assert {name for name, (split, _) in spliced.items() if split == "dropped"} == held
    assert {spliced[name] for name in held} == {("dropped", "held out of other sources")}


@pytest.mark.parametrize("held_out", [False, True])
def test_source_without_a_usable_test_recording_is_used_for_training(folder, tmp_path, serial, held_out):
    """The source has a single recording, or the recording that is held out is too short."""
    record(tmp_path, "anna", ["f"])
    record(tmp_path, "bert", IDS)
    if held_out:
        audio_files.save_wav(tmp_path / "anna" / "c.wav", words(1, seconds=0.3), TINY)
    pairs = prepare(tmp_path, "--unpaired", *["--heldout", folder / "heldout"][:2 * held_out]).values()
    assert not [pair for pair in pairs if pair.split == "test"]
    check_spliced(tmp_path / "data", pairs, "anna", {"f"})


def test_single_long_recording_of_a_target_is_cut_at_its_pauses(tmp_path, serial):
    silence = np.zeros(6400, np.float32)
    audio_files.save_wav(tmp_path / "bert" / "long.wav", np.concatenate([
        part for seed in range(12) for part in (words(seed, seconds=1.3), silence)]), TINY)
    pairs = prepare(tmp_path, "--target", tmp_path / "bert", "--set", "max_seconds=4", source=None).values()
    usable = [pair for pair in pairs if not pair.reason]
    assert len(usable) >= 4 and {pair.split for pair in usable} == {"train", "val"}
    for pair in usable:
        assert (pair.source_start, pair.source_end) == (pair.target_start, pair.target_end)
        assert pair.target_end - pair.target_start <= 4 * 80


def test_a_target_alone_is_its_own_source(folder, serial):
    pairs = prepare(folder, "--target", folder / "bert", source=None, data="alone").values()
    assert [(pair.source, pair.name, pair.spliced) for pair in pairs] == [("bert", name, 0) for name in IDS]
    assert sorted(pair.split for pair in pairs) == ["train"] * 4 + ["val"]
    for pair in pairs:
        assert pair.source_file == pair.target_file
        path = np.load(folder / "alone" / "paths" / "bert" / f"{pair.name}.npy")
        np.testing.assert_array_equal(path, np.arange(pair.target_end))
    corpus = data_load.Corpus(folder / "alone", TINY)
    assert corpus.has_target_only and [pair.split for pair in corpus.split("val")] == ["val"]
    with pytest.raises(UserError, match="alone holds the target alone: name recordings to convert"):
        corpus.split("test")
    assert not data_load.Corpus(folder / "data", TINY).has_target_only


def test_conversion_without_a_partner_is_measured_by_its_voice(corpus, tmp_path, monkeypatch, capsys):
    """The conversion is all training speech of the target, so its voice is known to be right."""
    (tested,), drawn = corpus.split("test"), []
    mel, linear, pitch = (np.concatenate(arrays) for arrays in zip(*(
        (corpus.target_features(pair, "mel"), corpus.target_features(pair, "linear"), corpus.pitch(pair))
        for pair in corpus.target_pairs)))
    output = Converted(mel, pitch, linear, np.arange(len(mel)), np.ones((len(mel), tested.source_end)), True)

    class Known:
        hp, base, generator = TINY.replace(griffin_lim_iters=20, power=1.0), plain_base(TINY), None

        def convert_pairs(self, read, pairs):
            assert read is corpus and pairs == [tested]
            return [output]
    monkeypatch.setattr(figures, "plot_conversion", lambda *arguments: drawn.append(arguments))
    summary = heldout.evaluate(corpus, tmp_path, Known(), "a title")
    assert summary["median F0 ratio"] == pytest.approx(1.0, abs=0.02)
    assert summary["median F0 ratio of the source"] == pytest.approx(180 / 110, abs=0.03)
    assert summary["long-term spectrum dB"] < 1.5 < 3.0 < summary["long-term spectrum dB of the source"]
    assert set(summary) == {"utterances", "measured", "stops by itself", *(
        name + of for name in ("long-term spectrum dB", "median F0 ratio") for of in ("", " of the source"))}
    results = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert results == {"summary": summary, "utterances": {f"other-{tested.name}": {"stops by itself": True}}}
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "a title" in page and page.count("<audio") == 2 and "without a partner" in page
    assert "without a partner" in capsys.readouterr().out and leftovers(tmp_path) == []
    ((_, source, shown, *unknown, _, _),) = drawn
    assert shown is output and unknown == [None, None]
    assert np.array_equal(source.linear, corpus.recording(tested).linear)
    whole = utils.load_recording(tested.source_file, TINY).wav
    for kind, wav in (("source", whole[:tested.source_end * TINY.hop_length]),
                      ("converted", utils.griffin_lim(linear, pitch, Known.hp))):
        audio_files.save_wav(tmp_path / "expected.wav", wav, TINY)
        written = tmp_path / "audio" / f"other-{tested.name}.{kind}.wav"
        assert written.read_bytes() == (tmp_path / "expected.wav").read_bytes(), kind


def test_voices_are_compared_by_spectrum_and_pitch():
    natural = [analysis.extract(words(seed, seconds=0.6), TINY) for seed in (1, 2)]

    def compared(change, pitch):
        return heldout.compare_voice([Features(None, change(each.mel.astype(np.float32)), pitch * each.hertz)
                                         for each in natural], natural, TINY)
    assert compared(lambda mel: mel, 1.0) == {"long-term spectrum dB": pytest.approx(0.0, abs=1e-4),
                                              "median F0 ratio": 1.0}
    assert compared(lambda mel: mel + 0.05, 1.5) == {"long-term spectrum dB": pytest.approx(0.0, abs=1e-2),
                                                     "median F0 ratio": pytest.approx(1.5, rel=1e-5)}
    tilt = np.linspace(-0.05, 0.05, TINY.n_mels)  # 8 dB from end to end
    assert compared(lambda mel: mel + tilt, 1.0)["long-term spectrum dB"] == pytest.approx(80 * tilt.std(), rel=0.05)
    assert np.isnan(compared(lambda mel: mel, 0.0)["median F0 ratio"])
