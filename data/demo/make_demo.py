"""Make the demo corpus: two synthetic voices that read the same sentences.

    sudo apt-get install flite              # only the maker of the corpus needs it
    python data/demo/make_demo.py           # writes rms/, slt/, sentences.csv and heldout.txt beside this file

`flite` speaks with the voices `rms` (male, source) and `slt` (female, target), both built from CMU Arctic speakers.
The sentences come from the small grammar below, in two speaking rates; both voices read a sentence at the same rate.
The held-out sentences are combinations that occur nowhere else, of words that all occur elsewhere.
"""
import csv
import itertools
import pathlib
import random
import subprocess
import tempfile

import numpy as np
import soundfile

HERE = pathlib.Path(__file__).resolve().parent
VOICES = ("rms", "slt")
RATES = (0.85, 1.05)  # flite's duration_stretch: quick and calm
N_SENTENCES, N_HELDOUT, SEED = 248, 24, 2017
MIN_SECONDS, MAX_SECONDS = 1.0, 3.0

WHO = ["my sister", "the baker", "a young pilot", "our teacher", "the old farmer", "nobody", "the quiet boy",
       "her uncle", "some children", "the queen"]
DID = ["found", "painted", "mapped", "dropped", "bought", "washed", "hid", "counted", "borrowed", "sold"]
HOW_MANY = ["a", "two", "three", "five", "seven", "nine", "many", "those"]
COLOUR = ["red", "yellow", "green", "silver", "brown", "white", "purple", "tiny"]
WHAT = ["boat", "apple", "chair", "jacket", "lamp", "fish", "table", "watch", "pillow", "egg"]
WHERE = ["in the garden", "under the bridge", "near the church", "by the river", "at school", "behind the house",
         "on the train", "outside"]
WHEN = ["today", "last week", "at noon", "before dawn", "in July", "yesterday", "every morning", "once"]
ORDERS = ["{who} {did} {what}", "{when} {who} {did} {what}", "{who} {did} {what} {where}", "{where} {who} {did} {what}",
          "{who} {did} {what} {when}", "{what} for {who}", "{what} {where}", "{where} {what} {when}",
          "{when} {what}, {where}"]


def sentence(rng: random.Random) -> str:
    """Draw one sentence of the grammar."""
    many = rng.choice(HOW_MANY)
    noun = rng.choice(WHAT)
    plural = {"watch": "watches", "fish": "fishes"}.get(noun, noun + "s")
    what = f"{many} {rng.choice(COLOUR)} {noun if many == 'a' else plural}"
    order = rng.choice(ORDERS)
    return order.format(who=rng.choice(WHO), did=rng.choice(DID), what=what, where=rng.choice(WHERE),
                        when=rng.choice(WHEN))


def speak(text: str, voice: str, rate: float) -> tuple[np.ndarray, int]:
    """Let flite read `text`; returns the samples (float, in [-1, 1]) and their rate in Hz."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "speech.wav"
        subprocess.run(["flite", "-voice", voice, "--setf", f"duration_stretch={rate}", "-t", text, "-o", str(path)],
                       check=True)
        return soundfile.read(path)


def hold_out(rows: list[dict], rng: random.Random) -> list[str]:
    """Choose the ids of sentences to hold out so that every word of theirs stays in the others."""
    held = []
    counts: dict[str, int] = {}
    for word in itertools.chain.from_iterable(row["text"].replace(",", "").split() for row in rows):
        counts[word] = counts.get(word, 0) + 1
    for row in rng.sample(rows, len(rows)):
        words = row["text"].replace(",", "").split()
        if len(held) < N_HELDOUT and all(counts[word] - words.count(word) >= 5 for word in words):
            held.append(row["id"])
            for word in words:
                counts[word] -= 1
    return sorted(held)


def main() -> None:
    rng = random.Random(SEED)
    seen: set[str] = set()
    rows: list[dict] = []
    for voice in VOICES:
        (HERE / voice).mkdir(exist_ok=True)
    while len(rows) < N_SENTENCES:
        text, rate = sentence(rng), rng.choice(RATES)
        if text in seen:
            continue
        seen.add(text)
        spoken = {voice: speak(text, voice, rate) for voice in VOICES}
        if not all(MIN_SECONDS <= len(wav) / sr <= MAX_SECONDS for wav, sr in spoken.values()):
            continue
        name = f"demo_{len(rows) + 1:03d}"
        for voice, (wav, sr) in spoken.items():
            soundfile.write(HERE / voice / f"{name}.ogg", wav, sr, format="OGG", subtype="VORBIS",
                            compression_level=0.7)
        rows.append({"id": name, "rate": rate, "text": text})
    with open(HERE / "sentences.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "rate", "text"])
        writer.writeheader()
        writer.writerows(rows)
    (HERE / "heldout.txt").write_text("\n".join(hold_out(rows, rng)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
