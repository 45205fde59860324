"""What the flags of the training scripts do."""
import json
import math
import pathlib
import types

import data_load
import train
from backend import checkpoints
from common.cli import UserError
from conftest import leftovers, no_corpus, plain_base
from conversion import base
from training import trainer

import numpy as np
import pytest
from test_training import HP, Counting, events, kept, weight_in


@pytest.fixture
def run_train(monkeypatch, tmp_path):
    """Call train.py's main with a model of one weight; returns its exit code and records its hyperparameters."""
    used = []
    monkeypatch.setattr(train, "PairedTrainer", lambda hp, corpus: used.append(hp) or Counting(
        hp, scores={3: 1.0, 5: 2.0}))
    no_corpus(monkeypatch)
    small = [f"--set={name}={getattr(HP, name)}" for name in ("postnet_steps", "decoder_steps", "log_steps",
                                                              "keep_checkpoints")]

    def call(logdir, *flags, small=tuple(small)):
        return train.main(["--data", str(tmp_path), "--logdir", str(tmp_path / logdir), *small, "--set=save_steps=1",
                           *flags])
    call.used = used
    return call


def newest(logdir: pathlib.Path) -> tuple[int, float]:
    """Step and weight of the newest checkpoint."""
    return kept(logdir)[-1], weight_in(checkpoints.checkpoints_in(logdir / "checkpoints")[0])


def test_steps_sets_the_last_step_and_training_resumes_by_default(run_train, tmp_path):
    assert run_train("a", "--steps", "5") == 0 and newest(tmp_path / "a") == (5, 5.0)
    assert run_train("a", "--steps", "4") == 0 and newest(tmp_path / "a") == (5, 5.0)  # already reached
    assert run_train("a", "--steps", "7") == 0 and newest(tmp_path / "a") == (7, 7.0)
    assert run_train("a", "--steps", "99") == 0 and newest(tmp_path / "a") == (12, 12.0)
    assert run_train("b") == 0 and newest(tmp_path / "b") == (12, 12.0)


@pytest.mark.parametrize("steps", [2, 5, 7])
def test_no_resume_starts_from_scratch(run_train, tmp_path, steps):
    run_train("a", "--steps", "5")
    assert run_train("a", "--steps", str(steps), "--no-resume") == 0
    assert newest(tmp_path / "a") == (steps, steps)
    assert kept(tmp_path / "a") == list(range(1, steps + 1))[-HP.keep_checkpoints:]
    assert weight_in(checkpoints.best_checkpoint(tmp_path / "a")) == min(steps, 3)
    curve = events(tmp_path / "a" / "train")["loss/minimised"]
    assert [step for step, _ in curve] == list(range(1, steps + 1))  # nothing of the earlier run


def test_no_resume_saves_even_at_the_last_step_of_the_earlier_run(run_train, tmp_path):
    flags = ("--set=save_steps=9", "--set=postnet_steps=9", "--steps=4")
    for _ in range(2):
        assert run_train("a", *flags, "--no-resume") == 0
        assert newest(tmp_path / "a") == (4, 4.0)


def test_init_from_takes_the_best_weights_and_starts_at_step_0(run_train, tmp_path):
    run_train("a", "--steps", "5")  # the best checkpoint is that of step 3
    assert run_train("b", "--init-from", str(tmp_path / "a"), "--steps", "2") == 0
    assert newest(tmp_path / "b") == (2, 3.0 + 2.0)
    assert run_train("b", "--init-from", str(tmp_path / "a"), "--steps", "4") == 0  # already started, so resumed
    assert newest(tmp_path / "b") == (4, 3.0 + 4.0)


def test_resuming_does_not_need_the_run_of_init_from(run_train, tmp_path):
    run_train("a", "--steps", "5")
    flags = ("--init-from", str(tmp_path / "a"), "--steps")
    assert run_train("b", *flags, "2") == 0
    (tmp_path / "a").rename(tmp_path / "moved")
    assert run_train("b", *flags, "4") == 0
    assert newest(tmp_path / "b") == (4, 3.0 + 4.0)


def test_run_killed_before_its_first_checkpoint_restarts_from_the_initial_weights(run_train, tmp_path):
    """This holds without a second --init-from: train_gan.py has a default for it, but not for an existing run."""
    run_train("a", "--steps", "5")
    assert run_train("b", "--init-from", str(tmp_path / "a"), "--steps", "1") == 0
    for path in (tmp_path / "b" / "checkpoints").rglob("*"):
        if path.is_file():
            path.unlink()
    assert run_train("b", "--steps", "2") == 0
    assert newest(tmp_path / "b") == (2, 3.0 + 2.0)


def test_init_from_works_with_no_resume(run_train, tmp_path):
    run_train("a", "--steps", "5")
    run_train("b", "--steps", "5")
    assert run_train("b", "--init-from", str(tmp_path / "a"), "--no-resume", "--steps", "1") == 0
    assert newest(tmp_path / "b") == (1, 3.0 + 1.0)


def test_init_from_without_a_run_is_an_error_and_keeps_the_existing_run(run_train, tmp_path, capsys):
    assert run_train("b", "--init-from", str(tmp_path / "nothing")) == 1
    assert "nothing holds no checkpoint" in capsys.readouterr().err
    run_train("a", "--steps", "5")
    assert run_train("a", "--init-from", str(tmp_path / "nothing"), "--no-resume") == 1
    assert newest(tmp_path / "a") == (5, 5.0)


def test_run_can_restart_from_its_own_best_weights(run_train, tmp_path):
    run_train("a", "--steps", "5")
    assert run_train("a", "--init-from", str(tmp_path / "a"), "--no-resume", "--steps", "1") == 0
    assert newest(tmp_path / "a") == (1, 3.0 + 1.0)


@pytest.fixture
def solving(monkeypatch):
    """Mark each base with its corpus; the result lists the bases `solved` and `used`."""
    used = []
    monkeypatch.setattr(data_load, "Corpus", lambda data, hp: types.SimpleNamespace(
        has_target_only=False, name=data.name, use_base=lambda found: used.append(bias(found))))

    def solve(corpus):
        solve.solved.append(corpus.name)
        found = plain_base(HP.replace(n_mels=2))
        return found._replace(bias=found.bias + len(corpus.name))

    def bias(found):
        return float(found.bias[0, 0])
    monkeypatch.setattr(base, "solve", solve)
    solve.solved, solve.used = [], used
    return solve


def test_base_is_solved_once_and_saved_in_the_run_folder(run_train, solving, tmp_path):
    for steps in ("2", "2", "4"):
        assert run_train("a", "--steps", steps) == 0
    assert solving.solved == [tmp_path.name] and solving.used == [len(tmp_path.name)] * 3
    doctored = base.load(tmp_path / "a")
    base.save(doctored._replace(bias=0.0 * doctored.bias), tmp_path / "a")
    assert run_train("a", "--steps", "6") == 0 and solving.used[-1] == 0.0  # the existing base is used
    assert not base.load(tmp_path / "a").bias.any()
    assert run_train("a", "--steps", "2", "--no-resume") == 0  # but not by a new run
    assert len(solving.solved) == 2 and solving.used[-1] == len(tmp_path.name)
    assert base.load(tmp_path / "a").bias.any()


@pytest.mark.parametrize("left", [None, b"half"])
def test_missing_base_is_solved_again_on_resume(run_train, solving, tmp_path, left):
    assert run_train("a", "--steps", "2") == 0
    before = (tmp_path / "a" / base.FILE).read_bytes()
    (tmp_path / "a" / base.FILE).unlink()
    if left:  # killed while it was written
        (tmp_path / "a" / f".{base.FILE}.tmp").write_bytes(left)
    assert run_train("a", "--steps", "4") == 0 and newest(tmp_path / "a") == (4, 4.0)
    assert len(solving.solved) == 2 and (tmp_path / "a" / base.FILE).read_bytes() == before
    assert leftovers(tmp_path) == []


def test_damaged_base_is_reported_and_deleting_it_helps(run_train, solving, tmp_path, capsys):
    assert run_train("a", "--steps", "2") == 0
    path = tmp_path / "a" / base.FILE
    before = path.read_bytes()
    path.write_bytes(before[:100])
    assert run_train("a", "--steps", "4") == 1
    error = capsys.readouterr().err
    assert f"train.py: {path} is missing or damaged" in error and "delete it" in error
    assert newest(tmp_path / "a") == (2, 2.0)
    path.unlink()
    assert run_train("a", "--steps", "4") == 0 and path.read_bytes() == before and newest(tmp_path / "a") == (4, 4.0)


def test_run_with_init_from_solves_the_base_of_its_own_corpus(run_train, solving, tmp_path):
    (tmp_path / "another corpus").mkdir()
    run_train("a", "--steps", "5")
    flags = ["--data", str(tmp_path / "another corpus"), "--init-from", str(tmp_path / "a")]
    assert run_train("b", *flags, "--steps", "2") == 0 and newest(tmp_path / "b") == (2, 3.0 + 2.0)
    assert run_train("b", *flags, "--steps", "3") == 0
    assert solving.solved == [tmp_path.name, "another corpus"]
    assert float(base.load(tmp_path / "b").bias[0, 0]) == len("another corpus") == solving.used[-1]
    assert float(base.load(tmp_path / "a").bias[0, 0]) == len(tmp_path.name)


def test_resume_refuses_other_hyperparameters_with_names_and_values(run_train, tmp_path, capsys):
    run_train("a", "--steps", "2")
    assert run_train("a", "--set", "learning_rate=0.5", "--set", "seed=3") == 1
    message = capsys.readouterr().err
    for part in ("learning_rate", str(HP.learning_rate), "0.5", "seed", str(HP.seed), "3 asked", "--no-resume"):
        assert part in message
    assert "batch_size" not in message and newest(tmp_path / "a") == (2, 2.0)
    assert json.loads((tmp_path / "a" / "hparams.json").read_text())["seed"] == HP.seed
    assert run_train("a", "--steps", "3", small=()) == 0  # only --set save_steps=1 is left, which agrees with the run
    assert run_train("a", "--set", "learning_rate=0.5", "--no-resume", "--steps", "1") == 0
    assert json.loads((tmp_path / "a" / "hparams.json").read_text())["learning_rate"] == 0.5


@pytest.mark.parametrize("steps", ["0", "-5", "x"])
def test_number_of_steps_must_be_positive(run_train, capsys, steps):
    with pytest.raises(SystemExit):
        run_train("a", "--steps", steps)
    assert f"--steps: '{steps}' is no whole number from 1 on" in capsys.readouterr().err


def test_resumed_run_keeps_its_own_hyperparameters(run_train, tmp_path):
    run_train("a", "--steps", "1", "--set", "width=32", "--set", "seed=4")
    flags = ["--data", str(tmp_path), "--logdir", str(tmp_path / "a")]
    assert train.main([*flags, "--steps", "2"]) == 0
    assert run_train("a", "--steps", "3", "--set", "width=32", "--set", "seed=4") == 0  # the same values repeated
    assert len(set(run_train.used)) == 1 and (run_train.used[0].width, run_train.used[0].seed) == (32, 4)
    assert newest(tmp_path / "a") == (3, 3.0)


def test_unknown_hyperparameter_is_reported(run_train, tmp_path, capsys):
    assert run_train("a", "--set", "learning_rat=0.5") == 1
    assert "learning_rate" in capsys.readouterr().err and not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["save_steps", "log_steps"])
def test_steps_between_checkpoints_or_scalars_cannot_be_zero(run_train, capsys, name):
    assert run_train("a", "--set", f"{name}=0") == 1
    assert name in capsys.readouterr().err


def test_failed_start_leaves_an_existing_run_unchanged(run_train, tmp_path, monkeypatch, capsys):
    run_train("a", "--steps", "5")
    before = (tmp_path / "a" / "hparams.json").read_text()

    def missing(*_):
        raise UserError("run prepro.py first")
    monkeypatch.setattr(data_load, "Corpus", missing)
    assert run_train("a", "--set", "width=64", "--no-resume") == 1
    assert "run prepro.py first" in capsys.readouterr().err
    assert (tmp_path / "a" / "hparams.json").read_text() == before and newest(tmp_path / "a") == (5, 5.0)


def test_learning_rate_rises_and_falls():
    hp = HP.replace(warmup_steps=10)
    rate = [float(trainer.cosine_decay(1e-2, 100, hp)(step)) for step in range(101)]
    assert rate[0] < 0.2 * max(rate) and max(rate) == pytest.approx(1e-2, rel=1e-3)
    peak = int(np.argmax(rate))
    assert 9 <= peak <= 11 and (np.diff(rate[:peak]) > 0).all() and (np.diff(rate[peak:]) < 0).all()
    assert rate[100] < 0.02 * max(rate)
    for steps in (0, 1, 3):  # short stages
        assert all(math.isfinite(trainer.cosine_decay(1e-2, steps, hp)(step)) for step in range(steps + 1))
    constant = trainer.cosine_decay(1e-2, 100, hp.replace(lowest_rate=1.0))
    assert [float(constant(step)) for step in range(101)] == pytest.approx([1e-2] * 101)


def test_interruption_prints_no_traceback(run_train, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(trainer, "fit", interrupt)
    assert run_train("a") == 130
    assert capsys.readouterr().err == "\ntrain.py: stopped; what was finished is kept\n"
