"""Long recordings: cut at pauses into chunks, each in the voice of who speaks, and put together again."""
from typing import NamedTuple

import utils
from conversion.base import Voice
from corpus import alignment, analysis, people, remarks
from corpus.analysis import Features
from hyperparams import HyperParams

import numpy as np
import scipy.ndimage

CHUNK_SECONDS = 8.0  # recordings are converted in chunks of at most this length, cut at pauses
STEP_DB, NEAR_SECONDS = 6.0, 2.0  # a passage that is so much quieter has a level of its own, and is that long at least
FADE_SECONDS = 0.005  # at both ends of a chunk, so that joints do not click
BESIDE_FRAMES = 16  # voiced frames beside what is left of a chunk, from where they are speech
LEVEL_FRAMES = 40  # voiced frames of a chunk that has a level of its own
NEAR_FRAMES = 40  # to the next voiced frame, up to where a voice is measured
ENOUGH_FRAMES = 100  # voiced frames on which a voice is measured for good; noise may have some before the speech
AROUND_SECONDS = 0.25  # before and after the voiced frames of speech, where it has unvoiced sounds
FAINTEST_DB = 62.0  # below the level of the recording; still fainter sounds are of another room


class Chunk(NamedTuple):
    """A part of a recording between pauses."""
    wav: np.ndarray   # (samples,) speech, trimmed
    start: int        # sample of the recording where the chunk begins
    person: int = 0   # who speaks, counted in the order in which they begin
    gain: float = 1.0  # raises it to the level that the networks know


def split_at_pauses(wav: np.ndarray, hp: HyperParams, one_voice: bool = False) -> list[Chunk]:
    """Cut a recording (samples,) into chunks of at most CHUNK_SECONDS, at pauses or else at the quietest frame, and
    unless it is of `one_voice` also where somebody else begins to speak. If there are several, the gain of each raises
    it to the level of the training."""
    hertz = analysis.pitch(wav, hp)
    mel = utils.mel_in_blocks(evened(wav, hertz, hp), hp)
    longest = round(CHUNK_SECONDS * hp.frames_per_second)
    silences = alignment.pauses(mel, hp).mean(axis=1).astype(int)
    begun, cuts = [(0, 0)] if one_voice else people.turns(mel, analysis.spoken(hertz, hp), silences), []
    for (start, person), end in zip(begun, [*(start for start, _ in begun[1:]), len(mel)]):
        cuts.append((start, person))
        while end - start > longest:
            near = silences[(silences > start + longest // 8) & (silences <= start + longest)]
            late = mel[start + longest // 2:start + longest].mean(axis=1)
            start = int(near[-1]) if len(near) else start + longest // 2 + int(late.argmin())
            cuts.append((start, person))
    parts = [(wav[start * hp.hop_length:end * hp.hop_length], start * hp.hop_length, hertz[start:end], person)
             for (start, person), end in zip(cuts, [*(start for start, _ in cuts[1:]), len(mel)])]
    chunks = [trim(*part, hp) for part in parts if np.abs(part[0]).max(initial=0.0) >= 1e-3]  # others are pauses
    return chunks if len(chunks) > 1 else [chunk._replace(gain=1.0) for chunk in chunks]  # alone, it is at the level


def evened(wav: np.ndarray, hertz: np.ndarray, hp: HyperParams) -> np.ndarray:
    """A recording (samples,) of pitch (T,) in Hz whose quiet passages are as loud as the others, to tell pauses and
    people: of speech that is far below the rest, spectra hold a part only, and it would be somebody else's."""
    power = 10.0 * np.log10(utils.frame_power(wav, hp)[:len(hertz)] + 1e-12)
    voiced = hertz[:len(power)] > 0.0
    if not voiced.any():
        return wav
    near = scipy.ndimage.maximum_filter1d(np.where(voiced, power, -np.inf), round(NEAR_SECONDS * hp.frames_per_second))
    gain = np.percentile(near[voiced], 80) - near
    gain = np.where((gain > STEP_DB) & np.isfinite(gain), gain, 0.0)
    if not gain.any():
        return wav
    factors = 10.0 ** (scipy.ndimage.uniform_filter1d(gain, 5) / 20.0)
    return wav * np.interp(np.arange(len(wav)), np.arange(len(gain)) * hp.hop_length, factors).astype(np.float32)


def trim(part: np.ndarray, start: int, hertz: np.ndarray, person: int, hp: HyperParams) -> Chunk:
    """Cut silence at both ends of a part (samples,) of a recording, which begins at sample `start`, has the pitch (T,)
    and is spoken by `person`. Beside a sound that is much louder, speech is no louder than silence, but it has a pitch,
    and is kept."""
    speech, first = utils.trim_silence(part, hp)
    last, voiced = first + len(speech), np.flatnonzero(hertz) * hp.hop_length
    if ((voiced < first) | (voiced >= last)).sum() >= BESIDE_FRAMES:
        around = round(AROUND_SECONDS * hp.sample_rate)
        first, last = min(first, max(0, voiced[0] - around)), max(last, voiced[-1] + around)
    wav = part[first:last]
    gain = float(utils.loudness_gain(wav, hp)) if len(voiced) >= LEVEL_FRAMES else 1.0
    return Chunk(wav, start + first, person, max(1.0, gain))  # never lowered: what is loud may be no speech


def silenced(wav: np.ndarray, chunks: list[Chunk], hp: HyperParams) -> float:
    """Seconds of a recording (samples,) that are in none of its chunks, as if they were silence, and yet have a voice's
    pitch once they are raised to the level of speech: something else is louder by so much. Pauses have none, even in
    rooms that resound."""
    outside, around = np.ones(len(wav), bool), round(AROUND_SECONDS * hp.sample_rate)
    for chunk in chunks:
        outside[max(0, chunk.start - around):chunk.start + len(chunk.wav) + around] = False
    rest = wav[outside]
    if len(rest) < hp.sample_rate or not rest.any() or (
            utils.loudness_gain(rest, hp) > 10.0 ** (FAINTEST_DB / 20.0)):
        return 0.0
    hertz = analysis.pitch(utils.normalise_loudness(rest, hp), hp)
    voiced = hertz[hertz > 0.0]
    return len(voiced) / hp.frames_per_second if len(voiced) > LEVEL_FRAMES and not remarks.tone(voiced) else 0.0


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


class Speakers:
    """The voices of the people in a recording, each measured where they speak first."""

    def __init__(self, converter):
        self.converter = converter
        self.known: dict[int, tuple[int, Voice]] = {}  # on how many voiced frames each was measured, and the voice

    def follow(self, features: list[Features], people: list[int]) -> list[Voice]:
        """The voice of each of the next chunks, which are spoken by `people`."""
        for i, person in enumerate(people):
            before, _ = self.known.get(person, (-1, None))
            if before < ENOUGH_FRAMES:
                own = [each for each, its in zip(features[i:], people[i:]) if its == person]
                heard = Features(*map(np.concatenate, zip(*own)))
                kept = self.converter.keep_intervals  # then a note that is held is sung
                hertz = heard.hertz if kept else analysis.spoken(heard.hertz, self.converter.hp)
                n_voiced = np.count_nonzero(hertz)
                if n_voiced > before:
                    near = scipy.ndimage.maximum_filter1d(hertz, 2 * NEAR_FRAMES + 1) > 0.0  # no minutes of noise
                    self.known[person] = n_voiced, self.converter.find_voice(
                        Features(*(each[near | ~near.any()] for each in heard._replace(hertz=hertz))))
        return [self.known[person][1] for person in people]
