"""Make batches from prepared features.

A batch depends only on the seed and the step. So training that resumes at step n gets exactly the batches of an
uninterrupted run, and there is no state to save.
"""
import collections
import concurrent.futures
import csv
import errno
import functools
import itertools
import pathlib
from collections.abc import Iterator

import utils
from common.cli import UserError
from conversion import base
from corpus import augment, manifest
from corpus.analysis import KINDS, Features
from corpus.manifest import Pair
from hyperparams import HyperParams

import numpy as np

POSTNET, PAIRED, ADVERSARIAL = "postnet", "paired", "adversarial"
VOICES_AT_MOST = 8192  # recordings whose measured voice is kept in memory, 3 kB each


@functools.lru_cache(maxsize=64)
def open_array(path: pathlib.Path) -> np.ndarray:
    """Memory-map a .npy file. Opening takes as long as reading a crop, so some files stay open. Raises UserError."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        cure = ("allow more with `ulimit -n 1024`, or close other programs" if getattr(error, "errno", 0) in (
            errno.EMFILE, errno.ENFILE) else "check its permissions, or run prepro.py again with the same flags, which "
            "makes files that are missing or cut off")
        raise UserError(f"{path} cannot be read ({error}): {cure}") from None


class Corpus:
    """The features below `data`, memory-mapped; raises UserError if they are missing. Paired batches need a base, which
    is solved from the training pairs and set by `use_base`."""

    def __init__(self, data: pathlib.Path, hp: HyperParams):
        self.data, self.hp = pathlib.Path(data), hp
        pairs, settings = manifest.read_manifest(self.data), manifest.check_signal(self.data, hp)
        self.target = settings["target"]
        self.has_target_only = manifest.holds_target_only(self.data)
        self.pairs = {(pair.source, pair.name): pair for pair in pairs if pair.split != "dropped"}
        self.train = [pair for pair in self.pairs.values() if pair.split == "train"]
        with manifest.reading(self.data / "slices.csv") as file:
            self.slices = [(self.pairs[row["source"], row["name"]], *(int(row[key]) for key in (
                "target_start", "target_end"))) for row in csv.DictReader(file)]
        self.by_length = sorted(self.train, key=lambda pair: (pair.target_end - pair.target_start, pair.name))
        # Each recording of the target once, for any number of sources
        self.target_pairs = list({(pair.utterance, pair.target_start): pair for pair in self.train}.values())
        # Mel (T, M) and pitch (T, 2) of conversions, for adversarial batches
        self.conversions: list[tuple[np.ndarray, np.ndarray]] = []

    def use_base(self, found: base.Base) -> None:
        """Set the base that maps the sources to the target's voice."""
        def measure(source: str, name: str) -> base.Voice:
            return base.find_voice(found, self.recording(self.pairs[source, name]), self.hp)
        self.base, self._measure = found, functools.lru_cache(VOICES_AT_MOST)(measure)

    def voice(self, pair: Pair) -> base.Voice:
        """What is measured on the source of a pair."""
        return self._measure(pair.source, pair.name)

    def split(self, name: str, source: str | None = None) -> list[Pair]:
        """The pairs of a split in a fixed order, of all sources or of one source, named by its name or its folder.
        Raises UserError if there are none."""
        if self.has_target_only and name == "test":
            raise UserError(f"{self.data} holds the target alone: name recordings to convert")
        pairs = [pair for pair in self.pairs.values() if pair.split == name]
        if source is not None:
            sources = sorted({pair.source for pair in pairs})
            source = next((name for name in (source, *manifest.folder_names(source)) if name in sources), source)
            if pairs and source not in sources:
                raise UserError(f"{self.data} has no held-out sentence of source {source!r}; "
                                f"there are {', '.join(sources)}")
            pairs = [pair for pair in pairs if pair.source == source]
        if not pairs:
            raise UserError(f"{self.data} has no sentence to {'validate' if name == 'val' else name} with: "
                            "look at the reasons in manifest.csv, record more sentences or name others")
        return sorted(pairs, key=lambda pair: (pair.source, pair.name))

    def features(self, speaker: str, utterance: str, kind: str) -> np.ndarray:
        """Memory-mapped features of `kind`: mel or linear (T, bins) float16, or pitch (T,) float32."""
        return open_array(self.data / "features" / speaker / f"{utterance}.{kind}.npy")

    def recording(self, pair: Pair) -> Features:
        """All features of the source of a pair, copied: of thousands of recordings not all can be open at a time."""
        return Features(*(np.array(self.features(pair.speaker, pair.utterance, kind)[pair.source_start:pair.source_end])
                          for kind in KINDS))

    def target_features(self, pair: Pair, kind: str, start: int = 0, end: int | None = None) -> np.ndarray:
        """(T, bins) mel or linear spectrogram of the target of a pair."""
        frames = self.features(self.target, pair.utterance, kind)[pair.target_start:pair.target_end]
        return frames[start:end].astype(np.float32)

    def target_mel(self, pair: Pair, start: int = 0, end: int | None = None) -> np.ndarray:
        """(T, M) the decoder's goal for a pair: the mel of envelopes, or with `harmonics=0` the mel of the linear
        spectrogram, which contains the harmonics."""
        if self.hp.harmonics:
            return self.target_features(pair, "mel", start, end)
        return utils.mel_of_linear(self.target_features(pair, "linear", start, end), self.hp)

    def pitch(self, pair: Pair, start: int = 0, end: int | None = None) -> np.ndarray:
        """(T, 2) octaves and voicing of the target of a pair."""
        return utils.octaves(self.hertz(pair)[start:end], self.hp)

    def hertz(self, pair: Pair) -> np.ndarray:
        """(T,) fundamental frequency of the target of a pair in Hz, 0 where unvoiced."""
        return np.array(self.features(self.target, pair.utterance, "pitch")[pair.target_start:pair.target_end])

    def path(self, pair: Pair) -> np.ndarray:
        """(T,) source position of each target frame, by dynamic time warping."""
        return open_array(self.data / "paths" / pair.source / f"{pair.name}.npy")

    def positions(self, pair: Pair, start: int, steps: int) -> np.ndarray:
        """(Ty + 1,) source position at the start of each decoder step and at the end of the last step. After the end of
        the path, positions advance by 1 for each frame."""
        path = self.path(pair)
        frames = start + np.arange(steps + 1) * self.hp.r
        return path[np.minimum(frames, len(path) - 1)] + np.maximum(frames - len(path) + 1, 0)

    def rng(self, kind: str, step: int, *row: int) -> np.random.Generator:
        return np.random.default_rng([self.hp.seed, {POSTNET: 1, PAIRED: 2, ADVERSARIAL: 3}[kind], step, *row])

    def with_rngs(self, kind: str, step: int, items: list) -> list[tuple]:
        """The items of a batch, each with its own random generator."""
        # Rows are counted from 1, because numpy treats a seed that ends in 0 like the same seed without the 0
        return [(item, self.rng(kind, step, row)) for row, item in enumerate(items, 1)]

    def sample(self, items: list, kind: str, step: int) -> list:
        """The items of batch `step`. Each epoch contains every item once, in a new order."""
        numbers = step * self.hp.batch_size + np.arange(self.hp.batch_size)
        # Epochs are counted down from 2 ** 32, so that none has the random numbers of a step
        orders = {epoch: self.rng(kind, -1 - int(epoch) + 2 ** 32).permutation(len(items))
                  for epoch in set(numbers // len(items))}
        return [items[orders[n // len(items)][n % len(items)]] for n in numbers]

    def postnet_batch(self, step: int) -> dict[str, np.ndarray]:
        """Windows of the target's speech: blurred mel (N, T, M), pitch (N, T, 2), linear (N, T, F), mask (N, T)."""
        windows = []
        for pair, rng in self.with_rngs(POSTNET, step, self.sample(self.target_pairs, POSTNET, step)):
            start, end = self.random_window(pair.target_end - pair.target_start, rng)
            windows.append((augment.blur(self.target_mel(pair, start, end), rng, self.hp),
                            self.pitch(pair, start, end), self.target_features(pair, "linear", start, end)))
        (mel, mask), (pitch, _), (linear, _) = (pad(arrays, self.hp.postnet_window) for arrays in zip(*windows))
        return {"mel": mel, "pitch": pitch, "linear": linear, "mask": mask}

    def random_window(self, length: int, rng: np.random.Generator) -> tuple[int, int]:
        """Start and end of a random window of `postnet_window` frames in `length` frames, or of all frames."""
        start = int(rng.integers(max(1, length - self.hp.postnet_window + 1)))
        return start, min(length, start + self.hp.postnet_window)

    def adversarial_batch(self, step: int) -> dict[str, np.ndarray]:
        """A `postnet_batch` and as many windows of conversions: converted (N, T, M), converted_pitch (N, T, 2),
        converted_mask (N, T)."""
        windows = []
        items = self.sample(self.conversions, ADVERSARIAL, step)
        for (mel, pitch), rng in self.with_rngs(ADVERSARIAL, step, items):
            start, end = self.random_window(len(mel), rng)
            windows.append((mel[start:end], pitch[start:end]))
        (mel, mask), (pitch, _) = (pad(arrays, self.hp.postnet_window) for arrays in zip(*windows))
        return self.postnet_batch(step) | {"converted": mel, "converted_pitch": pitch, "converted_mask": mask}

    def paired_batch(self, step: int) -> dict[str, np.ndarray]:
        """Slices with their counterparts, or whole utterances of similar length; see `assemble`."""
        items = self.with_rngs(PAIRED, step, self.paired_items(step))
        crops = [self.jitter(*item, rng) if len(item) > 1 else self.whole(*item) for item, rng in items]
        return self.assemble(crops, [rng for _, rng in items])

    def paired_items(self, step: int) -> list[tuple]:
        """The items of a paired batch: slices (pair, target start, target end) or whole utterances (pair,)."""
        rng = self.rng(PAIRED, step)
        if rng.random() >= self.hp.whole_utterances:
            return self.sample(self.slices, PAIRED, step)
        # As many frames as in a batch of slices, and utterances of similar length, which need little padding
        first = int(rng.integers(len(self.by_length)))
        budget = self.hp.batch_size * self.hp.slice_max_seconds * self.hp.frames_per_second
        chosen: list[tuple] = []
        for pair in self.by_length[first:first + self.hp.batch_size]:
            if chosen and (pair.target_end - pair.target_start) * (len(chosen) + 1) > budget:
                break
            chosen.append((pair,))
        return chosen

    def batch_names(self, kind: str, step: int) -> list[str]:
        """SPEAKER/NAME of the pairs in batch `step` of a kind. The speaker is the source if `kind` is PAIRED, otherwise
        the target."""
        if kind != PAIRED:
            return [f"{self.target}/{pair.name}" for pair in self.sample(self.target_pairs, POSTNET, step)]
        return [f"{pair.source}/{pair.name}" for pair, *_ in self.paired_items(step)]

    def whole(self, pair: Pair) -> tuple[Pair, int, int, int, int]:
        return pair, 0, pair.target_end - pair.target_start, 0, pair.source_end - pair.source_start

    def jitter(self, pair: Pair, start: int, end: int,
               rng: np.random.Generator) -> tuple[Pair, int, int, int, int]:
        """Move a slice by up to `r` frames and add a random margin to its source: edges must not tell positions."""
        path = self.path(pair)
        shift = int(rng.integers(max(-self.hp.r, -start), min(self.hp.r, len(path) - end) + 1))
        start, end = start + shift, end + shift
        before, after = rng.integers(self.hp.slice_context + 1, size=2)
        source_start = max(0, int(path[start]) - int(before))
        source_end = min(pair.source_end - pair.source_start, int(np.ceil(path[end - 1])) + 1 + int(after))
        return pair, start, end, source_start, source_end

    def assemble(self, crops: list[tuple[Pair, int, int, int, int]],
                 rngs: list[np.random.Generator] | None = None) -> dict[str, np.ndarray]:
        """Make a padded batch of crops (pair, target start, target end, source start, source end), with `rngs` varied
        at random: source (N, S, F), mapped (N, S, M + 2), source_mask (N, S), mel (N, T, M), pitch (N, T, 2), linear
        (N, T, F), mask (N, T), positions (N, Ty + 1); S is a multiple of `encoder_stack`, T = Ty * r."""
        hp = self.hp
        inputs = [self.network_input(pair, s0, s1, rng)
                  for (pair, _, _, s0, s1), rng in zip(crops, rngs or [None] * len(crops))]
        source, source_mask = pad([linear for linear, _ in inputs], hp.encoder_stack)
        mapped, _ = pad([mapped for _, mapped in inputs], hp.encoder_stack)
        mel, mask = pad([self.target_mel(pair, t0, t1) for pair, t0, t1, _, _ in crops], hp.r)
        pitch, _ = pad([self.pitch(pair, t0, t1) for pair, t0, t1, _, _ in crops], hp.r)
        linear, _ = pad([self.target_features(pair, "linear", t0, t1) for pair, t0, t1, _, _ in crops], hp.r)
        positions = np.stack([self.positions(pair, t0, mask.shape[1] // hp.r) - s0 for pair, t0, _, s0, _ in crops])
        return {"source": source, "mapped": mapped, "source_mask": source_mask, "mel": mel, "pitch": pitch,
                "linear": linear, "mask": mask, "positions": positions.astype(np.float32)}

    def network_input(self, pair: Pair, start: int, end: int, rng: np.random.Generator | None) -> tuple:
        """What the networks get of frames `start` to `end` of a source, varied at random if there is an `rng`: input
        (S, F) and mapped source (S, M + 2)."""
        vary = functools.partial(augment.vary, rng=rng, hp=self.hp) if rng else None
        return base.network_input(self.base, self.recording(pair), self.voice(pair), self.hp, slice(start, end), vary)

    def batches(self, kind: str, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches `start` to `stop` - 1 of a kind, prepared ahead of the training step; raises UserError."""
        make = {POSTNET: self.postnet_batch, PAIRED: self.paired_batch, ADVERSARIAL: self.adversarial_batch}[kind]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            coming = (pool.submit(make, step) for step in range(start, stop))
            ahead = collections.deque(itertools.islice(coming, 4))
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(itertools.islice(coming, 1))


def pad(arrays: list[np.ndarray], multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad arrays (T_i, C) with silence to (N, T, C), T a multiple of `multiple`; also returns the mask (N, T)."""
    length = max(len(array) for array in arrays)
    length += -length % multiple
    padded = np.zeros((len(arrays), length, arrays[0].shape[1]), np.float32)
    mask = np.zeros((len(arrays), length), np.float32)
    for i, array in enumerate(arrays):
        padded[i, :len(array)], mask[i, :len(array)] = array, 1.0
    return padded, mask
