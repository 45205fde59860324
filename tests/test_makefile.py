"""The Makefile calls existing scripts, with flags that they accept and folders that fit together."""
import importlib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import types

import eval as eval_script
import train
import train_gan
from corpus import demo
from training import run_folder

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def called(*arguments: str) -> dict:
    """Return the scripts that a target of the Makefile would call, each with its parsed arguments."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # from `make test`
    printed = subprocess.run(["make", "--dry-run", "PYTHON=python3", *arguments], cwd=ROOT, env=environment,
                             capture_output=True, text=True, check=True).stdout.replace("\\\n", " ")
    scripts = {}
    for words in map(shlex.split, printed.splitlines()):
        if words[0] == ".venv/bin/python" and words[1] != "-m":  # not the installation
            script = importlib.import_module(pathlib.Path(words[1]).stem)
            args = script.parse_arguments(words[2:])  # exits on an unknown flag
            scripts[words[1]] = train_gan.complete(args) if script is train_gan else args
    return scripts


def test_make_demo_calls_all_scripts_with_matching_folders(tmp_path, monkeypatch):
    for module in (train, train_gan, eval_script):
        monkeypatch.setattr(module, "HERE", tmp_path)
    run = tmp_path / "logdir" / "demo"
    run_folder.write_run_info(run, "train.py", demo.FEATURES, 1)  # as train.py leaves it
    scripts = called("demo")
    assert list(scripts) == ["prepro.py", "train.py", "eval.py", "train_gan.py", "eval_gan.py"]
    assert scripts["train.py"].logdir == scripts["eval.py"].logdir == scripts["train_gan.py"].init_from == run
    assert scripts["train_gan.py"].logdir == scripts["eval_gan.py"].logdir == tmp_path / "logdir" / "demo-gan"


@pytest.mark.parametrize("source, target, name", [("a", "b", "a-b"), ("my/a/", "../her/b", "a-b"),
                                                  ("x/wav", "y/wav", "x_wav-y_wav"), ("x/wav", "y/flac", "wav-flac"),
                                                  ("/x/wav/", "./y/wav/", "x_wav-y_wav")])
def test_make_pair_passes_its_variables_to_the_scripts(source, target, name):
    scripts = called("pair", f"SOURCE={source}", f"TARGET={target}", "OTHERS=c e", "HELDOUT=d", "UNPAIRED=1")
    assert list(scripts) == ["prepro.py", "train.py", "train_gan.py", "eval.py"]
    prepro, train, adversarial, evaluate = scripts.values()
    assert [*map(str, prepro.source)] == [str(pathlib.Path(source)), "c", "e"] and prepro.unpaired
    assert prepro.target == pathlib.Path(target) and prepro.heldout == pathlib.Path("d")
    assert str(prepro.data) == str(train.data) == f"data/{name}"
    assert str(train.logdir) == str(adversarial.init_from) == f"logdir/{name}"
    assert str(adversarial.logdir) == str(evaluate.logdir) == f"logdir/{name}-gan" and evaluate.source == source


def test_make_voice_trains_a_voice_and_shapes_it():
    scripts = called("voice", "TARGET=my/her/")
    assert list(scripts) == ["prepro.py", "train.py", "train_gan.py"]
    prepro, train, adversarial = scripts.values()
    assert prepro.target == pathlib.Path("my/her") and not prepro.source
    assert str(prepro.data) == str(train.data) == "data/voice-her"
    assert str(train.logdir) == str(adversarial.init_from) == "logdir/voice-her"
    assert str(adversarial.logdir) == "logdir/voice-her-gan"


def test_make_pair_works_without_other_sources_and_heldout_list():
    prepro = called("pair", "SOURCE=a", "TARGET=b")["prepro.py"]
    assert [*map(str, prepro.source)] == ["a"] and prepro.heldout is None and not prepro.unpaired


@pytest.mark.parametrize("flags, begins_with", [((), "pretrained/slt"), (("FROM=pretrained/bdl",), "pretrained/bdl"),
                                                (("FROM=",), "None")])
def test_make_pair_begins_with_a_pretrained_voice(flags, begins_with):
    assert str(called("pair", "SOURCE=a", "TARGET=b", *flags)["train.py"].init_from) == begins_with


@pytest.mark.parametrize("version, accepted", [((3, 9), False), ((3, 10), True), ((3, 13), True), ((3, 14), False)])
def test_make_takes_the_versions_of_python_that_tensorflow_has_wheels_for(version, accepted):
    """The pinned TensorFlow has wheels for Python 3.10 to 3.13."""
    line, = (line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
             if line.startswith("SUPPORTED := "))
    code = line.removeprefix("SUPPORTED := import sys; ")
    with pytest.raises(SystemExit) as ended:
        exec(code, {"sys": types.SimpleNamespace(version_info=(*version, 0), exit=sys.exit)})
    assert bool(ended.value.code) is not accepted
