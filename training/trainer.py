"""What paired and adversarial training share: updates, validation, and a training loop that stops at a safe place.

The steps are in train.py and train_gan.py, the files of a run folder in run_folder.py. The calls of one step are:

    fit_stage -> PairedTrainer.train_step -> Trainer.run_step
        on each device: step_on_device -> Trainer.shard_for_device, Trainer.update -> PairedTrainer.forward
"""
import contextlib
import math
import pathlib
import random
import shlex
import signal
import sys
import time
from collections.abc import Iterator

import data_load
import utils
from backend import checkpoints, devices
from common import audio_files, cli
from common.cli import UserError
from conversion import base, voice
from conversion.inference import Converter, load_converter
from corpus import manifest
from evaluation import figures, metrics
from hyperparams import SIGNAL, HyperParams, differences
from modules import total
from networks import Generator
from training import losses, run_folder
from training.run_folder import Run, RunPlan

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

CURE = ("The last checkpoint is good: begin from it with --init-from, another --logdir and a lower learning_rate (in "
        "stage \"encoder\" encoder_rate, in train_gan.py gen_learning_rate and dis_learning_rate)")
SKIPPED_AT_MOST = 10  # steps in a row: one may come from a bad recording, but after ten the model has diverged


class Diverged(UserError):
    """The weights are no longer worth saving."""


def cosine_decay(peak: float, steps: int, hp: HyperParams) -> keras.optimizers.schedules.LearningRateSchedule:
    """Learning rate that rises from `lowest_rate` * `peak` to `peak`, then falls along a cosine to where it began."""
    warmup = min(hp.warmup_steps, steps // 4)
    return keras.optimizers.schedules.CosineDecay(peak * hp.lowest_rate, max(1, steps - warmup), alpha=hp.lowest_rate,
                                                  warmup_target=peak, warmup_steps=max(1, warmup))


def with_loss_scale(optimizer: keras.optimizers.Optimizer, hp: HyperParams) -> keras.optimizers.LossScaleOptimizer:
    """Wrap an optimizer so that it changes nothing in a step whose gradient is not finite. The scale of the loss,
    against small gradients that vanish in float16, is halved then, and doubled after many good steps."""
    return keras.optimizers.LossScaleOptimizer(optimizer, 2.0 ** 15 if hp.precision == "float16" else 1.0, 2000)


class Trainer:
    """A generator and its corpus, with updates on all devices of the `tf.distribute.Strategy` in whose scope it is
    made. Subclasses define `stages`, a list of (name, steps), and what a step does."""

    def __init__(self, hp: HyperParams, corpus: data_load.Corpus):
        self.hp, self.corpus, self.strategy = hp, corpus, tf.distribute.get_strategy()
        n_devices = self.strategy.num_replicas_in_sync
        if hp.batch_size < n_devices:
            raise UserError(f"batch_size={hp.batch_size} leaves some of {n_devices} devices without a row; "
                            f"--set batch_size={n_devices} or more")
        keras.utils.set_random_seed(hp.seed)
        self.generator = Generator(hp)
        self.converter = Converter(self.generator, corpus.base)
        self.postnet = devices.compiled(self.generator.postnet)
        self.on_path = devices.compiled(self.decode_on_path)
        pairs = corpus.split("val")
        self.validation = random.Random(hp.seed).sample(pairs, min(len(pairs), hp.validation_limit))
        self._steps = {}

    def keep_first_weights(self) -> None:
        """Called when the generator has its first weights; a resumed run restores what this changes."""

    def conversion_weights(self) -> contextlib.AbstractContextManager:
        """Within this context the generator has the weights that conversions get."""
        return contextlib.nullcontext()

    def onward(self, mel: tf.Tensor) -> tf.Tensor:
        """What the second map makes of the networks' mel (N, T, M), see voice.py; without one, the mel itself."""
        found = self.corpus.base
        if not found.is_followed:
            return mel
        kernel = found.onward_kernel.reshape(-1, self.hp.n_mels, self.hp.n_mels)
        first, last = (tf.repeat(frame, len(kernel) // 2, axis=1) for frame in (mel[:, :1], mel[:, -1:]))
        return tf.nn.conv1d(tf.concat([first, mel, last], axis=1), kernel, 1, "VALID") + found.onward_bias

    def decode_on_path(self, batch: dict):
        """Decode a batch with the decoder's own output, but read the source at the true positions (N, Ty + 1), so that
        frames are aligned with the target's; global attention, whose position cannot be set, gets the target's frames
        instead. Returns the decoder's mel (N, T, M), the mel that is used of it, and the positions (N, T)."""
        generator = self.generator
        decoded = generator(batch["source"], batch["mapped"], batch["source_mask"], batch["positions"],
                            batch["mel"] if self.hp.attention == "global" else None)
        mel, _ = generator.speech(decoded, batch["mapped"], batch["source_mask"], batch["mask"])
        return decoded.mel, mel, generator.decoder.places(decoded)

    def draw_on_path(self, batch: dict, mels, positions) -> tf.Tensor:
        """Linear spectrograms (N, T, F) of the mel (N, T, M) that was read at `positions` (N, T) for the validation
        sentences; the harmonics have the target's pitch."""
        restored = batch["mel"].copy()
        for i, (pair, n) in enumerate(zip(self.validation, batch["mask"].sum(axis=1).astype(int))):
            restored[i, :n] = self.converter.restore_mel(np.asarray(mels[i, :n]), np.asarray(positions[i, :n]),
                                                         self.corpus.recording(pair), self.corpus.voice(pair))
        return self.postnet(restored, batch["pitch"], batch["mask"])

    def batches(self, stage: str, start: int, stop: int) -> Iterator[dict]:
        """The batches of steps `start` to `stop` - 1 of a stage. `batch_kind(stage)` names a kind of data_load.py."""
        return self.corpus.batches(self.batch_kind(stage), start, stop)

    def run_step(self, stage: str, batch: dict, step: tf.Variable, updates) -> dict:
        """Run `updates(batch)` on all devices, then add 1 to `step`; returns the scalars. It is compiled once for each
        stage and variable `step`, for batches of any length."""
        def run(batch):
            scalars = self.strategy.run(updates, (batch,))
            step.assign_add(1)  # in the same function, so that after an interruption the step agrees with the weights
            return {name: self.strategy.experimental_local_results(value)[0] for name, value in scalars.items()}
        key = stage, step.ref()
        if key not in self._steps:
            signature = {name: tf.TensorSpec((None, None, *array.shape[2:])) for name, array in batch.items()}
            self._steps[key] = devices.compiled(run, input_signature=[signature])
        return self._steps[key](batch)

    def shard_for_device(self, batch: dict) -> dict:
        """This device's share of the rows of a batch, every n-th; rows of zeros are added if there are too few."""
        n_devices = self.strategy.num_replicas_in_sync
        if n_devices == 1:
            return batch
        first, shared = tf.distribute.get_replica_context().replica_id_in_sync_group, {}
        for name, array in batch.items():
            missing = -tf.shape(array)[0] % n_devices
            shared[name] = tf.pad(array, [(0, missing)] + [(0, 0)] * (len(array.shape) - 1))[first::n_devices]
        return shared

    def update(self, optimizer, variables: list, clip_norm: float, loss_of) -> dict:
        """Update `variables` once. `loss_of()` returns the loss and other scalars of this device's rows. If the
        gradient is not finite, nothing changes and the scalar "skipped" is 1."""
        n_devices, values = self.strategy.num_replicas_in_sync, [variable.value for variable in variables]
        statistics = self.generator.non_trainable_variables  # of norms; the forward pass updates them
        before = [tf.identity(variable.value) for variable in statistics]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            scalars = loss_of()
            loss = optimizer.scale_loss(scalars["loss"])
        scale = tf.identity(optimizer.dynamic_scale)
        gradients, norm = tf.clip_by_global_norm(total(tape.gradient(loss, values)), clip_norm * scale)
        # Each device holds the gradient of the whole batch already, and the optimizer sums over the devices
        optimizer.apply(gradients if n_devices == 1 else [x / n_devices for x in gradients], variables)
        finite = tf.math.is_finite(norm)
        for variable, value in zip(statistics, before):
            variable.assign(tf.where(finite, variable.value, value))
        return total(scalars) | {"gradient_norm": norm / scale, "skipped": 1.0 - tf.cast(finite, tf.float32)}

    def free_running(self, run: Run, measure_movement: bool = True) -> tuple[dict[str, float], list, list]:
        """Convert the validation sentences in free running. Returns their losses and measures, pairs of converted and
        target cepstra, and the conversions. The first conversions are written to samples/ and TensorBoard."""
        hp, corpus, pairs = self.hp, self.corpus, self.validation
        batch = corpus.assemble([corpus.whole(pair) for pair in pairs])
        outputs = self.converter.convert_pairs(corpus, pairs, measure_movement)
        mel, used, positions = self.on_path(batch)
        linear = self.draw_on_path(batch, used, positions)
        mel_loss, linear_loss = (float(losses.l1(predicted, batch[kind], batch["mask"]))
                                 for kind, predicted in (("mel", self.onward(mel)), ("linear", linear)))
        rows, cepstra = [], []
        for pair, out in zip(pairs, outputs):
            target, path = corpus.target_features(pair, "linear"), corpus.path(pair)
            # The waveform is made from the linear output, so the distortion is measured on the mel of the linear output
            found, true = (metrics.speech_cepstra(utils.mel_of_linear(x, hp), hp) for x in (out.linear, target))
            cepstra.append((found, true))
            rows.append((metrics.mel_cepstral_distortion(found, true), metrics.path_distance(out.positions, path),
                         metrics.duration_error(len(out.mel), len(target)), out.stopped))
        distortion, distance, duration, stopped = np.mean(rows, axis=0)
        self.sample(run, outputs[:hp.n_samples])
        # A conversion that stalls gets a lower distortion along the DTW path; the duration error makes up for it
        return {"score": distortion * (1.0 + duration), "free_running/mcd": distortion,
                "align/path_distance": distance, "align/duration_error": duration, "align/stopped": stopped,
                "loss/mean_loss": mel_loss + linear_loss, "loss/mean_loss1": mel_loss,
                "loss/mean_loss2": linear_loss}, cepstra, outputs

    def sample(self, run: Run, outputs: list) -> None:
        """Write the first conversions of the validation sentences to samples/ and TensorBoard."""
        folder = run.logdir / "samples" / f"step-{int(run.step):06d}"
        for pair, out in zip(self.validation, outputs):
            name = f"{pair.source}-{pair.name}"
            wav = utils.griffin_lim(out.linear, out.pitch, self.hp)
            audio_files.save_wav(folder / f"{name}.wav", wav, self.hp)
            figures.plot_conversion(folder / f"{name}.png", self.corpus.recording(pair), out,
                                   self.corpus.target_features(pair, "linear"), self.corpus.path(pair), self.hp,
                                   f"{name}, step {int(run.step)}")
            run.log_sample(name, wav, folder / f"{name}.png")


def find_base(corpus: data_load.Corpus, pretrained: pathlib.Path | None) -> base.Base:
    """The base of a corpus. It is solved from the pairs, or the base in the folder `pretrained` is fitted to the target
    (`voice.py`), as it must be if the corpus holds the target alone. Raises UserError."""
    if not pretrained:
        return base.solve(corpus)
    # First, because its error says how to get the folder back; pairs do not need it
    speech = voice.load_speech(pretrained) if corpus.has_target_only else None
    trained = HyperParams.from_json(pretrained / "hparams.json")
    others = [text for text in differences(vars(trained), corpus.hp) if text.split()[0] in SIGNAL]
    if others:
        or_without = "" if corpus.has_target_only else ", or leave --init-from out"
        raise UserError(f"{corpus.data} does not fit {pretrained}: {', '.join(others)}; run prepro.py again without "
                        f"--set into another folder{or_without}")
    if corpus.has_target_only:
        return voice.fit(base.load(pretrained), speech, corpus)
    return voice.fit_to_pairs(load_converter(pretrained, None, ["pace=0"]), corpus)


def choose_base(plan: RunPlan, corpus: data_load.Corpus) -> base.Base:
    """The base of a run:

    - resumed: that of its folder, with whose weights it belongs
    - of train_gan.py, whose post-net learns alone: that of --init-from, which encoder and decoder know
    - of train.py with an exported voice as --init-from: that voice's, followed by a map to the target
    - any other, also with a run as --init-from, which gives its weights only: solved from the pairs
    """
    hp, judged, before = plan.hp, plan.script == "train_gan.py", plan.init_from
    if plan.is_resuming and (plan.checkpoint or not judged) and (plan.logdir / base.FILE).exists():
        return base.load(plan.logdir)
    if judged and hp.gan_networks == "postnet" and before:
        return base.load(before)
    is_voice = before and (before / checkpoints.WEIGHTS).exists() and hp.base and hp.attention == "local"
    return find_base(corpus, before if corpus.has_target_only or is_voice and not judged else None)


def train(plan: RunPlan, make_trainer, steps: int | None, strategy: tf.distribute.Strategy | None = None) -> None:
    """Train with `make_trainer(hp, corpus)` as `plan` says, on the devices of `strategy`, until the last step or until
    step `steps`; raises UserError."""
    hp, logdir, strategy = plan.hp, plan.logdir, strategy or tf.distribute.get_strategy()
    with cli.locked(logdir, "--logdir"):
        corpus = data_load.Corpus(plan.data, hp)
        if plan.script == "train_gan.py" and not plan.checkpoint:
            check_judged(plan, corpus)
        found = choose_base(plan, corpus)
        corpus.use_base(found)
        with strategy.scope():
            trainer = make_trainer(base.with_timing(found, hp), corpus)
        if plan.initial_weights:  # loaded before --no-resume removes anything: they may belong to this run
            checkpoints.load_generator(trainer.generator, plan.initial_weights)
            if found.is_followed and plan.script == "train.py":  # they have another voice's gains of movement
                trainer.converter.convert_pairs(corpus, trainer.validation, measure_movement=True)
        trainer.keep_first_weights()
        if plan.no_resume:
            run_folder.clear_run(logdir)
        last_step = sum(n for _, n in trainer.stages)
        base.save(found, logdir)
        # Written now, because a run that is killed before its first checkpoint needs it to resume
        run_folder.write_run_info(logdir, plan.script, plan.data, last_step, plan.init_from, plan.initial_weights)
        run = Run(logdir, hp, trainer.parts)
        if plan.checkpoint:
            run.resume(plan.checkpoint)
        first = int(run.step)
        stop = min(steps or last_step, last_step)
        if first < stop:
            how = (f"goes on from step {first} of" if first else
                   f"begins with {plan.initial_weights or 'random weights'}:")
            parts = ", ".join(f"{stage} {n}" for stage, n in trainer.stages)
            print(f"{logdir} {how} {last_step} steps ({parts}) with {plan.data}")
        fit(run, trainer, stop)
    report_end(plan, first, int(run.step), last_step, corpus.has_target_only)


def check_judged(plan: RunPlan, corpus: data_load.Corpus) -> None:
    """Raise UserError if a run of train_gan.py begins with what it cannot shape: a target alone with anything but the
    run of train.py that learnt this voice from the same features, because a discriminator would teach the texture of
    the one to any other voice without a word; or a whole generator that speaks behind a pretrained voice."""
    learnt_from = run_folder.read_run_info(plan.init_from).get("manifest") if plan.init_from else None
    everything = plan.hp.gan_networks == "all"
    if corpus.has_target_only and (everything or learnt_from != manifest.fingerprint(plan.data)):
        raise UserError(f"{plan.data} holds the target alone: train.py learns such a voice; give its run with the "
                        "same features as --init-from, and leave gan_networks=postnet")
    if everything and plan.init_from and base.load(plan.init_from).is_followed:
        raise UserError(f"{plan.init_from} speaks behind a pretrained voice, so that only its post-net can learn "
                        "from a discriminator: leave gan_networks=postnet")


def report_end(plan: RunPlan, first: int, step: int, last_step: int, alone: bool) -> None:
    """Print which step a run has reached from step `first`, and what to do next. A target `alone` has no held-out
    sentences."""
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
    """Run a trainer from the run's step to `last_step`; log, validate and save as the hyperparameters say. Scalars are
    fetched from the device every `log_steps` steps, and before a checkpoint. The lowest "score" of a validation selects
    the best checkpoint. Raises Diverged (see `check`), and Stopped after SIGINT or SIGTERM. At the end a checkpoint is
    written, except after Diverged or a failed step or validation."""
    with (cli.recording_signals() as received,
          tqdm(total=last_step, initial=int(run.step), desc="training", disable=None, unit="step") as bar):
        stage_start = 0
        try:
            for stage, steps in trainer.stages:
                fit_stage(run, trainer, stage, stage_start, min(stage_start + steps, last_step), bar, received)
                stage_start += steps
        except BaseException as error:
            # TensorFlow's may come from the middle of an update; a validation that failed is repeated by a resumed run
            if not isinstance(error, (Diverged, tf.errors.OpError)) and not run.validating:
                check(run, trainer, bar)
                run.save()
            if isinstance(error, tf.errors.ResourceExhaustedError):
                raise UserError(f"memory is not enough ({run_folder.short_message(error)}); the last checkpoint is "
                                "good. Begin in another --logdir with --set batch_size=8 or a smaller width") from None
            raise


def fit_stage(run: Run, trainer: Trainer, stage: str, start: int, stop: int, bar: tqdm, received: list[int]) -> None:
    """Run one stage of `fit`, which began at step `start`, from the run's step to `stop` or until a signal."""
    hp, first = run.hp, max(int(run.step), start)
    if first >= stop:
        return
    bar.set_description(stage)
    began = time.perf_counter()
    for step, batch in enumerate(trainer.batches(stage, first - start, stop - start), first + 1):
        run.unchecked.append((step, stage, step - 1 - start, trainer.train_step(stage, batch, run.step)))
        bar.update()
        is_logging, is_saving = (step % every == 0 or step == stop for every in (hp.log_steps, hp.save_steps))
        if is_logging or is_saving:
            scalars = check(run, trainer, bar)
        if is_logging:
            run.log("train", scalars)
            displayed = {name.split("/")[-1]: f"{value:.4f}" for name, value in scalars.items() if "loss" in name}
            if [*displayed.values()].count(displayed.get("loss")) > 1:  # it is the only one
                del displayed["loss"]
            bar.set_postfix(displayed)
            if bar.disable:  # without a terminal a line is printed instead of the bar
                left = (time.perf_counter() - began) / (step - first) * (bar.total - step)
                values = " ".join(f"{name} {value}" for name, value in displayed.items())
                print(f"step {step} of {bar.total} ({stage}): {values}, {left / 60:.1f} min left", flush=True)
        if is_saving:
            run.validating = True
            validate(run, trainer, stage, bar)
            run.validating = False
            run.save()
        if received:  # `fit` saves the step
            raise cli.Stopped(received[0], f"stopped by {signal.Signals(received[0]).name} after step {step}, of which "
                              "a checkpoint was written; the same command, without --no-resume, goes on")


def check(run: Run, trainer: Trainer, bar: tqdm) -> dict[str, float]:
    """Fetch the scalars of the `unchecked` steps of a run, which waits for the device; returns the finite ones of the
    last step. Names the batch of each skipped step; raises Diverged after too many of them in a row, or if a scalar of
    another step is not finite."""
    finite, unchecked, run.unchecked = {}, run.unchecked, []
    for step, stage, number, scalars in unchecked:
        scalars = {name: float(value) for name, value in scalars.items()}
        skipped = scalars.pop("skipped", 0.0)
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        run.in_a_row = run.in_a_row + 1 if skipped else 0
        if skipped:
            run.skipped += 1
            names = ", ".join(trainer.corpus.batch_names(trainer.batch_kind(stage), number))
            bar.write(f"warning: gradient of step {step} ({stage}) was not finite, it was skipped; its batch: {names}",
                      file=sys.stderr)
            if run.in_a_row >= SKIPPED_AT_MOST:
                raise Diverged(f"{run.in_a_row} steps in a row had no finite gradient, the last one step {step} "
                               f"({names}: listen to them). {CURE}")
        elif len(finite) < len(scalars):
            raise Diverged(f"loss is not finite at step {step} ({scalars}). {CURE}")
    return finite | ({"loss/skipped": run.skipped} if run.skipped else {})


def validate(run: Run, trainer: Trainer, stage: str, bar: tqdm) -> None:
    """Validate, log, and keep the weights of this step if they are the best so far."""
    began = time.perf_counter()
    scalars = trainer.validate(run, stage)
    run.log("validation", scalars)
    text = "  ".join(f"{name.split('/')[-1]} {value:.3f}" for name, value in scalars.items() if name != "score")
    bar.write(f"step {int(run.step)} ({stage}): {text}  [{time.perf_counter() - began:.1f} s]")
    if scalars.get("score", math.inf) < float(run.best):
        with trainer.conversion_weights():
            run.select(scalars["score"])
