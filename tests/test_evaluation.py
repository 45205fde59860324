"""The results of evaluation for known recordings, compared with values computed by hand."""
import math
import types

import utils
from common import audio_files
from common.cli import UserError
from conftest import plain_base, plain_corpus, words
from conversion.inference import Converted
from evaluation import figures, heldout, metrics

import numpy as np
import pytest


@pytest.fixture
def corpus(demo_data, tiny_hp):
    """The demo corpus with three held-out sentences."""
    corpus = plain_corpus(demo_data, tiny_hp)
    for i, pair in enumerate(corpus.pairs.values()):
        pair.split = "test" if i < 3 else "train"
    return corpus


def test_summary_equals_values_computed_by_hand():
    rows = [{"MCD dB": 6.0, "retrieved": True, "retrieved among all": False, "F0": math.nan, "never": math.nan},
            {"MCD dB": 8.0, "retrieved": True, "retrieved among all": True, "F0": 10.0, "never": math.nan},
            {"MCD dB": 7.0, "retrieved": False, "retrieved among all": False, "F0": 20.0, "never": math.nan}]
    references = [{"MCD dB of the source": source, "MCD dB of the copy": 4.0} for source in (7.0, 9.0, 8.0)]
    summary = heldout.summarise(rows, references, 50)
    assert summary["MCD gap closed"] == 0.25  # from 8 to 7, and at best to 4
    assert summary["content retrieval among the held-out"] == "2 of 3"
    assert summary["content retrieval among 50"] == "1 of 3"
    assert (summary["utterances"], summary["MCD dB"], summary["MCD dB of the source"]) == (3, 7.0, 8.0)
    assert summary["F0"] == 15.0 and math.isnan(summary["never"])
    assert not any("retrieved" in name for name in summary)


@pytest.mark.parametrize("name", ["index.html", "metrics.json"])
def test_a_page_of_somebody_else_is_not_replaced(corpus, tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"{name} is there and would be replaced"):
        heldout.evaluate(corpus, tmp_path, types.SimpleNamespace(hp=corpus.hp), "title")


def test_the_content_of_another_sentence_is_not_retrieved(tiny_hp):
    natural = {"a": words(1), "b": words(2), "nearly b": words(2, pitch=150.0), "c": words(3)}

    def measured(*said):
        return heldout.measure({"": [natural[key] for key in said]}, natural, ["a", "b"], tiny_hp,
                                  lambda function, items, doing: list(map(function, items)))[0]

    def retrieved(*said):
        return [(row["retrieved"], row["retrieved among all"]) for row in measured(*said)]
    assert retrieved("a", "b") == [(True, True)] * 2
    assert retrieved("a", "a") == [(True, True), (False, False)]
    assert retrieved("b", "b") == [(False, False), (True, True)]
    assert retrieved("a", "nearly b") == [(True, True), (True, False)]  # "nearly b" is not held out
    distortions = [row["MCD dB"] for row in measured("a", "a")]
    assert distortions[0] == pytest.approx(0.0, abs=1e-4) and distortions[1] > 2.0


def test_pictures_and_measures_are_those_of_the_converter_output(corpus, tiny_hp, tmp_path, monkeypatch):
    hp, pairs, rng = tiny_hp, corpus.split("test"), np.random.default_rng(0)
    outputs, drawn = [], []
    for pair, pace, stopped in zip(pairs, (1.1, 1.0, 1.3), (True, False, True), strict=True):
        n, size = round(pace * len(corpus.path(pair))), len(corpus.recording(pair).linear)
        outputs.append(Converted(rng.uniform(0.2, 0.8, (n, hp.n_mels)), np.zeros((n, 2)),
                                 rng.uniform(0.2, 0.8, (n, hp.n_linear)), np.arange(n), np.ones((n, size)), stopped))

    class Known:
        def __init__(self):
            self.hp, self.generator, self.base = hp, None, plain_base(hp)

        def convert_pairs(self, read, sources):
            assert read is corpus and sources == pairs
            return outputs
    monkeypatch.setattr(figures, "plot_conversion", lambda *arguments: drawn.append(arguments))
    monkeypatch.setattr(heldout, "finish", lambda out, title, rows, summary: found.update(rows=rows))
    found = {}
    summary = heldout.evaluate(corpus, tmp_path, Known(), "title")

    measures = [row["measures"] for row in found["rows"]]
    assert [row["stops by itself"] for row in measures] == [True, False, True]
    assert [row["stops within 15 %"] for row in measures] == [True, False, False]
    for pair, output, row, arguments in zip(pairs, outputs, found["rows"], drawn, strict=True):
        path, measured = corpus.path(pair), row["measures"]
        assert measured["duration difference s"] == pytest.approx((len(output.mel) - len(path)) / 80)
        assert measured["path distance frames"] == pytest.approx(metrics.path_distance(output.positions, path))
        voice = utils.griffin_lim(output.linear, output.pitch, hp)
        target = utils.load_recording(pair.target_file, hp).wav[:pair.target_end * hp.hop_length]
        for kind, wav in (("converted", voice), ("target", target)):
            audio_files.save_wav(tmp_path / "expected.wav", wav, hp)
            assert (tmp_path / row["audio"][kind]).read_bytes() == (tmp_path / "expected.wav").read_bytes(), kind
        expected = metrics.compare(metrics.analyse(voice, hp), metrics.analyse(target, hp))
        assert {name: measured[name] for name in expected} == pytest.approx(expected, nan_ok=True, rel=1e-12)
        _, source, shown, spoken, dtw_path, *_ = arguments
        assert shown is output and np.array_equal(dtw_path, path)
        assert np.array_equal(source.linear, corpus.recording(pair).linear)
        assert np.array_equal(spoken, corpus.target_features(pair, "linear"))
    assert "content retrieval among 10" in summary  # among all sentences, including those of training
    for name, ending in (("MCD dB", ""), ("MCD dB of the copy", " of the copy")):
        assert (name in measures[0]) == (not ending) and name in summary
