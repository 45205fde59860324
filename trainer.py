"""The training loop: begin or resume a run, stop at a safe place. What a step does is the task's business.

A run folder holds hparams.json, run.json (where it came from), checkpoints/ (the newest and the best), TensorBoard
events and samples/.
"""
import argparse
import contextlib
import math
import os
import pathlib
import shlex
import shutil
import signal
import tempfile
import time

import base
import commands
import data_load
import hyperparams
import prepro
import report
import voice
import weights
import keras
import tensorflow as tf
from tqdm import tqdm

from hyperparams import HyperParams
from run_folder import (Run, TrainingError, best_checkpoint, check_notes, checkpoints_in, differing, load_generator,
                        one_line, read_notes, read_scalars, take_notes)

SKIPPED_AT_MOST = 10  # steps in a row; one is bad luck or a bad recording, ten are a model that is lost


def positive(text: str) -> int:
    """A number of steps; raises ValueError."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def add_arguments(parser: argparse.ArgumentParser, default_logdir: str) -> None:
    """The flags that all training scripts share."""
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR",
                        help="what prepro.py wrote (default: what the run was trained on, or the demo)")
    parser.add_argument("--logdir", type=pathlib.Path, metavar="DIR",
                        help=f"run folder; resumed if it holds a checkpoint (default: {default_logdir})")
    parser.add_argument("--preset", choices=hyperparams.PRESETS,
                        help="hyperparameters to start from (default: demo, with --data default)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a hyperparameter")
    parser.add_argument("--seed", type=int, help="of weights, data order and dropout (default: that of hyperparams.py)")
    parser.add_argument("--steps", type=positive, metavar="N", help="stop after step N, to go on another time")
    parser.add_argument("--init-from", type=pathlib.Path, metavar="DIR", help="begin with the weights of another run")
    parser.add_argument("--no-resume", action="store_true", help="begin anew even if the run folder holds a checkpoint")
    commands.add_verbose(parser)


def goes_on(args: argparse.Namespace) -> bool:
    """Whether the run folder holds a run that is to go on."""
    return (args.logdir / "hparams.json").exists() and not args.no_resume


def resolve(args: argparse.Namespace, default: HyperParams) -> HyperParams:
    """The hyperparameters of a run: those of its folder when it goes on, else preset or `default`, and overrides.

    Raises TrainingError if the folder was begun with other values than those asked for.
    """
    asked = bool(args.preset or args.set or args.seed is not None)
    overrides = args.set + ([f"seed={args.seed}"] if args.seed is not None else [])
    hp = hyperparams.get(args.preset, overrides) if args.preset else default.override(overrides)
    if goes_on(args):
        before = HyperParams.from_json(args.logdir / "hparams.json")
        others = differing(before, hp)
        if asked and others:
            raise TrainingError(f"{args.logdir} was begun with other hyperparameters: {', '.join(others)}; "
                                "choose another --logdir, or --no-resume to begin anew")
        return before
    return hp


def find_data(args: argparse.Namespace, hp: HyperParams) -> pathlib.Path:
    """The features to use: those asked for, else those the run was trained on, else the demo's; raises TrainingError
    if the note of that is damaged."""
    return args.data or read_notes(args.logdir).get("data") or prepro.prepare_demo(hp)


def cosine(peak: float, steps: int, hp: HyperParams) -> keras.optimizers.schedules.LearningRateSchedule:
    """Learning rate that rises from its share `lowest_rate` to `peak` and falls along a cosine to there again."""
    warmup = min(hp.warmup_steps, steps // 4)
    return keras.optimizers.schedules.CosineDecay(peak * hp.lowest_rate, max(1, steps - warmup), alpha=hp.lowest_rate,
                                                  warmup_target=peak, warmup_steps=max(1, warmup))


def forget(logdir: pathlib.Path) -> None:
    """Remove what an earlier run left in a run folder: checkpoints, events, samples."""
    for name in ("checkpoints", "train", "validation", "samples"):
        removed = logdir / f".{name}.removed"  # at once: killed here, either all of the earlier run is there or nothing
        shutil.rmtree(removed, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            (logdir / name).rename(removed)
        shutil.rmtree(removed, ignore_errors=True)
    for path in logdir.glob("events*"):
        path.unlink()


def scaled(optimizer: keras.optimizers.Optimizer, hp: HyperParams) -> keras.optimizers.LossScaleOptimizer:
    """An optimizer that leaves everything as it is where a gradient is not finite.

    Losses are multiplied by its scale, so that small gradients do not vanish in float16; it is halved at such a step
    and doubled after many others. In other precisions it begins at 1, where it changes nothing.
    """
    return keras.optimizers.LossScaleOptimizer(optimizer, 2.0 ** 15 if hp.precision == "float16" else 1.0, 2000)


def draw_curves(logdir: pathlib.Path) -> None:
    """Draw the loss curves of a run into its folder, training and validation, as far as there are any."""
    for name, meaning in (("mean_loss", "mel and linear"), ("mean_loss1", "mel"), ("mean_loss2", "linear")):
        curves = {kind: read_scalars(logdir / kind, f"loss/{name}") for kind in ("train", "validation")}
        curves = {kind: curve for kind, curve in curves.items() if curve[0]}
        if curves:
            report.plot_curves(logdir / f"{name}.png", curves, f"{name}: L1 of {meaning} spectrograms", "L1")


def find_base(corpus: data_load.Corpus) -> base.Base:
    """The base of a corpus: solved from its pairs or, of a target alone, fitted to the pretrained one."""
    if not corpus.alone:
        return base.solve(corpus)
    speech = voice.load_speech(weights.PRETRAINED)  # the first to be read: it says how the folder comes back
    trained = HyperParams.from_json(weights.PRETRAINED / "hparams.json")
    others = [text for text in differing(trained, corpus.hp) if text.split()[0] in hyperparams.SIGNAL]
    if others:
        raise TrainingError(f"{corpus.data} does not fit {weights.PRETRAINED}: {', '.join(others)}; run prepro.py "
                            "again without --set into another folder")
    return voice.fit(base.load(weights.PRETRAINED), speech, corpus)


def train(args: argparse.Namespace, hp: HyperParams, make_task, script: str,
          strategy: tf.distribute.Strategy | None = None) -> None:
    """What all training scripts do: find the features, `make_task(hp, corpus)`, begin or resume its run, run it on the
    devices of `strategy`, and name the script that evaluates it."""
    data, strategy = find_data(args, hp), strategy or tf.distribute.get_strategy()
    init_from, unpaired = args.init_from, getattr(args, "unpaired", None)
    if goes_on(args):
        check_notes(args.logdir, script, data, init_from, unpaired)
        init_from = init_from or read_notes(args.logdir).get("init_from")
    corpus = data_load.Corpus(data, hp, worker(strategy))
    found = base.load(args.logdir) if goes_on(args) and (args.logdir / base.FILE).exists() else find_base(corpus)
    corpus.use_base(found)
    with strategy.scope():
        task = make_task(hp, corpus)
    # Before anything is removed: it may not exist, or be this very run
    if init_from and (args.no_resume or not checkpoints_in(args.logdir / "checkpoints")):
        load_generator(task.generator, best_checkpoint(init_from))
    same_everywhere(strategy, 0)  # nobody removes anything before all have read what they need
    with contextlib.ExitStack() as stack:
        logdir = args.logdir
        if not is_chief(strategy):  # it does all that the chief does, so that they stay in step, but nobody reads it
            logdir = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            stack.enter_context(commands.locked(logdir, "--logdir"))
            if args.no_resume:
                forget(logdir)
        last_step = sum(steps for _, steps in task.stages)
        base.save(found, logdir)
        take_notes(logdir, script, data, last_step, init_from, unpaired)  # needed if killed before its first checkpoint
        run = Run(logdir, hp, task.parts)
        if not args.no_resume and not run.resume(args.logdir) and init_from:
            load_generator(task.generator, best_checkpoint(init_from))  # a first checkpoint was broken off
        if not same_everywhere(strategy, int(run.step)):
            raise TrainingError(f"workers do not see the same checkpoint; {args.logdir} must be a folder they share")
        before = int(run.step)
        stop = min(args.steps or last_step, last_step)
        if before < stop and is_chief(strategy):
            how = f"goes on from step {before} of" if before else "begins:"
            print(f"{args.logdir} {how} {last_step} steps with {data}")
        fit(run, task, stop)
    if is_chief(strategy):
        tell_end(args, script, before, int(run.step), last_step, corpus.alone)


def tell_end(args: argparse.Namespace, script: str, before: int, step: int, last_step: int, alone: bool) -> None:
    """Say how far a run came that was at step `before`, and what to do next; a voice `alone` has no sentences."""
    if step < last_step:
        already = " already" if step == before else ""
        print(f"{args.logdir} is at step {step}{already} of {last_step}; the same command without --steps goes on")
        return
    anew = "; --no-resume begins anew" if step == before else ""
    evaluation, logdir = script.replace("train", "eval"), shlex.quote(str(args.logdir))
    print(f"{args.logdir} is trained to its last step, {last_step}{anew}. To convert " + (
        f"recordings: python {evaluation} FILE_OR_FOLDER --logdir {logdir} --out DIR" if alone else
        f"its held-out sentences: python {evaluation} --logdir {logdir}"))


def several_machines() -> bool:
    """Whether TF_CONFIG or Slurm name several machines."""
    return bool(os.environ.get("TF_CONFIG")) or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def make_strategy(num_gpus: int | None) -> tf.distribute.Strategy:
    """A strategy for the machines that TF_CONFIG or Slurm name, or else for the first `num_gpus` GPUs of this one, or
    all; raises TrainingError if there are not so many."""
    if several_machines():
        if num_gpus is not None:
            raise TrainingError("--num-gpus is for one machine; of several, all GPUs that each sees are used "
                                "(CUDA_VISIBLE_DEVICES)")
        return tf.distribute.MultiWorkerMirroredStrategy(
            None if os.environ.get("TF_CONFIG") else tf.distribute.cluster_resolver.SlurmClusterResolver())
    devices = [device.name for device in tf.config.list_logical_devices("GPU")]
    if not devices:
        raise TrainingError("there is no GPU; train.py trains on the CPU, check.py says what TensorFlow sees")
    if num_gpus is not None and not 1 <= num_gpus <= len(devices):
        raise TrainingError(f"--num-gpus {num_gpus}: TensorFlow sees {len(devices)}, see check.py")
    return tf.distribute.MirroredStrategy(devices[:num_gpus])


def on_all_devices(run, args: argparse.Namespace) -> None:
    """`run(args, strategy)` on the devices that `args.num_gpus` or the environment name; raises ValueError, OSError and
    TrainingError."""
    strategy = None
    try:
        strategy = make_strategy(args.num_gpus)
        if worker(strategy)[1] > 1 and args.data is None and args.init_from is None:
            raise TrainingError("several machines need --data DIR, prepared before")
        run(args, strategy)
    except tf.errors.OpError as error:
        if strategy and worker(strategy)[1] == 1:
            raise
        raise TrainingError(f"{str(error)[:300]}\nIf another worker was lost, start all of them again: they go "
                            "on from the last checkpoint") from None


def worker(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """The number of this process among the workers of its job, and theirs; (0, 1) if it is alone."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return 0, 1
    jobs = resolver.cluster_spec().as_dict()
    chiefs, workers = len(jobs.get("chief", [])), len(jobs.get("worker", []))
    return resolver.task_id + (chiefs if resolver.task_type == "worker" else 0), chiefs + workers


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes: it is alone, or the first of its job's workers."""
    return worker(strategy)[0] == 0


def same_everywhere(strategy: tf.distribute.Strategy, number: int) -> bool:
    """Whether all workers of a job call this with the same number; waits for all of them."""
    if strategy.cluster_resolver is None:
        return True

    def compare():
        context, x = tf.distribute.get_replica_context(), tf.constant(float(number), tf.float64)
        square, squares = context.all_reduce(tf.distribute.ReduceOp.SUM, [x, x * x])
        return square * square, squares * context.num_replicas_in_sync
    left, right = (strategy.experimental_local_results(x)[0] for x in tf.function(lambda: strategy.run(compare))())
    return float(left) == float(right)


def fit(run: Run, task, last_step: int) -> None:
    """Run `task` from the run's step to `last_step`, logging, validating and saving as the hyperparameters say.

    The task gives `stages`, a list of (name, steps), `batches(stage, start, stop)`, `train_step(stage, batch, step)`
    that counts `step` up and returns a dictionary of scalars, and `validate(run, stage)` returning the scalars of a
    validation, with the key "score", lower is better, once there is something to select. A step that changed nothing,
    because its gradient was not finite, says so by the scalar "skipped". Raises TrainingError when a scalar of another
    is not finite or too many are skipped in a row, and Stopped after SIGINT or SIGTERM. A checkpoint is written however
    the loop ends, but for that and for a step or a validation that failed.
    """
    with (commands.noting_signals() as noted,
          tqdm(total=last_step, initial=int(run.step), desc="training", disable=None, unit="step") as bar):
        stage_start = 0
        try:
            for stage, steps in task.stages:
                fit_stage(run, task, stage, stage_start, min(stage_start + steps, last_step), bar, noted)
                stage_start += steps
        except BaseException as error:
            # An error of TensorFlow's may come from the middle of an update; a run that is resumed after a validation
            # that failed would lack it
            if not isinstance(error, (TrainingError, tf.errors.OpError)) and not run.validating:
                run.save()
            if isinstance(error, tf.errors.ResourceExhaustedError):
                raise TrainingError(f"memory is not enough ({one_line(error)}); the last checkpoint is good. Begin in "
                                    "another --logdir with --set batch_size=8 or a smaller width") from None
            raise


def fit_stage(run: Run, task, stage: str, start: int, stop: int, bar: tqdm, noted: list[int]) -> None:
    """The part of `fit` from the run's step to `stop`, in a stage that began at step `start`, until a signal is
    `noted`."""
    first, in_a_row = max(int(run.step), start), 0
    if first >= stop:
        return
    bar.set_description(stage)
    began = time.perf_counter()
    for batch in task.batches(stage, first - start, stop - start):
        scalars = {name: float(value) for name, value in task.train_step(stage, batch, run.step).items()}
        step, skipped = int(run.step), scalars.pop("skipped", 0.0)
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        in_a_row = in_a_row + 1 if skipped else 0
        if skipped:
            run.skipped += 1
            tell_skipped(task, stage, step, step - 1 - start, in_a_row, bar)
        elif len(finite) < len(scalars):
            raise TrainingError(f"loss is not finite at step {step} ({scalars}); the last checkpoint is good: "
                                "begin from it in another --logdir, --init-from, with a lower learning_rate")
        if run.skipped:
            finite["loss/skipped"] = run.skipped
        bar.update()
        if step % run.hp.log_steps == 0 or step == stop:
            run.log("train", finite)
            shown = {name.split("/")[-1]: f"{value:.4f}" for name, value in finite.items() if "loss" in name}
            bar.set_postfix(shown)
            if bar.disable:  # no terminal: a line where the bar would be
                left = (time.perf_counter() - began) / (step - first) * (bar.total - step)
                values = " ".join(f"{name} {value}" for name, value in shown.items())
                print(f"step {step} of {bar.total} ({stage}): {values}, {left / 60:.1f} min left at this pace",
                      flush=True)
        if step % run.hp.save_steps == 0 or step == stop:
            run.validating = True
            validate(run, task, stage, bar)
            run.validating = False
            run.save()
        if noted:
            run.save()
            raise commands.Stopped(noted[0], f"stopped by {signal.Signals(noted[0]).name} after step {step}, of which "
                                   "a checkpoint was written; the same command, without --no-resume, goes on")


def tell_skipped(task, stage: str, step: int, number: int, in_a_row: int, bar: tqdm) -> None:
    """Say which utterances batch `number` of a stage is made of; raises TrainingError if it is one too many."""
    names = ", ".join(task.corpus.batch_names(task.kind(stage), number))
    bar.write(f"warning: the gradient of step {step} ({stage}) is not finite, it is skipped; its batch: {names}")
    if in_a_row >= SKIPPED_AT_MOST:
        raise TrainingError(f"{in_a_row} steps in a row had no finite gradient, the last one step {step} ({names}). "
                            "The last checkpoint is good: begin from it in another --logdir, --init-from, with a lower "
                            "learning_rate, and if it is always the same utterances listen to them")


def validate(run: Run, task, stage: str, bar: tqdm) -> None:
    """Validate, log, and keep the checkpoint if it is the best."""
    began = time.perf_counter()
    scalars = task.validate(run, stage)
    run.log("validation", scalars)
    text = "  ".join(f"{name.split('/')[-1]} {value:.3f}" for name, value in scalars.items())
    bar.write(f"step {int(run.step)} ({stage}): {text}  [{time.perf_counter() - began:.1f} s]")
    if scalars.get("score", math.inf) < float(run.best):
        run.select(scalars["score"])
