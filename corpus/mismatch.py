"""Pairs of recordings that have one name and do not say the same words: numbered differently, other texts, mistakes.

Noise and echo raise the distance of a recording from every other. So what counts is its excess over what is usual for
its source with other targets, and for its target with other sources; it is below 0 dB for the same words.
"""
import pathlib
import sys
from collections.abc import Callable

from common.cli import UserError
from corpus import alignment, analysis, pairing
from corpus.manifest import Pair
from hyperparams import HyperParams

import numpy as np

OTHERS = 10  # recordings of other names with which each is compared, to know what is usual
FEWEST = 3   # pairs that can be judged
COPY = 0.01        # octaves between the pitch of two files of one recording: .003 at most by mp3, telephone and noise;
                   # two people are .04 apart and more
COPY_FRAMES = 20   # frames that are voiced in both, without which nothing can be told
COPY_SHARE = 0.8   # of the voiced frames of the shorter one, which have to be among them
COPY_SHIFT = 40    # frames by which one may begin later
COPY_MOVES = 0.03  # octaves by which the pitch has to move: all hums of one pitch are alike
# In deviations of the excess of other words: how far below the limit a pair is doubtful, as are those that stay beyond
# it, and by how much one of another name has to be better, so that this is no other take of the same sentence
DOUBTFUL, BETTER = 1.0, 1.5
# What is left out of a pair, in seconds, and by how much more than all of it a part is unlike, in dB above the 30th
# percentile, as many may be wrong: of 980 sentences 5 are beyond. Segments hold several sentences, and differ less
LEFT_OUT, UNLIKE_DB, SEGMENT_DB, USUAL, ENOUGH = 0.6, 2.6, 2.0, 30, 8
NAMES = 1000  # other names, the nearest in the order, with which a doubtful pair is compared


def drop_copies(pairs: list[Pair], data: pathlib.Path, target: str) -> None:
    """Give the pairs of a source whose recording is the target's, as its pitch tells, a reason to be dropped."""
    for pair in pairs:
        own = analysis.load(data / "features" / pair.source / pair.utterance).hertz[pair.source_start:pair.source_end]
        its = analysis.load(data / "features" / target / pair.utterance).hertz[pair.target_start:pair.target_end]
        if is_copy(own, its):
            pair.reason = (f"its recordings by {pair.source} and {target} are one, perhaps in another format or at "
                           "another level")


def is_copy(hertz: np.ndarray, other: np.ndarray) -> bool:
    """Whether two recordings have the same pitch (T,) and (T',) in Hz from frame to frame, but for a shift."""
    least = max(COPY_FRAMES, COPY_SHARE * min(np.count_nonzero(hertz), np.count_nonzero(other)))
    for shift in range(-COPY_SHIFT, COPY_SHIFT + 1):
        first, second = hertz[max(0, shift):], other[max(0, -shift):]
        n = min(len(first), len(second))
        voiced = (first[:n] > 0.0) & (second[:n] > 0.0)
        octaves = np.log2([first[:n][voiced], second[:n][voiced]])
        if voiced.sum() > least and octaves.std(axis=1).min() > COPY_MOVES and (
                np.median(np.abs(octaves[0] - octaves[1])) < COPY):
            return True
    return False


def drop(pairs: list[Pair], data: pathlib.Path, target: str, hp: HyperParams) -> None:
    """Give the pairs of a source, in the order of names, that say different words a reason to be dropped; raises
    UserError if most do."""
    if not pairs:
        return
    names = f"{pairs[0].source} and {target}"
    if len(pairs) < FEWEST:
        print(f"warning: {names} have too few sentences in common to tell if they say the same words", file=sys.stderr)
        return
    distance, here = distances(pairs, data, target, hp), np.arange(len(pairs))
    named = distance(here, here)
    # Not near in the order: neighbours may be takes of one sentence, or what belongs here if names are shifted
    far = np.unique(np.linspace(len(pairs) / 4, 3 * len(pairs) / 4, OTHERS).round().astype(int))
    chance = np.array([distance(here, here + shift) for shift in far])
    usual = np.median(chance, axis=0) / 2, np.median([*map(np.roll, chance, far)], axis=0) / 2

    def excess(sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return distance(sources, targets) - usual[0][sources] - usual[1][targets % len(pairs)]
    own, others = named - usual[0] - usual[1], chance - usual[0] - [np.roll(usual[1], -shift) for shift in far]
    is_named = all(pair.name == pair.utterance for pair in pairs)  # segments of a recording have no names to change
    spread = others.std()
    limit = find_limit(own, spread)
    # The best of all that its source and its target are compared with is right, however little better it is
    best = own < np.minimum(others, [*map(np.roll, others, far)]).min(axis=0)
    wrong, better = (own > limit) & ~(best & np.isfinite(limit)), {}
    for i in np.flatnonzero(~wrong & (own > limit - DOUBTFUL * spread)):
        rest = np.argsort(np.abs(here - i))[1:NAMES + 1]
        found = [(costs.min(), speaker, pairs[rest[costs.argmin()]].name) for costs, speaker in (
            (excess(i, rest), target), (excess(rest, i), pairs[i].source))]
        if min(found)[0] < own[i] - BETTER * spread:
            wrong[i], better[i] = True, f"{min(found)[2]} of {min(found)[1]} fits better"
    hint = misplaced(pairs, {0: own} | {shift: excess(here, here + shift) for shift in (1, -1, 2, -2)},
                     np.percentile(others, 1)) if wrong.sum() > 1 and is_named else ""
    if wrong.sum() > len(pairs) / 2:
        raise UserError(f"{names}: recordings of the same name do not say the same words. Their distance is "
                        f"{np.median(named):.1f} dB, that of others {np.median(chance):.1f} dB{hint}. "
                        "Rename them, list the pairs in a table for --pairs, or give --unpaired if they said other "
                        "sentences")
    if hint:
        print(f"warning: {names}: some recordings of the same name do not say the same words{hint}: rename them, or "
              "list the pairs in a table for --pairs", file=sys.stderr)
    for i in np.flatnonzero(wrong):
        pairs[i].reason = better.get(
            i, f"DTW cost {-own[i]:.2f} dB below that of other names, not {-limit:.2f}") + ": other words?"


def drop_partly(pairs: list[Pair], found: list[tuple[float, float]]) -> None:
    """Give the pairs of a source that say other words in a part of a recording, as a sentence that was left out, said
    twice or in another place, a reason to be dropped; `found` is what `alignment.unlike` tells of each."""
    if len(pairs) < ENOUGH:
        return
    seconds, worst = np.transpose(found)
    beyond = worst - [pair.dtw_cost for pair in pairs]  # noise raises both
    above = beyond - np.percentile(beyond, USUAL)
    limits = [UNLIKE_DB if pair.name == pair.utterance else SEGMENT_DB for pair in pairs]
    wrong = (seconds > LEFT_OUT) | (above > limits)
    if wrong.mean() > 0.5:  # then this is how they speak
        return
    for i in np.flatnonzero(wrong):
        pairs[i].split = "dropped"
        pairs[i].reason = (f"DTW cost {beyond[i]:.1f} dB higher for {alignment.UNLIKE_SECONDS} s of it: other words?"
                           if above[i] > limits[i] else
                           f"{seconds[i]:.1f} s of speech are in one recording alone: words left out or said twice?")


def distances(pairs: list[Pair], data: pathlib.Path, target: str, hp: HyperParams) -> Callable:
    """A function (sources, targets) -> (N,): how far in dB the sources of these numbers are from the targets of these
    numbers, in a ring."""
    features = [[alignment.word_features(mel, hp) for mel in pairing.load_mels(pair, data, target)] for pair in pairs]
    sources, targets = ([x - np.concatenate(side).mean(axis=0) for x in side] for side in zip(*features))
    return np.vectorize(lambda i, j: alignment.warp(sources[i], targets[j % len(targets)])[1], otypes=[float])


def find_limit(own: np.ndarray, spread: float) -> float:
    """The excess (dB) up to which pairs probably say the same words, from that of all pairs (N,): a mixture of other
    words, with mean 0 and deviation `spread`, and of the same words, whose mean, deviation and share are found by EM
    (Dempster, Laird, Rubin 1977). Minus infinity if the pairs are not surely better than other words."""
    if np.median(own) > -0.5 * spread or own.mean() > -2 * spread / np.sqrt(len(own)):
        return -np.inf
    mean, deviation, share = np.sort(own)[:(len(own) + 3) // 4].mean(), spread, 0.5

    def probability(excess: np.ndarray) -> np.ndarray:
        same = share / deviation * np.exp(-0.5 * ((excess - mean) / deviation) ** 2)
        return same / (same + (1.0 - share) / spread * np.exp(-0.5 * (excess / spread) ** 2) + 1e-100)
    for _ in range(30):
        weights = probability(own) + 1e-9
        share, mean = np.clip(weights.mean(), 0.02, 0.98), np.average(own, weights=weights)
        deviation = max(np.sqrt(np.average((own - mean) ** 2, weights=weights)), 0.3 * spread)
    grid = np.linspace(mean, 0.0, 400)
    return float(grid[max(1, np.append(probability(grid) < 0.5, True).argmax()) - 1])


def misplaced(pairs: list[Pair], excess: dict[int, np.ndarray], limit: float) -> str:
    """Say which of the source's recordings belong to the target's one or two before or after that of their name, or "".
    `excess` holds (N,) for each shift in the order of names; below `limit` (dB) there are few of other words."""
    found, best = "", max(2.0, np.log2(len(pairs)) - 1)  # of many, some fit by chance
    least = np.min(list(excess.values()), axis=0)
    for shift, words in ((1, "after"), (-1, "before"), (2, "two after"), (-2, "two before")):
        fits = (excess[shift] == least) & (least < limit) & (excess[0] >= limit)
        fits[slice(-shift, None) if shift > 0 else slice(-shift)] = False  # the ring is closed there
        # The part in which most fit: the largest rise of a sum that grows where they fit and falls where they do not
        sums = np.concatenate([[0], np.cumsum(np.where(fits, 1, -1))])
        end = int((sums - np.minimum.accumulate(sums)).argmax())
        start = int(sums[:end + 1].argmin())
        if sums[end] - sums[start] > best:
            best, first, last = sums[end] - sums[start], pairs[start], pairs[end - 1]
            found = (f"; {first.name} to {last.name} of {first.source} fit the target's recording {words} the one of "
                     f"their name: {first.name} goes with {pairs[start + shift].name}")
    return found
