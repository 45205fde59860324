"""Convert the held-out sentences of a corpus, measure what is written, vocoder included, and write wav files, pictures,
metrics.json and a page. All conversion is free running."""
import concurrent.futures
import functools
import math
import pathlib
import random
from collections.abc import Callable

import data_load
import utils
from common import audio_files, cli, storage
from common.cli import UserError
from conversion import base
from conversion.inference import Converted, Converter
from corpus import analysis
from corpus.analysis import Features
from corpus.manifest import Pair
from evaluation import figures, metrics, page
from hyperparams import HyperParams

import numpy as np
from tqdm import tqdm

RETRIEVAL_LIMIT = 200  # the largest number of target sentences that content retrieval chooses among


def evaluate(corpus: data_load.Corpus, out: pathlib.Path, converter: Converter, title: str,
             source: str | None = None, endings: dict[str, str] | None = None) -> dict:
    """Convert the test sentences of one source speaker or of all, measure and write them; returns the summary.

    With `endings` of the kinds, files are numbered, gan_0_ENDING.wav. If the target said none of the sentences, the
    voice is compared with the target's training recordings. Raises UserError.
    """
    hp, everything = converter.hp, corpus.split("test", source)
    pairs = [pair for pair in everything if pair.has_partner] or everything
    has_target = pairs[0].has_partner
    check_results(out)
    corpus.use_base(converter.base)
    if len(pairs) < len(everything):
        print(f"{len(everything) - len(pairs)} held-out recordings that the target did not say are left out")
    outputs = converter.convert_pairs(corpus, pairs)
    with concurrent.futures.ThreadPoolExecutor(cli.cores()) as pool:
        def work(function: Callable, items: list, doing: str) -> list:
            return list(tqdm(pool.map(function, items), doing, len(items), disable=None))
        # Recordings (samples,) by kind. A kind is the ending of the names of its measures
        wavs = {"": work(lambda output: utils.griffin_lim(output.linear, output.pitch, hp), outputs, "Griffin-Lim"),
                " of the source": [load_segment(corpus, pair, "source")
                                   for pair in tqdm(pairs, "recordings of the source", disable=None)]}
        if has_target:
            measured, whole, n_candidates = compare_sentences(corpus, pairs, wavs, hp, work)
        else:
            measured, whole, n_candidates = [{} for _ in pairs], compare_voices(corpus, wavs, hp, work), 0
    rows, references, others = [], [], tuple(kind for kind in wavs if kind)
    written = {"source": " of the source", "converted": ""} | ({"target": " of the target"} if has_target else {})
    for i, (pair, output) in enumerate(zip(tqdm(pairs, "drawing", disable=None), outputs)):
        name = f"audio/gan_{i}" if endings else f"audio/{pair.source}-{pair.name}"
        files = {kind: f"{name}_{endings[kind]}.wav" if endings else f"{name}.{kind}.wav" for kind in written}
        for kind, file in files.items():
            audio_files.save_wav(out / file, wavs[written[kind]][i], hp)
        target, path = (corpus.target_features(pair, "linear"), corpus.path(pair)) if has_target else (None, None)
        figures.plot_conversion(out / f"{name}.png", corpus.recording(pair), output, target, path, hp,
                                f"{pair.source} to {corpus.target}, {pair.name}")
        own = {key: value for key, value in measured[i].items() if not key.endswith(others)}
        references.append({key: value for key, value in measured[i].items() if key not in own})
        rows.append({"id": f"{pair.source}-{pair.name}", "audio": files, "picture": f"{name}.png",
                     "measures": own | measure_timing(output, path, hp)})
    summary = summarise([row["measures"] for row in rows], references, n_candidates) | whole
    finish(out, title, rows, summary)
    return summary


def measure_timing(output: Converted, path: np.ndarray | None, hp: HyperParams) -> dict:
    """Measures of the pace of a conversion, compared with the DTW path (T,) if there is one."""
    if path is None:
        return {"stops by itself": bool(output.stopped)}
    error = metrics.duration_error(len(output.linear), len(path))
    return {"path distance frames": metrics.path_distance(output.positions, path),
            "duration difference s": abs(len(output.linear) - len(path)) / hp.frames_per_second,
            "stops by itself": bool(output.stopped), "stops within 15 %": bool(output.stopped and error <= 0.15)}


def compare_sentences(corpus: data_load.Corpus, pairs: list[Pair], wavs: dict, hp: HyperParams,
                      work: Callable) -> tuple[list[dict], dict, int]:
    """Add copies of the target and the target's recordings to `wavs`, and `measure` them; returns its results, and the
    number of sentences for content retrieval."""
    targets = {target_key(pair): pair for pair in pairs}  # each sentence once, even if several sources say it
    everything = sorted({target_key(pair): pair for pair in corpus.pairs.values() if pair.has_partner}.items())
    n_more = min(len(everything), max(0, RETRIEVAL_LIMIT - len(targets)))
    candidates = targets | dict(random.Random(hp.seed).sample(everything, n_more))
    as_it_is = hp.replace(power=1.0)  # a natural spectrogram needs no sharpening
    copies = dict(zip(targets, work(lambda pair: utils.griffin_lim(
        corpus.target_features(pair, "linear"), corpus.pitch(pair), as_it_is), list(targets.values()),
        "copies of the target")))
    wavs[" of the copy"] = [copies[target_key(pair)] for pair in pairs]
    natural = {key: load_segment(corpus, pair, "target")
               for key, pair in tqdm(sorted(candidates.items()), "recordings of the target", disable=None)}
    rows, whole = measure(wavs, natural, [target_key(pair) for pair in pairs], hp, work)
    wavs[" of the target"] = [natural[target_key(pair)] for pair in pairs]
    return rows, whole, len(candidates)


def compare_voices(corpus: data_load.Corpus, wavs: dict, hp: HyperParams, work: Callable) -> dict[str, float]:
    """Compare the voice of each kind of recordings in `wavs` with the target's training recordings."""
    natural = [Features(None, corpus.target_features(pair, "mel"), corpus.hertz(pair)) for pair in corpus.target_pairs]
    measured = {}
    for kind, recordings in wavs.items():
        found = work(lambda wav: analysis.extract(utils.normalise_loudness(wav, hp), hp), recordings, f"voice{kind}")
        measured |= {f"{name}{kind}": value for name, value in compare_voice(found, natural, hp).items()}
    return measured


def compare_voice(recordings: list[Features], natural: list[Features], hp: HyperParams) -> dict[str, float]:
    """Compare the mean spectrum and the median pitch of recordings with those of `natural` recordings of a voice."""
    shapes = []
    for group in (recordings, natural):
        spectrum = np.mean([each.mel[base.is_speech(each.mel, hp)].mean(axis=0, dtype=np.float32) for each in group],
                           axis=0)
        shapes.append(hp.range_db * (spectrum - spectrum.mean()))
    hertz = [np.concatenate([each.hertz[each.hertz > 0.0] for each in group]) for group in (recordings, natural)]
    return {"long-term spectrum dB": float(np.sqrt(np.mean(np.square(shapes[0] - shapes[1])))),
            "median F0 ratio": float(np.median(hertz[0]) / np.median(hertz[1])) if all(map(len, hertz)) else math.nan}


def target_key(pair: Pair) -> tuple[str, int, int]:
    """Key of the target's segment in a pair."""
    return pair.utterance, pair.target_start, pair.target_end


def measure(wavs: dict, natural: dict, keys: list, hp: HyperParams, work: Callable) -> tuple[list[dict], dict]:
    """Compare recordings with the target's; returns a dictionary of measures for each of `keys`, and one for all.
    `wavs` maps a kind, the ending of a measure's name, to a recording (samples,) for each of `keys`, `natural` a key to
    the target's. Content is retrieved for conversions (kind ""), among the held-out sentences and among all."""
    rows, whole = [{} for _ in keys], {}
    analyse = functools.partial(metrics.analyse, hp=hp)
    target = dict(zip(natural, work(analyse, list(natural.values()), "analysis of the target")))
    for kind, recordings in wavs.items():
        analysed = work(analyse, recordings, f"analysis{kind}")
        for row, found, key in zip(rows, analysed, keys):
            row |= {f"{name}{kind}": value for name, value in metrics.compare(found, target[key]).items()}
        whole[f"modulation distance dB{kind}"] = metrics.modulation_distance(
            [found.cepstra for found in analysed], [target[key].cepstra for key in keys])
        if kind == "":
            distances = work(functools.partial(metrics.retrieve, candidates=target), analysed, "retrieval")
            for row, distance, key in zip(rows, distances, keys):
                row["retrieved"] = min(keys, key=distance.get) == key
                row["retrieved among all"] = min(distance, key=distance.get) == key
    return rows, whole


@functools.lru_cache(maxsize=2)
def load_once(path: str, hp: HyperParams, channel: int | None) -> tuple[np.ndarray, str]:
    """Load a recording, and the hash of its file, and keep both: its segments are loaded one after the other."""
    return utils.load_recording(path, hp, channel=channel).wav, storage.content_hash(pathlib.Path(path))


def load_segment(corpus: data_load.Corpus, pair: Pair, side: str) -> np.ndarray:
    """The samples of the "source" or the "target" of a pair, of the channel that its features were made from."""
    path, *frames = (getattr(pair, f"{side}_{name}") for name in ("file", "start", "end"))
    speaker = pair.speaker if side == "source" else corpus.target
    note = storage.read_json(corpus.data / "features" / speaker / f"{pair.utterance}.json")
    if not pathlib.Path(path).exists():
        raise UserError(f"{storage.printable(path)} does not exist, but features in {corpus.data} were made of it: "
                        "move recordings and features together, or run prepro.py again")
    wav, made_of = load_once(path, corpus.hp, note.get("channel"))
    if note.get("made_of", made_of) != made_of:
        raise UserError(f"{storage.printable(path)} is not the recording that the features in {corpus.data} were made "
                        "of: run prepro.py again")
    start, end = (frame * corpus.hp.hop_length for frame in frames)
    return wav[start:end]


def summarise(rows: list[dict], references: list[dict], n_candidates: int) -> dict:
    """Means over the utterances, without those where a measure is missing (NaN), and figures derived from the means."""
    mean = {name: float(np.nanmean([row[name] for row in table])) if any(np.isfinite(row[name]) for row in table)
            else math.nan for table in (rows, references) for name in table[0]}
    summary = {"utterances": len(rows)}
    if not n_candidates:
        return summary | {"measured": "without a partner: the target did not say these sentences"} | mean
    summary["mel-cepstra"] = "cosine transform of the log-mel spectrum, order 24"
    for name, among in (("retrieved", "the held-out"), ("retrieved among all", str(n_candidates))):
        summary[f"content retrieval among {among}"] = f"{sum(row[name] for row in rows)} of {len(rows)}"
    gap = mean["MCD dB of the source"] - mean["MCD dB of the copy"]
    summary["MCD gap closed"] = (mean["MCD dB of the source"] - mean["MCD dB"]) / gap
    return summary | {name: value for name, value in mean.items() if "retrieved" not in name}


def check_results(out: pathlib.Path) -> None:
    """Raise UserError if `out` holds a page or measures that `finish` did not write."""
    if "summary" not in storage.read_json(out / "metrics.json"):
        storage.check_own([out / "metrics.json", out / "index.html"])


def finish(out: pathlib.Path, title: str, rows: list[dict], summary: dict, told: dict | None = None) -> None:
    """Write metrics.json and index.html, and print what is `told` (default: the summary) and the page's path."""
    content = {"summary": summary, "utterances": {row["id"]: row["measures"] for row in rows}}
    warnings = {row["id"]: row["warnings"] for row in rows if row.get("warnings")}
    storage.write_json(out / "metrics.json", content | ({"warnings": warnings} if warnings else {}))
    page.write_page(out, title, rows, summary)
    page.print_summary(told or summary)
    print(f"open {(out / 'index.html').resolve()}")
