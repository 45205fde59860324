"""Commands that are killed or run out of disk space keep their complete files and do not repeat completed work."""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import eval as eval_script
import prepro
import train
from backend import checkpoints
from common import cli, storage
from common.cli import UserError
from conftest import contents, full_disk, leftovers, words, write
from evaluation import figures
from training.run_folder import read_scalars

import numpy as np
import pytest
import soundfile
from test_faults import count_steps
from test_training import HP, weight_in

ROOT = pathlib.Path(prepro.__file__).resolve().parent
# Runs a script's main function in forks, which need not import everything again. Each fork is killed when it has made
# as many files, including temporary ones, as the next number says; the last fork may end by itself.
KILLER = """
import contextlib, importlib, json, os, pathlib, signal, sys, time
from common.cli import UserError
script, moments, out, arguments = sys.argv[1], json.loads(sys.argv[2]), pathlib.Path(sys.argv[3]), sys.argv[4:]
module = importlib.import_module(script)
if script == "eval":  # one recording after the other, so that some are finished and others not begun
    from common import cli
    cli.cores = lambda: 1
if script == "prepro":
    module.workers = lambda: contextlib.nullcontext(lambda function, items, title: [function(*item) for item in items])
if script == "train":
    import pytest, test_faults
    test_faults.count_steps(pytest.MonkeyPatch(), scores={4: 1.0, 8: 2.0})
def files():  # os.walk, unlike rglob, does not mind folders that vanish meanwhile
    return [pathlib.Path(folder, name) for folder, _, names in os.walk(out) for name in names]
for moment in moments:
    before = {path: path.stat().st_mtime_ns for path in files()}
    child = os.fork()
    if not child:
        os._exit(module.main(arguments))
    seen = set()
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        for path in files():
            if path not in before:
                seen.add(path)
        if len(seen) >= moment:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.0005)
    if ended[1]:
        sys.exit(f"a fork that was not killed ended with status {ended[1]}")
    whole = {str(path): path.stat().st_mtime_ns for path in files()}
    print(json.dumps(whole), flush=True)
"""


def kill(script: str, moments: list[int], out: pathlib.Path, *arguments) -> list[dict[str, int]]:
    """Kill a script repeatedly; returns the files that existed after each kill and when they were written."""
    result = subprocess.run([sys.executable, "-c", KILLER, script, json.dumps(moments), str(out),
                             *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300,
                            env=os.environ | {"PYTHONPATH": str(ROOT / "tests")})
    assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


def done(folder: pathlib.Path, ending: str) -> dict[pathlib.Path, int]:
    """The times when the files with an ending were written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob(f"*{ending}") if not path.name.startswith(".")}


@pytest.fixture
def speakers(tmp_path):
    """Four short sentences by each of two speakers, older than all files made from them."""
    for number, name in enumerate("abcd"):
        for speaker, pitch in (("anna", 180.0), ("bert", 110.0)):
            path = write(tmp_path / speaker / f"{name}.wav", words(number, pitch=pitch))
            os.utime(path, (1.6e9, 1.6e9))
    return tmp_path


def run(capsys, main, *arguments) -> tuple[int, str]:
    """Run a command line; returns its exit status and what it printed to stderr."""
    status = main(list(map(str, arguments)))
    return status, capsys.readouterr().err


def check_whole(out: pathlib.Path) -> None:
    """Check that no file is truncated under its final name and that all recorded outputs exist."""
    for path in out.rglob("*.wav"):
        if not path.name.startswith("."):
            assert len(soundfile.read(path)[0]) == soundfile.info(path).frames == (path.stat().st_size - 44) // 2
    for path in out.rglob("*.png"):
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")


@pytest.mark.slow
@pytest.mark.usefixtures("loaded")
def test_killed_evaluation_resumes_without_repeating_work(speakers, run_folder, capsys):
    out, arguments = speakers / "out", [speakers / "anna", "--logdir", run_folder, "--out"]
    states = kill("eval", [1, 7], out, *arguments, out)
    check_whole(out)
    finished = [name for name in "abcd" if (out / f"{name}.wav").exists()]
    assert len(states) == 2 and 1 <= len(finished) < 4 and not (out / "index.html").exists()
    before = {out / file: (out / file).stat().st_mtime_ns for name in finished for file in eval_script.outputs(name)}
    for folder in (out, speakers / "whole"):
        assert run(capsys, eval_script.main, *arguments, folder)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before  # completed work is not repeated
    whole = contents(speakers / "whole")
    assert {path: content for path, content in contents(out).items() if path.endswith(("wav", "png"))} == {
        path: content for path, content in whole.items() if path.endswith(("wav", "png"))}
    assert contents(out).keys() == whole.keys() and leftovers(speakers) == []


@pytest.fixture
def again(speakers, capsys):
    """A function that converts recordings, all of anna's if none are named, and returns the names of the conversions
    that were written and of those on the page."""
    def converted(*more, status=0) -> tuple[str, str]:
        out = speakers / "out"
        before = done(out, ".wav")
        found, _ = run(capsys, eval_script.main, *(more or [speakers / "anna"]), "--logdir", speakers, "--out", out)
        assert found == status
        written = [pathlib.Path(path).name.removesuffix(".wav") for path, when in done(out, ".wav").items()
                   if when != before.get(path) and ".source" not in str(path)]
        shown = json.loads((out / "metrics.json").read_text())["utterances"] if (out / "metrics.json").exists() else []
        return "".join(sorted(written)), "".join(shown)
    return converted


@pytest.mark.usefixtures("loaded")
def test_only_what_has_changed_is_converted_again(speakers, converter, again, monkeypatch):
    out = speakers / "out"
    monkeypatch.setattr(figures, "plot_conversion", lambda path, *content: path.write_bytes(b"a picture"))
    assert again() == ("abcd", "abcd")
    whole = contents(out)
    assert again() == ("", "abcd") and contents(out) == whole
    assert again(speakers / "anna", "--overwrite") == ("abcd", "abcd") and contents(out) == whole
    assert [again(speakers / "anna", "--keep-intervals"), again()] == [("abcd", "abcd")] * 2
    write(speakers / "anna" / "b.wav", words(17))
    os.utime(speakers / "anna" / "b.wav", (1.5e9, 1.5e9))  # another recording, although an older one
    assert again() == ("b", "abcd")
    (out / "c.png").unlink()
    (out / "d.wav").unlink()
    (out / "a.wav").write_bytes((out / "a.wav").read_bytes()[:-100])
    assert again() == ("acd", "abcd") and again() == ("", "abcd")
    monkeypatch.setattr(converter, "hp", converter.hp.replace(griffin_lim_iters=3))
    assert again() == ("abcd", "abcd") and again() == ("", "abcd")
    weight = converter.generator.weights[0]
    before = weight.numpy()
    for values in (before + 0.01, before):
        weight.assign(values)
        assert again() == ("abcd", "abcd") and again() == ("", "abcd")
    base = converter.base
    monkeypatch.setattr(converter, "base", base._replace(modulation=1.1 * base.modulation))
    assert again()[0] == "abcd"


@pytest.mark.usefixtures("loaded")
def test_results_page_includes_earlier_conversions_by_the_same_model(speakers, converter, again, monkeypatch, capsys):
    a, b, other = speakers / "anna" / "a.wav", speakers / "anna" / "b.wav", speakers / "bert" / "a.wav"
    assert [again(b), again(a), again(a)] == [("b", "b"), ("a", "ab"), ("", "ab")]
    stops = json.loads((speakers / "out" / "metrics.json").read_text())["utterances"]
    assert all(isinstance(row["stops by itself"], bool) for row in stops.values())  # also of those converted before
    assert again(other) == ("a", "ab")  # it takes the place of the other recording of this name
    a.write_bytes(b"")  # its earlier conversion is no longer shown
    assert again(a, status=1) == ("", "b")
    monkeypatch.setattr(converter, "hp", converter.hp.replace(griffin_lim_iters=3))
    assert again(other) == ("a", "a") and again(b) == ("b", "ba")


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("noted, mine", [("a", "a"), ("Take", "take")])
def test_a_file_that_took_the_place_of_a_conversion_is_not_replaced(speakers, capsys, noted, mine):
    """Names told what was a conversion, not contents."""
    write(speakers / "other" / f"{noted}.wav", words(3))
    assert eval_script.main([str(speakers / "other"), "--logdir", str(speakers), "--out", str(speakers / "out")]) == 0
    for file in eval_script.outputs(noted):
        (speakers / "out" / file).unlink()
    own = write(speakers / "out" / f"{mine}.wav", words(5)).read_bytes()
    write(speakers / "more" / f"{mine}.wav", words(6))
    capsys.readouterr()
    assert eval_script.main([str(speakers / "more"), "--logdir", str(speakers), "--out", str(speakers / "out")]) == 1
    assert f"{mine}.wav is there and would be replaced" in capsys.readouterr().err
    assert (speakers / "out" / f"{mine}.wav").read_bytes() == own


@pytest.mark.usefixtures("loaded")
def test_names_that_differ_in_capitals_do_not_block_each_other(speakers, again):
    write(speakers / "x" / "Foo.wav", words(3)), write(speakers / "y" / "foo.wav", words(4))
    if (speakers / "x" / "foo.wav").exists():
        pytest.skip("capitals make no other file here")
    assert [again(speakers / folder)[0] for folder in "xyxy"] == ["Foo", "foo", "", ""]


@pytest.mark.usefixtures("loaded")
def test_the_source_of_an_interrupted_conversion_is_no_recording(speakers, again):
    again()
    (speakers / "out" / "a.wav").unlink()
    mine = write(speakers / "out" / "mine.wav", words(9))
    assert eval_script.find_recordings([speakers / "out"]) == [mine]


@pytest.mark.usefixtures("loaded")
def test_measures_and_warnings_of_an_interrupted_command_are_kept(speakers, again, monkeypatch):
    """They were written at the end alone, and the next command leaves out what is converted."""
    write(speakers / "anna" / "a.wav", np.clip(4.0 * words(1), -0.5, 0.5))  # too loud
    again()
    whole = json.loads((speakers / "out" / "metrics.json").read_text())
    assert "too loud" in whole["warnings"]["a"][0]
    shutil.rmtree(speakers / "out")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(eval_script, "write_results", lambda *_: 1 / 0)
        again()
    assert again() == ("", "abcd") and json.loads((speakers / "out" / "metrics.json").read_text())["warnings"] == (
        whole["warnings"])
    assert json.loads((speakers / "out" / "metrics.json").read_text())["utterances"] == whole["utterances"]


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("name", ["b.wav", "b.source.wav", "b.png", "index.html", "metrics.json"])
def test_files_of_somebody_else_are_not_replaced(speakers, again, name):
    """A recording that lay beside the one that was converted became its conversion."""
    (speakers / "out").mkdir()
    (speakers / "out" / name).write_text("mine")
    assert eval_script.main([str(speakers / "anna"), "--logdir", str(speakers), "--out", str(speakers / "out")]) == 1
    assert (speakers / "out" / name).read_text() == "mine"
    assert {path.name for path in (speakers / "out").iterdir()} == {name, ".lock"}
    if name[0] == "b":
        assert again(speakers / "anna" / "a.wav") == ("a", "a") and again(status=1)[0] == ""


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("content", ["[1, 2]", '{"x": {"y": 1}}', "mine"])
def test_a_note_of_somebody_else_is_not_replaced(speakers, again, content):
    (speakers / "out").mkdir()
    (speakers / "out" / "conversions.json").write_text(content)
    assert again(status=1) == ("", "") and (speakers / "out" / "conversions.json").read_text() == content


@pytest.mark.usefixtures("loaded")
def test_a_name_that_was_not_converted_is_nobodys(speakers, again, capsys):
    """A recording was refused, and what its owner put there in its place was replaced."""
    (speakers / "anna" / "d.wav").write_bytes(b"")
    assert again(status=1) == ("abc", "abc")
    write(speakers / "out" / "d.wav", words(3))
    mine = (speakers / "out" / "d.wav").read_bytes()
    write(speakers / "anna" / "d.wav", words(4))
    assert again(status=1)[0] == "" and (speakers / "out" / "d.wav").read_bytes() == mine
    (speakers / "out" / "d.wav").unlink()
    for name in eval_script.outputs("a"):
        (speakers / "out" / name).unlink()
    assert again(speakers / "anna" / "d.wav") == ("d", "dbc")
    assert "another model" not in capsys.readouterr().err


@pytest.mark.usefixtures("loaded")
def test_a_copied_folder_tells_which_model_made_what(speakers, converter, again, monkeypatch, capsys):
    """By their times, what was copied after the note of the model counted as made by it."""
    out = speakers / "out"
    assert again() == ("abcd", "abcd")
    with monkeypatch.context() as patch:
        patch.setattr(converter, "hp", converter.hp.replace(griffin_lim_iters=3))
        code, said = run(capsys, eval_script.main, speakers / "anna" / "b.wav", "--logdir", speakers, "--out", out)
        assert code == 0 and "other settings are replaced, 1 of them" in said
    for number, path in enumerate(sorted(out.iterdir())):
        os.utime(path, (1.7e9 + number, 1.7e9 + number))
    assert again() == ("b", "abcd") and again() == ("", "abcd")


@pytest.mark.usefixtures("loaded")
def test_interrupted_conversion_is_not_treated_as_complete(speakers, again, monkeypatch):
    assert again() == ("abcd", "abcd")
    write(speakers / "anna" / "a.wav", words(17))
    with monkeypatch.context() as patch:
        def stop(*_):
            raise KeyboardInterrupt
        patch.setattr(eval_script.figures, "plot_conversion", stop)
        assert again(status=130)[0] == ""
    assert not (speakers / "out" / "a.wav").exists()
    assert again() == ("a", "abcd")


@pytest.mark.slow
def test_preparation_killed_repeatedly_gives_bit_identical_results(speakers):
    arguments = ["--source", speakers / "anna", "--target", speakers / "bert", "--data"]
    states = kill("prepro", [1, 5, 9, 7, 99], speakers / "data", *arguments, speakers / "data")
    # Written last of each recording's files; without it, they are made again
    features = [{path: when for path, when in state.items() if "/features/" in path and path.endswith(".json")}
                for state in states]
    assert len(features[0]) < len(features[2]) < len(features[-1]) == 8
    for earlier, later in zip(features, features[1:]):
        assert earlier.items() <= later.items()
    assert not any(str(speakers / "data" / "manifest.csv") in state for state in states[:-1])
    kill("prepro", [99], speakers / "whole", *arguments, speakers / "whole")
    assert contents(speakers / "data") == contents(speakers / "whole") and leftovers(speakers) == []


@pytest.mark.usefixtures("serial")
def test_truncated_features_are_computed_again(speakers, capsys):
    """A power failure can leave files that have their final names but are empty or short."""
    arguments = ["--source", speakers / "anna", "--target", speakers / "bert", "--data", speakers / "data"]
    assert run(capsys, prepro.main, *arguments)[0] == 0
    whole = contents(speakers / "data")
    for name, length in (("features/anna/a.mel.npy", 0), ("features/anna/b.linear.npy", 500), ("paths/anna/d.npy", 200),
                         ("features/bert/c.pitch.npy", 20)):
        path = speakers / "data" / name
        times = path.stat()
        path.write_bytes(whole[name][:length])
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run(capsys, prepro.main, *arguments)[0] == 0 and contents(speakers / "data") == whole


@pytest.mark.usefixtures("serial")
@pytest.mark.parametrize("failing", ["compute_features", "align", "write_outputs"])
def test_interrupted_preparation_leaves_no_outdated_manifest(speakers, monkeypatch, capsys, failing):
    arguments = ["--source", speakers / "anna", "--target", speakers / "bert", "--data", speakers / "data"]
    assert run(capsys, prepro.main, *arguments)[0] == 0 and (speakers / "data" / "manifest.csv").exists()

    def stop(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr(prepro, failing, stop)
    assert run(capsys, prepro.main, *arguments)[0] == 130 and not (speakers / "data" / "manifest.csv").exists()


@pytest.mark.slow
def test_training_killed_repeatedly_ends_like_an_uninterrupted_run(tmp_path, monkeypatch):
    """Some of the kills come while a checkpoint is written."""
    count_steps(monkeypatch, scores={4: 1.0, 8: 2.0})
    flags = ["--data", tmp_path, *(f"--set={name}={getattr(HP, name)}" for name in (
        "postnet_steps", "decoder_steps", "save_steps", "log_steps")), "--preset=default", "--logdir"]
    kill("train", [1, 4, 6, 9, 7, 11, 10 ** 6], tmp_path / "killed", *flags, tmp_path / "killed")
    assert train.main([*map(str, flags), str(tmp_path / "whole")]) == 0
    for folder in (tmp_path / "killed", tmp_path / "whole"):
        newest, best = (checkpoints.checkpoints_in(folder / name)[0] for name in ("checkpoints", "checkpoints/best"))
        assert newest.endswith("step-12.npz") and best.endswith("best-4.npz")
        assert (weight_in(newest), weight_in(best)) == (12.0, 4.0)
    for kind, tag in (("train", "loss/minimised"), ("validation", "free_running/score")):
        killed, whole = (read_scalars(tmp_path / name / kind, tag) for name in ("killed", "whole"))
        assert killed == whole and whole[0]
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_worker_processes_end_with_their_parent(tmp_path):
    """Otherwise they would wait forever and write into the files of the next run."""
    code = ("import os, prepro, shutil; prepro.cli.cores = lambda: 1\n"
            "with prepro.workers() as parallel:\n"
            f"    parallel(os.system, [('echo $PPID > {tmp_path}/pid; sleep 100',)], '')")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    pid = tmp_path / "pid"
    while not (pid.exists() and pid.read_text().strip()):
        assert process.poll() is None
        time.sleep(0.01)
    worker = int(pid.read_text())
    process.kill()
    process.wait()
    for _ in range(200):
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, 0)
            state = pathlib.Path(f"/proc/{worker}/stat")
            if not state.exists() or state.read_text().split()[2] != "Z":
                time.sleep(0.05)
                continue
        return
    pytest.fail("a worker goes on")


@pytest.mark.slow
def test_remaining_work_is_not_started_after_an_error():
    """Otherwise a full disk would be reported only after hours of other work."""
    code = ("import os, prepro, time; prepro.cli.cores = lambda: 1\n"
            "with prepro.workers() as parallel:\n"
            "    parallel(time.sleep, [(-1,)] + [(2,)] * 60, '')")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "must be non-negative" in done.stderr


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("room, name", [(20_000, "a.source.wav"), (45_000, "a.png"), (100, "conversions.json")])
def test_evaluation_on_a_full_disk(speakers, capsys, room, name):
    out = speakers / "out"
    arguments = [speakers / "anna", "--logdir", speakers, "--out", out]
    assert run(capsys, eval_script.main, *arguments)[0] == 0
    before = contents(out)
    write(speakers / "anna" / "a.wav", words(7))
    (speakers / "anna" / "0.wav").write_bytes(b"")
    with full_disk(room):
        status, error = run(capsys, eval_script.main, *arguments)
    assert status == 1 and "Traceback" not in error
    assert f"eval.py: {out / name}: cannot be written (File too large); free some space" in error
    assert "0.wav: is empty" in error
    after = contents(out)
    assert ("a.wav" in after) == (name == "conversions.json")
    assert {file for file in after if after[file] != before[file]} <= {"a.source.wav", "a.png", "conversions.json"}
    assert leftovers(speakers) == []
    (speakers / "anna" / "0.wav").unlink()
    assert run(capsys, eval_script.main, *arguments)[0] == 0
    check_whole(out)


@pytest.mark.usefixtures("serial")
@pytest.mark.parametrize("room, name", [(1_000, "anna/a.linear.npy"), (80_000, "anna/a.linear.npy")])
def test_preparation_on_a_full_disk(speakers, capsys, room, name):
    arguments = ["--source", speakers / "anna", "--target", speakers / "bert", "--data"]
    assert run(capsys, prepro.main, *arguments, speakers / "whole")[0] == 0
    (speakers / "data").mkdir()
    (speakers / "data" / "prepro.json").write_bytes((speakers / "whole" / "prepro.json").read_bytes())
    with full_disk(room):
        status, error = run(capsys, prepro.main, *arguments, speakers / "data")
    assert status == 1 and "Traceback" not in error and leftovers(speakers) == []
    assert f"prepro.py: {speakers / 'data' / 'features' / name}: cannot be written" in error and "free some" in error
    assert run(capsys, prepro.main, *arguments, speakers / "data")[0] == 0
    assert contents(speakers / "data") == contents(speakers / "whole")


@pytest.mark.usefixtures("loaded", "serial")
def test_two_commands_cannot_write_into_the_same_folder(speakers, capsys):
    source = speakers / "anna"
    for main, arguments in ((eval_script.main, [source, "--logdir", speakers, "--out", speakers / "results"]),
                            (prepro.main, ["--source", source, "--target", speakers / "bert", "--data",
                                           speakers / "results"])):
        with cli.locked(speakers / "results", arguments[-2]):
            status, error = run(capsys, main, *arguments)
        assert status == 1 and f"results is in use by process {os.getpid()} on" in error
        assert f"choose another {arguments[-2]}, or wait until that ends" in error
        assert [path.name for path in (speakers / "results").iterdir()] == [".lock"]
    assert run(capsys, main, *arguments)[0] == 0


@pytest.mark.usefixtures("loaded", "serial")
def test_read_only_output_folders_are_reported(speakers, capsys, monkeypatch):
    def read_only(path, mode=0o777, **_):
        raise PermissionError(30, "Read-only file system", str(path))
    for main, arguments in ((eval_script.main, [speakers / "anna", "--logdir", speakers, "--out", speakers / "locked"]),
                            (prepro.main, ["--source", speakers / "anna", "--target", speakers / "bert", "--data",
                                           speakers / "locked"])):
        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, "mkdir", read_only)
            status, error = run(capsys, main, *arguments)
        assert status == 1 and "Traceback" not in error and "locked" in error
        assert "cannot be written (Read-only file system): choose another --" in error
        assert not (speakers / "locked").exists()


def test_full_disk_leaves_an_existing_file_unchanged(tmp_path):
    storage.write_json(tmp_path / "a.json", "before")
    with pytest.raises(UserError, match="a.json: cannot be written .*; free some space"):
        with full_disk(1000):
            storage.write_json(tmp_path / "a.json", "x" * 2000)
    assert json.loads((tmp_path / "a.json").read_text()) == "before" and leftovers(tmp_path) == []
