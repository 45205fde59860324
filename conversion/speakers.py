"""Who speaks when in a recording: turns that begin at pauses, by pitch and timbre, and the voice of each person."""
import numpy as np
import scipy.fft
import scipy.linalg
import scipy.ndimage

from conversion.base import Voice
from corpus.analysis import Features

ANOTHER_VOICE = 0.45  # octaves from the pitch of a voice, from where somebody else speaks
PITCHES = np.arange(5.8, 10.0, 0.05)  # octaves of Hz that a voice may have
CHANGE = 15.0  # octaves times voiced frames by which it must fit better that somebody else speaks
MOST_AWAY = 0.6  # octaves from the pitch of a voice, from where all frames count alike
ORDERS = 26  # of the mel cepstrum: the timbre
BELOW = 0.93  # share of the mel bands; above them, filters of recordings and formats differ more than people
MOVES = 0.15  # octaves by which the pitch of one person moves from phrase to phrase
DIFFERENCE = 1300.0  # squared deviations, summed over frames, by which two turns must differ to be of two people
MEAN_DIFFERENCE = 4.0  # the same between their means; one person in another session differs by up to 3.8
LEAST_FRAMES = 80  # voiced frames of a turn that is told by timbre
MOST_DEVIANT = 1.5  # standard deviations in each direction, from where all frames count alike: a bark is far from all
NEAR_FRAMES = 40  # to the next voiced frame, up to where a voice is measured


def turns(mel: np.ndarray, hertz: np.ndarray, silences: np.ndarray) -> list[tuple[int, int]]:
    """Who speaks when in a recording of mel spectrogram (T, M) and pitch (T,) in Hz, with pauses at frames `silences`:
    the first frame of each turn and the number of the person, 0 for the first."""
    whitened = timbre(mel, hertz, silences)
    begins = sorted({*changes_of_pitch(hertz, silences), *changes_of_timbre(whitened, hertz > 0.0, silences)})
    people: list[tuple[np.ndarray, np.ndarray]] = []  # as for `distance`
    found = []
    for start, end in zip(begins, [*begins[1:], len(hertz)]):
        heard = hertz[start:end][hertz[start:end] > 0.0], whitened[start:end].sum(axis=0)
        apart = [distance(heard, own) for own in people]
        if not found or min(apart) == np.inf:
            person = len(people)
            people.append(heard)
        else:
            person = int(np.argmin(apart)) if len(heard[0]) else found[-1][1]
            people[person] = np.concatenate([people[person][0], heard[0]]), people[person][1] + heard[1]
        if not found or person != found[-1][1]:
            found.append((start, person))
    return found


def distance(some: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]) -> float:
    """Squared distance of two voices, each the pitch of its voiced frames and the sum of what `timbre` says of them;
    infinite if they are two people's."""
    n, m = len(some[0]), len(others[0])
    if not n or not m:
        return 0.0
    apart = float(((some[1] / n - others[1] / m) ** 2).sum())
    octaves = abs(np.log2(np.median(some[0]) / np.median(others[0])))
    differs = n * m / (n + m) * apart > DIFFERENCE and apart > MEAN_DIFFERENCE
    return np.inf if octaves > ANOTHER_VOICE or differs else apart


def timbre(mel: np.ndarray, hertz: np.ndarray, silences: np.ndarray) -> np.ndarray:
    """Cepstra and pitch (T, D) of voiced frames, whitened: those of one phrase between `silences` deviate by 1 in each
    direction. 0 where unvoiced, and everywhere if there is too little speech to tell."""
    voiced = np.flatnonzero(hertz)
    bands = round(BELOW * mel.shape[1])
    cepstra = scipy.fft.dct(mel[voiced, :bands], norm="ortho", axis=1)[:, 1:ORDERS + 1]
    values = np.concatenate([cepstra, np.log2(hertz[voiced])[:, None]], axis=1).astype(np.float64)
    phrases = [each - each.mean(axis=0) for each in np.split(values, np.searchsorted(voiced, silences)) if len(each)]
    whitened = np.zeros((len(hertz), values.shape[1]))
    if len(voiced) > max(2 * LEAST_FRAMES, 2 * values.shape[1] + len(phrases)):
        within = np.concatenate(phrases)
        covariance = within.T @ within / (len(within) - len(phrases))
        covariance[np.diag_indices_from(covariance)] += [1e-4] * cepstra.shape[1] + [MOVES ** 2]
        white = scipy.linalg.solve_triangular(np.linalg.cholesky(covariance), values.T, lower=True).T
        white -= np.median(white, axis=0)
        lengths, most = np.linalg.norm(white, axis=1, keepdims=True), MOST_DEVIANT * np.sqrt(values.shape[1])
        whitened[voiced] = white * np.minimum(1.0, most / np.maximum(lengths, 1e-9))
    return whitened


def changes_of_timbre(whitened: np.ndarray, voiced: np.ndarray, silences: np.ndarray) -> list[int]:
    """The first frames of turns, 0 and some of `silences`, by which the squared deviations of voiced frames from the
    mean of their turn, and DIFFERENCE for each turn, are the least (optimal partitioning; Jackson et al. 2005)."""
    bounds = np.array([0, *silences, len(voiced)])
    sums = np.concatenate([np.zeros((1, whitened.shape[1])), whitened.cumsum(axis=0)])[bounds]
    counts = np.concatenate([[0], voiced.cumsum()])[bounds]
    best, origins = np.zeros(len(bounds)), np.zeros(len(bounds), int)
    for end in range(1, len(bounds)):
        n = counts[end] - counts[:end]
        gains = best[:end] + ((sums[end] - sums[:end]) ** 2).sum(axis=1) / np.maximum(n, 1) - DIFFERENCE
        gains[n < LEAST_FRAMES] = -np.inf
        origins[end] = gains.argmax()
        best[end] = gains[origins[end]]
    begins, end = [], len(bounds) - 1
    while end > 0:
        end = origins[end]
        begins.append(int(bounds[end]))
    return begins[::-1]


def changes_of_pitch(hertz: np.ndarray, silences: np.ndarray) -> list[int]:
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


class Speakers:
    """The voices of the people in a recording, each measured where they speak first."""

    def __init__(self, converter):
        self.converter = converter
        self.voices: dict[int, Voice] = {}
        self.pitched: set[int] = set()  # whose voice is not of noise alone
        self.person: int | None = None  # who spoke last
        self.changes: list[int] = []  # chunks of the last group at which somebody else begins to speak

    def follow(self, features: list[Features], people: list[int]) -> list[Voice]:
        """The voice of each of the next chunks, which are spoken by `people`."""
        found, self.changes = [], []
        for i, person in enumerate(people):
            if self.person not in (None, person):
                self.changes.append(i)
            self.person = person
            # Noise may come before the speech: it is measured only until there is a pitch
            if person not in self.voices or person not in self.pitched and features[i].hertz.any():
                own = [each for each, its in zip(features[i:], people[i:]) if its == person]
                heard = Features(*map(np.concatenate, zip(*own)))
                if heard.hertz.any():
                    self.pitched.add(person)
                near = scipy.ndimage.maximum_filter1d(heard.hertz, 2 * NEAR_FRAMES + 1) > 0.0  # not minutes of noise
                self.voices[person] = self.converter.find_voice(Features(*(each[near | ~near.any()] for each in heard)))
            found.append(self.voices[person])
        return found
