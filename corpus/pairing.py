"""Find segments of the recordings that belong together: by equal names in both folders, or by sound (unpaired.py)."""
import dataclasses
import pathlib
from collections.abc import Iterator

from common.cli import UserError
from corpus import alignment, analysis, manifest, unpaired
from corpus.manifest import Pair
from hyperparams import HyperParams

import numpy as np
from tqdm import tqdm


def load_mel(data: pathlib.Path, speaker: str, utterance: str) -> np.ndarray:
    """(T, M) float32 in [0, 1]."""
    return analysis.load(data / "features" / speaker / utterance).mel.astype(np.float32)


def load_mels(pair: Pair, data: pathlib.Path, target: str) -> tuple[np.ndarray, np.ndarray]:
    """(S, M) of the source of a pair and (T, M) of its target."""
    return (load_mel(data, pair.source, pair.utterance)[pair.source_start:pair.source_end],
            load_mel(data, target, pair.utterance)[pair.target_start:pair.target_end])


class Recordings:
    """The recordings of a corpus (speaker -> utterance id -> file), their lengths, and why some cannot be used."""

    def __init__(self, corpora: dict, frames: dict, bad: dict, data: pathlib.Path, target: str, hp: HyperParams):
        self.corpora, self.frames, self.bad = corpora, frames, bad
        self.data, self.target, self.hp = data, target, hp
        # For sources without pairs: segments that may be used for training, (utterance, first frame, end)
        self.pools: dict[str, list[tuple[str, int, int]]] = {}

    def share_sentences(self, source: str, heldout: set[str]) -> bool:
        """Whether a source and the target share file names, held-out ones counted only if the source has no others."""
        own, its = self.corpora[source].keys(), self.corpora[self.target].keys()
        return bool(own & its - heldout or own & its and own <= heldout)

    def describe(self, source: str, alike: bool) -> str:
        """A line for the user: how the recordings of a source and the target are paired (`alike`: by name)."""
        own, its = self.corpora[source].keys(), self.corpora[self.target].keys()
        if source == self.target:
            return f"{source}: {len(own)} recordings, each a pair with itself"
        if alike:
            return (f"{source} and {self.target}: {len(own & its)} sentences that both said, of {len(own)} and "
                    f"{len(its)} recordings" + "; with --unpaired all are used, without pairs" * (
                        len(own & its) < min(len(own), len(its))))
        seconds = [sum(n for (name, _), n in self.frames.items() if name == speaker) / self.hp.frames_per_second
                   for speaker in (source, self.target)]
        few = f"; {min(seconds):.0f} s are too little to hold all sounds, a minute is needed, better ten" * (
            min(seconds) < 60.0)
        return f"{source} and {self.target}: no pairs of sentences, sounds that are alike are paired{few}"

    def seconds(self, n_frames: int) -> float:
        return round(n_frames / self.hp.frames_per_second, 3)

    def pairs(self, source: str) -> Iterator[Pair]:
        """Yield the Pairs of a source who said the same sentences; a Pair that cannot be used holds the reason."""
        everything = sorted({*self.corpora[source], *self.corpora[self.target]})
        for utterance in tqdm(everything, f"pairs of {source}", disable=None, delay=2.0):
            missing = [speaker for speaker in (source, self.target) if utterance not in self.corpora[speaker]]
            if missing:
                yield Pair(utterance, utterance, source, reason=f"no recording by {missing[0]}")
            else:
                yield from self.segments(Pair(utterance, utterance, source), source, self.target)

    def segments(self, pair: Pair, *speakers: str) -> Iterator[Pair]:
        """Yield the pair of recordings by two speakers, or the segments into which long recordings are cut."""
        speaker, other = speakers
        pair.source_file, pair.target_file = (manifest.portable(self.corpora[name][pair.utterance], self.data)
                                              for name in speakers)
        pair.source_end, pair.target_end = lengths = [self.frames[name, pair.utterance] for name in speakers]
        pair.source_seconds, pair.target_seconds = map(self.seconds, lengths)
        pair.reason = self.bad[speaker, pair.utterance] or self.bad[other, pair.utterance]
        if not pair.reason and max(lengths) > self.hp.max_seconds * self.hp.frames_per_second:
            for segment in self.cut_long_pair(pair, [load_mel(self.data, name, pair.utterance) for name in speakers]):
                yield segment if speaker != other else dataclasses.replace(
                    segment, source_start=segment.target_start, source_end=segment.target_end,
                    source_seconds=segment.target_seconds)
        else:
            pair.reason = pair.reason or length_fault(pair, self.hp)
            yield pair

    def cut_long_pair(self, pair: Pair, mels: list[np.ndarray]) -> Iterator[Pair]:
        """Yield the segments of a long pair of recordings with mel spectrograms `mels`, each as a Pair."""
        for s0, s1, t0, t1 in alignment.cut_long(*mels, self.hp):
            # Named by its frames, because with another `max_seconds` the cuts and DTW paths differ
            segment = dataclasses.replace(pair, name=f"{pair.utterance}.{t0:06d}-{t1:06d}", source_start=s0,
                                          source_end=s1, target_start=t0, target_end=t1,
                                          source_seconds=self.seconds(s1 - s0), target_seconds=self.seconds(t1 - t0))
            segment.reason = length_fault(segment, self.hp)
            yield segment

    def unpaired(self, source: str, heldout: set[str]) -> Iterator[Pair]:
        """Yield the Pairs of a source who said other sentences than the target: for training, the target's recordings
        put together from the source's sounds (spliced); for the test, the source's own. Raises UserError."""
        own = [segment for utterance in sorted(self.corpora[source])
               for segment in self.segments(Pair(utterance, utterance, source), source, source)]
        frames = {utterance: n for (speaker, utterance), n in self.frames.items() if speaker == source}
        manifest.assign_splits([pair for pair in own if not pair.reason], frames, self.hp,
                               heldout & self.corpora[source].keys())
        self.pools[source] = [(pair.utterance, pair.source_start, pair.source_end) for pair in own
                              if not pair.reason and pair.split != "test"]
        if not self.pools[source]:
            raise UserError(f"no recording of {source} is left to learn from: record more")
        for pair in own:
            partner = pair.utterance in heldout and pair.utterance in self.corpora[self.target]
            if pair.split == "test" and partner and pair.name == pair.utterance:
                yield from self.segments(Pair(pair.name, pair.utterance, source, "test"), source, self.target)
            elif pair.split == "test" or pair.reason:
                yield dataclasses.replace(pair, target_file="", target_start=0, target_end=0, target_seconds=0.0)
        for utterance in sorted(self.corpora[self.target].keys() - heldout):
            for pair in self.segments(Pair(utterance, utterance, source, spliced=1), self.target, self.target):
                yield dataclasses.replace(pair, name=f"{pair.name}.spliced", source_file="")

    def splice(self, source: str, pairs: list[Pair]) -> None:
        """Write the features of those pairs of a source that are spliced."""
        utterances = sorted({pair.utterance for pair in pairs if pair.source == source and pair.spliced})
        unpaired.write(self.data / "features", source, self.pools[source], self.target, utterances, self.hp)


def length_fault(pair: Pair, hp: HyperParams) -> str:
    """The reason why the durations of a pair are not acceptable, or an empty text."""
    short, long = sorted((pair.source_seconds, pair.target_seconds))
    if short < hp.min_seconds:
        return f"shorter than {hp.min_seconds} s"
    if long > hp.max_seconds:
        return f"longer than {hp.max_seconds} s without a pause that matches in both speakers"
    if long > hp.max_ratio * short:
        return f"durations differ more than {hp.max_ratio} times"
    return ""
