"""Who speaks when in a recording, in turns that begin at pauses, and in which of several: by pitch and timbre."""
from collections.abc import Iterator

import numpy as np
import scipy.fft
import scipy.linalg

ANOTHER_VOICE = 0.45  # octaves from the pitch of a voice, from where somebody else speaks
PITCHES = np.arange(5.8, 10.0, 0.05)  # octaves of Hz that a voice may have
CHANGE = 15.0  # octaves times voiced frames by which it must fit better that somebody else speaks
MOST_AWAY = 0.9  # octaves from the pitch of a voice, from where all frames count alike
ORDERS = 26  # of the mel cepstrum: the timbre
BELOW = 0.93  # share of the mel bands; above them, filters of recordings and formats differ more than people
MOVES = 0.15  # octaves by which the pitch of one person moves from phrase to phrase
TURN = 100.0  # squared deviations, summed over frames, that a change of the person must save
APART = 4.5  # squared distance of two people's means; one person in another session differs by up to 3.8
UNSURE = 600.0  # the same times the voiced frames of who says less: a mean of few frames is itself far from others
LEAST_FRAMES = 150  # voiced frames of a person who is told by timbre
MOST_DEVIANT = 1.5  # standard deviations in each direction, from where all frames count alike: a bark is far from all


def who_speaks(mels: list[np.ndarray], hertz: list[np.ndarray]) -> np.ndarray:
    """Who speaks in each of N recordings of mel spectrogram (T, M) and pitch (T,) in Hz: (N,) numbers of people, 0 for
    the first."""
    begins = np.cumsum([0, *map(len, hertz[:-1])])
    frames, people = zip(*turns(np.concatenate(mels), np.concatenate(hertz), begins[1:]))
    return np.array(people)[np.searchsorted(frames, begins, "right") - 1]


def turns(mel: np.ndarray, hertz: np.ndarray, silences: np.ndarray) -> list[tuple[int, int]]:
    """Who speaks when in a recording of mel spectrogram (T, M) and pitch (T,) in Hz, with pauses at frames `silences`:
    the first frame of each turn and the number of the person, 0 for the first."""
    bounds = np.array([0, *silences, len(hertz)])
    sums = np.diff(np.pad(timbre(mel, hertz, silences).cumsum(axis=0), ((1, 0), (0, 0)))[bounds], axis=0)
    counts = np.diff(np.append(0, (hertz > 0.0).cumsum())[bounds])
    people = people_by_timbre(sums, counts, people_by_pitch(hertz, silences))
    numbers = {person: number for number, person in enumerate(dict.fromkeys(people.tolist()))}
    begins = np.flatnonzero(np.diff(people, prepend=-1))
    return [(int(bounds[i]), numbers[int(people[i])]) for i in begins]


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


def people_by_timbre(sums: np.ndarray, counts: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Who (P,) speaks each phrase. `sums` (P, D) are those of `timbre` over the `counts` (P,) voiced frames of each. At
    first `people` (P,) are told by pitch; one of them becomes two as long as these are apart (k-means with a price for
    each turn). All turns of a person share a centroid, so a short turn, too, tells who speaks."""
    if not sums.any():  # too little is said to tell
        return people
    people, found = assign(sums, counts, people), [people]
    while found:
        found = [(person, assign(sums, counts, split)) for person, split in splits(sums, counts, people)]
        found = [each for person, each in found if each.max() > people.max() and is_apart(sums, counts, each, person)
                 and is_apart(sums, counts, each, people.max() + 1)]
        people = max(found, key=lambda each: explained(sums, counts, each), default=people)
    return people


def splits(sums: np.ndarray, counts: np.ndarray, people: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """For each of `people` (P,), yield the number and all people with that one's phrases shared by two, as they lie
    along their first principal component; the new one has the highest number."""
    _, means = centroids(sums, counts, people)
    deviations = (sums - counts[:, None] * means[people]) / np.sqrt(np.maximum(counts, 1))[:, None]
    for person in range(len(means)):
        own = people == person
        direction = np.linalg.svd(deviations[own], full_matrices=False)[2][0]
        yield person, np.where(own & (deviations @ direction > 0.0), len(means), people)


def assign(sums: np.ndarray, counts: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Give each phrase to the person whose centroid is nearest, with a price for each turn (Viterbi 1967), until
    nothing changes; numbers the people anew."""
    for _ in range(20):
        before = people = np.unique(people, return_inverse=True)[1]
        _, means = centroids(sums, counts, people)
        costs = counts[:, None] * np.square(means).sum(axis=1) - 2.0 * sums @ means.T                       # (P, K)
        total, origins = costs[0], []
        for cost in costs[1:]:
            other = total.argmin()
            origins.append(np.where(total <= total[other] + TURN, np.arange(len(total)), other))
            total = np.minimum(total, total[other] + TURN) + cost
        people = backtrack(int(total.argmin()), origins)
        if np.array_equal(people, before):
            break
    return np.unique(people, return_inverse=True)[1]


def backtrack(last: int, origins: list[np.ndarray]) -> np.ndarray:
    """The states (P,) of the best path that ends in the state `last`; each of `origins` (P - 1) tells for a state the
    one before it."""
    path = [last]
    for origin in origins[::-1]:
        path.append(int(origin[path[-1]]))
    return np.array(path[::-1])


def centroids(sums: np.ndarray, counts: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many voiced frames (K,) each of `people` (P,) says, and their centroids (K, D)."""
    frames = np.bincount(people, counts)
    return frames, np.stack([sums[people == each].sum(axis=0) for each in range(len(frames))]) / np.maximum(
        frames, 1.0)[:, None]


def explained(sums: np.ndarray, counts: np.ndarray, people: np.ndarray) -> float:
    """Squared deviations that the centroids of `people` (P,) explain, less the price of their turns."""
    frames, means = centroids(sums, counts, people)
    return frames @ np.square(means).sum(axis=1) - TURN * np.count_nonzero(np.diff(people))


def is_apart(sums: np.ndarray, counts: np.ndarray, people: np.ndarray, person: int) -> bool:
    """Whether one of `people` (P,) says enough to be told by timbre, and is far from all others who do."""
    frames, means = centroids(sums, counts, people)
    others = (frames >= LEAST_FRAMES) & (np.arange(len(frames)) != person)
    least = APART + UNSURE / np.minimum(frames, frames[person])[others]
    return frames[person] >= LEAST_FRAMES and bool((np.square(means - means[person]).sum(axis=1)[others] > least).all())


def people_by_pitch(hertz: np.ndarray, silences: np.ndarray) -> np.ndarray:
    """Who (P,) speaks each phrase of a recording with the pitch (T,): each turn has one of PITCHES, ANOTHER_VOICE at
    least from the one before, and the sum of the distances of voiced frames from it, and of CHANGE for each change, is
    the least (Viterbi 1967). So a phrase of a few frames counts for as much as it says. Turns of pitches that are
    nearer to each other are of one person."""
    costs, origins = np.zeros(len(PITCHES)), []
    away = np.abs(PITCHES[:, None] - PITCHES)
    phrases = np.split(hertz, silences)
    for phrase in phrases:
        voiced = np.log2(phrase[phrase > 0.0])
        counts = np.bincount(np.abs(voiced[:, None] - PITCHES).argmin(axis=1), minlength=len(PITCHES))
        others = np.where(away > ANOTHER_VOICE - 1e-6, costs, np.inf)
        changed = others.min(axis=1) + CHANGE
        origins.append(np.where(changed < costs, others.argmin(axis=1), np.arange(len(PITCHES))))
        costs = np.minimum(costs, changed) + np.minimum(away, MOST_AWAY) @ counts
    path, known, people = backtrack(int(costs.argmin()), origins[1:]), [], np.zeros(len(phrases), int)
    begins = np.flatnonzero(np.diff(path, prepend=-1))
    for start, end in zip(begins, [*begins[1:], len(path)]):
        heard = np.concatenate(phrases[start:end])
        octave = np.median(np.log2(heard[heard > 0.0])) if heard.any() else 0.0
        away = [abs(octave - other) for other in known]
        person = int(np.argmin(away)) if known and min(away) <= ANOTHER_VOICE else len(known)
        people[start:end] = person
        known[person:] = known[person:] or [octave]
    return people
