"""The base of a conversion: a linear map from the source's mel spectrogram to the target's, solved in closed form.

The networks write a correction of the base. Networks trained on few sentences may replace one phone by another; a
linear map cannot. The map is solved by least squares along the DTW paths in seconds, the same every time.

The output of least squares is an average: it lacks all that the map cannot predict, and is too smooth. So `map_source`
takes the finest detail from the source itself, after scaling its vocal tract to the target's length. Then it makes
every order of the mel-cepstra move as much as the target's, separately at each modulation frequency.
"""
import pathlib
from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.signal
from tqdm import tqdm

import utils
from common import storage
from common.cli import UserError
from corpus import analysis
from corpus.analysis import Features
from corpus.linear_map import (CONTEXT, PENALTY, Sums, find_warp, interpolate, mel_cepstra, moments, splice,
                               warp_formants)
from corpus.manifest import Pair
from hyperparams import HyperParams

FILE = "base.npz"            # in a run folder
DETAIL_SIGMA = (3.0, 1.0)    # frames and bands, deviations of the Gaussian that removes the detail of the source
MEASURED = 50                # recordings (up to twice as many) on which modulation and warp are measured
MOST_GAIN = 4.0              # of a movement; the least gain is 1 / MOST_GAIN
TEMPERATURE = 0.15           # of the softmax over distances of voiceprints


class Base(NamedTuple):
    """A map for each source speaker."""
    speakers: np.ndarray   # (K,) names
    kernels: np.ndarray    # (K, W, M) W is M times an odd number of frames, 2 * CONTEXT + 1 or more
    biases: np.ndarray     # (K, M)
    floors: np.ndarray     # (K, M) level of the source's pauses; quieter input is raised to this level
    warps: np.ndarray      # (K,) factor of frequency that brings the source's formants to the target's
    modulation: np.ndarray  # (K, P, M) modulation spectrum, P frequencies, of the map's output with the source's detail
    target_modulation: np.ndarray  # (P, M) modulation spectrum of the target's own speech
    pitch: np.ndarray      # (K + 1, 2) mean and deviation of the octaves of each source and, last, of the target
    centres: np.ndarray    # (K, M + 1) mean `voiceprint` of each source
    radii: np.ndarray      # (K,) distance from its centre within which most recordings of a source lie
    length_ratios: np.ndarray  # (K,) target frames per source frame, on average


class MappedSource(NamedTuple):
    """A recording mapped to the target's voice, frame by frame of the source."""
    mel: np.ndarray      # (S, M) the map's output
    pitch: np.ndarray    # (S, 2) octaves above `pitch_middle`, interpolated through unvoiced frames, and voicing
    texture: np.ndarray  # (S, M) detail and movement that the map's output lacks


class Voice(NamedTuple):
    """The voice of a recording."""
    weights: np.ndarray  # (K,) shares of the sources' maps: one map for a known source, a mixture for a stranger
    warp: float          # factor of frequency that brings the recording's formants to the target's
    mean_octave: float   # mean of the recording's pitch


def voiceprint(features: Features, hp: HyperParams) -> np.ndarray:
    """Vector (M + 1,) that identifies a speaker: mean mel spectrum of the speech, and mean octave."""
    mel, level = features.mel.astype(np.float32), features.mel.mean(axis=1, dtype=np.float32)
    speech = mel[level >= utils.SPEECH_LEVEL * np.percentile(level, 80)]
    octaves = analysis.pitch_contour(features.hertz, hp)
    return np.append(speech.mean(axis=0), octaves.mean())


def modulation_power(mels: list[np.ndarray]) -> np.ndarray:
    """Power (P, M) of the movements of each order of the mel-cepstra of recordings (T, M), at P modulation frequencies
    from 0 to half the frame rate."""
    movements = np.concatenate([orders - orders.mean(axis=0) for orders in map(mel_cepstra, mels)])
    movements = np.pad(movements, ((0, max(0, utils.MODULATION_FRAMES - len(movements))), (0, 0)))
    return scipy.signal.welch(movements, nperseg=utils.MODULATION_FRAMES, axis=0, detrend=False)[1].astype(np.float32)


def gains(modulation: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Gains (P, M) from one modulation spectrum to another (P, M), smoothed and limited because both are estimates."""
    ratio = 0.5 * (np.log(np.maximum(wanted, 1e-8)) - np.log(np.maximum(modulation, 1e-8)))
    return np.exp(np.clip(scipy.ndimage.gaussian_filter(ratio, 1.0, mode="nearest"),
                          -np.log(MOST_GAIN), np.log(MOST_GAIN)))


def modulate(mel: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiply the movements of each order of the mel-cepstra of (S, M) by `factors` (P, M), one for each modulation
    frequency (Takamichi et al. 2016)."""
    orders, beyond = mel_cepstra(mel), utils.MODULATION_FRAMES // 2
    mean = orders.mean(axis=0)
    spectrum = np.fft.rfft(np.pad(orders - mean, ((beyond, beyond), (0, 0)), mode="symmetric"), axis=0)
    places = np.linspace(0.0, len(factors) - 1.0, len(spectrum))
    moved = np.fft.irfft(spectrum * interpolate(factors, places), n=len(mel) + 2 * beyond, axis=0)
    moved = moved[beyond:beyond + len(mel)]
    return scipy.fft.idct(moved + mean, axis=1, norm="ortho").astype(np.float32)


def smooth(mel: np.ndarray) -> np.ndarray:
    return scipy.ndimage.gaussian_filter(mel, DETAIL_SIGMA, mode="nearest")


def find_voice(base: Base, features: Features, hp: HyperParams, speaker: str | None = None) -> Voice:
    """The voice of a recording: that of a `speaker` known from training, or of the source that it sounds like.

    A stranger gets a mixture of the sources, in which the sources that sound like the recording weigh most.
    """
    known = base.speakers.tolist()
    distances = np.linalg.norm(base.centres - voiceprint(features, hp), axis=1)
    number = known.index(speaker) if speaker in known else recognise(base, distances)
    if number is not None:
        return Voice(np.eye(len(known))[number], float(base.warps[number]), float(base.pitch[number, 0]))
    weights = np.exp((distances.min() - distances) / TEMPERATURE)
    weights /= weights.sum()
    # Warp and pitch of a stranger are measured on this recording, the only one known
    source, voiced = features.mel.astype(np.float32), features.hertz > 0.0
    octaves = analysis.pitch_contour(features.hertz, hp)[voiced]
    return Voice(weights, find_warp(source, apply(base, source, weights), hp),
                 float(octaves.mean() if len(octaves) else weights @ base.pitch[:-1, 0]))


def length_ratio(base: Base, voice: Voice) -> float:
    """Target frames per source frame, for a source with that voice."""
    return float(voice.weights @ base.length_ratios)


def recognise(base: Base, distances: np.ndarray) -> int | None:
    """The number of the source whose voiceprint is nearest by `distances` (K,), or None if it is not near enough."""
    nearest = int(distances.argmin())
    return nearest if distances[nearest] <= base.radii[nearest] else None


def apply(base: Base, source: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Map a source (S, M) by the mixture of all maps with `weights` (K,)."""
    kernel = np.tensordot(weights, base.kernels, 1).astype(np.float32)
    return splice(source, len(kernel) // source.shape[1] // 2) @ kernel + (weights @ base.biases).astype(np.float32)


def map_source(base: Base, features: Features, voice: Voice, hp: HyperParams) -> MappedSource:
    """Map a recording, or a segment of one, to the target's voice; all zeros with `hp.base=0`."""
    if not hp.base:
        return MappedSource(*(np.zeros((len(features.mel), size), np.float32) for size in (hp.n_mels, 2, hp.n_mels)))
    source = np.maximum(features.mel.astype(np.float32), (voice.weights @ base.floors).astype(np.float32))
    mel = apply(base, source, voice.weights)
    factors = gains(np.tensordot(voice.weights, base.modulation, 1), base.target_modulation) ** hp.postfilter
    restored = np.clip(modulate(detailed(mel, source, voice.warp, hp), factors), 0.0, 1.0)
    return MappedSource(mel, map_pitch(base, features, voice, hp), restored - mel)


def detailed(mel: np.ndarray, source: np.ndarray, warp: float, hp: HyperParams) -> np.ndarray:
    """Replace the finest detail of a map's output `mel` (S, M) by that of the source (S, M)."""
    fine = warp_formants(source, warp, hp)
    return np.clip(smooth(mel) + fine - smooth(fine), 0.0, 1.0)


def map_pitch(base: Base, features: Features, voice: Voice, hp: HyperParams) -> np.ndarray:
    """The pitch (S, 2) of a recording in the target's range: mapped in octaves by mean and deviation."""
    voiced, (mean, deviation) = features.hertz > 0.0, base.pitch[-1]
    octaves = analysis.pitch_contour(features.hertz, hp) if voiced.any() else np.full(len(voiced), voice.mean_octave)
    mapped = mean + (octaves - voice.mean_octave) * deviation / (voice.weights @ base.pitch[:-1, 1])
    return np.stack([mapped, voiced], axis=1).astype(np.float32)


def solve(corpus) -> Base:
    """Solve the base of the training pairs of a `data_load.Corpus`."""
    hp, sources = corpus.hp, sorted({pair.source for pair in corpus.train})
    found = []
    for source in sources:
        pairs = [pair for pair in corpus.train if pair.source == source]
        sums, quiet, octaves, own, n_frames = Sums((2 * CONTEXT + 1) * hp.n_mels, hp.n_mels), [], [], [], 0
        for pair in tqdm(pairs, f"base of {source}", disable=None, leave=False):
            features = corpus.recording(pair)
            sums.add(interpolate(splice(features.mel.astype(np.float32)), corpus.path(pair)),
                     corpus.target_features(pair, "mel"))
            n_frames += len(features.mel)
            quiet.append(features.mel.min(axis=0))
            octaves.append(analysis.pitch_contour(features.hertz, hp)[features.hertz > 0.0])
            own.append(voiceprint(features, hp))
        kernel, bias = sums.solve(PENALTY)
        floor = np.mean(quiet, axis=0, dtype=np.float32)
        found.append((source, kernel, bias, floor, *restorations(corpus, pairs, kernel, bias, floor), moments(octaves),
                      np.mean(own, axis=0), radius(np.array(own)), sums.count / n_frames))
    *maps, octaves, centres, radii, length_ratios = map(np.array, zip(*found))
    target = moments([pitch[pitch[:, 1] > 0.0, 0] for pitch in map(corpus.pitch, corpus.target_pairs)])
    target_mels = [corpus.target_features(pair, "mel") for pair in spread_pairs(corpus.target_pairs)]
    target_modulation = modulation_power(target_mels)
    return Base(*maps, target_modulation, np.vstack([octaves, target]), centres, radii, length_ratios)


def spread_pairs(pairs: list[Pair]) -> list[Pair]:
    """Pairs spread over the whole corpus, enough to measure a few numbers; more pairs do not change these."""
    return pairs[::max(1, len(pairs) // MEASURED)]


def radius(own: np.ndarray) -> float:
    """How far a new recording of a speaker, whose voiceprints are `own` (n, M + 1), may lie from their mean.

    The distance of each voiceprint is measured from the mean of the others, because a new recording is not part of the
    mean either. From the mean of all, the distances would be too small.
    """
    distances = np.linalg.norm(own - own.mean(axis=0), axis=1) * len(own) / max(len(own) - 1, 1)
    return float(np.percentile(distances, 95))


def restorations(corpus, pairs: list[Pair], kernel: np.ndarray, bias: np.ndarray, floor: np.ndarray) -> tuple:
    """What `map_source` needs to restore detail: the warp of the source's formants, and the modulation spectrum (P, M)
    of the map's output with the source's detail."""
    sources = [np.maximum(corpus.recording(pair).mel.astype(np.float32), floor) for pair in spread_pairs(pairs)]
    mapped = [splice(source) @ kernel + bias for source in tqdm(sources, "modulation", disable=None, leave=False)]
    warp = float(np.median([find_warp(source, mel, corpus.hp) for source, mel in zip(sources, mapped)]))
    return warp, modulation_power([detailed(mel, source, warp, corpus.hp) for mel, source in zip(mapped, sources)])


def save(base: Base, logdir: pathlib.Path) -> None:
    with storage.replacing(logdir / FILE) as temporary, open(temporary, "wb") as file:
        np.savez(file, **base._asdict())


def load(logdir: pathlib.Path) -> Base:
    """Read the base that `save` wrote into a run folder; raises UserError that says what to do."""
    path = pathlib.Path(logdir) / FILE
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Base(**arrays)
    except storage.BAD_ARRAYS as error:
        raise UserError(f"{path} is missing or damaged ({error}): delete it if it is there; then the same training "
                        "command as before makes it anew (restore that of pretrained/ with git checkout)") from None
