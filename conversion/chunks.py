"""Long recordings: cut at pauses into chunks, each in the voice of who speaks, and put together again."""
from typing import NamedTuple

import numpy as np
import scipy.ndimage

import utils
from conversion.base import Voice
from corpus import alignment, analysis
from corpus.analysis import Features
from hyperparams import HyperParams

CHUNK_SECONDS = 8.0  # recordings are converted in chunks of at most this length, cut at pauses
FADE_SECONDS = 0.005  # at both ends of a chunk, so that joints do not click
ANOTHER_VOICE = 0.5  # octaves from the pitch of a voice, from where a chunk is spoken by somebody else
BESIDE_FRAMES = 16  # voiced frames beside what is left of a chunk, from where they are speech
AROUND_SECONDS = 0.25  # before and after the voiced frames of speech, where it has unvoiced sounds
NEAR_FRAMES = 40  # to the next voiced frame, up to where the voice is measured
LEAST_FRAMES = 40  # voiced frames that tell the pitch of a chunk


class Chunk(NamedTuple):
    """A part of a recording between pauses."""
    wav: np.ndarray   # (samples,) speech, trimmed
    start: int        # sample of the recording where the chunk begins


def split_at_pauses(wav: np.ndarray, hp: HyperParams, one_voice: bool = False) -> list[Chunk]:
    """Cut a recording (samples,) into chunks of at most CHUNK_SECONDS, at pauses or else at the quietest frame, and
    unless it is of `one_voice` also where somebody else begins to speak."""
    mel, hertz = utils.mel_in_blocks(wav, hp), analysis.pitch(wav, hp)
    longest = round(CHUNK_SECONDS * hp.frames_per_second)
    silences = alignment.pauses(mel, hp).mean(axis=1).astype(int)
    cuts = [0]
    for end in [*([] if one_voice else turns(hertz, silences)), len(mel)]:
        while end - cuts[-1] > longest:
            near = silences[(silences > cuts[-1] + longest // 8) & (silences <= cuts[-1] + longest)]
            late = mel[cuts[-1] + longest // 2:cuts[-1] + longest].mean(axis=1)
            cuts.append(int(near[-1]) if len(near) else cuts[-1] + longest // 2 + int(late.argmin()))
        cuts.append(end)
    parts = [(wav[start * hp.hop_length:end * hp.hop_length], start * hp.hop_length, hertz[start:end])
             for start, end in zip(cuts, cuts[1:])]
    return [trim(*part, hp) for part in parts if np.abs(part[0]).max(initial=0.0) >= 1e-3]  # others are pauses


def trim(part: np.ndarray, start: int, hertz: np.ndarray, hp: HyperParams) -> Chunk:
    """Cut silence at both ends of a part (samples,) of a recording, which begins at sample `start` and has the pitch
    (T,). Beside a sound that is much louder, speech is no louder than silence, but it has a pitch, and is kept."""
    speech, first = utils.trim_silence(part, hp)
    last, voiced = first + len(speech), np.flatnonzero(hertz) * hp.hop_length
    if ((voiced < first) | (voiced >= last)).sum() >= BESIDE_FRAMES:
        around = round(AROUND_SECONDS * hp.sample_rate)
        first, last = min(first, max(0, voiced[0] - around)), max(last, voiced[-1] + around)
    return Chunk(part[first:last], start + first)


def turns(hertz: np.ndarray, silences: np.ndarray) -> list[int]:
    """Those of the pauses at frames `silences` after which the pitch (T,) is that of somebody else."""
    found, began = [], 0
    for start, end in zip([0, *silences], [*silences, len(hertz)]):
        before, after = median_octave(hertz[began:start]), median_octave(hertz[start:end])
        if before is not None and after is not None and abs(after - before) > ANOTHER_VOICE:
            began = int(start)
            found.append(began)
    return found


def join(chunks: list[Chunk], voices: list[np.ndarray], hp: HyperParams, length: int = 0) -> np.ndarray:
    """Put converted chunks (samples,) where their sources begin, or after the chunk before if that is still speaking;
    the rest is silence. The result has `length` samples at least."""
    wav = np.zeros(max([length, *(chunk.start for chunk in chunks)]) + sum(map(len, voices)), np.float32)
    end = 0
    for chunk, voice in zip(chunks, voices):
        fade = np.ones_like(voice)
        n = min(round(FADE_SECONDS * hp.sample_rate), len(voice) // 2)
        fade[:n] = np.linspace(0.0, 1.0, n)
        fade[len(voice) - n:] = np.linspace(1.0, 0.0, n)
        start = max(chunk.start, end)
        end = start + len(voice)
        wav[start:end] = voice * fade
    return wav[:max(length, end)]


class Speaker:
    """Who speaks in a long recording: the voice that was measured last, and the pitch of its chunks."""

    def __init__(self, converter):
        self.converter, self.voice, self.octave = converter, None, None
        self.another = np.inf if converter.keep_intervals else ANOTHER_VOICE
        self.changes: list[int] = []  # chunks of the last group at which somebody else begins to speak

    def follow(self, features: list[Features]) -> list[Voice]:
        """The voice of each of the next chunks."""
        octaves, found, self.changes = [median_octave(each.hertz) for each in features], [], []
        for i, octave in enumerate(octaves):
            other = octave is not None and self.octave is not None and abs(octave - self.octave) > self.another
            # Noise may come before the speech: it is measured only until there is a pitch
            if self.voice is None or other or octave is not None and self.octave is None:
                self.changes += [i] if other else []
                self.octave = octave if octave is not None else next((x for x in octaves if x is not None), None)
                own = [each for each, its in zip(features[i:], octaves[i:])
                       if self.octave is None or its is not None and abs(its - self.octave) <= self.another]
                heard = Features(*map(np.concatenate, zip(*own)))
                near = scipy.ndimage.maximum_filter1d(heard.hertz, 2 * NEAR_FRAMES + 1) > 0.0  # not minutes of noise
                self.voice = self.converter.find_voice(Features(*(each[near | ~near.any()] for each in heard)))
            found.append(self.voice)
        return found


def median_octave(hertz: np.ndarray) -> float | None:
    """Median pitch in octaves of a chunk, or None if less than half a second of it is voiced."""
    voiced = hertz[hertz > 0.0]
    return float(np.log2(np.median(voiced))) if len(voiced) >= LEAST_FRAMES else None
