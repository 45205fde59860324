"""Who speaks when in a recording, and the voice of each person."""
import hyperparams
import utils
from conftest import demo_wav
from conversion.chunks import Speakers
from corpus import alignment, analysis
from corpus.analysis import Features
from corpus.people import people_by_pitch, people_by_timbre, turns, who_speaks

import numpy as np
import pytest

HP = hyperparams.HyperParams()


class Listener:
    """Measures voices, and remembers of how many frames."""
    hp, keep_intervals = HP, False

    def __init__(self):
        self.heard = []

    def find_voice(self, recording):
        self.heard.append(len(recording.hertz))
        return float(np.median(recording.hertz[recording.hertz > 0.0])) if recording.hertz.any() else 0.0


def spoken_at(*pitches: float) -> list[Features]:
    """A chunk of 100 frames for each pitch in Hz, which moves as that of a voice; 0: a whisper."""
    moves = np.select([np.arange(100) % 20 == 5, np.arange(100) % 20 == 15], [0.99, 1.01], 1.0)
    return [Features(np.zeros((100, 1)), np.zeros((100, 1)), hertz * moves) for hertz in pitches]


def follow(speakers: Speakers, *pitches: float, of: str) -> list[float]:
    """The voices of chunks at pitches in Hz by the people `of`, a letter for each."""
    return speakers.follow(spoken_at(*pitches), ["abc".index(person) for person in of])


def test_a_voice_is_measured_once_as_long_as_the_same_person_speaks():
    speakers = Speakers(Listener())
    assert follow(speakers, 200, 230, 0, 180, of="aaaa") == [200.0] * 4
    assert follow(speakers, 190, 250, of="aa") == [200.0] * 2
    assert speakers.converter.heard == [380]  # and of a whisper what is near the voice


@pytest.mark.parametrize("first, second", [(210, 120), (110, 220)])
def test_somebody_else_is_converted_as_a_voice_of_their_own(first, second):
    """A man who speaks after a woman was taken for her, and came out too low."""
    speakers = Speakers(Listener())
    assert follow(speakers, first, first, second, 0, second, of="aabbb") == [first, first, second, second, second]
    assert speakers.converter.heard == [200, 280]
    assert follow(speakers, second, first, of="ba") == [second, first]


def test_a_melody_is_sung_by_one_voice():
    speakers = Speakers(Listener())
    assert follow(speakers, 110, 330, 330, of="aaa") == [330.0] * 3


def test_a_recording_that_begins_with_a_whisper_gets_the_voice_that_follows():
    speakers = Speakers(Listener())
    assert follow(speakers, 0, 200, 200, of="aaa") == [200.0] * 3


def test_noise_before_the_speech_is_not_heard_as_part_of_the_voice():
    """Minutes of room noise spoilt the level and the colour of a voice."""
    speakers, (chunk,) = Speakers(Listener()), spoken_at(200)
    late = Features(*(np.concatenate([np.zeros((900, *each.shape[1:])), each]) for each in chunk))
    speakers.follow([late, *spoken_at(0)], [0, 0])
    assert speakers.converter.heard == [180]


def test_speech_after_a_long_noise_gets_a_voice_of_its_own():
    """All chunks of the first group are noise; the speaker of the next group was converted as if he were that noise."""
    speakers = Speakers(Listener())
    follow(speakers, 0, 0, of="bb")
    assert follow(speakers, 0, 200, 210, of="bbb")[1:] == pytest.approx([205.0, 205.0], rel=1e-3)
    assert follow(speakers, 110, of="a") == [110.0]


@pytest.mark.parametrize("voiced", [1, 24, 60])
def test_a_few_voiced_frames_in_a_noise_are_no_voice_for_good(voiced):
    """One frame of a fan that had a pitch decided the voice of all that followed."""
    speakers, (noise,) = Speakers(Listener()), spoken_at(0)
    noise.hertz[50:50 + min(voiced, 50)] = 90.0
    assert speakers.follow([noise], [0]) == [90.0]
    assert follow(speakers, 200, 210, of="aa") == pytest.approx([205.0] * 2, rel=1e-3)
    assert follow(speakers, 240, of="a") == pytest.approx([205.0], rel=1e-3)  # now it is known
    few = Speakers(Listener())
    few.follow([noise], [0])
    assert follow(few, 0, of="a") == [90.0]  # what is said of least is not forgotten for nothing


def test_recordings_of_several_people_are_told_apart():
    heard = {speaker: [analysis.extract(demo_wav(speaker, f"demo_{number:03d}", HP), HP) for number in range(1, 13)]
             for speaker in ("rms", "slt")}

    def who(*recordings: Features) -> list[int]:
        return who_speaks([each.mel.astype(np.float32) for each in recordings], [each.hertz for each in recordings])
    for own in heard.values():
        assert not who(*own).any() and not who(own[0]).any()
    both = [each for pair in zip(*heard.values()) for each in pair]
    np.testing.assert_array_equal(who(*both), [0, 1] * 12)
    np.testing.assert_array_equal(who(*heard["slt"], *heard["rms"][:3]), [0] * 12 + [1] * 3)


def said(*pitches: float, phrases: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mel spectrogram, pitch and pauses of phrases of so many voiced frames at each of `pitches` in Hz, by a voice of
    one timbre and a lively pitch."""
    rng, voiced = np.random.default_rng(0), []
    for hertz in pitches:
        for n in phrases:
            voiced += [hertz * 2.0 ** (0.2 * np.sin(np.arange(n) / 6.0)), np.zeros(20)]
    silences = np.cumsum([len(part) for part in voiced])[1:-1:2] - 10
    hertz = np.concatenate(voiced).astype(np.float32)
    return rng.standard_normal((len(hertz), HP.n_mels)).astype(np.float32), hertz, silences


@pytest.mark.parametrize("first, second", [(110.0, 190.0), (250.0, 150.0)])
@pytest.mark.parametrize("phrases", [[70], [25, 18, 30], [100, 3]])
def test_turns_are_found_from_short_phrases_and_emphasis_is_none(first, second, phrases):
    """Phrases of less than half a second counted for nobody, so that a dialogue of short ones was one mixed voice."""
    frames = sum(phrases) + 20 * len(phrases)
    for pitches in ([first, second], [first, second, first], [first, second, second, first]):
        begins, people = zip(*turns(*said(*pitches, phrases=phrases)))
        wanted = [i for i, hertz in enumerate(pitches) if i == 0 or hertz != pitches[i - 1]]
        np.testing.assert_allclose(begins, [max(0, i * frames - 10) for i in wanted])
        assert list(people) == [int(pitches[i] != first) for i in wanted]
    assert len(turns(*said(first, 1.3 * first, first, 0.8 * first, phrases=phrases))) == 1


@pytest.mark.parametrize("frames", [0, 1, 100])
def test_without_a_pitch_there_is_one_turn(frames):
    for silences in ([], [0], [frames // 2]):
        assert turns(np.zeros((frames, 80)), np.zeros(frames, np.float32), np.array(silences, int)) == [(0, 0)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("first", [0, 150, 400])
@pytest.mark.parametrize("n_mels", [8, 20, 80])
def test_what_comes_before_and_after_speech_belongs_to_who_speaks(first, n_mels):
    """A phrase without a pitch, at the beginning and at the end, and between two people; and few mel bands."""
    mel, hertz, silences = said(110.0, 220.0, phrases=[100])
    unvoiced, pause = np.zeros(first), np.zeros(20)
    hertz = np.concatenate([unvoiced, pause, hertz[:110], pause, unvoiced, pause, hertz[110:], unvoiced, pause])
    bounds = np.cumsum([first + 10, 120, first + 30, 130])
    mel = np.random.default_rng(1).standard_normal((len(hertz), n_mels))
    found = turns(mel, hertz, bounds)
    assert [person for _, person in found] == [0, 1] and bounds[1] <= found[1][0] <= bounds[2]


def of_like_pitch(*speakers: str, sentences: int = 6,
                  between: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, list]:
    """Some sentences by each of `speakers`, who all speak at one pitch, with pauses, and before all but the first the
    sound `between`: mel spectrogram, pitch and pauses, and the frames at which the speaker changes."""
    pause, parts, begins = np.zeros(HP.sample_rate // 3, np.float32), [], []
    for turn, speaker in enumerate(speakers):
        parts += [between.astype(np.float32), pause] if turn and between is not None else []
        begins.append(sum(map(len, parts)) // HP.hop_length)
        parts += [each for i in range(1, sentences + 1)
                  for each in (demo_wav(speaker, f"demo_{sentences * turn + i:03d}", HP), pause)]
    wav = np.concatenate(parts)
    mel, hertz = utils.mel_in_blocks(wav, HP), analysis.pitch(wav, HP)
    for own in np.split(hertz, begins[1:]):
        own *= 130.0 / np.median(own[own > 0.0])
    return mel, hertz, alignment.pauses(mel, HP).mean(axis=1).astype(int), begins[1:]


@pytest.mark.parametrize("speakers, sentences", [
    ("rms slt", 6), ("slt rms", 6), ("rms slt rms", 6), ("slt slt rms", 6),
    ("rms slt rms slt", 1), ("slt rms slt slt rms", 1), ("rms rms slt rms slt rms slt", 1)])
def test_people_of_like_pitch_are_told_by_their_timbre(speakers, sentences):
    """Two men or two women were one voice, between the two of them, even longer if they changed with each sentence."""
    names = speakers.split()
    *recording, begins = of_like_pitch(*names, sentences=sentences)
    found = turns(*recording)
    wanted = [(at, name) for at, name, before in zip(begins, names[1:], names) if name != before]
    assert [person for _, person in found] == [0, *(int(name != names[0]) for _, name in wanted)]
    np.testing.assert_allclose([start for start, _ in found[1:]], [at for at, _ in wanted], atol=45)


@pytest.mark.parametrize("sound", ["none", "beep", "bark"])
@pytest.mark.parametrize("speaker", ["rms", "slt"])
def test_one_voice_and_a_sound_between_its_sentences_are_one_person(speaker, sound):
    time = np.arange(HP.sample_rate // 2) / HP.sample_rate
    between = {"none": None, "beep": 0.2 * np.sin(2 * np.pi * 300.0 * time),
               "bark": 0.3 * np.sin(2 * np.pi * 200.0 * time) ** 9 * np.exp(-8.0 * time)}[sound]
    *recording, _ = of_like_pitch(speaker, speaker, between=between)
    assert turns(*recording) == [(0, 0)]


def spoken_by(people: list[int], frames: int, apart: float) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of phrases of `people`, whose means are at a squared distance of `apart`."""
    counts = np.full(len(people), frames)
    noise = np.random.default_rng(0).standard_normal((len(people), 27)) * np.sqrt(2.0 * frames)
    return counts[:, None] * np.sqrt(apart / 2.0) * np.eye(27)[people] + noise, counts


def heard_from(sums: np.ndarray, counts: np.ndarray) -> list[int]:
    """Who is heard, numbered as they begin, if nothing is known by pitch."""
    found = people_by_timbre(sums, counts, np.zeros(len(counts), int)).tolist()
    numbers = {person: number for number, person in enumerate(dict.fromkeys(found))}
    return [numbers[person] for person in found]


@pytest.mark.parametrize("people", [[0, 1, 0, 1], [0, 1, 1, 0, 1], [0, 1, 2, 1, 3, 0, 3, 2]])
def test_the_number_of_people_is_found(people):
    assert heard_from(*spoken_by(people, 200, 15.0)) == people


@pytest.mark.parametrize("people", [[0, 1, 0, 1], [0, 1, 1, 0, 1]])
def test_two_people_must_be_apart_and_say_enough(people):
    assert heard_from(*spoken_by(people, 1000, 6.0)) == people
    for frames, apart in ((2000, 3.8), (100, 5.5), (60, 15.0)):  # another session; too few frames to be sure
        assert heard_from(*spoken_by(people, frames, apart)) == [0] * len(people)


def test_who_is_told_by_pitch_and_says_little_keeps_no_others_together():
    people = [0, 1, 0, 1, 2, 0, 1, 0, 1]
    sums, counts = spoken_by(people, 300, 15.0)
    sums[4], counts[4] = sums[4] / 5, 60
    assert people_by_timbre(sums, counts, np.array([0, 0, 0, 0, 1, 0, 0, 0, 0])).tolist() in (
        people, [0 if x == 0 else 3 - x for x in people])


def test_a_short_phrase_is_no_turn_and_what_pitch_mistook_is_mended():
    people = [0, 0, 0, 1, 1, 0, 0, 1]
    sums, counts = spoken_by(people, 300, 15.0)
    sums[1], counts[1] = sums[3] / 100, 3  # a laugh
    assert heard_from(sums, counts) == people
    assert people_by_timbre(sums, counts, np.array([0, 0, 0, 1, 1, 1, 0, 1])).tolist() == people


@pytest.mark.parametrize("frames, octaves, heard", [(45, 0.95, True), (80, 0.95, True), (80, 0.7, True),
                                                    (20, 0.95, False), (45, 0.55, False), (45, -0.9, True)])
def test_a_few_words_of_a_man_or_a_woman_between_those_of_the_other_are_heard(frames, octaves, heard):
    """Pitches far apart counted as little as those of a lively speaker, who is one person."""
    hertz = np.concatenate([np.full(200, 120.0), np.full(frames, 120.0 * 2 ** octaves), np.full(200, 120.0)])
    people = people_by_pitch(hertz, np.array([200, 200 + frames]))
    assert people.tolist() == ([0, 1, 0] if heard else [0, 0, 0])
