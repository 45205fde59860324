"""The training loop: run folder, checkpoints, exact resume, TensorBoard. What a step does is the task's business.

A run folder holds hparams.json, checkpoints/ (the newest and the best), TensorBoard events and samples/.
"""
import argparse
import contextlib
import dataclasses
import json
import math
import pathlib
import shutil
import tempfile
import time

import data_load
import hyperparams
import prepro
import report
import utils  # before TensorFlow: quiets its start
import keras
import tensorflow as tf
from tqdm import tqdm

from hyperparams import HyperParams


class TrainingError(RuntimeError):
    """Training cannot start or go on; the message says why and what to do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that all training scripts share."""
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR",
                        help="what prepro.py wrote (default: what the run was trained on, or the demo)")
    parser.add_argument("--logdir", type=pathlib.Path, metavar="DIR",
                        help="run folder; resumed if it holds a checkpoint")
    parser.add_argument("--preset", choices=hyperparams.PRESETS, help="hyperparameters to start from")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a hyperparameter")
    parser.add_argument("--seed", type=int, help="of weights, data order and dropout")
    parser.add_argument("--steps", type=int, metavar="N", help="stop after step N, to go on another time")
    parser.add_argument("--init-from", type=pathlib.Path, metavar="DIR", help="begin with the weights of another run")
    parser.add_argument("--no-resume", action="store_true", help="begin anew even if the run folder holds a checkpoint")


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
        differing = [f"{name} ({value} there, {getattr(hp, name)} asked for)"
                     for name, value in dataclasses.asdict(before).items() if value != getattr(hp, name)]
        if asked and differing:
            raise TrainingError(f"{args.logdir} was begun with other hyperparameters: {', '.join(differing)}; "
                                "choose another --logdir, or --no-resume to begin anew")
        return before
    return hp


def find_data(args: argparse.Namespace, hp: HyperParams) -> pathlib.Path:
    """The features to use: those asked for, else those the run was trained on, else the demo's."""
    path = args.logdir / "data.json"
    if not path.exists() or getattr(args, "no_resume", False):
        return args.data or prepro.prepare_demo(hp)
    return args.data or pathlib.Path(json.loads(path.read_text(encoding="utf-8"))["data"])


def remember_data(logdir: pathlib.Path, data: pathlib.Path) -> None:
    """Note in the run folder what the run is trained on."""
    utils.write_json(logdir / "data.json", {"data": str(pathlib.Path(data).resolve())})


def cosine(peak: float, steps: int, warmup: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Learning rate that rises to `peak` and falls along a cosine to a hundredth of it."""
    warmup = min(warmup, steps // 4)
    return keras.optimizers.schedules.CosineDecay(peak / 100, max(1, steps - warmup), alpha=0.01, warmup_target=peak,
                                                  warmup_steps=max(1, warmup))


def forget(logdir: pathlib.Path) -> None:
    """Remove what an earlier run left in a run folder: checkpoints, events, samples."""
    for name in ("checkpoints", "train", "validation", "samples"):
        shutil.rmtree(logdir / name, ignore_errors=True)


def scaled(optimizer: keras.optimizers.Optimizer, hp: HyperParams) -> keras.optimizers.LossScaleOptimizer:
    """An optimizer that leaves everything as it is where a gradient is not finite.

    Losses are multiplied by its scale, so that small gradients do not vanish in float16; it is halved at such a step
    and doubled after many others. In other precisions it begins at 1, where it changes nothing.
    """
    return keras.optimizers.LossScaleOptimizer(optimizer, 2.0 ** 15 if hp.precision == "float16" else 1.0, 2000)


def trackable(**parts: list) -> dict[str, list[tf.Variable]]:
    """Lists of Keras variables as what tf.train.Checkpoint stores.

    By place in the list: TensorFlow does not look into the lists of layers that a Keras layer holds, and the names of
    Keras layers depend on what was made before them.
    """
    return {name: [variable.value for variable in variables] for name, variables in parts.items()}


def restore(checkpoint: tf.train.Checkpoint, prefix: str) -> None:
    """Restore all of `checkpoint`; raises TrainingError if the file is damaged or of another network."""
    try:
        checkpoint.restore(prefix).expect_partial().assert_existing_objects_matched()
    except (ValueError, AssertionError, IndexError, tf.errors.OpError) as error:
        detail = " ".join(str(error).split())[:300]
        raise TrainingError(f"{prefix} does not fit this network: {detail}. Evaluate and resume a run with the "
                            "hparams.json and the code it was trained with, or begin anew with --no-resume") from None


class Run:
    """A run folder: the step, the best validation, TensorBoard, and checkpoints of `parts`, a dictionary of names to
    lists of Keras variables, one of them "generator"."""

    def __init__(self, logdir: pathlib.Path, hp: HyperParams, parts: dict):
        self.logdir, self.hp = pathlib.Path(logdir), hp
        utils.write_json(self.logdir / "hparams.json", dataclasses.asdict(hp))
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.best = tf.Variable(math.inf, trainable=False)
        self.checkpoint = tf.train.Checkpoint(step=self.step, best=self.best, **trackable(**parts))
        folder = self.logdir / "checkpoints"
        self.newest = tf.train.CheckpointManager(self.checkpoint, str(folder), hp.keep_checkpoints,
                                                 checkpoint_name="step")
        selected = tf.train.Checkpoint(step=self.step, **trackable(generator=parts["generator"]))
        self.selected = tf.train.CheckpointManager(selected, str(folder / "best"), 1, checkpoint_name="best")
        self.writers = {kind: tf.summary.create_file_writer(str(self.logdir / kind))
                        for kind in ("train", "validation")}

    def resume(self, logdir: pathlib.Path | None = None) -> bool:
        """Go on from the newest checkpoint, of another folder if one is named; False if there is none."""
        # Not latest_checkpoint(), which finds none where a file is missing: training would begin anew unasked
        state = tf.train.get_checkpoint_state(str(pathlib.Path(logdir or self.logdir) / "checkpoints"))
        if state:
            restore(self.checkpoint, state.model_checkpoint_path)
        return bool(state)

    def save(self) -> None:
        """Write a checkpoint unless this step has one."""
        if not (self.newest.latest_checkpoint or "").endswith(f"-{int(self.step)}"):
            self.newest.save(checkpoint_number=self.step)

    def log(self, kind: str, scalars: dict[str, float], step: int | None = None) -> None:
        """Write scalars to TensorBoard as train or validation."""
        step = int(self.step) if step is None else step
        with self.writers[kind].as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)


    def log_sample(self, name: str, wav, picture: pathlib.Path) -> None:
        """Put (samples,) and a PNG into TensorBoard."""
        with self.writers["validation"].as_default(step=int(self.step)):
            tf.summary.audio(f"audio/{name}", wav[None, :, None], self.hp.sample_rate)
            tf.summary.image(f"align/{name}", tf.io.decode_png(picture.read_bytes())[None])


def read_scalars(folder: pathlib.Path, tag: str) -> tuple[list[int], list[float]]:
    """Steps and values of a scalar in the event files of a folder; of a step logged twice, the later one."""
    values = {}
    for path in sorted(folder.glob("events*")):
        with contextlib.suppress(tf.errors.DataLossError):  # the last event of a run that was killed may be cut off
            for record in tf.data.TFRecordDataset(str(path)):
                event = tf.compat.v1.Event.FromString(record.numpy())
                for value in event.summary.value:
                    if value.tag == tag:
                        values[event.step] = float(tf.make_ndarray(value.tensor))
    steps = sorted(values)
    return steps, [values[step] for step in steps]


def draw_curves(logdir: pathlib.Path) -> None:
    """Draw the loss curves of a run into its folder, training and validation."""
    for name, meaning in (("mean_loss", "mel and linear"), ("mean_loss1", "mel"), ("mean_loss2", "linear")):
        curves = {kind: read_scalars(logdir / kind, f"loss/{name}") for kind in ("train", "validation")}
        report.plot_curves(logdir / f"{name}.png", {kind: curve for kind, curve in curves.items() if curve[0]},
                           f"{name}: L1 of {meaning} spectrograms", "L1")


def train(args: argparse.Namespace, hp: HyperParams, make_task, strategy: tf.distribute.Strategy | None = None) -> None:
    """What all training scripts do: find the features, `make_task(hp, corpus)`, begin or resume its run, run it on the
    devices of `strategy`."""
    data, strategy = find_data(args, hp), strategy or tf.distribute.get_strategy()
    with strategy.scope():
        task = make_task(hp, data_load.Corpus(data, hp, worker(strategy)))
    if args.init_from:  # before anything is removed: it may not exist, or be this very run
        load_generator(task.generator, best_checkpoint(args.init_from))
    same_everywhere(strategy, 0)  # nobody removes anything before all have read what they need
    with contextlib.ExitStack() as stack:
        logdir = args.logdir
        if not is_chief(strategy):  # it does all that the chief does, so that they stay in step, but nobody reads it
            logdir = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        elif args.no_resume:
            forget(logdir)
        run = Run(logdir, hp, task.parts)
        if not args.no_resume:
            run.resume(args.logdir)
        if not same_everywhere(strategy, int(run.step)):
            raise TrainingError(f"workers do not see the same checkpoint; {args.logdir} must be a folder they share")
        remember_data(logdir, data)
        last_step = sum(steps for _, steps in task.stages)
        if int(run.step) >= last_step:
            print(f"{args.logdir} is trained to its last step, {last_step}; --no-resume begins anew")
        fit(run, task, min(args.steps or last_step, last_step))


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


def best_checkpoint(logdir: pathlib.Path) -> str:
    """Prefix of the best checkpoint of a run, or of its newest if none was validated; raises TrainingError."""
    for folder in (pathlib.Path(logdir) / "checkpoints" / "best", pathlib.Path(logdir) / "checkpoints"):
        prefix = tf.train.latest_checkpoint(str(folder))
        if prefix:
            return prefix
    raise TrainingError(f"{logdir} holds no checkpoint; train first (train.py --logdir {logdir})")


def load_generator(generator: keras.Model, prefix: str) -> None:
    """Restore the generator alone from any checkpoint that holds one; raises TrainingError."""
    restore(tf.train.Checkpoint(**trackable(generator=generator.weights)), prefix)


def fit(run: Run, task, last_step: int) -> None:
    """Run `task` from the run's step to `last_step`, logging, validating and saving as the hyperparameters say.

    The task gives `stages`, a list of (name, steps), `enter(stage)`, called before the first step of each,
    `dataset(stage, start, stop)`, `train_step(stage, batch, step)` that counts `step` up and returns a dictionary of
    scalars, and `validate(run, stage)` returning the scalars of a validation, with the key "score", lower is better,
    once there is something to select. Raises TrainingError when a scalar is not finite. A checkpoint is written however
    the loop ends, but for that.
    """
    with tqdm(total=last_step, initial=int(run.step), desc="training", disable=None, unit="step") as bar:
        stage_start = 0
        try:
            for stage, steps in task.stages:
                fit_stage(run, task, stage, stage_start, min(stage_start + steps, last_step), bar)
                stage_start += steps
        except BaseException as error:
            if not isinstance(error, TrainingError):
                run.save()
            raise


def fit_stage(run: Run, task, stage: str, start: int, stop: int, bar: tqdm) -> None:
    """The part of `fit` from the run's step to `stop`, in a stage that began at step `start`."""
    first = max(int(run.step), start)
    if first >= stop:
        return
    bar.set_description(stage)
    if first == start:
        task.enter(stage)
    for batch in task.dataset(stage, first - start, stop - start):
        scalars = {name: float(value) for name, value in task.train_step(stage, batch, run.step).items()}
        step = int(run.step)
        if not all(map(math.isfinite, scalars.values())):
            raise TrainingError(f"loss is not finite at step {step} ({scalars}); the last checkpoint is good: "
                                "begin from it in another --logdir, --init-from, with a lower learning_rate")
        bar.update()
        if step % run.hp.log_steps == 0 or step == stop:
            run.log("train", scalars)
            bar.set_postfix({name.split("/")[-1]: f"{value:.4f}" for name, value in scalars.items() if "loss" in name})
        if step % run.hp.save_steps == 0 or step == stop:
            validate(run, task, stage, bar)
            run.save()


def validate(run: Run, task, stage: str, bar: tqdm) -> None:
    """Validate, log, and keep the checkpoint if it is the best."""
    began = time.perf_counter()
    scalars = task.validate(run, stage)
    run.log("validation", scalars)
    for writer in run.writers.values():
        writer.flush()
    text = "  ".join(f"{name.split('/')[-1]} {value:.3f}" for name, value in scalars.items())
    bar.write(f"step {int(run.step)} ({stage}): {text}  [{time.perf_counter() - began:.1f} s]")
    if scalars.get("score", math.inf) < float(run.best):
        run.best.assign(scalars["score"])
        run.selected.save(checkpoint_number=run.step)
