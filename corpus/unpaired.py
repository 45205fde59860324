"""For two speakers who did not say the same sentences: build each recording of the target from the source's sounds.

Matching sounds are found as in INCA (Erro, Moreno, Bonafonte 2010): nearest neighbours in context and a linear map from
each frame to its neighbour in turn, beginning without the speakers' means and with vocal tracts of one length. Then the
Viterbi algorithm finds a path through the source's frames for each recording of the target, which stays in one source
recording where it can, as in unit selection (Hunt, Black 1996). The result is in step with the target's recording, and
all later steps are the same as with pairs.
"""
import hashlib
import json
import pathlib
from typing import NamedTuple

from common import storage
from corpus import analysis, linear_map
from corpus.analysis import Features
from hyperparams import HyperParams

import numpy as np
import scipy.fft
from tqdm import tqdm

ORDERS = 24          # of the mel-cepstra compared, including the level at half its weight
REACH = 4            # frames to the earlier and to the later frame that are compared as well
ITERATIONS = 2       # of neighbours and map; with more of them the result drifts away
FRAMES = 20_000      # of each speaker used in these iterations, at most
POOL = 60_000        # of the source from which recordings are built, at most: twelve minutes
CANDIDATES = 48      # source frames among which a target frame chooses
JUMP = 1.0           # cost of a jump to another place, about the distance between neighbours
BLOCK = 500          # frames whose distances are computed at once
VERSION = 1  # of the files written; files of another version are made anew


def describe(mel: np.ndarray) -> np.ndarray:
    """Features (T, 3 * ORDERS) to compare the sounds of (T, M): cepstra of each frame, one before and one after."""
    orders = linear_map.mel_cepstra(mel)[:, :ORDERS] * np.where(np.arange(ORDERS) == 0, 0.5, 1.0)
    padded = np.pad(orders, ((REACH, REACH), (0, 0)), mode="edge")
    return np.concatenate([padded[:-2 * REACH], orders, padded[2 * REACH:]], axis=1).astype(np.float32)


def describe_all(mels: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([describe(mel) for mel in mels])


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances (n, m) between the rows of (n, C) and (m, C)."""
    return np.maximum((a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2.0 * a @ b.T, 0.0)


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    """The nearest row of `b` for each row of `a` (n,), and the mean distance."""
    found, distances = np.empty(len(a), int), 0.0
    for start in range(0, len(a), BLOCK):
        squares = squared_distances(a[start:start + BLOCK], b)
        found[start:start + BLOCK] = squares.argmin(axis=1)
        distances += np.sqrt(squares.min(axis=1)).sum()
    return found, float(distances / len(a))


def random_recordings(mels: list[np.ndarray], n_frames: int, seed: int) -> list[int]:
    """Numbers of random recordings with about `n_frames` frames together, or of all recordings if they have fewer."""
    order, chosen, total = np.random.default_rng(seed).permutation(len(mels)).tolist(), [], 0
    while order and total < n_frames:
        chosen.append(order.pop())
        total += len(mels[chosen[-1]])
    return sorted(chosen)


class Map(NamedTuple):
    """Map from a source's mel spectrograms to a target's, with the target's mean and deviation (global variance: Toda
    et al. 2007)."""
    kernel: np.ndarray   # (W, M)
    bias: np.ndarray     # (M,)
    factors: np.ndarray  # (M,) gain of the deviation of each order of the mel-cepstra

    def __call__(self, mel: np.ndarray) -> np.ndarray:
        orders = linear_map.mel_cepstra(linear_map.in_context(mel) @ self.kernel + self.bias)
        mean = orders.mean(axis=0)
        return scipy.fft.idct(mean + (orders - mean) * self.factors, axis=1, norm="ortho").astype(np.float32)


def solve_neighbours(windows: np.ndarray, target: np.ndarray, forth: np.ndarray, back: np.ndarray) -> Map:
    """Solve the map from windows of a source (S, W) to frames of a target (T, M). `forth` (S,) holds the target
    neighbour of each source frame, `back` (T,) the source neighbour of each target frame."""
    sums = linear_map.Sums(windows.shape[1], target.shape[1])
    for start in range(0, len(forth), BLOCK):
        sums.add(windows[start:start + BLOCK], target[forth[start:start + BLOCK]])
    for start in range(0, len(back), BLOCK):
        sums.add(windows[back[start:start + BLOCK]], target[start:start + BLOCK])
    kernel, bias = sums.solve(linear_map.PENALTY)
    natural, mapped = (linear_map.mel_cepstra(mel).std(axis=0) for mel in (target, windows @ kernel + bias))
    return Map(kernel, bias, np.maximum(natural / np.maximum(mapped, 1e-4), 1.0))


def find_map(sources: list[np.ndarray], targets: list[np.ndarray], hp: HyperParams) -> Map:
    """Find the map that turns a source's mel spectrograms (S, M) into the same sounds of a target (T, M)."""
    natural = np.concatenate(targets)
    wanted = describe_all(targets)
    spread, wanted = wanted.std(axis=0), wanted - wanted.mean(axis=0)

    def normalised(factor):
        found = describe_all([linear_map.warp_formants(mel, factor, hp) for mel in sources])
        return (found - found.mean(axis=0)) / np.maximum(found.std(axis=0), 1e-6) * spread
    # A tenth of the frames is enough to find the length of the vocal tract
    described = normalised(min(linear_map.WARPS, key=lambda factor: nearest(normalised(factor)[::10], wanted)[1]))
    windows = np.concatenate([linear_map.in_context(mel) for mel in sources])
    for _ in range(ITERATIONS):
        found = solve_neighbours(windows, natural, nearest(described, wanted)[0], nearest(wanted, described)[0])
        described = describe_all([found(mel) for mel in sources])
        described -= described.mean(axis=0)
    return found


def path_through(target: np.ndarray, source: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The cheapest path (T,) through the rows of `source` (S, C) for those of `target` (T, C). Each row costs its
    distance, and JUMP unless it continues the recording of the row before. `ends` (S,) marks ends of recordings."""
    candidates = []
    bounds = np.linspace(0, len(source), min(CANDIDATES, len(source)) + 1).astype(int).tolist()
    for start in range(0, len(target), BLOCK):
        squares = squared_distances(target[start:start + BLOCK], source)
        # The nearest row of each part of the source, because neighbours in time are mostly the same sound
        candidates.append(np.stack([squares[:, first:end].argmin(axis=1) + first
                                    for first, end in zip(bounds, bounds[1:])], axis=1))
    candidates = np.concatenate(candidates)
    rows, before = [candidates[0]], []
    cost = np.sqrt(squared_distances(target[:1], source[rows[0]])[0])
    for t in range(1, len(target)):
        best = np.argsort(cost)[:CANDIDATES]  # costlier ones hardly ever win in the end
        last, cost = rows[-1][best], cost[best]
        row = np.unique(np.concatenate([candidates[t], np.minimum(last + 1, len(source) - 1)]))
        is_next = (row == last[:, None] + 1) & ~ends[last][:, None]
        total = cost[:, None] + np.where(is_next, 0.0, JUMP)
        winner = total.argmin(axis=0)
        cost = total.min(axis=0) + np.sqrt(squared_distances(target[t:t + 1], source[row])[0])
        rows.append(row)
        before.append(best[winner])
    place = [int(cost.argmin())]
    for winner in reversed(before):
        place.append(int(winner[place[-1]]))
    return np.array([row[i] for row, i in zip(rows, reversed(place))])


def match(sources: list[np.ndarray], targets: list[np.ndarray], hp: HyperParams) -> list[np.ndarray]:
    """For each mel spectrogram (T, M) of a target, the source frames (T,) that sound like its frames. Frames are
    numbered through all source recordings, one after the other."""
    lengths = [len(mel) for mel in sources]
    chosen = random_recordings(sources, POOL, hp.seed)
    places = np.concatenate([np.arange(lengths[i]) + sum(lengths[:i]) for i in chosen])
    found = find_map(*([mels[i] for i in random_recordings(mels, FRAMES, hp.seed)] for mels in (sources, targets)), hp)
    source = describe_all([found(sources[i]) for i in chosen])
    ends = np.zeros(len(source), bool)
    ends[np.cumsum([lengths[i] for i in chosen]) - 1] = True
    wanted = [describe(mel) for mel in targets]
    source, middle = source - source.mean(axis=0), np.concatenate(wanted).mean(axis=0)
    return [places[path_through(target - middle, source, ends)]
            for target in tqdm(wanted, "sentences from a source's sounds", disable=None, leave=False)]


def write(features: pathlib.Path, source: str, pool: list[tuple[str, int, int]], target: str, utterances: list[str],
          hp: HyperParams) -> None:
    """Build the target's utterances from `pool`, segments (utterance, first frame, end) of a source, and write them
    below `features` as the speaker "SOURCE.spliced", unless they are there. Their pitch is the target's, mapped to the
    source's range: the pitch of sounds from many places has no melody."""
    folder = features / f"{source}.spliced"
    digest = hashlib.sha256(json.dumps([pool, utterances, hp.seed, VERSION]).encode())
    for speaker, names in ((source, [name for name, *_ in pool]), (target, utterances)):
        for name in names:
            digest.update(str((features / speaker / f"{name}.mel.npy").stat().st_mtime_ns).encode())
    note, made_of = folder / "made_of.json", {"made_of": digest.hexdigest()}
    files = [file for name in utterances for file in analysis.files(folder / name)]
    if storage.read_json(note) == made_of and all(map(storage.intact, files)):
        return
    note.unlink(missing_ok=True)

    def copied(speaker, name, kind, start=0, end=None):  # of thousands of recordings not all can be open at a time
        return np.array(getattr(analysis.load(features / speaker / name), kind)[start:end])
    linear, mel, hertz = (np.concatenate([copied(source, name, kind, start, end) for name, start, end in pool])
                          for kind in Features._fields)
    spoken = [Features(None, *(copied(target, name, kind) for kind in ("mel", "hertz"))) for name in utterances]
    ranges = [linear_map.moments([analysis.spoken_octaves(values, hp) for values in found])
              for found in ([hertz], [each.hertz for each in spoken])]
    lengths = np.cumsum([end - start for _, start, end in pool])[:-1]
    places = match([part.astype(np.float32) for part in np.split(mel, lengths)],
                   [each.mel.astype(np.float32) for each in spoken], hp)
    for name, each, place in zip(utterances, spoken, places):
        (own, own_range), (its, its_range) = ranges
        octaves = own + (analysis.pitch_contour(each.hertz, hp) - its) * own_range / its_range
        pitch = np.where(each.hertz > 0.0, hp.pitch_middle * 2.0 ** octaves, 0.0).astype(np.float32)
        analysis.save(folder / name, Features(linear[place], mel[place], pitch))
    storage.write_json(note, made_of)
