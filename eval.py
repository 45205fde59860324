"""Convert speech with a trained model.

    python eval.py                                         # the held-out sentences of the demo corpus, with measures
    python eval.py --data DIR --logdir logdir/mine         # those of another corpus
    python eval.py FILE_OR_FOLDER ... --out DIR            # any recordings of the source speaker, of any length

Writes 16-bit wav files, spectrograms with alignments, metrics.json and index.html, a page to look and listen.
Everything is free running: the model hears nothing but the source.
"""
import argparse
import concurrent.futures
import math
import os
import pathlib
import sys
from typing import NamedTuple

import alignment
import data_load
import heldout
import report
import trainer
import utils
import numpy as np
from tqdm import tqdm

from convert import Converted, Converter
from hyperparams import HyperParams
from networks import Generator

HERE = pathlib.Path(__file__).resolve().parent
PIECE_SECONDS = 8.0  # recordings are converted in pieces of at most this length, cut at pauses
PIECES_AT_ONCE = 8
BLOCK_FRAMES = 2400  # of a long recording whose spectrogram is computed at a time
FADE_SECONDS = 0.005  # at both ends of a piece, so that joints do not click


class Piece(NamedTuple):
    """A stretch of a recording between pauses."""
    wav: np.ndarray   # (samples,) speech, trimmed
    start: int        # sample of the recording where it begins


def load_converter(logdir: pathlib.Path, checkpoint: str | None = None, overrides: list[str] = ()) -> Converter:
    """Load the generator of a run, its best checkpoint unless another is named, with `name=value` hyperparameters.

    Raises TrainingError, and ValueError for a bad override.
    """
    path = pathlib.Path(logdir) / "hparams.json"
    if not path.exists():
        raise trainer.TrainingError(f"{path} does not exist: {logdir} is no run folder; train first, or give --logdir")
    prefix = checkpoint or trainer.best_checkpoint(logdir)
    generator = Generator(HyperParams.from_json(path).override(overrides))
    trainer.load_generator(generator, prefix)
    return Converter(generator)


def mel_in_blocks(wav: np.ndarray, hp: HyperParams) -> np.ndarray:
    """The mel spectrogram (T, M) of a recording (samples,) of any length, in memory that does not grow with it."""
    frames, context, mels = 1 + len(wav) // hp.hop_length, math.ceil(hp.n_fft / hp.hop_length), []
    for start in range(0, frames, BLOCK_FRAMES):
        first, end = max(0, start - context), start + BLOCK_FRAMES
        mel, _ = utils.spectrograms(wav[first * hp.hop_length:(end + context) * hp.hop_length], hp)
        mels.append(mel[start - first:end - first])
    return np.concatenate(mels)[:frames]


def split_at_pauses(wav: np.ndarray, hp: HyperParams) -> list[Piece]:
    """Cut a recording (samples,) into pieces of at most PIECE_SECONDS, at pauses, or else where it is quietest."""
    mel = mel_in_blocks(wav, hp)
    longest = round(PIECE_SECONDS * hp.frames_per_second)
    silences = alignment.pauses(mel, hp).mean(axis=1).astype(int)
    cuts = [0]
    while len(mel) - cuts[-1] > longest:
        near = silences[(silences > cuts[-1] + longest // 8) & (silences <= cuts[-1] + longest)]
        late = mel[cuts[-1] + longest // 2:cuts[-1] + longest].mean(axis=1)
        cuts.append(int(near[-1]) if len(near) else cuts[-1] + longest // 2 + int(late.argmin()))
    pieces = []
    for start, end in zip(cuts, cuts[1:] + [len(mel)]):
        part = wav[start * hp.hop_length:end * hp.hop_length]
        if np.abs(part).max(initial=0.0) < 1e-3:  # nothing but a pause
            continue
        speech, first = utils.trim_silence(part, hp)
        pieces.append(Piece(speech, start * hp.hop_length + first))
    return pieces


def join(pieces: list[Piece], voices: list[np.ndarray], hp: HyperParams) -> np.ndarray:
    """Put converted pieces (samples,) one after the other, with the pauses of the source between them."""
    parts, source_end = [], 0
    for piece, voice in zip(pieces, voices):
        fade = np.ones_like(voice)
        n = min(round(FADE_SECONDS * hp.sample_rate), len(voice) // 2)
        fade[:n] = np.linspace(0.0, 1.0, n)
        fade[len(voice) - n:] = np.linspace(1.0, 0.0, n)
        parts += [np.zeros(max(0, piece.start - source_end), np.float32), voice * fade]
        source_end = piece.start + len(piece.wav)
    return np.concatenate(parts)


class Conversion(NamedTuple):
    """A recording, converted."""
    wav: np.ndarray       # (samples,)
    pieces: list[Piece]
    first: Converted      # the first piece, to be looked at
    stopped: bool         # False if the limit of steps cut one of the pieces


def convert_recording(wav: np.ndarray, converter: Converter, pool) -> Conversion:
    """Convert a recording (samples,) of any length, PIECES_AT_ONCE at a time, so that memory does not grow with it."""
    hp, voices, stopped, first = converter.hp, [], True, None
    pieces = split_at_pauses(wav, hp)
    for start in range(0, len(pieces), PIECES_AT_ONCE):
        outputs = converter([utils.spectrograms(piece.wav, hp)[1] for piece in pieces[start:start + PIECES_AT_ONCE]])
        voices += pool.map(lambda out: utils.griffin_lim(out.linear, out.pitch, hp), outputs)
        stopped, first = stopped and all(out.stopped for out in outputs), first or outputs[0]
    return Conversion(join(pieces, voices, hp), pieces, first, stopped)


def find_recordings(paths: list[pathlib.Path]) -> list[pathlib.Path]:
    """Expand folders to the recordings in them; raises ValueError if there are none."""
    found = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.suffix.lower() in utils.AUDIO_SUFFIXES
                            and file.is_file() and not file.name.startswith("."))
        elif path.exists():
            found.append(path)
        else:
            raise ValueError(f"{path} does not exist; give a recording or a folder of recordings")
    if not found:
        raise ValueError(f"no recordings ({', '.join(utils.AUDIO_SUFFIXES)}) in {', '.join(map(str, paths))}")
    return found


def unique_names(paths: list[pathlib.Path]) -> list[str]:
    """Stems of the files, numbered where they repeat."""
    names: list[str] = []
    for path in paths:
        name, n = path.stem, 2
        while name in names:
            name, n = f"{path.stem}_{n}", n + 1
        names.append(name)
    return names


def convert_files(paths: list[pathlib.Path], out: pathlib.Path, converter: Converter, title: str) -> int:
    """Convert recordings into `out`; a bad one is named and skipped. Returns the number of those skipped."""
    hp, rows, refused = converter.hp, [], []
    recordings = find_recordings(paths)
    names = unique_names(recordings)
    taken = {path.resolve() for path in recordings} & {(out / f"{name}{kind}.wav").resolve() for name in names
                                                       for kind in ("", ".source")}
    if taken:
        raise ValueError(f"{min(taken)} would be overwritten by its own conversion; choose another --out")
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, name in zip(tqdm(recordings, "converting", disable=None), names):
            try:
                wav = utils.load_wav(path, hp)
            except utils.BadAudio as error:
                refused.append(str(error))
                continue
            voice, pieces, first, stopped = convert_recording(wav, converter, pool)
            utils.save_wav(out / f"{name}.wav", voice, hp)
            utils.save_wav(out / f"{name}.source.wav", wav, hp)
            shown = f"{name}" if len(pieces) == 1 else f"{name}, first of {len(pieces)} pieces"
            report.plot_conversion(out / f"{name}.png", utils.spectrograms(pieces[0].wav, hp)[1], first, None,
                                   None, hp, shown)
            rows.append({"id": name, "audio": {"source": f"{name}.source.wav", "converted": f"{name}.wav"},
                         "picture": f"{name}.png",
                         "measures": {"source s": len(wav) / hp.sample_rate, "converted s": len(voice) / hp.sample_rate,
                                      "stops by itself": stopped}})
    for reason in refused:
        print(f"refused {reason}", file=sys.stderr)
    if rows:
        heldout.finish(out, title, rows, {"converted": len(rows), "refused": len(refused)})
    return len(refused)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that both evaluation scripts share."""
    parser.add_argument("inputs", nargs="*", type=pathlib.Path, metavar="FILE_OR_FOLDER", help="recordings to convert")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR",
                        help="where results go (default: results/ in the run folder)")
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR",
                        help="what prepro.py wrote (default: what the run was trained on)")
    parser.add_argument("--logdir", type=pathlib.Path, metavar="DIR", help="run folder (default: that of the demo)")
    parser.add_argument("--source", metavar="NAME", help="held-out sentences of this source speaker only")
    parser.add_argument("--oracles", action="store_true",
                        help="measure also what the networks make of a part of the truth")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                        help="override a hyperparameter of synthesis, for instance power=1.2")
    parser.add_argument("--checkpoint", metavar="PREFIX", help="another checkpoint than the best one")


def complete(args: argparse.Namespace, parser: argparse.ArgumentParser, run: str) -> argparse.Namespace:
    """Fill in the folders that were not named, of the run `run` below logdir/."""
    if args.inputs and not args.out:
        parser.error("--out DIR says where the converted recordings go")
    args.logdir = args.logdir or HERE / "logdir" / run
    args.out = args.out or args.logdir / "results"
    return args


def evaluate(args: argparse.Namespace, name_files=heldout.name_files) -> int:
    """What both evaluation scripts do; returns the exit code. Raises ValueError, OSError and TrainingError."""
    title = f"Voice conversion, {args.logdir.name}"
    converter = load_converter(args.logdir, args.checkpoint, args.set)
    if args.inputs:
        return 1 if convert_files(args.inputs, args.out, converter, title) else 0
    corpus = data_load.Corpus(trainer.find_data(args, converter.hp), converter.hp)
    heldout.evaluate(corpus, args.out, converter, title, args.source, args.oracles, name_files)
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    args = parser.parse_args(argv)
    return complete(args, parser, "paired" if args.data else "demo")


def main(argv: list[str] | None = None) -> int:
    try:
        return evaluate(parse_arguments(argv))
    except (ValueError, OSError, trainer.TrainingError) as error:
        print(f"eval.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
