"""Free-running conversion, of spectrograms for training and evaluation, and of recordings of any length."""
from typing import NamedTuple

import alignment
import analysis
import base
import data_load
import utils
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from analysis import Features
from hyperparams import HyperParams
from manifest import Pair
from networks import Generator

PIECE_SECONDS = 8.0  # recordings are converted in pieces of at most this length, cut at pauses
PIECES_AT_ONCE = 8
FADE_SECONDS = 0.005  # at both ends of a piece, so that joints do not click
MAX_RATIO = 2.0  # frames at most, in frames of the source: where a conversion that does not end is cut


class Converted(NamedTuple):
    """One conversion, cut to its length."""
    mel: np.ndarray        # (T, M)
    pitch: np.ndarray      # (T, 2) octaves above the middle, voicing from 0 to 1
    linear: np.ndarray     # (T, F)
    positions: np.ndarray  # (T,) source frame read for each frame
    weights: np.ndarray    # (T, S) attention
    stopped: bool          # False if the limit of steps cut it


class Converter:
    """Converts recordings in batches with one compiled function."""

    def __init__(self, generator: Generator, carrier: base.Base):
        self.generator, self.base, self.hp = generator, carrier, generator.hp
        self._convert = tf.function(generator.convert, input_signature=[
            tf.TensorSpec((None, None, self.hp.n_linear)), tf.TensorSpec((None, None, 2 * self.hp.n_mels + 2)),
            tf.TensorSpec((None, None)), tf.TensorSpec((), tf.int32), tf.TensorSpec((None,))])

    def find_voice(self, source: Features, speaker: str | None = None) -> base.Voice:
        """The voice of a `speaker` of the training, or of whoever a recording sounds like."""
        return base.find_voice(self.base, source, self.hp, speaker)

    def convert_pairs(self, corpus: data_load.Corpus, pairs: list[Pair]) -> list[Converted]:
        """Convert the sources of pairs, who are known by name."""
        recordings = [corpus.recording(pair) for pair in pairs]
        return self(recordings, [self.find_voice(recording, pair.source)
                                 for recording, pair in zip(recordings, pairs)])

    def __call__(self, sources: list[Features], voices: list[base.Voice], batch_size: int = 16) -> list[Converted]:
        """Convert recordings of `voices`; results in their order, each independent of what it is batched with."""
        carried = [np.concatenate(base.carry(self.base, source, voice, self.hp), axis=1)
                   for source, voice in zip(sources, voices, strict=True)]
        results: list[Converted | None] = [None] * len(sources)
        # Neighbours in length: little padding
        order = sorted(range(len(sources)), key=lambda i: len(sources[i].linear))
        for first in tqdm(range(0, len(order), batch_size), "converting", disable=None, leave=False, delay=2.0):
            chosen = order[first:first + batch_size]
            source, mask = data_load.pad([sources[i].linear for i in chosen], self.hp.encoder_stack)
            mapped, _ = data_load.pad([carried[i] for i in chosen], self.hp.encoder_stack)
            # Nothing but the pace of the training says when global attention is done
            known = self.hp.attention == "global"
            limits = [round(base.pace(self.base, voices[i]) * len(sources[i].linear)) if known
                      else int(MAX_RATIO * len(sources[i].linear)) + self.hp.r for i in chosen]
            steps = int((max(limits) if known else MAX_RATIO * source.shape[1]) / self.hp.r) + 2
            out = [np.asarray(x) for x in self._convert(source, mapped, mask, steps, np.float32(limits))]
            for i, limit, mel, pitch, linear, length, stopped, positions, weights in zip(chosen, limits, *out):
                stopped, length = bool(stopped) and length <= limit, min(length, limit)
                results[i] = Converted(mel[:length], pitch[:length], linear[:length], positions[:length],
                                       weights[:length, :len(sources[i].linear)], stopped)
        return results


class Piece(NamedTuple):
    """A stretch of a recording between pauses."""
    wav: np.ndarray   # (samples,) speech, trimmed
    start: int        # sample of the recording where it begins


def split_at_pauses(wav: np.ndarray, hp: HyperParams) -> list[Piece]:
    """Cut a recording (samples,) into pieces of at most PIECE_SECONDS, at pauses, or else where it is quietest."""
    mel = utils.mel_in_blocks(wav, hp)
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
    """Convert a recording (samples,) of any length, PIECES_AT_ONCE at a time, so that memory does not grow with it.

    It is of one voice, which its first pieces tell.
    """
    hp, voices, voice, stopped, first = converter.hp, [], None, True, None
    pieces = split_at_pauses(wav, hp)
    for start in range(0, len(pieces), PIECES_AT_ONCE):
        features = [analysis.extract(piece.wav, hp) for piece in pieces[start:start + PIECES_AT_ONCE]]
        voice = voice or converter.find_voice(Features(*map(np.concatenate, zip(*features))))
        outputs = converter(features, [voice] * len(features))
        voices += pool.map(lambda out: utils.griffin_lim(out.linear, out.pitch, hp), outputs)
        stopped, first = stopped and all(out.stopped for out in outputs), first or outputs[0]
    return Conversion(join(pieces, voices, hp), pieces, first, stopped)
