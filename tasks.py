"""What training does in a step: the common part of all tasks, and the paired one."""
import math
import random
from collections.abc import Iterator

import data_load
import losses
import metrics
import report
import trainer
import utils
import keras
import numpy as np
import tensorflow as tf

from convert import Converter
from hyperparams import HyperParams
from modules import total
from networks import DecoderOutput, Generator


class Task:
    """A generator, its corpus, and how it does in free running on the validation sentences.

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
        self.postnet, self.on_path = tf.function(self.generator.postnet), tf.function(self.draw_on_path)
        pairs = corpus.split("val")
        self.validation = random.Random(hp.seed).sample(pairs, min(len(pairs), hp.validation_limit))
        self._steps = {}

    def draw_on_path(self, batch: dict):
        """Mel (N, T, M) and linear (N, T, F) of a decoder that hears itself, but reads along the true positions
        (N, Ty + 1) of a batch, so that what it writes is in step with the target. The harmonics have the target's
        pitch. Global attention cannot be told where to read: there it is the target that the decoder hears."""
        mask = batch["mask"]
        decoded = self.generator(batch["source"], batch["carried"], batch["source_mask"], batch["positions"],
                                 batch["mel"] if self.hp.attention == "global" else None)
        mel, _ = self.generator.postnet_inputs(decoded, batch["carried"], batch["source_mask"], mask)
        return decoded.mel, self.generator.postnet(mel, batch["pitch"], mask)

    def decoder_losses(self, decoded: DecoderOutput, batch: dict) -> dict:
        """Losses of what the decoder wrote along known positions; `loss` is their weighted sum. Global attention has no
        pace, and without harmonics there is no pitch."""
        hp, mask = self.hp, batch["mask"]
        loss = mel = losses.l1(decoded.mel, batch["mel"], mask)
        scalars = {"loss/mean_loss1": mel}
        if hp.attention == "local":
            start, end, true = decoded.positions[:, :, 0], decoded.positions[:, :, 1], batch["positions"]
            pace = losses.huber((end - start) / hp.r, (true[:, 1:] - true[:, :-1]) / hp.r, mask[:, ::hp.r])
            loss, scalars["align/pace_loss"] = loss + hp.pace_weight * pace, pace
        if hp.harmonics:
            octaves, voicing = losses.pitch(decoded.pitch, batch["pitch"], mask)
            loss = loss + hp.pitch_weight * octaves + hp.voicing_weight * voicing
            scalars |= {"loss/pitch_octaves": octaves, "loss/voicing": voicing}
        return {"loss": loss, **scalars}

    def batches(self, stage: str, start: int, stop: int) -> Iterator[dict]:
        """The batches of steps `start` to `stop` - 1 of a stage, of the `kind(stage)` that data_load.py names."""
        return self.corpus.batches(self.kind(stage), start, stop)

    def compile(self, stage: str, batch: dict, function):
        """Compile `function` of a batch once a stage, whatever the lengths."""
        if stage not in self._steps:
            signature = {name: tf.TensorSpec((None, None, *array.shape[2:])) for name, array in batch.items()}
            self._steps[stage] = tf.function(function, input_signature=[signature], jit_compile=bool(self.hp.xla))
        return self._steps[stage]

    def rows(self, batch: dict) -> dict:
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

    def free_running(self, run: trainer.Run) -> tuple[dict[str, float], list, list]:
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
            target, path = corpus.spoken_target(pair, "linear"), corpus.path(pair)
            # What will be heard is the linear output, so the distortion is measured on the mel of that
            heard, spoken = (metrics.speech_cepstra(utils.mel_of_linear(x, hp), hp) for x in (out.linear, target))
            cepstra.append((heard, spoken))
            rows.append((metrics.mel_cepstral_distortion(heard, spoken), metrics.path_distance(out.positions, path),
                         metrics.duration_error(len(out.mel), len(target)), out.stopped))
        distortion, distance, duration, stopped = np.mean(rows, axis=0)
        self.sample(run, outputs[:hp.n_samples])
        # Distortion along a DTW path rewards stalling; the duration's error takes that advantage away.
        return {"score": distortion * (1.0 + duration), "free_running/mcd": distortion,
                "align/path_distance": distance, "align/duration_error": duration, "align/stopped": stopped,
                "loss/mean_loss": mel_loss + linear_loss, "loss/mean_loss1": mel_loss,
                "loss/mean_loss2": linear_loss}, cepstra, outputs

    def sample(self, run: trainer.Run, outputs: list) -> None:
        """Put the first validation sentences, converted in free running, into samples/ and TensorBoard."""
        folder = run.logdir / "samples" / f"step-{int(run.step):06d}"
        for pair, out in zip(self.validation, outputs):
            name = f"{pair.source}-{pair.name}"
            wav = utils.griffin_lim(out.linear, out.pitch, self.hp)
            utils.save_wav(folder / f"{name}.wav", wav, self.hp)
            report.plot_conversion(folder / f"{name}.png", self.corpus.source(pair), out,
                                   self.corpus.spoken_target(pair, "linear"), self.corpus.path(pair), self.hp,
                                   f"{name}, step {int(run.step)}")
            run.log_sample(name, wav, folder / f"{name}.png")


class Paired(Task):
    """Paired training in stages, each with an optimizer of its own: post-net, encoder and decoder, and all of them at
    once, as in 2017; those without steps are left out."""

    def __init__(self, hp: HyperParams, corpus: data_load.Corpus):
        if corpus.alone and not (hp.base and hp.attention == "local"):
            raise ValueError(f"{corpus.data} holds the target alone: for such a voice the base speaks, which takes "
                             "base=1 and attention=local")
        super().__init__(hp, corpus)
        most = math.ceil(hp.mel_epochs * len(corpus.slices) / hp.batch_size)
        # Of a target alone there is no source to correct a base for
        planned = {"postnet": hp.postnet_steps, "mel": 0 if corpus.alone else min(hp.mel_steps, most),
                   "joint": 0 if corpus.alone else hp.joint_steps}
        self.stages = [(stage, steps) for stage, steps in planned.items() if steps]
        core = self.generator.encoder.trainable_variables + self.generator.decoder.trainable_variables
        postnet = self.generator.postnet.trainable_variables
        self.variables = {"postnet": postnet, "mel": core, "joint": core + postnet}
        self.optimizers = {}
        for stage, steps in self.stages:
            adam = keras.optimizers.Adam(trainer.cosine(hp.learning_rate, steps, hp))
            self.optimizers[stage] = trainer.scaled(adam, hp)
            self.optimizers[stage].build(self.variables[stage])

    @property
    def parts(self) -> dict:
        """The variables that a checkpoint holds."""
        return {"generator": self.generator.weights,
                **{f"optimizer_{stage}": optimizer.variables for stage, optimizer in self.optimizers.items()}}

    def kind(self, stage: str) -> str:
        return data_load.POSTNET if stage == "postnet" else data_load.PAIRED

    def forward(self, stage: str, batch: dict) -> dict:
        """Losses of a stage; `loss` is what is minimised."""
        generator, mask = self.generator, batch["mask"]
        if stage == "postnet":
            linear = generator.postnet(batch["mel"], batch["pitch"], mask, training=True)
            loss = losses.l1(linear, batch["linear"], mask)
            return {"loss": loss, "loss/mean_loss2": loss}
        decoded = generator(batch["source"], batch["carried"], batch["source_mask"], batch["positions"], batch["mel"],
                            training=True)
        scalars = self.decoder_losses(decoded, batch)
        if stage == "joint":  # the post-net draws from what the decoder writes, and its loss goes back to there
            mel, _ = generator.postnet_inputs(decoded, batch["carried"], batch["source_mask"], mask)
            linear = losses.l1(generator.postnet(mel, batch["pitch"], mask, training=True), batch["linear"], mask)
            scalars |= {"loss": scalars["loss"] + linear, "loss/mean_loss2": linear,
                        "loss/mean_loss": scalars["loss/mean_loss1"] + linear}
        return scalars

    def train_step(self, stage: str, batch: dict, step: tf.Variable) -> dict:
        """One update, which counts `step` up with it."""
        def update(batch):
            batch, device = self.rows(batch), tf.distribute.get_replica_context().replica_id_in_sync_group
            # A step draws a handful of times, and each draw counts the second number up by one
            seed = tf.stack([tf.cast(self.hp.seed + device, "uint32"), tf.cast(step * 16, "uint32")])
            self.generator.seeds.state.assign(seed)
            return self.update(self.optimizers[stage], self.variables[stage], self.hp.clip_norm,
                               lambda: self.forward(stage, batch))

        return self.compile(stage, batch, lambda batch: self.on_devices(update, batch, step))(batch)

    def validate(self, run: trainer.Run, stage: str) -> dict[str, float]:
        """Losses and, unless the post-net learns alone, measures of free running on the validation sentences."""
        if stage != "postnet":
            return self.free_running(run)[0]
        batch = self.corpus.assemble([self.corpus.whole(pair) for pair in self.validation])
        linear = self.postnet(batch["mel"], batch["pitch"], batch["mask"])
        return {"loss/mean_loss2": float(losses.l1(linear, batch["linear"], batch["mask"]))}  # nothing to select yet
