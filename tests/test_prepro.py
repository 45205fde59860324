"""Preparation through its command line: pairing, splits, resuming, and the manifest with the outcome of each pair."""
import csv
import json
import os
import random
import re
import shlex
import shutil
import unicodedata

import prepro
from common import storage
from common.cli import UserError
from conftest import leftovers, words, write
from corpus import analysis, manifest
from hyperparams import HyperParams

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("serial")
IDS = ["a", "b", "c", "d", "e"]


def record(folder, speaker: str, utterances: list[str], name: str = "{}.wav") -> None:
    """Write recordings to folder/speaker: all speakers say an utterance alike, each at their own pitch and pace."""
    slow, pitch = {"anna": (1.0, 180.0), "bert": (1.2, 110.0), "carl": (0.9, 130.0)}[speaker]
    for utterance in utterances:
        seed = sum(map(ord, utterance))
        path = write(folder / speaker / name.format(utterance),
                     words(seed, seconds=slow * (1.2 + seed % 7 / 20), pitch=pitch))
        os.utime(path, (1.6e9, 1.6e9))  # recordings are older than the files made from them


@pytest.fixture
def folder(tmp_path):
    """Recordings of IDS by anna and bert."""
    record(tmp_path, "anna", IDS)
    record(tmp_path, "bert", IDS)
    return tmp_path


def prepare(folder, *more, data="data", source="anna", target="bert") -> dict[tuple[str, str], manifest.Pair]:
    """Run the command line, which must succeed; returns the manifest by source and name."""
    speakers = ["--source", folder / source, "--target", folder / target] if source else []
    assert prepro.main(list(map(str, [*speakers, "--data", folder / data, *more]))) == 0
    assert leftovers(folder) == []
    return {(pair.source, pair.name): pair for pair in manifest.read_manifest(folder / data)}


def fails(capsys, folder, *more, **kwargs) -> str:
    """Run the command line, which must fail; returns its error message."""
    with pytest.raises(AssertionError):
        prepare(folder, *more, **kwargs)
    assert leftovers(folder) == []
    message = "".join(line for line in capsys.readouterr().err.splitlines(True) if not line.startswith("warning: "))
    assert message.startswith("prepro.py: ") and "Traceback" not in message
    return message


def read_slices(data) -> list[dict]:
    with open(data / "slices.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def times(data) -> dict[str, int]:
    """Return when each file of features was written."""
    return {str(path.relative_to(data)): path.stat().st_mtime_ns for path in data.glob("features/*/*.npy")}


def test_files_with_the_same_name_are_paired_and_missing_partners_are_listed(folder, capsys):
    record(folder, "anna", ["only_anna"])
    record(folder, "bert", ["only_bert"])
    pairs = prepare(folder)
    assert {name for _, name in pairs} == {*IDS, "only_anna", "only_bert"}
    assert pairs["anna", "only_anna"].reason == "no recording by bert"
    assert pairs["anna", "only_bert"].reason == "no recording by anna"
    assert {name for (_, name), pair in pairs.items() if pair.split == "dropped"} == {"only_anna", "only_bert"}
    printed, warned = capsys.readouterr()
    assert "dropped anna/only_anna: no recording by bert" in warned
    assert str(folder / "data" / "manifest.csv") in printed


def test_manifest_agrees_with_recordings_and_features(folder):
    for pair in prepare(folder).values():
        n_source, n_target = (len(np.load(folder / "data" / "features" / speaker / f"{pair.name}.mel.npy"))
                              for speaker in ("anna", "bert"))
        assert (pair.source_start, pair.source_end, pair.target_start, pair.target_end) == (0, n_source, 0, n_target)
        assert (pair.source_seconds, pair.target_seconds) == (round(n_source / 80, 3), round(n_target / 80, 3))
        assert pair.source_file == str((folder / "anna" / f"{pair.name}.wav").resolve())
        assert pair.target_file == str((folder / "bert" / f"{pair.name}.wav").resolve())
        assert 0.0 < pair.dtw_cost < 8.0 and pair.utterance == pair.name and not pair.reason
        path = np.load(folder / "data" / "paths" / "anna" / f"{pair.name}.npy")
        assert len(path) == n_target and path[-1] == n_source - 1
        for speaker, n, hertz in (("anna", n_source, 180.0), ("bert", n_target, 110.0)):
            stem, hp = folder / "data" / "features" / speaker / pair.name, HyperParams()
            mel, linear, pitch = (np.load(f"{stem}.{kind}.npy") for kind in ("mel", "linear", "pitch"))
            assert (mel.shape, linear.shape, pitch.shape) == ((n, hp.n_mels), (n, hp.n_linear), (n,))
            assert (mel.dtype, linear.dtype, pitch.dtype) == (np.float16, np.float16, np.float32)
            assert np.median(pitch[pitch > 0.0]) == pytest.approx(hertz, rel=0.02)
            envelope = analysis.mel_envelope(linear, analysis.pitch_contour(pitch, hp), hp)
            np.testing.assert_allclose(mel.astype(np.float32), envelope, atol=1e-3)


def test_pattern_finds_the_id_in_the_file_name(tmp_path):
    record(tmp_path, "anna", IDS, "anna_{}_take2.wav")
    record(tmp_path, "bert", IDS, "mic1-{}-final.wav")
    write(tmp_path / "anna" / "noise.wav", words(0))  # does not match and is left out
    pairs = prepare(tmp_path, "--pattern", "[-_]([a-e])[-_]")
    assert {name for _, name in pairs} == set(IDS) and not any(pair.reason for pair in pairs.values())


@pytest.mark.parametrize("hers, his", [
    ("me_{:03d}.wav", "her-{:03d}.wav"), ("Me {}.flac", "her{:04d}.wav"), ("{:03d}_me.wav", "{:03d}-her.wav"),
    ("p225_{:03d}_mic1.flac", "p226_{:03d}_mic1.flac"), ("take {:02d} final.wav", "mic-{}.mp3"),
    ("me_2026-11-30_{:03d}_take.wav", "her_2026-12-02_{:03d}_take.wav"),
    ("2026-11-30 Satz {:03d} (me).wav", "Sentence{}_take.wav"),
    ("{:c}.wav", "bert_{:c}.wav"), ("{:c} anna.wav", "{:c}.bert.wav")])
def test_names_that_are_alike_are_shown_with_the_pattern_that_pairs_them(tmp_path, hers, his):
    for speaker, name in (("anna", hers), ("bert", his)):
        (tmp_path / speaker).mkdir()
        for number in range(97, 109):
            (tmp_path / speaker / name.format(number)).touch()
    anna, bert = (manifest.find_utterances(tmp_path / speaker, "(.*)") for speaker in ("anna", "bert"))
    hint = manifest.pairing_hint(anna, bert)
    examples = [f"{hers.format(n)} and {his.format(n)}:" for n in range(97, 109)]
    assert "12 names are alike" in hint and any(example in hint for example in examples), hint
    pattern = shlex.split(hint.partition("--pattern ")[2])[0].rstrip(",")
    anna, bert = (manifest.find_utterances(tmp_path / speaker, pattern) for speaker in ("anna", "bert"))
    assert anna.keys() == bert.keys() and len(anna) == 12


@pytest.mark.parametrize("hers, his", [
    (["hello", "bye"], ["one", "two"]), (["a_1", "b_1"], ["x_1", "y_1"]), (["1", "2", "3", "4"], ["x3", "x7", "x8"])])
def test_names_that_are_not_alike_give_no_hint(tmp_path, hers, his):
    assert not manifest.pairing_hint(*({name: tmp_path / f"{name}.wav" for name in names} for names in (hers, his)))


def test_sources_whose_names_are_alike_but_not_equal_are_warned_of(tmp_path, capsys):
    record(tmp_path, "anna", IDS, "me_{}.wav")
    record(tmp_path, "bert", IDS, "her-{}.wav")
    prepare(tmp_path)
    warned = capsys.readouterr().err
    assert "anna and bert share no file name, but 5 names are alike, for instance me_a.wav and her-a.wav: " in warned
    prepare(tmp_path, "--unpaired", data="other")
    assert "share no file name" not in capsys.readouterr().err
    for speaker in ("anna", "bert"):
        record(tmp_path, speaker, ["x"])
    with pytest.raises(AssertionError):  # a single pair is too little
        prepare(tmp_path, data="third")
    assert "anna and bert share 1 file name, but 6 names are alike" in capsys.readouterr().err


def test_accents_are_one_character_or_two(tmp_path):
    """Macs used to write two characters, other systems write one."""
    names = ["é1", "ñandú", "각", "Å ö", "plain"]
    for number, name in enumerate(names):
        for speaker, form, pitch in (("anna", "NFC", 180.0), ("bert", "NFD", 110.0)):
            write(tmp_path / speaker / f"{unicodedata.normalize(form, name)}.wav",
                  words(number, seconds=1.3, pitch=pitch))
    (tmp_path / "heldout.txt").write_text(unicodedata.normalize("NFD", names[1]), encoding="utf-8")
    pairs = prepare(tmp_path, "--heldout", tmp_path / "heldout.txt")
    assert {name for _, name in pairs} == {*names} and not any(pair.reason for pair in pairs.values())
    assert pairs["anna", "ñandú"].split == "test"


@pytest.mark.parametrize("pattern, listed", [
    ("(.*)", "c.wav\ne.FLAC\n"), ("(.*)", "bert/c.m4a\n e \n"), ("_(.)$", "me_c.wav\nher_e.wav\n"),
    ("_(.)$", "c\ne.wav\n")])
def test_heldout_list_may_hold_names_of_recordings(tmp_path, pattern, listed):
    for speaker in ("anna", "bert"):
        record(tmp_path, speaker, IDS, "{}.wav" if pattern == "(.*)" else speaker + "_{}.wav")
    (tmp_path / "heldout.txt").write_text(listed)
    pairs = prepare(tmp_path, "--heldout", tmp_path / "heldout.txt", "--pattern", pattern)
    assert {name for (_, name), pair in pairs.items() if pair.split == "test"} == {"c", "e"}


@pytest.mark.parametrize("pattern, message", [
    ("(", "'\\(' is no regular expression"), ("[a-e]", "needs parentheses.*\\(\\[a-e\\]\\)"),
    ("(x)", "anna holds no recordings .*match '\\(x\\)'"), ("()", "a.wav and .*b.wav are both utterance ''; rename")])
def test_invalid_pattern_is_refused(folder, capsys, pattern, message):
    assert re.search(message, fails(capsys, folder, "--pattern", pattern))


def write_csv(folder, text: str, encoding: str = "utf-8") -> list:
    (folder / "lists").mkdir(exist_ok=True)
    (folder / "lists" / "pairs.csv").write_text(text, encoding=encoding)
    return ["--pairs", folder / "lists" / "pairs.csv"]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_table_of_pairs_may_write_accents_in_another_way_than_the_files(tmp_path, forms):
    listed, stored = ([unicodedata.normalize(form, f"é{name}") for name in IDS] for form in forms)
    for speaker in ("anna", "bert"):
        record(tmp_path / "lists", speaker, stored)
    rows = "".join(f"anna/{name}.wav,bert/{name}.wav\n" for name in listed)
    pairs = prepare(tmp_path, *write_csv(tmp_path, f"source,target\n{rows}"), source=None)
    assert {name for _, name in pairs} == {unicodedata.normalize("NFC", name) for name in listed}
    assert not any(pair.reason for pair in pairs.values())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_pairs_are_read_from_a_csv_file(tmp_path, encoding):
    record(tmp_path, "anna", IDS, "take-{}.wav")
    record(tmp_path, "bert", IDS, "{}.wav")
    rows = "".join(f"../anna/take-{name}.wav,../bert/{name}.wav\n" for name in IDS[:4])
    pairs = prepare(tmp_path, *write_csv(tmp_path, "source,target\n" + rows, encoding), source=None)
    assert set(pairs) == {("source", name) for name in IDS[:4]} and not any(pair.reason for pair in pairs.values())
    assert pairs["source", "a"].source_file.endswith("take-a.wav")


@pytest.mark.parametrize("text, message", [
    ("", "needs a header"), ("left,right\na,b\n", "needs a header"), ("source,target\n", "needs a header"),
    ("source,target\n../anna/a.wav\n", "needs a header"),
    ("source,target\n../anna/a.wav,../bert/z.wav\n", "z.wav does not exist"),
    ("source,target\n../anna/a.wav,../bert/a.wav\n../anna/b.wav,../bert/a.wav\n", "two rows have a target named 'a'")])
def test_error_for_a_bad_csv_file_names_it(folder, capsys, text, message):
    error = fails(capsys, folder, *write_csv(folder, text), source=None)
    assert message in error and "pairs.csv" in error
    assert not (folder / "data" / "manifest.csv").exists()


def test_several_sources_can_share_one_target(folder):
    record(folder, "carl", ["b", "c", "d", "z"])
    pairs = prepare(folder, "--source", folder / "carl")
    assert {key for key, pair in pairs.items() if not pair.reason} == {
        *(("anna", name) for name in IDS), ("carl", "b"), ("carl", "c"), ("carl", "d")}
    assert pairs["carl", "z"].reason == "no recording by bert" and pairs["carl", "a"].reason == "no recording by carl"
    # A sentence is in the same split for all speakers
    assert all(pairs["carl", name].split == pairs["anna", name].split for name in "bcd")


def test_source_without_parallel_sentences_is_added_beside_a_parallel_source(folder, capsys):
    record(folder, "carl", ["x", "y", "z"])
    pairs = prepare(folder, "--source", folder / "carl")
    assert {name for source, name in pairs if source == "anna"} == set(IDS)
    assert "carl and bert: no pairs of sentences" in capsys.readouterr().out
    of_carl = {name: pair for (source, name), pair in pairs.items() if source == "carl"}
    # The target's sentences, spliced from his sounds, are in the same split as for anna; one of his own is for the test
    spliced = {name.removesuffix(".spliced"): pair for name, pair in of_carl.items() if pair.spliced}
    assert set(spliced) == set(IDS)
    for name, pair in spliced.items():
        true = pairs["anna", name].split
        assert pair.split == ("dropped" if true == "test" else true)
    (tested,) = [pair for pair in of_carl.values() if not pair.spliced]
    assert tested.split == "test" and not tested.has_partner and tested.target_file == ""


def test_source_may_be_in_the_test_set_only(folder):
    (folder / "heldout").write_text("a\n")
    record(folder, "carl", ["a"])
    assert prepare(folder, "--source", folder / "carl", "--heldout", folder / "heldout")["carl", "a"].split == "test"


def test_speakers_with_the_same_folder_name_get_distinct_names(tmp_path):
    for speaker in ("anna", "bert"):
        record(tmp_path, speaker, IDS, "wav/{}.wav")
    assert {source for source, _ in prepare(tmp_path, source="anna/wav", target="bert/wav")} == {"anna_wav"}


def test_split_depends_only_on_the_ids_and_the_seed(folder, tmp_path_factory):
    ids = [f"u{i}" for i in range(100)]
    hp = HyperParams(validation=0.1, test=0.2)
    splits = manifest.split_ids(ids, hp, set())
    assert [list(splits.values()).count(name) for name in ("train", "val", "test")] == [70, 10, 20]
    shuffled = random.Random(1).sample(ids, len(ids))
    assert manifest.split_ids(shuffled + shuffled[:5], hp, set()) == splits
    assert manifest.split_ids(ids, hp.replace(seed=1), set()) != splits

    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for speaker in ("carl", "bert"):
        record(elsewhere, speaker, IDS[::-1], "deeper/{}.wav")
    here, there = prepare(folder), prepare(elsewhere, source="carl")
    assert [pair.split for pair in here.values()] == [pair.split for pair in there.values()]


def test_heldout_list_is_the_test_set(folder, capsys):
    (folder / "heldout.txt").write_text("c\ne\n")
    pairs = prepare(folder, "--heldout", folder / "heldout.txt")
    assert {name for (_, name), pair in pairs.items() if pair.split == "test"} == {"c", "e"}
    assert sorted(pairs["anna", name].split for name in "abd") == ["train", "train", "val"]
    (folder / "heldout.txt").write_text("c\nq\n")
    assert "names 1 unknown utterances, for instance 'q'" in fails(capsys, folder, "--heldout", folder / "heldout.txt")


def test_second_run_computes_no_features_again(folder, monkeypatch):
    first = prepare(folder)
    before = times(folder / "data")
    monkeypatch.setattr(prepro.analysis, "extract", None)
    assert prepare(folder) == first
    assert times(folder / "data") == before and len(before) == 6 * len(IDS)


@pytest.mark.parametrize("age", [60, -3600])
def test_changed_recording_gets_new_features_and_a_new_path(folder, age):
    """This also holds if it is older than the recording that it replaces."""
    first = prepare(folder)
    before = times(folder / "data")
    path = folder / "anna" / "b.wav"
    changed = path.stat().st_mtime + age
    write(path, words(ord("b"), seconds=0.9))
    os.utime(path, (changed, changed))
    second = prepare(folder)
    assert second["anna", "b"].source_end != first["anna", "b"].source_end
    assert len(np.load(folder / "data" / "features" / "anna" / "b.mel.npy")) == second["anna", "b"].source_end
    assert np.load(folder / "data" / "paths" / "anna" / "b.npy")[-1] == second["anna", "b"].source_end - 1
    after = times(folder / "data")
    assert {name for name in before if before[name] != after[name]} == {
        "features/anna/b.mel.npy", "features/anna/b.linear.npy", "features/anna/b.pitch.npy"}
    check_as_if_prepared_anew(folder)


def check_as_if_prepared_anew(folder):
    """Check that data/ has the files that a preparation into a new folder gives."""
    prepare(folder, data="anew")
    for path in (folder / "anew").rglob("*.*"):
        if path.is_file() and path.name != ".lock":
            assert path.read_bytes() == (folder / "data" / path.relative_to(folder / "anew")).read_bytes(), path


def test_added_recordings_change_the_paths_of_the_others_as_if_all_were_prepared_anew(folder):
    """All paths depend on the speakers' means, which are over all training recordings."""
    prepare(folder)
    before = times(folder / "data")
    for speaker in ("anna", "bert"):
        record(folder, speaker, ["x", "y", "z"])
    prepare(folder)
    assert before.items() <= times(folder / "data").items()
    check_as_if_prepared_anew(folder)


def test_interrupted_preparation_is_completed(folder, monkeypatch):
    complete = prepare(folder, data="whole")
    save_array, saved = storage.save_array, []

    def interrupted(*args):
        saved.append(args)
        if len(saved) == 12:  # after the linear and mel files of the fourth recording, before its pitch file
            raise KeyboardInterrupt
        save_array(*args)
    monkeypatch.setattr(storage, "save_array", interrupted)
    with pytest.raises(AssertionError):  # because the exit code is 130
        prepare(folder)
    assert not (folder / "data" / "manifest.csv").exists()
    # As after a power failure: a half-written temporary file, and a path of zeros
    (folder / "data" / "features" / "anna" / ".d.pitch.npy.tmp").write_bytes(b"half")
    (folder / "data" / "paths" / "anna").mkdir(parents=True)
    np.save(folder / "data" / "paths" / "anna" / "e.npy", np.zeros(3, np.float32))
    done = times(folder / "data")
    assert len(done) == 11
    assert prepare(folder) == complete
    assert len(saved) == 12 + 7 * len(IDS) - 9  # the three recordings that were complete are not computed again
    assert all(times(folder / "data")[f"features/anna/{name}.mel.npy"] == done[f"features/anna/{name}.mel.npy"]
               for name in "abc")
    for path in (folder / "whole").rglob("*.npy"):
        assert np.array_equal(np.load(path), np.load(folder / "data" / path.relative_to(folder / "whole")))


@pytest.mark.parametrize("more, message", [
    (["--set", "hop_length=160"], "prepared with other hop_length:"),
    (["--set", "n_mels=60", "--set", "top_db=20"], "prepared with other n_mels, top_db:"),
    (["--source", "carl"], "prepared with other sources:")])
def test_preparing_again_with_other_settings_is_refused(folder, capsys, monkeypatch, more, message):
    prepare(folder)
    record(folder, "carl", IDS)
    monkeypatch.chdir(folder)
    before = {path: path.read_bytes() for path in (folder / "data").rglob("*") if path.is_file()}
    error = fails(capsys, folder, *more)
    assert message in error and str(folder / "data") in error and "delete it or choose another --data" in error
    assert before == {path: path.read_bytes() for path in (folder / "data").rglob("*") if path.is_file()}


def test_features_with_other_signal_settings_are_refused(folder):
    prepare(folder)
    with pytest.raises(UserError, match="prepared with hop_length=200, not 160: run prepro.py again with"):
        manifest.check_signal(folder / "data", HyperParams(hop_length=160))
    with pytest.raises(UserError, match="nowhere.*does not exist: run prepro.py"):
        manifest.read_manifest(folder / "nowhere")


@pytest.mark.parametrize("version", [1, None])
def test_error_for_features_of_another_version_says_what_to_do(folder, capsys, version):
    """Without a check they would be read silently, because their arrays have the same names and shapes."""
    prepare(folder)
    path = folder / "data" / "prepro.json"
    settings = json.loads(path.read_text())
    assert settings.pop("version") == manifest.VERSION
    path.write_text(json.dumps(settings if version is None else settings | {"version": version}))
    with pytest.raises(UserError, match="another version .*: delete .* and run prepro.py again"):
        manifest.check_signal(folder / "data", HyperParams())
    assert "delete" in fails(capsys, folder)
    shutil.rmtree(folder / "data")
    prepare(folder)
    assert manifest.check_signal(folder / "data", HyperParams())["version"] == manifest.VERSION


def test_statistics_come_from_training_data_only(folder):
    pairs = prepare(folder)
    held_out = [name for (_, name), pair in pairs.items() if pair.split in ("val", "test")]
    assert len(held_out) == 2
    for name in held_out:
        for speaker, pitch in (("anna", 180.0), ("bert", 110.0)):
            write(folder / speaker / f"{name}.wav", words(99 + ord(name), seconds=1.5, pitch=pitch))
    other = prepare(folder, data="other")
    for name in set(IDS) - set(held_out):
        assert pairs["anna", name].dtw_cost == other["anna", name].dtw_cost
    assert any(pairs["anna", name].dtw_cost != other["anna", name].dtw_cost for name in held_out)


def test_slices_come_from_training_pairs_only(folder):
    pairs = prepare(folder)
    rows = read_slices(folder / "data")
    assert {row["name"] for row in rows} == {name for (_, name), pair in pairs.items() if pair.split == "train"}
    for row in rows:
        pair = pairs[row["source"], row["name"]]
        assert 0 <= int(row["target_start"]) < int(row["target_end"]) <= pair.target_end


def test_pair_with_different_words_is_dropped(tmp_path):
    names = [*IDS, "f", "g", "h"]
    record(tmp_path, "anna", names)
    record(tmp_path, "bert", names)
    write(tmp_path / "bert" / "d.wav", words(7777, seconds=1.4, pitch=110.0))
    pairs = prepare(tmp_path)
    assert {name for (_, name), pair in pairs.items() if pair.split == "dropped"} == {"d"}
    assert pairs["anna", "d"].reason.startswith("DTW cost") and "d" not in {
        row["name"] for row in read_slices(tmp_path / "data")}


@pytest.mark.parametrize("seconds, reason", [(0.2, "shorter than 0.5 s"), (7.0, "durations differ more than 3.5 times"),
                                             (9.0, "longer than 8.0 s without a pause that matches")])
def test_pairs_with_implausible_durations_are_dropped(folder, seconds, reason):
    write(folder / "bert" / "c.wav", words(ord("c"), seconds=seconds))
    limits = [x for limit in ("min_seconds=0.5", "max_seconds=8", "max_ratio=3.5") for x in ("--set", limit)]
    dropped = [pair for pair in prepare(folder, *limits).values() if pair.reason]
    assert [pair.utterance for pair in dropped] == ["c"] and reason in dropped[0].reason


def test_a_corpus_whose_only_training_pair_says_other_words_is_refused(folder, capsys, monkeypatch):
    """Training ended with a traceback."""
    def drop(pairs, *_):
        for pair in pairs:
            pair.reason = "other words?" if pair.name in ("a", "b", "c") else ""
    monkeypatch.setattr(prepro.mismatch, "drop", drop)
    assert "no pair is left to train on; 2 can be used" in (told := fails(capsys, folder)) and "other words?" in told
    assert not (folder / "data" / "manifest.csv").exists()


def test_two_pairs_are_too_few(tmp_path, capsys):
    record(tmp_path, "anna", ["a", "b"])
    record(tmp_path, "bert", ["a", "b"])
    named = {"source": "anna", "target": "bert", "data": "data"}
    assert prepro.main([f"--{flag}={tmp_path / name}" for flag, name in named.items()]) == 1
    assert "no pair is left to train on; 2 can be used" in capsys.readouterr().err
    assert not (tmp_path / "data" / "manifest.csv").exists()
