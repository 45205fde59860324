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
ANOTHER_VOICE = 0.45  # octaves from the pitch of a voice, from where somebody else speaks
PITCHES = np.arange(5.8, 10.0, 0.05)  # octaves of Hz that a voice may have
CHANGE = 15.0  # octaves times voiced frames by which it must fit better that somebody else speaks
MOST_AWAY = 0.6  # octaves from the pitch of a voice, from where all frames count alike
BESIDE_FRAMES = 16  # voiced frames beside what is left of a chunk, from where they are speech
AROUND_SECONDS = 0.25  # before and after the voiced frames of speech, where it has unvoiced sounds
NEAR_FRAMES = 40  # to the next voiced frame, up to where the voice is measured


class Chunk(NamedTuple):
    """A part of a recording between pauses."""
    wav: np.ndarray   # (samples,) speech, trimmed
    start: int        # sample of the recording where the chunk begins
    octave: float = 0.0  # the pitch of who speaks, in octaves of Hz


def split_at_pauses(wav: np.ndarray, hp: HyperParams, one_voice: bool = False) -> list[Chunk]:
    """Cut a recording (samples,) into chunks of at most CHUNK_SECONDS, at pauses or else at the quietest frame, and
    unless it is of `one_voice` also where somebody else begins to speak."""
    mel, hertz = utils.mel_in_blocks(wav, hp), analysis.pitch(wav, hp)
    longest = round(CHUNK_SECONDS * hp.frames_per_second)
    silences = alignment.pauses(mel, hp).mean(axis=1).astype(int)
    begun, cuts = [(0, 0.0)] if one_voice else turns(hertz, silences), []
    for (start, octave), end in zip(begun, [*(start for start, _ in begun[1:]), len(mel)]):
        cuts.append((start, octave))
        while end - start > longest:
            near = silences[(silences > start + longest // 8) & (silences <= start + longest)]
            late = mel[start + longest // 2:start + longest].mean(axis=1)
            start = int(near[-1]) if len(near) else start + longest // 2 + int(late.argmin())
            cuts.append((start, octave))
    parts = [(wav[start * hp.hop_length:end * hp.hop_length], start * hp.hop_length, hertz[start:end], octave)
             for (start, octave), end in zip(cuts, [*(start for start, _ in cuts[1:]), len(mel)])]
    return [trim(*part, hp) for part in parts if np.abs(part[0]).max(initial=0.0) >= 1e-3]  # others are pauses


def trim(part: np.ndarray, start: int, hertz: np.ndarray, octave: float, hp: HyperParams) -> Chunk:
    """Cut silence at both ends of a part (samples,) of a recording, which begins at sample `start`, has the pitch (T,)
    and is spoken at `octave`. Beside a sound that is much louder, speech is no louder than silence, but it has a pitch,
    and is kept."""
    speech, first = utils.trim_silence(part, hp)
    last, voiced = first + len(speech), np.flatnonzero(hertz) * hp.hop_length
    if ((voiced < first) | (voiced >= last)).sum() >= BESIDE_FRAMES:
        around = round(AROUND_SECONDS * hp.sample_rate)
        first, last = min(first, max(0, voiced[0] - around)), max(last, voiced[-1] + around)
    return Chunk(part[first:last], start + first, octave)


def turns(hertz: np.ndarray, silences: np.ndarray) -> list[tuple[int, float]]:
    """Who speaks when in a recording with the pitch (T,) and pauses at frames `silences`: the first frame and the
    median pitch (octaves of Hz) of each turn, ANOTHER_VOICE at least from the one before."""
    begins, found = most_likely_changes(hertz, silences), []
    for start, end in zip(begins, [*begins[1:], len(hertz)]):
        voiced = hertz[start:end][hertz[start:end] > 0.0]
        octave = float(np.log2(np.median(voiced))) if len(voiced) else 0.0
        # The levels of the changes were free: they may lie on either side of one voice that moves
        if not found or abs(octave - found[-1][1]) > ANOTHER_VOICE:
            found.append((start, octave))
    return found


def most_likely_changes(hertz: np.ndarray, silences: np.ndarray) -> list[int]:
    """The first frames of turns, 0 and some of `silences`, in a recording with the pitch (T,): each turn has one of
    PITCHES, ANOTHER_VOICE at least from the one before, and the sum of the distances of voiced frames from it, and of
    CHANGE for each change, is the least (Viterbi 1967). So a phrase of a few frames counts for as much as it says."""
    starts, costs, before = [0, *silences.tolist()], np.zeros(len(PITCHES)), []
    away = np.abs(PITCHES[:, None] - PITCHES)
    for start, end in zip(starts, [*starts[1:], len(hertz)]):
        voiced = np.log2(hertz[start:end][hertz[start:end] > 0.0])
        counts = np.bincount(np.abs(voiced[:, None] - PITCHES).argmin(axis=1), minlength=len(PITCHES))
        others = np.where(away > ANOTHER_VOICE - 1e-6, costs, np.inf)
        changed = others.min(axis=1) + CHANGE
        before.append(np.where(changed < costs, others.argmin(axis=1), np.arange(len(PITCHES))))
        costs = np.minimum(costs, changed) + np.minimum(away, MOST_AWAY) @ counts
    begins, pitch = [], int(costs.argmin())
    for start, origin in zip(starts[::-1], before[::-1]):
        if start == 0 or origin[pitch] != pitch:
            begins.append(start)
        pitch = int(origin[pitch])
    return begins[::-1]


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
    """Who speaks in a long recording: the voice that was measured last, and its pitch."""

    def __init__(self, converter):
        self.converter, self.voice, self.octave = converter, None, None
        self.changes: list[int] = []  # chunks of the last group at which somebody else begins to speak

    def follow(self, features: list[Features], octaves: list[float]) -> list[Voice]:
        """The voice of each of the next chunks, which are spoken at `octaves`."""
        found, self.changes = [], []
        for i, octave in enumerate(octaves):
            other = self.octave not in (None, octave)
            # Noise may come before the speech: it is measured only until there is a pitch
            if self.voice is None or other or self.octave is None and features[i].hertz.any():
                self.changes += [i] if other else []
                own = [each for each, its in zip(features[i:], octaves[i:]) if abs(its - octave) < ANOTHER_VOICE]
                heard = Features(*map(np.concatenate, zip(*own)))
                self.octave = octave if other or heard.hertz.any() else None
                near = scipy.ndimage.maximum_filter1d(heard.hertz, 2 * NEAR_FRAMES + 1) > 0.0  # not minutes of noise
                self.voice = self.converter.find_voice(Features(*(each[near | ~near.any()] for each in heard)))
            found.append(self.voice)
        return found
