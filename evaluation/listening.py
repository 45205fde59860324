"""Estimates of what listeners would say: which words they understand, and how natural the speech sounds.

Whisper (Radford et al. 2022) transcribes, and the words that differ are counted. DNSMOS (Reddy et al. 2021 and 2022)
estimates opinions from 1 to 5; it was trained on noisy and enhanced speech, so compare its scores with those of natural
recordings and copies. Both need `pip install -r requirements/asr.txt`; libraries are imported by the functions that use
them, because importing inflect takes seconds.
"""
import functools
import importlib.util
import json
import pathlib
import re
import unicodedata
from typing import NamedTuple

import numpy as np
import soxr

from common import cli, storage
from common.cli import UserError
from corpus import manifest
from hyperparams import HyperParams

LIBRARIES = ("faster_whisper", "jiwer", "inflect")
SAMPLE_RATE = 16000  # Hz, for all Whisper models and for DNSMOS
NUMBER = re.compile(r"[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:st|nd|rd|th)?\b|[0-9]+")
YEAR = re.compile(r"1[1-9][1-9][0-9]")  # read in pairs; years such as 1900 to 1909 are not read in one agreed way
ARCTIC_LINE = re.compile(r'\(\s*(\S+)\s+"(.*)"\s*\)')
MOS_WINDOW = 144160  # samples (9.01 s) that DNSMOS scores at a time
MOS_SCORES = {"DNSMOS OVRL": "ovrl_mos", "DNSMOS P.808": "p808_mos"}


def asr_available() -> bool:
    """Whether the libraries that count words are installed."""
    return all(importlib.util.find_spec(name) for name in LIBRARIES)


class Recogniser:
    """Transcribes English recordings; several threads may use it at the same time."""

    def __init__(self, model: str, hp: HyperParams):
        """Load `model`: a folder, or a name that faster-whisper knows and downloads; raises UserError."""
        from faster_whisper import WhisperModel
        self.hp = hp
        try:
            # Sentences are short, so one core for each sentence is faster than all cores for one sentence
            self.model = WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=1,
                                      num_workers=cli.cores())
        except Exception as error:  # a failed download raises exceptions of the libraries that faster-whisper uses
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"--asr {storage.printable(model)} cannot be loaded ({reason}); give a name such as "
                            "small.en to download, or a folder with the model.bin of a converted model") from error

    def __call__(self, wav: np.ndarray) -> str:
        """Transcribe a recording (samples,)."""
        wav = soxr.resample(np.asarray(wav, np.float32), self.hp.sample_rate, SAMPLE_RATE)
        segments, _ = self.model.transcribe(wav, language="en", beam_size=5, temperature=0.0, without_timestamps=True,
                                            condition_on_previous_text=False)
        return " ".join(segment.text.strip() for segment in segments)


@functools.lru_cache(maxsize=1)
def number_speller():
    import inflect
    return inflect.engine()


def spell_number(match: re.Match) -> str:
    """Write a number in digits out in the words in which it is read."""
    pairs = 2 if YEAR.fullmatch(match[0]) else 0
    return f" {number_speller().number_to_words(match[0].replace(',', ''), andword='', group=pairs)} "


def normalise_text(text: str) -> str:
    """The words of a text in the form in which they are compared: lower case, numbers written out, hyphens replaced by
    spaces, no punctuation except apostrophes within words."""
    text = unicodedata.normalize("NFKC", text).lower()
    for written, read in (("\u2019", "'"), ("&", " and "), ("per cent", "percent"), ("%", " percent ")):
        text = text.replace(written, read)
    text = re.sub(r"[^\w']|_", " ", NUMBER.sub(spell_number, text))
    return " ".join(word for word in (word.strip("'") for word in text.split()) if word)


class Comparison(NamedTuple):
    """Comparison of heard words with a reference; edits are substitutions, deletions and insertions."""
    word_edits: int
    n_words: int             # of the reference
    character_edits: int
    n_characters: int        # of the reference, spaces between words included
    alignment: list[tuple[str, str, str]]  # equal, substitute, delete or insert; words of the reference; words heard


def compare(reference: str, hypothesis: str) -> Comparison:
    """Align two texts with the fewest edits (Levenshtein), once by words and once by characters."""
    import jiwer
    reference, hypothesis = normalise_text(reference), normalise_text(hypothesis)
    by_words = jiwer.process_words(reference, hypothesis)
    by_characters = jiwer.process_characters(reference, hypothesis)
    true, found = by_words.references[0], by_words.hypotheses[0]
    edits = [each.substitutions + each.deletions + each.insertions for each in (by_words, by_characters)]
    return Comparison(edits[0], len(true), edits[1], len(reference), [
        (chunk.type, " ".join(true[chunk.ref_start_idx:chunk.ref_end_idx]),
         " ".join(found[chunk.hyp_start_idx:chunk.hyp_end_idx])) for chunk in by_words.alignments[0]])


def error_rates(compared: list[Comparison]) -> dict[str, float]:
    """Word and character error rate in per cent: all edits divided by the number of words, or characters, in all
    references (NaN if there are none). A rate can exceed 100, because inserted words count, too."""
    sums = np.sum([each[:4] for each in compared], axis=0)
    return {name: float(100.0 * edits / total) if total else np.nan
            for name, edits, total in (("WER %", *sums[:2]), ("CER %", *sums[2:]))}


def read_transcripts(path: pathlib.Path) -> dict[str, str]:
    """Read the text of each utterance id: lines `( id "text" )` of CMU Arctic, lines `id|text` of LJSpeech, whose last
    column is the normalised text, or a JSON object. Raises UserError."""
    text, name = manifest.read_text(path), storage.printable(path)
    found: dict[str, str] = {}
    if text.lstrip()[:1] in ("{", "["):
        try:
            entries = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{name}, line {error.lineno}: is no JSON ({error.msg}); correct this line") from None
        if not isinstance(entries, dict) or not all(isinstance(text, str) for text in entries.values()):
            raise UserError(f'{name}: must be one JSON object of texts, {{"id": "what is said", ...}}')
        lines = [(f"{name}, {key!r}", key, text) for key, text in entries.items()]
    else:
        lines = [(f"{name}, line {number}", *split_line(line)) for number, line in enumerate(text.splitlines(), 1)
                 if line.strip()]
    for place, key, text in lines:
        key = storage.file_name(key.strip())
        if not key or not text.strip():
            raise UserError(f'{place}: holds no id with a text; write ( id "text" ), id|text or a JSON object')
        if key in found:
            raise UserError(f"{place}: {key!r} is there for the second time; remove one of the two")
        found[key] = text.strip()
    if not found:
        raise UserError(f"{name}: is empty; give a file that says what is said in each recording")
    return found


def split_line(line: str) -> tuple[str, str]:
    """Id and text of a line; both are empty if the line has another form."""
    arctic = ARCTIC_LINE.fullmatch(line.strip())
    if arctic:
        return arctic[1], arctic[2].replace('\\"', '"')
    columns = line.split("|")
    return (columns[0], columns[-1]) if len(columns) > 1 else ("", "")


def mos_available() -> bool:
    """Whether the libraries that estimate opinion scores are installed."""
    return all(importlib.util.find_spec(name) for name in ("speechmos", "librosa"))


def estimate_mos(wav: np.ndarray, hp: HyperParams) -> dict[str, float]:
    """Scores of a recording (samples,): overall quality (ITU-T P.835) and quality (P.808); NaN if it is empty. A short
    one is repeated until it fills a window; speechmos would score it at every second, with the same means."""
    from speechmos import dnsmos
    wav = soxr.resample(np.asarray(wav, np.float32), hp.sample_rate, SAMPLE_RATE)
    if not len(wav):
        return dict.fromkeys(MOS_SCORES, np.nan)
    found = dnsmos.run(np.resize(wav / max(1.0, np.abs(wav).max()), max(len(wav), MOS_WINDOW)), SAMPLE_RATE)
    return {name: float(found[key]) for name, key in MOS_SCORES.items()}
