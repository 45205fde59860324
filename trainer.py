"""What all training has in common: the trainer's updates and validation, and the loop, which stops at a safe place.

A step of paired training is in train.py, one of adversarial training in train_gan.py; run_folder.py has what lies in a
run folder.
"""
import contextlib
import math
import pathlib
import random
import shlex
import signal
import tempfile
import time
from collections.abc import Iterator

import base
import checkpoints
import cli
import data_load
import devices
import hyperparams
import losses
import metrics
import report
import run_folder
import utils
import voice
import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from cli import TrainingError
from hyperparams import HyperParams, differences
from inference import Converter
from modules import total
from networks import Generator
from run_folder import Run, RunPlan

SKIPPED_AT_MOST = 10  # steps in a row; one is bad luck or a bad recording, ten are a model that is lost


def cosine_decay(peak: float, steps: int, hp: HyperParams) -> keras.optimizers.schedules.LearningRateSchedule:
    """Learning rate that rises from its share `lowest_rate` to `peak` and falls along a cosine to there again."""
    warmup = min(hp.warmup_steps, steps // 4)
    return keras.optimizers.schedules.CosineDecay(peak * hp.lowest_rate, max(1, steps - warmup), alpha=hp.lowest_rate,
                                                  warmup_target=peak, warmup_steps=max(1, warmup))


def scale_loss(optimizer: keras.optimizers.Optimizer, hp: HyperParams) -> keras.optimizers.LossScaleOptimizer:
    """An optimizer that leaves everything as it is where a gradient is not finite.

    Losses are multiplied by its scale, so that small gradients do not vanish in float16; it is halved at such a step
    and doubled after many others. In other precisions it begins at 1, where it changes nothing.
    """
    return keras.optimizers.LossScaleOptimizer(optimizer, 2.0 ** 15 if hp.precision == "float16" else 1.0, 2000)


class Trainer:
    """A generator, its corpus, updates on all devices, and validation in free running. What a step does is defined by
    the trainers of train.py and train_gan.py.

    Made within the scope of a `tf.distribute.Strategy`, training runs on all devices of that.
    """

    def __init__(self, hp: HyperParams, corpus: data_load.Corpus):
        self.hp, self.corpus, self.strategy = hp, corpus, tf.distribute.get_strategy()
        devices = self.strategy.num_replicas_in_sync
        if hp.batch_size < devices:
            raise ValueError(f"batch_size={hp.batch_size} leaves some of {devices} devices without a row; "
                             f"--set batch_size={devices} or more")
        if hp.xla and devices > 1:
            raise ValueError("xla=1 is for one device, on several leave it 0")
        keras.utils.set_random_seed(hp.seed)
        self.generator = Generator(hp)
        self.converter = Converter(self.generator, corpus.base)
        self.postnet, self.on_path = tf.function(self.generator.postnet), tf.function(self.synthesize_on_path)
        pairs = corpus.split("val")
        self.validation = random.Random(hp.seed).sample(pairs, min(len(pairs), hp.validation_limit))
        self._steps = {}

    def synthesize_on_path(self, batch: dict):
        """Mel (N, T, M) and linear (N, T, F) of a decoder that hears itself, but reads along the true positions
        (N, Ty + 1) of a batch, so that what it writes is in step with the target. The harmonics have the target's
        pitch. Global attention cannot be told where to read: there it is the target that the decoder hears."""
        mask = batch["mask"]
        decoded = self.generator(batch["source"], batch["mapped"], batch["source_mask"], batch["positions"],
                                 batch["mel"] if self.hp.attention == "global" else None)
        mel, _ = self.generator.postnet_inputs(decoded, batch["mapped"], batch["source_mask"], mask)
        return decoded.mel, self.generator.postnet(mel, batch["pitch"], mask)

    def batches(self, stage: str, start: int, stop: int) -> Iterator[dict]:
        """The batches of steps `start` to `stop` - 1 of a stage, of the `kind(stage)` that data_load.py names."""
        return self.corpus.batches(self.kind(stage), start, stop)

    def compile(self, stage: str, batch: dict, function):
        """Compile `function` of a batch once a stage, whatever the lengths."""
        if stage not in self._steps:
            signature = {name: tf.TensorSpec((None, None, *array.shape[2:])) for name, array in batch.items()}
            self._steps[stage] = tf.function(function, input_signature=[signature], jit_compile=bool(self.hp.xla))
        return self._steps[stage]

    def shard(self, batch: dict) -> dict:
        """This device's share of what this machine has of a batch: every n-th row, and rows of nothing where there are
        too few."""
        devices = self.strategy.num_replicas_in_sync // self.corpus.share[1]  # of this machine
        if devices == 1:
            return batch
        first, shared = tf.distribute.get_replica_context().replica_id_in_sync_group % devices, {}
        for name, array in batch.items():
            missing = -tf.shape(array)[0] % devices
            shared[name] = tf.pad(array, [(0, missing)] + [(0, 0)] * (len(array.shape) - 1))[first::devices]
        return shared

    def update(self, optimizer, variables: list, clip_norm: float, loss_of) -> dict:
        """One update of `variables` by the loss, and other scalars, that `loss_of()` gives for this device's rows.

        Where a gradient is not finite nothing changes, and the scalar "skipped" is 1.
        """
        devices, values = self.strategy.num_replicas_in_sync, [variable.value for variable in variables]
        statistics = self.generator.non_trainable_variables  # of norms, which the forward pass moves
        before = [tf.identity(variable.value) for variable in statistics]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            scalars = loss_of()
            loss = optimizer.scale_loss(scalars["loss"])
        scale = tf.identity(optimizer.dynamic_scale)
        gradients, norm = tf.clip_by_global_norm(total(tape.gradient(loss, values)), clip_norm * scale)
        # The optimizer adds up what the devices give it, and each gives all
        optimizer.apply(gradients if devices == 1 else [x / devices for x in gradients], variables)
        finite = tf.math.is_finite(norm)
        for variable, value in zip(statistics, before):
            variable.assign(tf.where(finite, variable.value, value))
        return total(scalars) | {"gradient_norm": norm / scale, "skipped": 1.0 - tf.cast(finite, tf.float32)}

    def on_devices(self, updates, batch: dict, step: tf.Variable) -> dict:
        """The scalars of `updates(batch)`, run on all devices; then `step` counts up."""
        scalars = self.strategy.run(updates, (batch,))
        step.assign_add(1)  # here, so that an interruption finds weights and step in agreement
        return {name: self.strategy.experimental_local_results(value)[0] for name, value in scalars.items()}

    def free_running(self, run: Run) -> tuple[dict[str, float], list, list]:
        """Losses and measures of the validation sentences in free running, their cepstra with the target's, and the
        conversions; the first ones are written to samples/ and TensorBoard."""
        hp, corpus, pairs = self.hp, self.corpus, self.validation
        batch = corpus.assemble([corpus.whole(pair) for pair in pairs])
        mel, linear = self.on_path(batch)
        mel_loss, linear_loss = (float(losses.l1(predicted, batch[kind], batch["mask"]))
                                 for kind, predicted in (("mel", mel), ("linear", linear)))
        outputs = self.converter.convert_pairs(corpus, pairs)
        rows, cepstra = [], []
        for pair, out in zip(pairs, outputs):
            target, path = corpus.target_features(pair, "linear"), corpus.path(pair)
            # What will be heard is the linear output, so the distortion is measured on the mel of that
            found, true = (metrics.speech_cepstra(utils.mel_of_linear(x, hp), hp) for x in (out.linear, target))
            cepstra.append((found, true))
            rows.append((metrics.mel_cepstral_distortion(found, true), metrics.path_distance(out.positions, path),
                         metrics.duration_error(len(out.mel), len(target)), out.stopped))
        distortion, distance, duration, stopped = np.mean(rows, axis=0)
        self.sample(run, outputs[:hp.n_samples])
        # Distortion along a DTW path rewards stalling; the duration's error takes that advantage away.
        return {"score": distortion * (1.0 + duration), "free_running/mcd": distortion,
                "align/path_distance": distance, "align/duration_error": duration, "align/stopped": stopped,
                "loss/mean_loss": mel_loss + linear_loss, "loss/mean_loss1": mel_loss,
                "loss/mean_loss2": linear_loss}, cepstra, outputs

    def sample(self, run: Run, outputs: list) -> None:
        """Put the first validation sentences, converted in free running, into samples/ and TensorBoard."""
        folder = run.logdir / "samples" / f"step-{int(run.step):06d}"
        for pair, out in zip(self.validation, outputs):
            name = f"{pair.source}-{pair.name}"
            wav = utils.griffin_lim(out.linear, out.pitch, self.hp)
            utils.save_wav(folder / f"{name}.wav", wav, self.hp)
            report.plot_conversion(folder / f"{name}.png", self.corpus.source(pair), out,
                                   self.corpus.target_features(pair, "linear"), self.corpus.path(pair), self.hp,
                                   f"{name}, step {int(run.step)}")
            run.log_sample(name, wav, folder / f"{name}.png")


def find_base(corpus: data_load.Corpus) -> base.Base:
    """The base of a corpus: solved from its pairs or, of a target alone, fitted to the pretrained one."""
    if not corpus.alone:
        return base.solve(corpus)
    speech = voice.load_speech(checkpoints.PRETRAINED)  # the first to be read: it says how the folder comes back
    trained = HyperParams.from_json(checkpoints.PRETRAINED / "hparams.json")
    others = [text for text in differences(trained, corpus.hp) if text.split()[0] in hyperparams.SIGNAL]
    if others:
        raise TrainingError(f"{corpus.data} does not fit {checkpoints.PRETRAINED}: {', '.join(others)}; run prepro.py "
                            "again without --set into another folder")
    return voice.fit(base.load(checkpoints.PRETRAINED), speech, corpus)


def train(plan: RunPlan, make_trainer, steps: int | None, strategy: tf.distribute.Strategy | None = None) -> None:
    """Run the trainer `make_trainer(hp, corpus)` as `plan` says, to its last step or to step `steps`, on the devices of
    `strategy`; raises TrainingError."""
    hp, strategy = plan.hp, strategy or tf.distribute.get_strategy()
    corpus = data_load.Corpus(plan.data, hp, devices.worker(strategy))
    has_base = plan.is_resuming and (plan.logdir / base.FILE).exists()
    found = base.load(plan.logdir) if has_base else find_base(corpus)
    corpus.use_base(found)
    with strategy.scope():
        trainer = make_trainer(hp, corpus)
    if plan.initial_weights:  # before anything is removed: they may be of this very run
        checkpoints.load_generator(trainer.generator, plan.initial_weights)
    devices.all_workers_agree(strategy, 0)  # the chief removes nothing before all workers have read what they need
    is_chief, last_step = devices.is_chief(strategy), sum(steps for _, steps in trainer.stages)
    with contextlib.ExitStack() as stack:
        logdir = plan.logdir
        if is_chief:
            stack.enter_context(cli.locked(logdir, "--logdir"))
            if not plan.no_resume and plan.existing != checkpoints.checkpoints_in(logdir / "checkpoints"):
                raise TrainingError(f"{logdir} was trained by another command meanwhile; the same command goes on")
            if plan.no_resume:
                run_folder.clear_run(logdir)
        else:  # the other workers do what the chief does, to stay in step, but what they write is thrown away
            logdir = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        base.save(found, logdir)
        # Needed if killed before the first checkpoint
        run_folder.write_run_info(logdir, plan.script, plan.data, last_step, plan.init_from, plan.unpaired)
        run = Run(logdir, hp, trainer.parts)
        if plan.checkpoint:
            run.resume(plan.checkpoint)
        first = int(run.step)
        if not devices.all_workers_agree(strategy, first):
            raise TrainingError(f"workers do not see the same checkpoint; {plan.logdir} must be a folder they share")
        stop = min(steps or last_step, last_step)
        if first < stop and is_chief:
            how = f"goes on from step {first} of" if first else "begins:"
            print(f"{plan.logdir} {how} {last_step} steps with {plan.data}")
        fit(run, trainer, stop)
    if is_chief:
        report_end(plan, first, int(run.step), last_step, corpus.alone)


def report_end(plan: RunPlan, first: int, step: int, last_step: int, alone: bool) -> None:
    """Print how far a run came that began at step `first`, and what to do next; a voice `alone` has no sentences."""
    if step < last_step:
        already = " already" if step == first else ""
        print(f"{plan.logdir} is at step {step}{already} of {last_step}; the same command without --steps goes on")
        return
    anew = "; --no-resume begins anew" if step == first else ""
    evaluation, logdir = plan.script.replace("train", "eval"), shlex.quote(str(plan.logdir))
    print(f"{plan.logdir} is trained to its last step, {last_step}{anew}. To convert " + (
        f"recordings: python {evaluation} FILE_OR_FOLDER --logdir {logdir} --out DIR" if alone else
        f"its held-out sentences: python {evaluation} --logdir {logdir}"))


def fit(run: Run, trainer: Trainer, last_step: int) -> None:
    """Run a trainer from the run's step to `last_step`, logging, validating and saving as the hyperparameters say.

    The trainer gives `stages`, a list of (name, steps), `batches(stage, start, stop)`, `train_step(stage, batch, step)`
    that counts `step` up and returns a dictionary of scalars, and `validate(run, stage)` returning the scalars of a
    validation, with the key "score", lower is better, once there is something to select. A step that changed nothing,
    because its gradient was not finite, says so by the scalar "skipped". Raises TrainingError when a scalar of another
    is not finite or too many are skipped in a row, and Stopped after SIGINT or SIGTERM. A checkpoint is written however
    the loop ends, but for that and for a step or a validation that failed.
    """
    with (cli.recording_signals() as received,
          tqdm(total=last_step, initial=int(run.step), desc="training", disable=None, unit="step") as bar):
        stage_start = 0
        try:
            for stage, steps in trainer.stages:
                fit_stage(run, trainer, stage, stage_start, min(stage_start + steps, last_step), bar, received)
                stage_start += steps
        except BaseException as error:
            # An error of TensorFlow's may come from the middle of an update; a run that is resumed after a validation
            # that failed would lack it
            if not isinstance(error, (TrainingError, tf.errors.OpError)) and not run.validating:
                run.save()
            if isinstance(error, tf.errors.ResourceExhaustedError):
                raise TrainingError(f"memory is not enough ({checkpoints.short_message(error)}); the last checkpoint "
                                    "is good. Begin in another --logdir with --set batch_size=8 or a smaller "
                                    "width") from None
            raise


def fit_stage(run: Run, trainer: Trainer, stage: str, start: int, stop: int, bar: tqdm, received: list[int]) -> None:
    """The part of `fit` from the run's step to `stop`, in a stage that began at step `start`, until a signal is
    `received`."""
    first, in_a_row = max(int(run.step), start), 0
    if first >= stop:
        return
    bar.set_description(stage)
    began = time.perf_counter()
    for batch in trainer.batches(stage, first - start, stop - start):
        scalars = {name: float(value) for name, value in trainer.train_step(stage, batch, run.step).items()}
        step, skipped = int(run.step), scalars.pop("skipped", 0.0)
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        in_a_row = in_a_row + 1 if skipped else 0
        if skipped:
            run.skipped += 1
            warn_skipped(trainer, stage, step, step - 1 - start, in_a_row, bar)
        elif len(finite) < len(scalars):
            raise TrainingError(f"loss is not finite at step {step} ({scalars}); the last checkpoint is good: "
                                "begin from it in another --logdir, --init-from, with a lower learning_rate")
        if run.skipped:
            finite["loss/skipped"] = run.skipped
        bar.update()
        if step % run.hp.log_steps == 0 or step == stop:
            run.log("train", finite)
            displayed = {name.split("/")[-1]: f"{value:.4f}" for name, value in finite.items() if "loss" in name}
            bar.set_postfix(displayed)
            if bar.disable:  # no terminal: a line where the bar would be
                left = (time.perf_counter() - began) / (step - first) * (bar.total - step)
                values = " ".join(f"{name} {value}" for name, value in displayed.items())
                print(f"step {step} of {bar.total} ({stage}): {values}, {left / 60:.1f} min left at this pace",
                      flush=True)
        if step % run.hp.save_steps == 0 or step == stop:
            run.validating = True
            validate(run, trainer, stage, bar)
            run.validating = False
            run.save()
        if received:
            run.save()
            raise cli.Stopped(received[0], f"stopped by {signal.Signals(received[0]).name} after step {step}, of which "
                                   "a checkpoint was written; the same command, without --no-resume, goes on")


def warn_skipped(trainer: Trainer, stage: str, step: int, number: int, in_a_row: int, bar: tqdm) -> None:
    """Say which utterances batch `number` of a stage is made of; raises TrainingError if it is one too many."""
    names = ", ".join(trainer.corpus.batch_names(trainer.kind(stage), number))
    bar.write(f"warning: the gradient of step {step} ({stage}) is not finite, it is skipped; its batch: {names}")
    if in_a_row >= SKIPPED_AT_MOST:
        raise TrainingError(f"{in_a_row} steps in a row had no finite gradient, the last one step {step} ({names}). "
                            "The last checkpoint is good: begin from it in another --logdir, --init-from, with a lower "
                            "learning_rate, and if it is always the same utterances listen to them")


def validate(run: Run, trainer: Trainer, stage: str, bar: tqdm) -> None:
    """Validate, log, and keep the checkpoint if it is the best."""
    began = time.perf_counter()
    scalars = trainer.validate(run, stage)
    run.log("validation", scalars)
    text = "  ".join(f"{name.split('/')[-1]} {value:.3f}" for name, value in scalars.items())
    bar.write(f"step {int(run.step)} ({stage}): {text}  [{time.perf_counter() - began:.1f} s]")
    if scalars.get("score", math.inf) < float(run.best):
        run.select(scalars["score"])
