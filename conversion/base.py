"""The base of a conversion: what is known before the networks learn, and the same for every source speaker.

The mean of a recording's speech is taken out of every band, so that gain, microphone and the speaker's mean colour are
gone. No source has a name here. One linear map, solved by least squares along the DTW paths of all sources together,
gives the target's mel. It changes with the mean pitch of the recording, because one map for men and women is right for
neither. The networks write a correction of it.

The output of least squares is an average: it lacks all that the map cannot predict, and is too smooth. So `restore_mel`
takes a share of the finest detail from the source itself, after scaling its vocal tract to the target's length. Then it
makes every order of the mel-cepstra move as much as the target's, separately at each modulation frequency. How much
that lacks is measured on conversions of the validation sentences whenever they are converted in training. The pitch,
too, is made to move as much as the target's. What the post-net draws is an average as well: in every voice the high
frequencies of voiced sounds have the texture of noise, which `with_texture` gives them.
"""
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import utils
from common import storage
from corpus import analysis, linear_map
from corpus.analysis import Features
from corpus.manifest import Pair
from hyperparams import HyperParams

import numpy as np
import scipy.fft
import scipy.ndimage
from tqdm import tqdm

FILE = "base.npz"            # in a run folder
SPEECH_DB = 20.0             # dB below the level that speech reaches (80th percentile); frames below it are no speech
LOW_VOICE = 5.0              # percentile of the sources' mean pitches, a recording each, that ends their range
QUIET = 5.0                  # percentile of a bin's level in a recording that is taken for its floor
KNOWN_FRAMES = 200.0         # voiced frames whose deviation of pitch weighs as much as that of all sources
WANTED_FRAMES = 50.0         # voiced frames of a conversion whose deviation of pitch weighs as much as the target's
PITCH_SIGMA = 1.0            # frames, deviation of the Gaussian that smooths a conversion's pitch
DETAIL_SIGMA = (3.0, 1.0)    # frames and bands, deviations of the Gaussian that removes the detail of the source
LEAST_DEVIATION = 0.05       # of a bin, 4 dB; some hardly change in training, but would in another recording
MEASURED = 100               # recordings (up to twice as many) on which floors and deviations are measured
TEXTURE_HERTZ = (2500.0, 3500.0)  # where voiced frames begin to have the texture of noise, and have all of it
MOST_GAIN = 4.0              # of a movement; the least gain is 1 / MOST_GAIN
MOST_PITCH_GAIN = 1.5        # of the pitch's deviation: who speaks monotonously does not begin to sing


class Base(NamedTuple):
    """What is known of the sources together, and of the target."""
    kernel: np.ndarray        # (2, W, M) of the map in the middle of `registers`, and its change with each octave up;
    bias: np.ndarray          # (2, M) W is M times an odd number of frames
    registers: np.ndarray     # (2,) range of the mean pitches of the sources' recordings, in octaves
    mel_floor: np.ndarray     # (M,) level of pauses relative to the mean of speech; quieter input is raised to it
    linear_floor: np.ndarray  # (F,) the same for the linear spectrogram
    deviation: np.ndarray     # (F,) of each bin of the linear spectrogram; the networks read multiples of it
    octaves: np.ndarray       # (3,) deviation of the pitch within recordings of the sources; mean and deviation, target
    modulation: np.ndarray    # (P, M) modulation spectrum of the target's own speech, P frequencies
    length_ratio: np.ndarray  # () target frames per source frame, on average
    onward_kernel: np.ndarray  # (W', M) map from the target of the networks to the voice that is heard: the identity
    onward_bias: np.ndarray   # (M,) unless the voice was learnt behind a pretrained one (voice.py)

    @property
    def is_followed(self) -> bool:
        """Whether a second map follows the networks."""
        return len(self.onward_kernel) > len(self.onward_bias)


class Voice(NamedTuple):
    """What is measured on a recording itself."""
    mel: np.ndarray      # (M,) mean of the mel spectrogram over speech
    linear: np.ndarray   # (F,) the same of the linear spectrogram
    octave: float        # mean of the pitch
    deviation: float     # of the pitch, in octaves
    warp: float          # factor of frequency that brings the recording's formants to the target's


def find_voice(base: Base, features: Features, hp: HyperParams) -> Voice:
    """Measure the voice of a recording. With `hp.base=0` nothing is taken out of the input."""
    octaves, deviation = analysis.spoken_octaves(features.hertz, hp), float(base.octaves[0])
    if len(octaves):
        deviation = float(expected_deviation(len(octaves), octaves.var(), deviation, KNOWN_FRAMES))
    pitch = mean_octave(octaves), deviation
    if not hp.base:
        return Voice(np.zeros(hp.n_mels, np.float32), np.zeros(hp.n_linear, np.float32), *pitch, 1.0)
    means = speech_means(features, hp)
    mel = features.mel - means[0]
    heard = apply(base.onward_kernel, base.onward_bias, map_mel(base, mel, pitch[0]))
    return Voice(*means, *pitch, linear_map.find_warp(mel, heard, hp))


def expected_deviation(n: int, variance: float, usual: float, frames: float) -> float:
    """Deviation of a pitch of which only `n` frames are heard: the `usual` one counts as much as `frames` frames."""
    return np.sqrt((n * variance + frames * usual ** 2) / (n + frames))


def speech_means(features: Features, hp: HyperParams) -> tuple[np.ndarray, np.ndarray]:
    """Means of mel (M,) and linear spectrogram (F,) over the frames that are speech. The frames are chosen by a
    difference of levels, so that neither gain nor equalisation changes the choice."""
    speech = is_speech(features.mel, hp)
    return features.mel[speech].mean(axis=0, dtype=np.float32), features.linear[speech].mean(axis=0, dtype=np.float32)


def is_speech(mel: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Which frames (T,) of a mel spectrogram (T, M) are speech."""
    level = mel.mean(axis=1, dtype=np.float32)
    return level >= np.percentile(level, 80) - SPEECH_DB / hp.range_db


def network_input(base: Base, features: Features, voice: Voice, hp: HyperParams, frames: slice = slice(None),
                  vary: Callable | None = None) -> tuple[np.ndarray, np.ndarray]:
    """What the networks get of `frames` of a recording: its linear spectrogram (S, F) less the mean of its speech,
    raised to the floor, in deviations; and the mapped source (S, M + 2), the target's mel by the map and the mapped
    pitch. With `hp.base=0` the first is the spectrogram itself, and the second is zero.

    In training `vary` changes linear and mel at random. The map reads the varied source, too: so the networks learn
    what it does to a vocal tract of another length.
    """
    linear, mel = features.linear[frames] - voice.linear, features.mel[frames] - voice.mel
    if vary:
        linear, mel = vary(linear, mel)
    if not hp.base:
        return linear, np.zeros((len(mel), hp.n_mels + 2), np.float32)
    mapped, pitch = map_mel(base, mel, voice.octave), map_pitch(base, features.hertz, voice, hp)[frames]
    return np.maximum(linear, base.linear_floor) / base.deviation, np.concatenate([mapped, pitch], axis=1)


def map_mel(base: Base, mel: np.ndarray, octave: float) -> np.ndarray:
    """The target's mel (S, M) by the map, of a mel (S, M) less its mean; `octave` is the recording's mean pitch."""
    shares = np.array([1.0, register(base.registers, octave)], np.float32)
    return apply(np.tensordot(shares, base.kernel, 1), shares @ base.bias, np.maximum(mel, base.mel_floor))


def register(registers: np.ndarray, octave: float) -> float:
    """How many octaves a mean pitch lies above the middle of `registers`; pitches beyond these count as the nearest."""
    return float(np.clip(octave, *registers) - registers.mean())


def apply(kernel: np.ndarray, bias: np.ndarray, mel: np.ndarray) -> np.ndarray:
    """Map (S, M) by a kernel (W, M) and a bias (M,)."""
    return linear_map.in_context(mel, len(kernel) // mel.shape[1] // 2) @ kernel + bias


def with_timing(base: Base, hp: HyperParams) -> HyperParams:
    """`hp` with the timing of the voice that is heard: if a second map follows the networks, their pace is somebody
    else's, so the source's own is kept."""
    return hp.replace(pace=0.0) if base.is_followed else hp


def map_pitch(base: Base, hertz: np.ndarray, voice: Voice, hp: HyperParams) -> np.ndarray:
    """The pitch (S,) of a recording in the target's range, (S, 2) octaves and voicing: mapped by mean and deviation."""
    voiced, (_, mean, deviation) = hertz > 0.0, base.octaves
    octaves = analysis.pitch_contour(hertz, hp) if voiced.any() else np.full(len(voiced), voice.octave)
    return np.stack([mean + (octaves - voice.octave) * deviation / voice.deviation, voiced], axis=1).astype(np.float32)


def restore_mel(base: Base, movement: np.ndarray, mel: np.ndarray, positions: np.ndarray, features: Features,
                voice: Voice, hp: HyperParams) -> np.ndarray:
    """Restore what the average `mel` (T, M) lacks, which was read at `positions` (T,) of a recording: a share of the
    recording's detail, and movement by `movement` (P, M). With `hp.base=0` nothing is restored."""
    if not hp.base:
        return mel
    mel = with_detail(base, mel, positions, features, voice, hp)
    return np.clip(modulate(mel, np.exp(hp.postfilter * movement)), 0.0, 1.0)


def restore_pitch(base: Base, pitch: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Give a pitch (T, 2), octaves and voicing, that the networks wrote, the deviation of the target's pitch: an
    average moves less. Its jitter from frame to frame is smoothed first, because the gain would enlarge it, too."""
    voiced = pitch[:, 1] > 0.5
    if not hp.base or not voiced.any():
        return pitch
    octaves, wanted = scipy.ndimage.gaussian_filter1d(pitch[:, 0], PITCH_SIGMA, mode="nearest"), float(base.octaves[2])
    mean, variance = octaves[voiced].mean(), octaves[voiced].var()
    gain = min(wanted / expected_deviation(voiced.sum(), variance, wanted, WANTED_FRAMES), MOST_PITCH_GAIN)
    return np.stack([mean + (octaves - mean) * gain ** hp.postfilter, pitch[:, 1]], axis=1).astype(np.float32)


def with_texture(linear: np.ndarray, pitch: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Give a drawn spectrogram (T, F) with its pitch (T, 2), octaves and voicing, the texture of noise in voiced frames
    at high frequencies, a share `hp.texture` of it. A post-net draws averages, which are smooth; in every voice that
    was measured magnitudes deviate there by about 5 dB from those around them, as those of white noise do."""
    if not hp.harmonics:  # there is no voicing
        return linear
    hertz = np.arange(hp.n_linear) * hp.sample_rate / hp.n_fft
    share = hp.texture * np.interp(hertz, TEXTURE_HERTZ, (0.0, 1.0)) * (pitch[:, 1:] > 0.5)          # (T, F)
    textured = np.clip(linear + share * utils.noise_texture(len(linear), hp), 0.0, 1.0)
    return np.where(linear > 0.0, textured, 0.0).astype(np.float32)  # silence stays silent


def with_detail(base: Base, mel: np.ndarray, positions: np.ndarray, features: Features, voice: Voice,
                hp: HyperParams) -> np.ndarray:
    """What is heard of the networks' mel (T, M) before `restore_mel` gives it movement."""
    source = np.maximum(linear_map.interpolate(features.mel - voice.mel, positions), base.mel_floor)
    return detailed(apply(base.onward_kernel, base.onward_bias, mel), source, voice.warp, hp)


def detailed(mel: np.ndarray, source: np.ndarray, warp: float, hp: HyperParams) -> np.ndarray:
    """Replace a share, `hp.detail`, of the finest detail of `mel` (T, M) by that of the source (T, M)."""
    fine = linear_map.warp_formants(source, warp, hp)
    return mel + hp.detail * (smooth(mel) - mel + fine - smooth(fine))


def smooth(mel: np.ndarray) -> np.ndarray:
    return scipy.ndimage.gaussian_filter(mel, DETAIL_SIGMA, mode="nearest")


def modulation_power(mels: list[np.ndarray]) -> np.ndarray:
    """Power (P, M) of the movements of each order of the mel-cepstra of recordings (T, M), at P modulation frequencies
    from 0 to half the frame rate."""
    import scipy.signal  # here, because it brings scipy.stats, and a conversion starts without it
    movements = np.concatenate([orders - orders.mean(axis=0) for orders in map(linear_map.mel_cepstra, mels)])
    movements = np.pad(movements, ((0, max(0, utils.MODULATION_FRAMES - len(movements))), (0, 0)))
    return scipy.signal.welch(movements, nperseg=utils.MODULATION_FRAMES, axis=0, detrend=False)[1].astype(np.float32)


def gains(modulation: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Logarithms of the gains (P, M) from one modulation spectrum to another (P, M), smoothed and limited because both
    are estimates."""
    ratio = 0.5 * (np.log(np.maximum(wanted, 1e-8)) - np.log(np.maximum(modulation, 1e-8)))
    return np.clip(scipy.ndimage.gaussian_filter(ratio, 1.0, mode="nearest"), -np.log(MOST_GAIN), np.log(MOST_GAIN))


def modulate(mel: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiply the movements of each order of the mel-cepstra of (T, M) by `factors` (P, M), one for each modulation
    frequency (Takamichi et al. 2016)."""
    orders, beyond = linear_map.mel_cepstra(mel), utils.MODULATION_FRAMES // 2
    mean = orders.mean(axis=0)
    spectrum = np.fft.rfft(np.pad(orders - mean, ((beyond, beyond), (0, 0)), mode="symmetric"), axis=0)
    places = np.linspace(0.0, len(factors) - 1.0, len(spectrum))
    moved = np.fft.irfft(spectrum * linear_map.interpolate(factors, places), n=len(mel) + 2 * beyond, axis=0)
    moved = moved[beyond:beyond + len(mel)]
    return scipy.fft.idct(moved + mean, axis=1, norm="ortho").astype(np.float32)


def solve(corpus) -> Base:
    """Solve the base of the training pairs of a `data_load.Corpus`."""
    hp, pairs, means, floors, squares, octaves, frames = corpus.hp, corpus.train, [], [], [], [], np.zeros(2)
    width = (2 * linear_map.CONTEXT + 1) * hp.n_mels
    sums = linear_map.Sums(2 * width + 1, hp.n_mels)
    chosen = {(pair.source, pair.name) for pair in some_of(pairs)}
    for pair in some_of(pairs):
        features = corpus.recording(pair)
        mel, linear = speech_means(features, hp)
        means.append(mean_octave(analysis.spoken_octaves(features.hertz, hp)))
        floors.append(((features.mel - mel).min(axis=0), np.percentile(features.linear - linear, QUIET, axis=0)))
    mel_floor, linear_floor = (np.mean(floor, axis=0, dtype=np.float32) for floor in zip(*floors))
    registers = np.percentile(means, (LOW_VOICE, 100.0 - LOW_VOICE))
    for pair in tqdm(pairs, "base", disable=None, leave=False):
        features = corpus.recording(pair)
        mel, linear = speech_means(features, hp)
        octaves.append(analysis.spoken_octaves(features.hertz, hp))
        own = np.float32(register(registers, mean_octave(octaves[-1])))
        windows = linear_map.in_context(np.maximum(features.mel - mel, mel_floor))
        # So the weights of the second part are the change of those of the first with each octave
        windows = np.concatenate([windows, own * windows, np.full((len(windows), 1), own)], axis=1)
        sums.add(linear_map.interpolate(windows, corpus.path(pair)), corpus.target_features(pair, "mel"))
        frames += len(corpus.path(pair)), len(features.mel)
        if (pair.source, pair.name) in chosen:
            squares.append(np.square(np.maximum(features.linear - linear, linear_floor)).mean(axis=0))
    spoken = [pitch[pitch[:, 1] > 0.0, 0] for pitch in map(corpus.pitch, corpus.target_pairs)]
    mean, _ = linear_map.moments(spoken)
    kernel, bias = sums.solve(linear_map.PENALTY)
    return Base(kernel[:-1].reshape(2, width, hp.n_mels), np.stack([bias, kernel[-1]]), registers, mel_floor,
                linear_floor,
                np.maximum(np.sqrt(np.mean(squares, axis=0, dtype=np.float32)), LEAST_DEVIATION),
                np.array([within(octaves), mean, within(spoken)]),
                modulation_power([corpus.target_features(pair, "mel") for pair in some_of(corpus.target_pairs)]),
                frames[0] / frames[1], np.eye(hp.n_mels, dtype=np.float32), np.zeros(hp.n_mels, np.float32))


def mean_octave(octaves: np.ndarray) -> float:
    """Mean of the octaves (n,) of a recording's pitch; a whisper, which has none, counts as `hp.pitch_middle`."""
    return float(octaves.mean()) if len(octaves) else 0.0


def within(octaves: list[np.ndarray]) -> float:
    """Deviation of the pitch of recordings from the mean of each."""
    return linear_map.moments([each - each.mean() for each in octaves if len(each)] or [np.zeros(0)])[1]


def some_of(pairs: list[Pair]) -> list[Pair]:
    """Pairs spread over the whole corpus, enough to measure a few numbers; more pairs do not change these."""
    return pairs[::max(1, len(pairs) // MEASURED)]


def save(base: Base, logdir: pathlib.Path) -> None:
    storage.save_arrays(logdir / FILE, base._asdict())


def load(logdir: pathlib.Path) -> Base:
    """Read the base that `save` wrote into a run folder; raises UserError that says what to do."""
    return Base(**storage.load_arrays(pathlib.Path(logdir) / FILE, "delete it if it is there; then the same training "
                                      "command as before makes it anew (restore that of pretrained/ with git checkout)",
                                      *Base._fields))
