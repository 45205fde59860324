"""What looks odd in a recording, so that its conversion may disappoint: noise, whisper, hum, singing, two people."""
import utils
from corpus import analysis
from hyperparams import HyperParams

import numpy as np

SPOKEN_OCTAVES = 2.0  # from the 5th to the 95th percentile of the pitch; lively speech moves by 1.9 at most
SPOKEN_HERTZ = 400.0  # median of the pitch; a voice above it sings
MELODY_OCTAVES = 0.4  # speech of a smaller range is monotonous, and its pitch is steady, too
STEADY = 0.03         # octaves by which the mean of the pitch moves from one span of a note to the next
# Spans in seconds, the second that of a vibrato, and the share of voiced frames where the pitch is steady over two of
# them: larger in one of 1,416 sentences of seven speakers, and in melodies with any vibrato one of the two
NOTES = ((0.1, 0.28), (0.175, 0.25))
LEAST_VOICED = 0.1   # share of a recording's frames; half of the frames of speech are voiced, none of a whisper's
# Where there is more noise or silence than speech: voiced frames, and their share of those that are loud
SPOKEN_FRAMES, SPOKEN_SHARE = 40, 0.3
# Seconds of which half is loud and hardly any frame has a pitch: none in clean sentences, all of creak and whisper
WITHOUT_PITCH, LOUD_SHARE, VOICED_SHARE = 1.2, 0.5, 0.05
# Width of a band, and share of the pitch in it; below .36 in speech voiced for a second
TONE_OCTAVES, TONE_SHARE = 0.04, 0.5
HIGHEST = 0.9        # share of the highest pitch that is found; no speech reaches it
LEAST_SECONDS = 0.15  # no word is shorter
# dB of a recording above the quietest tenth of a passage, and seconds that have a pause; at least 18 dB in 590 clean
# recordings, 16.8 in 1,027 passages without pauses, and 13.5 at most with white noise 10 dB below the speech
CLEAR_DB, PAUSE_WITHIN, PASSAGE = 14.0, 1.5, 5.0
NAMED = 20           # changes of the speaker whose seconds are named


def sings(hertz: np.ndarray, hp: HyperParams) -> bool:
    """Whether a pitch (T,) in Hz, 0 where unvoiced, has a range or a height that speech has not, or stays on notes."""
    voiced = hertz > 0.0
    octaves = np.log2(hertz, out=np.zeros(len(hertz)), where=voiced)
    spread = np.ptp(np.percentile(octaves[voiced], (5, 95)))
    if spread > SPOKEN_OCTAVES or np.median(hertz[voiced]) > SPOKEN_HERTZ:
        return True
    for seconds, share in NOTES if spread > MELODY_OCTAVES else ():
        span = round(seconds * hp.frames_per_second)
        if len(hertz) > 2 * span:
            means = np.convolve(octaves, np.full(span, 1.0 / span), "valid")
            whole = np.convolve(voiced, np.ones(2 * span), "valid") > 2 * span - 0.5  # voiced over two spans
            if (whole & (np.abs(means[span:] - means[:-span]) < STEADY)).sum() > share * voiced.sum():
                return True
    return False


def tone(hertz: np.ndarray) -> float | None:
    """The pitch in Hz at which most of the voiced frames (T,) stay, if there is one."""
    octaves = np.log2(hertz)
    counts, edges = np.histogram(octaves, np.arange(octaves.min(), octaves.max() + TONE_OCTAVES, TONE_OCTAVES / 2))
    pairs = counts[:-1] + counts[1:] if len(counts) > 1 else counts
    return float(2.0 ** edges[pairs.argmax() + 1]) if pairs.max() > TONE_SHARE * len(hertz) else None


def loud_frames(wav: np.ndarray, hp: HyperParams) -> np.ndarray:
    """Which frames (T,) of (samples,) are clearly louder than its pauses, and no steady sound."""
    power = utils.frame_power(wav, hp)
    return utils.active(power) & ~utils.steady(power, hp)


def without_pitch(wav: np.ndarray, hertz: np.ndarray, hp: HyperParams) -> float:
    """How many seconds of a chunk (samples,) of pitch (T,) in Hz, but for pauses, have no pitch for long: whisper,
    creak."""
    loud, span = loud_frames(wav, hp), round(WITHOUT_PITCH * hp.frames_per_second)
    if len(loud) < span:
        return 0.0
    counts = [np.convolve(frames[:len(loud)], np.ones(span), "valid") for frames in (loud, hertz > 0.0)]
    found = (counts[0] > LOUD_SHARE * span) & (counts[1] < VOICED_SHARE * span)
    return float((loud & (np.convolve(found, np.ones(span)) > 0.5)).sum() / hp.frames_per_second)


def remarks(hertz: np.ndarray, changes: list[float], hp: HyperParams, keeps_intervals: bool = False,
            whispered: float = 0.0, loud: float = np.inf) -> list[str]:
    """What looks odd in a recording of pitch (T,) in Hz, 0 where unvoiced, with the cure; `changes` are the seconds
    where somebody else begins to speak, `whispered` is the sum of `without_pitch` over the chunks, in seconds, `loud`
    the number of its `loud_frames`."""
    voiced, found = hertz[hertz > 0.0], []
    share, seconds = len(voiced) / len(hertz), len(hertz) / hp.frames_per_second
    if seconds < LEAST_SECONDS:
        found.append(f"lasts {1000 * seconds:.0f} ms, which is no word; record it again")
    elif share < LEAST_VOICED and len(voiced) < max(SPOKEN_FRAMES, SPOKEN_SHARE * loud):
        found.append(f"{100 * share:.0f} % of it are voiced, so the conversion is a whisper; a pitch is found between "
                     f"{hp.pitch_min:.0f} and {hp.pitch_max:.0f} Hz in speech that is louder than its noise")
    else:
        if whispered:
            found.append(f"{whispered:.1f} s of it are louder than its pauses and have no pitch, as whisper, creak or "
                         "applause, and become a whisper")
        even = analysis.tone_frames(hertz, hp)
        rest = analysis.spoken(hertz, hp)
        if even.any():
            found.append(f"{even.sum() / hp.frames_per_second:.1f} s of it hold a pitch of "
                         f"{np.median(hertz[even]):.0f} Hz, as no voice does: a tone, or a telephone beside the "
                         "microphone, is converted like a voice; cut it out, or filter it")
        elif len(voiced) > hp.frames_per_second and (hum := tone(voiced)) and not keeps_intervals:  # a word may be even
            found.append(f"more than half of its pitch is {hum:.0f} Hz, as of creak, a chant or a tone, which is "
                         "converted like a voice; filter a tone out; --keep-intervals keeps what is sung")
        elif np.count_nonzero(rest) > hp.frames_per_second / 2 and sings(rest, hp) and not keeps_intervals:
            found.append("its pitch moves as in singing or as that of two people; intervals change with the range of "
                         "the voice; --keep-intervals keeps melodies")
        if rest.any() and np.percentile(rest[rest > 0.0], 95) > HIGHEST * hp.pitch_max:
            found.append(f"its pitch reaches {hp.pitch_max:.0f} Hz, the highest that is found; above it becomes noise")
    if changes:
        more = f" and {len(changes) - NAMED} times more" * (len(changes) > NAMED)
        when = ", ".join(f"{at:.0f}" for at in changes[:NAMED])
        found.append(f"somebody else speaks, or room or microphone are others, from {when} s on{more}: it is converted "
                     "as a voice of its own; cut the recording where speakers change, if they overlap")
    return found


def noise(wav: np.ndarray, hp: HyperParams, is_whole: bool = True) -> list[str]:
    """What is to be said of passages of a recording (samples,) whose pauses are hardly quieter than its speech. Their
    seconds are named if it `is_whole`, not trimmed."""
    if len(wav) < PAUSE_WITHIN * hp.sample_rate:
        return []
    power = utils.frame_power(wav, hp)
    heard = power > power.max() * 10.0 ** (-utils.SILENCE_DB / 10.0)  # digital silence is no pause
    span, mean, lowest, noisy = round(PASSAGE * hp.frames_per_second), power[heard].mean(), CLEAR_DB, []
    starts = [start for start in range(0, max(1, len(power) - span // 2), span // 2)
              if heard[start:start + span].sum() > span // 4]
    span = span if starts else len(power)  # if sound is too scattered for passages, all of it is one
    for start in starts or [0]:
        passage = np.sort(power[start:start + span][heard[start:start + span]])
        quiet = 10.0 * np.log10(passage[:len(passage) // 10 + 1]).mean()
        above = 10.0 * np.log10(max(mean, passage.mean())) - quiet
        if above <= CLEAR_DB:
            lowest, end = min(lowest, above), min(start + span, len(power))
            if noisy and start <= noisy[-1][1]:
                start = noisy.pop()[0]
            noisy.append((start, end))
    if not noisy:
        return []
    where = ""
    if sum(end - start for start, end in noisy) < len(power) - span // 2:
        seconds = np.array(noisy[:NAMED]) / hp.frames_per_second
        where = ", ".join(f"from {start:.0f} to {end:.0f} s" for start, end in seconds) if is_whole else "in a part"
        where += " "
    return [f"{where}its pauses are only {max(0.0, lowest):.0f} dB quieter than its speech: noise or music is "
            "converted, too, and words get lost; record it closer to the mouth, or remove the noise"]
