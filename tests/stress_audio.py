"""Stress tests with damaged and unusual recordings, killed processes and memory, too long for the test suite.

    python tests/stress_audio.py --files 500 --seed 0      # eval.py and prepro.py on bad and good recordings
    python tests/stress_audio.py --kills 10                # kill both again and again; the result must be the same
    python tests/stress_audio.py --memory 1000             # convert that many files, report how memory grows

All files are made from the seed in a temporary folder, and the model is small and untrained. The script ends with an
AssertionError if a check fails.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import numpy as np
import soundfile

import conftest
import eval as eval_script
import utils
from common import audio_files, storage
from corpus import manifest

ROOT = pathlib.Path(utils.__file__).resolve().parent
ONE_PROCESS = "import os, sys; os.cpu_count = lambda: 1; import {0}; sys.exit({0}.main())"
RATES = (4000, 8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000)
FORMATS = [("wav", "PCM_U8"), ("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "PCM_32"), ("wav", "FLOAT"),
           ("wav", "DOUBLE"), ("wav", "ULAW"), ("flac", "PCM_16"), ("flac", "PCM_24"), ("ogg", "VORBIS"),
           ("aiff", "PCM_16"), ("aiff", "FLOAT"), ("au", "PCM_24"), ("mp3", "MPEG_LAYER_III")]
NAMES = ["two words", "it's", 'a "quote"', "line\nfeed", "\x1b[31mred\x1b[0m", "tab\tand\rreturn", "größe-日本語-🎤",
         "-rf", "--out", "$HOME", "$x$", r"\$y", "100%s %d", "a&b<i>", "#1", "?x=1", "up..", "long" * 62, "wide é" * 30,
         "\u202egnp", "not\udcfftext", "metrics", "index", "`id`", "a;b", "*", "x.source", "x.cost", "x"]


def speech(rng: random.Random, words: int, pitch: float, rate: int) -> np.ndarray:
    """(samples, channels) of 1.2 s, the same for the same `words`; sometimes with an offset or clipped."""
    wav = conftest.words(words, rate, 1.2, pitch)
    wav = np.clip(wav * rng.choice([0.1, 1.0, 1.0, 4.0]) + rng.choice([0.0, 0.0, 0.2]), -1.0, 1.0)
    return np.repeat(wav[:, None], rng.choice([1, 1, 2, 3, 8]), axis=1)


def good(path: pathlib.Path, rng: random.Random, words: int, pitch: float) -> pathlib.Path:
    """Write a recording in one of many formats; returns its path, whose suffix is that of the format."""
    ending, subtype = rng.choice(FORMATS)
    rate = 44100 if ending == "mp3" else rng.choice(RATES)
    wav = speech(rng, words, pitch, rate)
    path = path.with_name(f"{path.name}.{ending}")
    soundfile.write(os.fsencode(path), wav[:, :2] if ending == "mp3" else wav, rate, subtype, format=ending.upper())
    return path


def damaged(path: pathlib.Path, rng: random.Random, words: int, pitch: float) -> None:
    """Write a recording with wrong, missing or additional bytes; it may still be readable."""
    path = good(path, rng, words, pitch)
    content = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        place, length = rng.randrange(rng.choice([64, len(content)])), rng.choice([1, 4, 100, 5000])
        change = rng.choice(["cut", "bytes", "length", "remove", "insert", "zero"])
        if change == "cut":
            del content[max(1, rng.choice([place, len(content) - length])):]
        elif change == "length":
            content[4:8] = rng.choice([bytes(4), b"\xff" * 4, b"\x00\x00\x00\x80", rng.randbytes(4)])
        else:
            content[place:place + (0 if change == "insert" else length)] = {
                "remove": b"", "zero": bytes(length)}.get(change, rng.randbytes(length))
    path.write_bytes(content)


def short(path: pathlib.Path, rng: random.Random, words: int, pitch: float) -> None:
    """Write one to ten samples, which may be too few for the sample rate."""
    wav = conftest.words(words)[1000:1000 + rng.randint(1, 10)]
    soundfile.write(os.fsencode(f"{path}.wav"), wav, rng.choice(RATES), "FLOAT", format="WAV")


def hopeless(path: pathlib.Path, rng: random.Random, words: int, pitch: float) -> None:
    """Write a file that cannot be read or heard."""
    wav, path = conftest.words(words, seconds=1.2), pathlib.Path(f"{path}.wav")
    number = rng.randrange(10)
    if number < 7:
        wav = [wav * 0, wav * 0 + 0.3, wav * 1e-40, wav[:0], wav * 1e36, wav, wav][number]
        if number > 4:
            wav[rng.randrange(len(wav))] = [np.nan, np.inf][number - 5]
        soundfile.write(os.fsencode(path), wav, rng.choice(RATES), rng.choice(["FLOAT", "DOUBLE"]), format="WAV")
    else:
        path.write_bytes([b"", b"no recording\n" * 50, rng.randbytes(5000)][number - 7])


def no_file(path: pathlib.Path, rng: random.Random, words: int, pitch: float) -> None:
    """Make a broken link, a pipe or an unreadable file, named like a recording."""
    path, number = pathlib.Path(f"{path}.wav"), rng.randrange(3 if os.access("/", os.W_OK) else 4)  # root can read all
    if number < 2:
        path.symlink_to(path if number else path.with_name("nowhere"))
    elif number == 2:
        os.mkfifo(path)
    else:
        conftest.write(path, conftest.words(words))
        path.chmod(0)


def make_files(folder: pathlib.Path, count: int, seed: int, pitch: float = 120.0) -> tuple[list, list]:
    """Fill `folder` with recordings and other files; returns those to be converted and those to be refused.

    The names and words are the same for each seed and pitch, so two folders of different seeds are two speakers.
    """
    folder.mkdir(parents=True)
    rng, must, must_not = random.Random(seed), [], []
    for number in range(count):
        path = folder / (NAMES[number] if number < len(NAMES) else f"{number:04d}")
        make = rng.choices([good, damaged, short, hopeless, no_file], [5, 4, 1, 3, 1])[0]
        if number in (1, 3, 4, 18, 20):  # these are good for any seed
            make = good
        before = set(folder.iterdir())
        make(path, rng, number, pitch)
        written = min(set(folder.iterdir()) - before)
        if make is good:
            must.append(written)
        elif make in (hopeless, no_file):
            must_not.append(written)
    (folder / "folder.wav").mkdir()
    (folder / "folder.wav" / "circle.wav").symlink_to(folder)
    return must, must_not


def run(script: str, *arguments, timeout: float = 600.0, cores: bool = False) -> subprocess.CompletedProcess:
    """Run a script with one process or with one for each core; a hang ends it and raises TimeoutExpired."""
    command = [f"{script}.py"] if cores else ["-c", ONE_PROCESS.format(script)]
    return subprocess.run([sys.executable, *command, *map(str, arguments)], cwd=ROOT, timeout=timeout, text=True,
                          capture_output=True, errors="surrogateescape")


def check_words(result: subprocess.CompletedProcess) -> None:
    """Check that the output is readable: it has no traceback and no characters that garble a terminal."""
    assert "Traceback" not in result.stderr, result.stderr
    for line in (result.stdout + result.stderr).replace("\r", "\n").replace("\x1b[A", "").splitlines():
        assert line.isprintable(), repr(line)


def check_eval(folder: pathlib.Path, must: list, must_not: list, logdir: pathlib.Path, out: pathlib.Path) -> dict:
    """Convert a folder and check all results; returns figures."""
    around, began = set(out.parent.iterdir()), time.perf_counter()
    result = run("eval", folder, "--logdir", logdir, "--out", out)
    seconds = time.perf_counter() - began
    check_words(result)
    assert set(out.parent.iterdir()) == around | {out} and conftest.leftovers(out) == []
    refused = [line for line in result.stderr.splitlines() if line.startswith("refused ")]
    everything = audio_files.list_audio(folder)
    names = eval_script.unique_names(everything)
    converted = {os.path.realpath(path) for path, name in zip(everything, names) if (out / f"{name}.wav").exists()}
    assert len(converted) + len(refused) == len(everything) and result.returncode == int(bool(refused)), result.stderr
    assert {os.path.realpath(path) for path in must} <= converted, result.stderr
    for path in must_not:
        assert os.path.realpath(path) not in converted, path
        assert any(line.startswith(f"refused {storage.printable(path)}: ") for line in refused), path
    for path in out.rglob("*.wav"):
        wav, rate = soundfile.read(path)
        assert path.parent == out and rate == 16000 and np.isfinite(wav).all()
    assert len(json.loads((out / "metrics.json").read_text())["utterances"]) == len(converted)
    return {"files": len(everything), "good": len(must), "converted": len(converted), "refused": len(refused),
            "seconds": round(seconds, 1)}


def check_prepro(folder: pathlib.Path, count: int, seed: int) -> dict:
    """Prepare two speakers and check all results; returns figures."""
    sides = [make_files(folder / name, count, seed + n, 110.0 + 50 * n) for n, name in enumerate(("anna", "bert"))]
    began = time.perf_counter()
    result = run("prepro", "--source", folder / "anna", "--target", folder / "bert", "--data", folder / "data")
    seconds = time.perf_counter() - began
    check_words(result)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in folder.iterdir()} == {"anna", "bert", "data"} and not conftest.leftovers(folder)
    pairs = {pair.name: pair for pair in manifest.read_manifest(folder / "data")}
    keys = [[{storage.file_name(path.stem) for path in paths} for paths in side] for side in sides]
    for name in keys[0][0] & keys[1][0]:
        assert not pairs[name].reason or pairs[name].reason.startswith("DTW cost"), pairs[name]
    for name in keys[0][1] | keys[1][1]:
        assert pairs[name].reason, name
    usable = sum(not pair.reason for pair in pairs.values())
    return {"pairs": len(pairs), "usable": usable, "dropped": len(pairs) - usable, "seconds": round(seconds, 1)}


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """The contents of all files below a folder except the lock, which names the process that uses it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != ".lock"}


def done(folder: pathlib.Path, ending: str) -> dict[pathlib.Path, int]:
    """The times when the files with an ending were written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob(f"*{ending}") if not path.name.startswith(".")}


def kill_often(script: str, arguments: list, out: pathlib.Path, ending: str, kills: int, rng: random.Random,
               longest: float) -> int:
    """Kill a script at random moments, then let it finish; returns how many files with `ending` were complete after the
    kills. None of these may be written again."""
    finished: dict[pathlib.Path, int] = {}
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, f"{script}.py", *map(str, arguments)], cwd=ROOT,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = len(done(out, ending))
        while process.poll() is None and len(done(out, ending)) == before:  # importing takes most of the time
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, longest))
        process.kill()
        process.wait()
        time.sleep(0.5)  # its worker processes notice
        now = done(out, ending)
        assert {path: now[path] for path in finished} == finished
        finished = now
    assert run(script, *arguments, cores=True).returncode == 0
    now = done(out, ending)
    assert {path: now[path] for path in finished} == finished
    return len(finished)


def check_kills(folder: pathlib.Path, kills: int, seed: int) -> dict:
    """Kill preparation and conversion at random moments; the final files must equal those of an uninterrupted run."""
    rng, figures = random.Random(seed), {}
    for number in range(20):
        for speaker, pitch in (("anna", 180.0), ("bert", 110.0)):
            conftest.write(folder / speaker / f"{number}.wav", conftest.words(number, seconds=3.0, pitch=pitch))
    logdir = conftest.untrained_run(folder / "run")
    for script, ending, words in (
            ("prepro", ".mel.npy", ["--source", folder / "anna", "--target", folder / "bert", "--data"]),
            ("eval", ".wav", [folder / "anna", "--logdir", logdir, "--out"])):
        whole, out = folder / f"{script} whole", folder / f"{script} killed"
        assert run(script, *words, whole, cores=True).returncode == 0
        figures[f"{script}: done when killed"] = kill_often(script, [*words, out], out, ending, kills, rng, 0.5)
        assert contents(whole) == contents(out)
    return figures


def check_memory(folder: pathlib.Path, files: int) -> dict[str, float]:
    """The memory of this process, in MiB, after several numbers of conversions of a short recording."""
    converter, found = eval_script.load_converter(conftest.untrained_run(folder / "run")), {}
    source = conftest.write(folder / "in.wav", conftest.words(1))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for number in range(1, files + 1):
            eval_script.convert_file(source, str(number), folder / "out", converter, pool, 0)
            if number in (50, 100, 200, 500, files):
                pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
                found[f"MiB after {number}"] = round(pages * os.sysconf("SC_PAGE_SIZE") / 2 ** 20, 1)
    return found


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=0, metavar="N", help="recordings to make for each script")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="how often each script is killed")
    parser.add_argument("--memory", type=int, default=0, metavar="N", help="files to convert in one process")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if args.files:
            must, must_not = make_files(folder / "in", args.files, args.seed)
            hour = conftest.write(folder / "in" / "hour.wav", np.zeros(3600 * 8000, np.float32), 8000, "PCM_U8")
            (folder / "results").mkdir()
            print("eval.py", check_eval(folder / "in", must, [*must_not, hour], conftest.untrained_run(folder / "run"),
                                        folder / "results" / "out"), flush=True)
            print("prepro.py", check_prepro(folder / "speakers", args.files, args.seed), flush=True)
        if args.kills:
            print("killed", check_kills(folder / "killed", args.kills, args.seed), flush=True)
        if args.memory:
            print("memory", check_memory(folder / "memory", args.memory), flush=True)


if __name__ == "__main__":
    main()
