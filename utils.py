"""Signal processing: recordings to normalised spectrograms and back, and stacking of frames.

Spectrograms are (T, bins), float32 in [0, 1]: magnitude in dB, where `hp.top_db` maps to 1 and `hp.range_db` below it
maps to 0. Silence and padding have the value 0.
"""
import functools
import math
import os

import numpy as np
import scipy.fft
import scipy.signal

from common import audio_files, storage
from common.compiled import librosa
from hyperparams import HyperParams

BLOCK_FRAMES = 2400   # frames of a long recording that are analysed at a time
MODULATION_FRAMES = 64  # frames in a window of the modulation spectrum
SPEECH_LEVEL = 0.5  # share of the level that speech reaches (80th percentile); frames below it are silent
PITCH_FRAMES = 48000  # frames whose pitch is found at a time; shorter recordings are analysed as a whole


def load_wav(path: str | os.PathLike, hp: HyperParams, trim: bool = True) -> np.ndarray:
    """Read a recording of any sample rate, channel count and format that libsndfile knows.

    Channels are averaged, the signal is resampled to `hp.sample_rate`, a constant offset is removed, loudness is
    brought to `hp.loudness_db` and, with `trim`, silence at both ends is cut.

    Returns (samples,) float32. Raises BadAudio.
    """
    name = storage.printable(path)
    wav, sample_rate = audio_files.read_audio(path, hp)
    wav -= wav.mean()
    if sample_rate != hp.sample_rate:
        wav = librosa.resample(wav, orig_sr=sample_rate, target_sr=hp.sample_rate)
    peak = np.abs(wav).max(initial=0.0)
    if peak < 1e-4:
        raise audio_files.BadAudio(f"{name}: is silent (peak {peak:.1e}); check the recording level")
    if trim:
        wav, _ = trim_silence(wav, hp)
    return normalise_loudness(wav, hp)


def trim_silence(wav: np.ndarray, hp: HyperParams) -> tuple[np.ndarray, int]:
    """Cut silence at both ends of (samples,); returns the rest and the number of its first sample.

    Silence is judged by the level of the mel spectrum. By energy alone, hum and breath would count as speech, and the
    ends of the same sentence by two speakers would not match.
    """
    level = mel_in_blocks(normalise_loudness(wav, hp), hp).mean(axis=1)                               # (T,)
    speech = np.percentile(level[level > 0.5 * level.max()], 70)  # loud frames only: there may be minutes of silence
    loud = np.flatnonzero(level > hp.trim_level * speech)
    start, end = max(0, loud[0] - 2), loud[-1] + 3
    return wav[start * hp.hop_length:end * hp.hop_length], start * hp.hop_length


def normalise_loudness(wav: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Scale (samples,) so that the root mean square of its speech is at `hp.loudness_db` relative to full scale.

    Frames more than `hp.quiet_db` below the loudest frame do not count, so that recordings with more pauses do not
    become louder.
    """
    power = librosa.feature.rms(y=wav, frame_length=hp.win_length, hop_length=hp.hop_length)[0] ** 2
    speech = power[power > power.max() * 10 ** (-hp.quiet_db / 10)]
    return (wav * (10 ** (hp.loudness_db / 20) / np.sqrt(speech.mean()))).astype(np.float32)


@functools.lru_cache(maxsize=4)
def mel_filterbank(sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """(M, F) triangular filters. Each has the sum 1, so that mel and linear magnitudes have the same scale in dB."""
    return librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, norm=1)


@functools.lru_cache(maxsize=4)
def mel_centres(sample_rate: int, n_mels: int) -> np.ndarray:
    """(M,) Hz, the frequencies at which the filters of `mel_filterbank` have their peaks."""
    return librosa.mel_frequencies(n_mels=n_mels + 2, fmin=0.0, fmax=sample_rate / 2)[1:-1]


@functools.lru_cache(maxsize=4)
def mel_to_bins(sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """(M, F) weights that interpolate a mel spectrogram to linear bins; both are in dB on the same scale."""
    hertz = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    bands = np.eye(n_mels)
    return np.stack([np.interp(hertz, mel_centres(sample_rate, n_mels), band) for band in bands]).astype(np.float32)


def spectrograms(wav: np.ndarray, hp: HyperParams) -> tuple[np.ndarray, np.ndarray]:
    """(samples,) to mel (T, M) and linear (T, F), both normalised."""
    emphasised = np.append(wav[:1], wav[1:] - hp.preemphasis * wav[:-1])
    magnitude = np.abs(librosa.stft(emphasised, n_fft=hp.n_fft, hop_length=hp.hop_length,
                                    win_length=hp.win_length))                                        # (F, T)
    mel = mel_filterbank(hp.sample_rate, hp.n_fft, hp.n_mels) @ magnitude                             # (M, T)
    return normalise(mel.T, hp), normalise(magnitude.T, hp)


def blocks(wav: np.ndarray, hp: HyperParams, frames: int | None = None):
    """Yield segments of a recording (samples,) of any length, each with the slice of its frames that are not context.

    The analysis of one segment takes a limited amount of memory. A short recording is a single segment.
    """
    total, frames, context = 1 + len(wav) // hp.hop_length, frames or BLOCK_FRAMES, math.ceil(hp.n_fft / hp.hop_length)
    for start in range(0, total, frames):
        first, end = max(0, start - context), min(start + frames, total)
        yield wav[first * hp.hop_length:(start + frames + context) * hp.hop_length], slice(start - first, end - first)


def mel_in_blocks(wav: np.ndarray, hp: HyperParams) -> np.ndarray:
    """The mel spectrogram (T, M) of a recording (samples,) of any length."""
    return np.concatenate([spectrograms(part, hp)[0][own] for part, own in blocks(wav, hp)])


def octaves(hertz: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Convert fundamental frequency (T,) in Hz, 0 where unvoiced, to (T, 2): octaves above `hp.pitch_middle`, and
    voicing."""
    voiced = hertz > 0.0
    return np.stack([np.where(voiced, np.log2(np.maximum(hertz, 1.0) / hp.pitch_middle), 0.0), voiced],
                    axis=1).astype(np.float32)


def mel_of_linear(linear: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Linear (T, F) to mel (T, M), both normalised."""
    magnitude = denormalise(linear, hp) @ mel_filterbank(hp.sample_rate, hp.n_fft, hp.n_mels).T
    return normalise(magnitude, hp)


def normalise(magnitude: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Map magnitude to [0, 1], linearly in dB."""
    db = 20.0 * np.log10(np.maximum(magnitude, 1e-8))
    return np.clip((db - hp.top_db) / hp.range_db + 1.0, 0.0, 1.0).astype(np.float32)


def denormalise(spectrogram: np.ndarray, hp: HyperParams) -> np.ndarray:
    """The inverse of `normalise`; a value of 0 becomes a magnitude of 0, so that silence is silent."""
    spectrogram = np.clip(spectrogram, 0.0, 1.0)
    db = (spectrogram - 1.0) * hp.range_db + hp.top_db
    return np.where(spectrogram > 0.0, 10.0 ** (db / 20.0), 0.0).astype(np.float32)


def excitation(pitch: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Excitation (samples,) for a pitch (T, 2), octaves and voicing: pulses in voiced parts, noise elsewhere."""
    time = np.arange((len(pitch) - 1) * hp.hop_length) / hp.hop_length
    octaves, voicing = (np.interp(time, np.arange(len(pitch)), x) for x in pitch.T)
    hertz = np.clip(hp.pitch_middle * 2.0 ** np.clip(octaves, -9.0, 9.0), hp.pitch_min, hp.pitch_max)
    pulses = np.diff(np.floor(np.cumsum(hertz / hp.sample_rate)), prepend=0.0) * np.sqrt(hp.sample_rate / hertz)
    noise = np.random.default_rng(hp.seed).standard_normal(len(time))
    # A little noise everywhere, because a frame between two pulses needs a phase, too
    return np.where(voicing > 0.5, pulses, 0.0) + np.where(voicing > 0.5, 0.01, 1.0) * noise


def griffin_lim(linear: np.ndarray, pitch: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Convert a linear spectrogram (T, F) and its pitch (T, 2), octaves and voicing, to (samples,) by Griffin-Lim
    (Griffin & Lim 1984), which starts from the phases of `excitation` instead of random phases.

    These phases are close to the result, so that few iterations are enough. The magnitude is first raised to `hp.power`
    (Tacotron, section 3.4), but each frame keeps its level: formants and harmonics become sharper, and the difference
    between loud and soft sounds does not change.

    With `harmonics=0` this is the algorithm of 2017: all phases are zero at first, and frames do not keep their level.
    """
    magnitude = denormalise(linear, hp).T                                                             # (F, T)
    if hp.power != 1.0:
        level, magnitude = magnitude.sum(axis=0), magnitude ** hp.power
        if hp.harmonics:
            magnitude = magnitude * (level / np.maximum(magnitude.sum(axis=0), 1e-8))
    framing = {"hop_length": hp.hop_length, "win_length": hp.win_length, "n_fft": hp.n_fft}
    wav = (excitation(pitch, hp).astype(np.float32) if hp.harmonics
           else librosa.istft(magnitude.astype(np.complex64), **framing))
    for _ in range(hp.griffin_lim_iters + hp.harmonics):  # one more for pulses, which lack the magnitude at first
        spectrum = librosa.stft(wav, **framing)                                                       # (F, T)
        wav = librosa.istft(magnitude * spectrum / np.maximum(np.abs(spectrum), 1e-12), **framing)
    return scipy.signal.lfilter([1.0], [1.0, -hp.preemphasis], wav).astype(np.float32)


def cepstra(mel: np.ndarray, hp: HyperParams, order: int = 24) -> np.ndarray:
    """Mel-cepstra (T, order): cosine transform of the log-mel spectrum in dB, without the zeroth coefficient.

    They are scaled so that the Euclidean distance of two frames is the root mean square difference in dB of their
    smoothed log-mel spectra, as in the usual formula of mel-cepstral distortion.
    """
    return scipy.fft.dct(mel * hp.range_db, axis=1, norm="ortho")[:, 1:order + 1] / np.sqrt(mel.shape[1])


def reduce_frames(frames: np.ndarray, r: int) -> np.ndarray:
    """Stack `r` consecutive frames: (T, C) to (ceil(T / r), r * C), padded with silence."""
    padded = np.pad(frames, ((0, -len(frames) % r), (0, 0)))
    return padded.reshape(-1, r * frames.shape[1])
