"""Signal processing: recordings to normalised spectrograms and back.

Spectrograms are (T, bins), float32 in [0, 1]: magnitude in dB, where `hp.top_db` maps to 1 and `hp.range_db` below it
maps to 0. Silence and padding have the value 0.
"""
import functools
import itertools
import math
import os

from common import audio_files, hum, storage
from hyperparams import HyperParams

import numpy as np
import scipy.fft
import scipy.ndimage
import soxr

BLOCK_FRAMES = 2400   # frames of a long recording that are analysed at a time
MODULATION_FRAMES = 64  # frames in a window of the modulation spectrum
SPEECH_LEVEL = 0.5  # share of the level that speech reaches (80th percentile); frames below it are silent
HIGHPASS = 40.0  # Hz; what lies below is no speech: rumble, wind, a constant offset
HUM, HUM_SHARE = 75.0, 0.7  # Hz and share of the power; if more lies below, it is a hum of the mains, 50 or 60 Hz
SILENCE_DB = 70.0  # dB below the loudest frame, from where on there is nothing but digital silence
ABOVE_FLOOR_DB = 15.0  # dB above the pauses, from where a frame is active
NOISE_DB, FAINT_DB = 10.0, 50.0  # dB above the pauses, and below the loudest frame, between which a sound is heard
OUTLIER_DB = 10.0  # dB above the 70th percentile of the active frames; clean speech stays 8.5 dB above it at most
STILL_DB, STILL_SECONDS = 3.0, 0.25  # a sound that moves by no more for so long may be a tone or a noise
CLICK, CLICK_SECONDS = 30.0, 0.015  # a sample so many times the level of speech, and no sound that lasts longer
CLICK_ABOVE = 4.0  # times the peak around it; a voice has another as high in its next period
CLIPPED = 0.002  # share of samples in flat peaks, from where a recording was too loud
# If it was encoded or filtered since: deviation in dB of the peaks of its loud frames, and peak over root mean square;
# in 640 clean recordings never both so low
EVEN_DB, CREST_DB = 0.9, 6.8
LOUD_FRAMES = 20  # by which that can be told
MOSTLY = 0.7  # share of what is heard that trimming must leave


def load_recording(path: str | os.PathLike, hp: HyperParams, trim: bool = True,
                   channel: int | None = None) -> audio_files.Recording:
    """Read a recording of any sample rate, channel count and format (`audio_files.read_audio`), resample it to
    `hp.sample_rate`, remove frequencies below HIGHPASS, bring it to `hp.loudness_db` and, with `trim`, cut silence at
    both ends. Returns (samples,) float32, with warnings of what looks odd. Raises BadAudio."""
    return normalise_recording(audio_files.read_audio(path, hp, channel), hp, trim, storage.printable(path))


def normalise_recording(recording: audio_files.Recording, hp: HyperParams, trim: bool,
                        name: str) -> audio_files.Recording:
    """What `load_recording` does with a recording that was read; `name` is what errors and warnings call it."""
    wav, sample_rate, warnings = recording
    middle = np.median(wav[::16])  # a click would move the mean
    clicks = find_clicks(wav - middle, sample_rate, hp)
    if len(clicks):
        others = " and others" * bool(clicks[-1] - clicks[0] > 2 * CLICK_SECONDS * sample_rate)
        warnings.append(f"{name}: a click at {clicks[0] / sample_rate:.1f} s{others}, much louder than all around, is "
                        "silenced; record it again if that is heard")
        wav = wav.copy()
        wav[clicks] = middle
    span = np.ptp(wav)
    is_clipped = not len(clicks) and CLIPPED < sum(
        np.mean((np.abs(wav[1:] - end) < 5e-4 * span) & (np.abs(np.diff(wav)) < 5e-5 * span))
        for end in (wav.min(), wav.max()))
    wav = wav - wav.mean()  # or the filter would swing at both ends
    if sample_rate != hp.sample_rate:
        wav = soxr.resample(wav, sample_rate, hp.sample_rate)
    wav, tones = hum.subtract(remove_rumble(wav, hp), hp.sample_rate)
    if is_clipped or was_clipped(wav, hp):
        warnings.append(f"{name}: was recorded too loud: its peaks are cut off flat, and this distortion is converted, "
                        "too; record it again at a lower level")
    if tones:
        warnings.append(f"{name}: {tones}")
    quiet = remove_rumble(wav, hp, HUM)
    if np.mean(quiet ** 2) < (1.0 - HUM_SHARE) * np.mean(wav ** 2):
        warnings.append(f"{name}: a hum, or pops of breath, are louder than the rest of it: what lies below {HUM:.0f} "
                        "Hz is removed; record farther from mains and transformers, or beside the mouth")
        wav = quiet
    peak = np.abs(wav).max(initial=0.0)
    if peak < 1e-4:
        raise audio_files.BadAudio(f"{name}: is silent (peak {peak:.1e}); check the recording level")
    if trim:
        kept, start = trim_silence(wav, hp)
        power = frame_power(wav, hp)  # what a listener may hear in it, however much louder the rest is
        sounding = power > max(np.percentile(power, 5) * 10 ** (NOISE_DB / 10), power.max() * 10 ** (-FAINT_DB / 10))
        first, end = (round(sample / hp.hop_length) for sample in (start, start + len(kept)))
        before, after = (found.sum() / hp.frames_per_second for found in (sounding, sounding[first:end]))
        if after < MOSTLY * before:
            warnings.append(f"{name}: {before - after:.1f} of {before:.1f} s of sound are cut off as silence, because "
                            "something else in it is much louder; cut that out of the recording")
        wav = kept
    return audio_files.Recording(normalise_loudness(wav, hp), hp.sample_rate, warnings)


def find_clicks(wav: np.ndarray, sample_rate: float, hp: HyperParams) -> np.ndarray:
    """The samples of (samples,) that are clicks: CLICK times the level of speech, which a few frames do not move, for
    CLICK_SECONDS at most, and far above what is around. The peaks of a louder voice come one after the other."""
    longest = max(1, round(CLICK_SECONDS * sample_rate))
    peaks = np.abs(np.resize(wav, (-(-len(wav) // longest), longest))).max(axis=1)
    if peaks.max() < CLICK_ABOVE * np.percentile(peaks, 90):  # as in most recordings; saves memory and time
        return np.zeros(0, int)
    power = frame_power(wav, hp)
    power = np.minimum(power, np.sort(power)[-1 - min(max(24, len(power) // 100), len(power) // 2)])
    level = math.sqrt(usual_power(power, hp)) if power.any() else 0.0
    loud, found = np.flatnonzero(np.abs(wav) > CLICK * level), []
    if level < 3e-8 * np.ptp(wav) or not len(loud):  # so far below, rounding is all there is
        return loud[:0]
    for event in np.split(loud, np.flatnonzero(np.diff(loud) > 2 * longest) + 1):
        first, last, near = event[0], event[-1], longest // 10
        around = np.concatenate([wav[max(0, first - 5 * longest):max(0, first - near)],
                                 wav[last + 1 + near:last + 5 * longest]])
        beside = np.percentile(np.abs(around), 99.5) if len(around) else 0.0  # another click may be there
        if last - first < longest and np.abs(wav[event]).max() > CLICK_ABOVE * beside:
            found.append(event)
    return np.concatenate(found) if found else loud[:0]


def was_clipped(wav: np.ndarray, hp: HyperParams) -> bool:
    """Whether (samples,) seem to have been cut off at a level, and encoded or filtered since, so that they are no
    longer flat: the peaks of all loud frames are about as high, and hardly higher than the rest of the frame."""
    frames = wav[:len(wav) // hp.win_length * hp.win_length].reshape(-1, hp.win_length)
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    loud = power > np.percentile(power, 95) / 4.0 if len(power) else []
    if np.count_nonzero(loud) < LOUD_FRAMES or steady(frame_power(wav, hp), hp).mean() > 0.5:  # a tone
        return False
    peaks = 20.0 * np.log10(np.abs(frames[loud]).max(axis=1) + 1e-10)
    return bool(peaks.std() < EVEN_DB and np.median(peaks - 10.0 * np.log10(power[loud] + 1e-20)) < CREST_DB)


def remove_rumble(wav: np.ndarray, hp: HyperParams, lowest: float = HIGHPASS) -> np.ndarray:
    """Remove frequencies below `lowest` (Hz) from (samples,). Rumble can be louder than speech and nobody hears it, but
    level, pitch and features would be those of the rumble. The gain is that of a Butterworth filter of order 4 that
    runs forwards and backwards, so that nothing moves in time."""
    beyond = min(len(wav) - 1, hp.sample_rate // 8)  # the signal goes on there, or the ends would swing
    spectrum = scipy.fft.rfft(np.pad(wav, beyond, mode="reflect", reflect_type="odd"))
    hertz = scipy.fft.rfftfreq(len(wav) + 2 * beyond, 1.0 / hp.sample_rate)
    spectrum *= (1.0 / (1.0 + (lowest / np.maximum(hertz, 1e-3)) ** 8)).astype(np.float32)
    return scipy.fft.irfft(spectrum, len(wav) + 2 * beyond)[beyond:beyond + len(wav)].astype(np.float32)


def trim_silence(wav: np.ndarray, hp: HyperParams) -> tuple[np.ndarray, int]:
    """Cut silence at both ends of (samples,), judged by the level of the mel spectrum, because by energy alone hum and
    breath would count as speech; returns the rest and the number of its first sample."""
    level = mel_in_blocks(normalise_loudness(wav, hp), hp).mean(axis=1)                               # (T,)
    speech = np.percentile(level[level > 0.5 * level.max()], 70)  # loud frames only: there may be minutes of silence
    loud = np.flatnonzero(level > hp.trim_level * speech)
    start, end = max(0, loud[0] - 2), loud[-1] + 3
    return wav[start * hp.hop_length:end * hp.hop_length], start * hp.hop_length


def normalise_loudness(wav: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Scale (samples,) so that its speech is at `hp.loudness_db`."""
    return (wav * loudness_gain(wav, hp)).astype(np.float32)


def loudness_gain(wav: np.ndarray, hp: HyperParams) -> np.float64:
    """The factor that brings the root mean square of the speech in (samples,) to `hp.loudness_db`, relative to full
    scale. Frames more than `hp.quiet_db` below the loudest do not count, nor does what is much louder than speech (a
    beep, a knock): the mean of clean speech is below the 70th percentile of its active frames, by 2 dB on average."""
    power = frame_power(wav, hp)                                                                      # (T,)
    usual = usual_power(power, hp)
    loudest = min(power.max(), usual * 10 ** (OUTLIER_DB / 10))
    speech = power[(power <= loudest) & (power > loudest * 10 ** (-hp.quiet_db / 10))]
    return 10 ** (hp.loudness_db / 20) / np.sqrt(min(speech.mean(), usual))


def usual_power(power: np.ndarray, hp: HyperParams) -> float:
    """The 70th percentile of the power (T,) of speech. A steady sound that is much louder does not count, if what is
    left lasts at least half as long: breath between held notes does not."""
    usual, moving = np.percentile(power[active(power)], 70), power[~steady(power, hp)]
    if not moving.any():
        return usual
    speech = moving[active(moving)]
    level = np.percentile(speech, 70)
    louder = (power > level * 10 ** (OUTLIER_DB / 10)).sum()
    is_speech = len(speech) > max(STILL_SECONDS * hp.frames_per_second, louder / 2)
    return level if is_speech and usual * 10 ** (-FAINT_DB / 10) < level < usual * 10 ** (-OUTLIER_DB / 10) else usual


def frame_power(wav: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Mean square (T,) of (samples,) around each frame."""
    squares = np.square(wav, dtype=np.float64)
    return scipy.ndimage.uniform_filter1d(squares, hp.win_length, mode="constant")[::hp.hop_length]


def steady(power: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Which frames (T,) of a power (T,) are in or beside a sound whose level does not move: a tone, a noise."""
    level = 10.0 * np.log10(np.maximum(power, 1e-20))
    frames = 2 * round(STILL_SECONDS * hp.frames_per_second / 2) + 1
    still = (scipy.ndimage.maximum_filter1d(level, frames) - scipy.ndimage.minimum_filter1d(level, frames) < STILL_DB)
    return scipy.ndimage.maximum_filter1d(still, frames + 2 * math.ceil(hp.win_length / hp.hop_length))


def active(power: np.ndarray) -> np.ndarray:
    """Which frames (T,) of a power (T,) are clearly louder than the pauses; all frames if there are no pauses. Digital
    silence is no pause to compare with: what a filter leaves of it is far below any recorded sound."""
    heard = power > power.max() * 10 ** (-SILENCE_DB / 10)
    found = power > np.percentile(power[heard], 10) * 10 ** (ABOVE_FLOOR_DB / 10)
    return found if found.any() else heard


@functools.lru_cache(maxsize=4)
def mel_filterbank(sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """(M, F) triangular filters. Each has the sum 1, so that mel and linear magnitudes have the same scale in dB."""
    hertz, edges = np.arange(n_fft // 2 + 1) * sample_rate / n_fft, mel_edges(sample_rate, n_mels)
    filters = np.stack([np.interp(hertz, edges[i:i + 3], [0.0, 1.0, 0.0]) for i in range(n_mels)])
    return (filters / np.maximum(filters.sum(axis=1, keepdims=True), 1e-8)).astype(np.float32)


def mel_edges(sample_rate: int, n_mels: int) -> np.ndarray:
    """(M + 2,) Hz, where the filters of `mel_filterbank` begin, peak and end, each where the one before it ends:
    equally far apart on Slaney's mel scale (Auditory Toolbox, 1998), which is linear up to 1 kHz."""
    mels = np.linspace(0.0, 15.0 + 27.0 * math.log(sample_rate / 2000.0, 6.4), n_mels + 2)
    return np.where(mels < 15.0, mels * 200.0 / 3.0, 1000.0 * 6.4 ** ((mels - 15.0) / 27.0))


def mel_centres(sample_rate: int, n_mels: int) -> np.ndarray:
    """(M,) Hz, the frequencies at which the filters of `mel_filterbank` have their peaks."""
    return mel_edges(sample_rate, n_mels)[1:-1]


@functools.lru_cache(maxsize=4)
def mel_to_bins(sample_rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """(M, F) weights that interpolate a mel spectrogram to linear bins; both are in dB on the same scale."""
    hertz = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    bands = np.eye(n_mels)
    return np.stack([np.interp(hertz, mel_centres(sample_rate, n_mels), band) for band in bands]).astype(np.float32)


def spectrograms(wav: np.ndarray, hp: HyperParams) -> tuple[np.ndarray, np.ndarray]:
    """(samples,) to mel (T, M) and linear (T, F), both normalised."""
    emphasised = np.append(wav[:1], wav[1:] - hp.preemphasis * wav[:-1])
    magnitude = np.abs(stft(emphasised, hp))                                                           # (T, F)
    mel = magnitude @ mel_filterbank(hp.sample_rate, hp.n_fft, hp.n_mels).T                           # (T, M)
    return normalise(mel, hp), normalise(magnitude, hp)


def window(hp: HyperParams) -> np.ndarray:
    """(n_fft,) a Hann window of `hp.win_length` in the middle of zeros."""
    before = (hp.n_fft - hp.win_length) // 2
    return np.pad(np.hanning(hp.win_length + 1)[:-1], (before, hp.n_fft - hp.win_length - before)).astype(np.float32)


def stft(wav: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Short-time Fourier transform (T, F) of (samples,). Frame t is centred on sample t * hop_length; there is silence
    around the signal."""
    padded = np.pad(wav, hp.n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, hp.n_fft)[::hp.hop_length]              # (T, n_fft)
    return scipy.fft.rfft(frames * window(hp), axis=1)


def istft(spectrum: np.ndarray, hp: HyperParams) -> np.ndarray:
    """The signal (samples,) whose `stft` is nearest to (T, F) (Griffin & Lim 1984, eq. 6)."""
    frames = scipy.fft.irfft(spectrum, hp.n_fft, axis=1) * window(hp)
    weights = overlap_add(np.broadcast_to(window(hp) ** 2, frames.shape), hp)
    return overlap_add(frames, hp) / np.maximum(weights, 1e-8)


def overlap_add(frames: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Add (T, n_fft) where they lie in the signal; returns its samples between the centres of the end frames."""
    hops = math.ceil(hp.n_fft / hp.hop_length)
    parts = np.pad(frames, ((0, 0), (0, hops * hp.hop_length - hp.n_fft))).reshape(len(frames), hops, hp.hop_length)
    wav = np.zeros((len(frames) + hops - 1, hp.hop_length), frames.dtype)
    for i in range(hops):
        wav[i:i + len(frames)] += parts[:, i]
    return wav.reshape(-1)[hp.n_fft // 2:][:(len(frames) - 1) * hp.hop_length]


def blocks(wav: np.ndarray, hp: HyperParams):
    """Yield segments of a recording (samples,) of any length, each with the slice of its frames that are not context,
    so that their analysis takes a limited amount of memory."""
    total, context = 1 + len(wav) // hp.hop_length, math.ceil(hp.n_fft / hp.hop_length)
    for start in range(0, total, BLOCK_FRAMES):
        first, end = max(0, start - context), min(start + BLOCK_FRAMES, total)
        yield wav[first * hp.hop_length:(end + context) * hp.hop_length], slice(start - first, end - first)


def mel_in_blocks(wav: np.ndarray, hp: HyperParams) -> np.ndarray:
    """The mel spectrogram (T, M) of a recording (samples,) of any length."""
    return np.concatenate([spectrograms(part, hp)[0][own] for part, own in blocks(wav, hp)])


def octaves(hertz: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Fundamental frequency (T,) in Hz, 0 where unvoiced, to (T, 2): octaves above `hp.pitch_middle`, and voicing."""
    voiced = hertz > 0.0
    return np.stack([np.where(voiced, np.log2(np.maximum(hertz, 1.0) / hp.pitch_middle), 0.0), voiced],
                    axis=1).astype(np.float32)


def hertz(pitch: np.ndarray, hp: HyperParams) -> np.ndarray:
    """The inverse of `octaves`: (T, 2), octaves and voicing, to fundamental frequency (T,) in Hz, 0 where unvoiced."""
    return np.where(pitch[:, 1] > 0.5, hp.pitch_middle * 2.0 ** pitch[:, 0], 0.0).astype(np.float32)


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


def noise_texture(n_frames: int, hp: HyperParams) -> np.ndarray:
    """How far the magnitudes (T, F) of white noise are from their median, on the scale of normalised spectrograms."""
    beyond = math.ceil(hp.n_fft / hp.hop_length)  # frames at both ends, which would hear the silence around the noise
    noise = np.random.default_rng(hp.seed).standard_normal((n_frames + 2 * beyond) * hp.hop_length, np.float32)
    db = 20.0 * np.log10(np.maximum(np.abs(stft(noise, hp)[beyond:beyond + n_frames]), 1e-8))
    return (db - np.median(db)) / hp.range_db


def griffin_lim(linear: np.ndarray, pitch: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Convert a linear spectrogram (T, F) and its pitch (T, 2), octaves and voicing, to (samples,) by Griffin-Lim
    (Griffin & Lim 1984) in few iterations, as it starts from the phases of `excitation`. The magnitude is first raised
    to `hp.power` (Tacotron, section 3.4), but each frame keeps its level. With `harmonics=0` this is the algorithm of
    2017: all phases are zero at first, and frames do not keep their level."""
    magnitude = denormalise(linear, hp)                                                               # (T, F)
    if hp.power != 1.0:
        level, magnitude = magnitude.sum(axis=1, keepdims=True), magnitude ** hp.power
        if hp.harmonics:
            magnitude = magnitude * (level / np.maximum(magnitude.sum(axis=1, keepdims=True), 1e-8))
    wav = excitation(pitch, hp).astype(np.float32) if hp.harmonics else istft(magnitude, hp)
    for _ in range(hp.griffin_lim_iters + hp.harmonics):  # one more for pulses, which lack the magnitude at first
        spectrum = stft(wav, hp)                                                                      # (T, F)
        wav = istft(magnitude * spectrum / np.maximum(np.abs(spectrum), 1e-12), hp)
    return np.fromiter(itertools.accumulate(wav.tolist(), lambda before, now: now + hp.preemphasis * before),
                       np.float32, len(wav))


def cepstra(mel: np.ndarray, hp: HyperParams, order: int = 24) -> np.ndarray:
    """Mel-cepstra (T, order): cosine transform of the log-mel spectrum in dB, without the zeroth coefficient, scaled so
    that the distance of two frames is the root mean square difference in dB of their smoothed spectra."""
    return scipy.fft.dct(mel * hp.range_db, axis=1, norm="ortho")[:, 1:order + 1] / np.sqrt(mel.shape[1])
