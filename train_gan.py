"""Train the model against a discriminator.

    python train_gan.py                                     # after train.py: begins with the demo's paired run
    python train_gan.py --init-from logdir/ln               # begins with another paired run
    python train_gan.py --logdir logdir/ln-gan              # the same run again resumes where it stopped
    python train_gan.py --num-gpus 2                        # on several GPUs, as train_multi_gpus.py
    python train_gan.py --preset 2017-gan --data DIR        # with random weights and the adversarial loss alone

Least-squares GAN (Mao et al. 2017) in two stages. In "discriminator" that network alone learns to tell the target's
speech from the post-net's output. In "adversarial" one update of it alternates with `k` updates of the post-net on the
same batch. The post-net gets two kinds of mel spectrograms: the target's own, for which the true linear spectrograms
are known, and those of conversions, which need no true spectrogram and therefore no pairs; a target that is alone is
its own source. Encoder and decoder do not change. Conversions get weights between those that training began with and
those that it has reached.
"""
import argparse
import contextlib
import pathlib
import random
import sys
from collections.abc import Iterator

import data_load
from backend import devices
from common import cli
from common.cli import UserError
from conversion import base
from evaluation import figures, metrics
from hyperparams import HyperParams
from modules import total
from networks import Discriminator
from training import losses, run_folder, trainer
from training.run_folder import Run
from training.trainer import Trainer

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

HERE = pathlib.Path(__file__).resolve().parent
WON = 0.98       # above this accuracy the discriminator has won, and the generator learns nothing from it any more
LOST = 0.55       # below this accuracy the discriminator has lost
# What a run inherits with other values: a step takes several times as long as one of paired training
GAN_SETTINGS = {"log_steps": 5, "save_steps": 50}
GENERATOR_SCALARS = ("gan/gen_loss", "loss/mean_loss2", "gradient_norm")
CONVERSIONS_AT_MOST = 2048  # conversions kept in memory for the discriminator, 80 kB each


def cut_windows(linear: tf.Tensor, mask: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Cut linear (N, T, F) and mask (N, T) into windows of `size` frames, (W, size, F) and (W, size); 0: no cutting."""
    if not size:
        return linear, mask
    missing = -tf.shape(mask)[1] % size
    linear = tf.pad(linear, ((0, 0), (0, missing), (0, 0)))
    return (tf.reshape(linear, (-1, size, linear.shape[2])),
            tf.reshape(tf.pad(mask, ((0, 0), (0, missing))), (-1, size)))


class GANTrainer(Trainer):
    """Adversarial training; a step is one update of the discriminator and `k` updates of the generator."""

    def __init__(self, hp: HyperParams, corpus: data_load.Corpus):
        super().__init__(hp, corpus)
        self.discriminator = Discriminator(hp)
        self.stages = [("discriminator", hp.dis_pretrain_steps), ("adversarial", hp.gan_steps)]
        self.generator_variables = self.generator.judged_variables
        self.first_weights = [keras.Variable(variable.numpy(), trainable=False)
                              for variable in self.generator_variables]

        def optimizer(schedule, variables: list) -> keras.optimizers.LossScaleOptimizer:
            adam = trainer.with_loss_scale(keras.optimizers.Adam(schedule, beta_1=0.5), hp)
            adam.build(variables)
            return adam
        self.generator_optimizer = optimizer(trainer.cosine_decay(hp.gen_learning_rate, hp.gan_steps * hp.k, hp),
                                             self.generator_variables)
        # Both learning rates fall together: otherwise the discriminator wins while the generator learns too slowly
        self.discriminator_optimizer = optimizer(
            trainer.cosine_decay(hp.dis_learning_rate, hp.dis_pretrain_steps + hp.gan_steps, hp),
            self.discriminator.trainable_variables)
        self.judge = devices.compiled(self.score)

    @property
    def parts(self) -> dict:
        """The variables that a checkpoint holds."""
        return {"generator": self.generator.weights, "first_weights": self.first_weights,
                "discriminator": self.discriminator.weights, "optimizer_generator": self.generator_optimizer.variables,
                "optimizer_discriminator": self.discriminator_optimizer.variables}

    def keep_first_weights(self) -> None:
        for before, variable in zip(self.first_weights, self.generator_variables):
            before.assign(variable)

    @contextlib.contextmanager
    def conversion_weights(self) -> Iterator[None]:
        """Within this context the generator has the weights that conversions get: a share, `hp.gan_share`, of the way
        from those that training began with to those that it has reached (ESRGAN, Wang et al. 2018, section 3.4). They
        keep the likeness of the former and have most of the texture of the latter."""
        reached = [variable.numpy().copy() for variable in self.generator_variables]
        try:
            for variable, before, now in zip(self.generator_variables, self.first_weights, reached):
                variable.assign(before + self.hp.gan_share * (now - before))
            yield
        finally:
            for variable, now in zip(self.generator_variables, reached):
                variable.assign(now)

    def batch_kind(self, stage: str) -> str:
        return data_load.PAIRED if self.hp.gan_networks == "all" else data_load.ADVERSARIAL

    def batches(self, stage: str, start: int, stop: int) -> Iterator[dict]:
        if self.hp.gan_networks == "postnet" and not self.corpus.conversions:  # once, as encoder and decoder are fixed
            self.corpus.conversions = self.convert_sources()
        return super().batches(stage, start, stop)

    def convert_sources(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Convert training sources; returns mel (T, M) and pitch (T, 2), in float16, as the post-net gets them at
        synthesis."""
        pairs = self.corpus.train
        pairs = random.Random(self.hp.seed).sample(pairs, min(len(pairs), CONVERSIONS_AT_MOST))
        made = []
        for first in tqdm(range(0, len(pairs), 64), "converting", disable=None, leave=False):  # attention takes memory
            chosen = pairs[first:first + 64]
            heard = [*map(self.corpus.recording, chosen)], [*map(self.corpus.voice, chosen)]
            made += [(self.converter.restore_mel(out.mel, out.positions, *each).astype(np.float16),
                      base.restore_pitch(self.corpus.base, out.pitch, self.hp).astype(np.float16))
                     for out, *each in zip(self.converter.predict(*heard), *heard)]
        return made

    def generate(self, batch: dict) -> tuple[tf.Tensor, tf.Tensor]:
        """Linear spectrograms (N, T, F) by the generator, and their mask (N, T).

        If the post-net learns alone, they are drawn from the target's own mel first, then from conversions. If all
        networks learn, they are conversions by the whole generator, which gets its own output and takes nothing from
        the target except its length. There is no dropout, as at synthesis: the discriminator could take the texture
        that dropout leaves for speech.
        """
        generator = self.generator
        if self.hp.gan_networks == "postnet":
            mel, pitch, mask = (tf.concat([batch[own], batch[converted]], axis=0) for own, converted in (
                ("mel", "converted"), ("pitch", "converted_pitch"), ("mask", "converted_mask")))
            return generator.postnet(mel, pitch, mask), mask
        mask = batch["mask"]
        memory, corrected = generator.encoder(batch["source"], batch["mapped"], batch["source_mask"])
        decoded = generator.decoder(memory, corrected, batch["source_mask"], batch["positions"][:, 0],
                                    steps=tf.shape(batch["positions"])[1] - 1)
        mel, pitch = generator.speech(decoded, batch["mapped"], batch["source_mask"], mask)
        return generator.postnet(mel, pitch, mask), mask

    def score(self, linear: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The discriminator's scores (W,) and weights (W,) of all windows of linear (N, T, F) with mask (N, T)."""
        linear, mask = cut_windows(linear, mask, self.hp.dis_frames)
        return self.discriminator(linear, mask), tf.reduce_mean(mask, axis=1)

    def discriminator_losses(self, batch: dict) -> dict:
        loss_real = losses.least_squares(*self.score(batch["linear"], batch["mask"]), goal=1.0)
        generated, mask = self.generate(batch)
        loss_fake = losses.least_squares(*self.score(tf.stop_gradient(generated), mask), goal=0.0)
        return {"loss": loss_real + loss_fake, "gan/dis_loss_real": loss_real, "gan/dis_loss_fake": loss_fake}

    def generator_losses(self, batch: dict) -> dict:
        """The adversarial loss and, if the post-net learns alone, L1 on the spectrograms whose target is known.

        The two losses are balanced by their gradients at the spectrogram. The gradient of the adversarial loss is
        scaled to `gan_weight` times the norm that the gradient of L1 on everything generated would have. So it neither
        fades when the discriminator wins, nor outweighs L1. The tape gets this gradient as the loss
        sum(gradient * spectrogram).
        """
        linear, mask = self.generate(batch)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(linear)
            adversarial = losses.least_squares(*self.score(linear, mask), goal=1.0)
            scaled = self.generator_optimizer.scale_loss(adversarial)  # dividing by the norm removes this factor again
        l1 = losses.l1(linear[:tf.shape(batch["linear"])[0]], batch["linear"], batch["mask"])
        loss = adversarial
        if self.hp.gan_networks == "postnet":
            gradient = tape.gradient(scaled, linear)
            norm = tf.sqrt(total(tf.reduce_sum(tf.square(gradient))))
            norm_of_l1 = tf.math.rsqrt(total(tf.reduce_sum(mask)) * self.hp.n_linear)
            scale = self.hp.gan_weight * norm_of_l1 / (norm + 1e-12)
            loss = l1 + tf.reduce_sum(tf.stop_gradient(scale * gradient) * linear)
        return {"loss": loss, "gan/gen_loss": adversarial, "loss/mean_loss2": l1}

    def train_step(self, stage: str, batch: dict, step: tf.Variable) -> dict:
        """Update the discriminator once and, in stage "adversarial", the generator `k` times, and add 1 to `step`."""
        def step_on_device(batch):
            batch = self.shard_for_device(batch)
            scalars = self.update(self.discriminator_optimizer, self.discriminator.trainable_variables,
                                  self.hp.gan_clip_norm, lambda: self.discriminator_losses(batch))
            scalars["gan/dis_loss"] = scalars.pop("loss")
            if stage == "adversarial":
                for _ in range(self.hp.k):  # devices cannot synchronise inside a loop of the graph
                    found = self.update(self.generator_optimizer, self.generator_variables,
                                        self.hp.gan_clip_norm, lambda: self.generator_losses(batch))
                    found["skipped"] = tf.maximum(scalars["skipped"], found["skipped"])
                    scalars |= {name: found[name] for name in (*GENERATOR_SCALARS, "skipped")}
            return scalars
        return self.run_step(stage, batch, step, step_on_device)

    def validate(self, run: Run, stage: str) -> dict[str, float]:
        """Measures of conversions of the validation sentences, and the discriminator's accuracy on these conversions
        and on the target's speech."""
        with self.conversion_weights():
            # What conversions lack of movement is measured anew only if the networks before the post-net learn
            scalars, cepstra, outputs = self.free_running(run, measure_movement=self.hp.gan_networks == "all")
        drawn = self.converter.draw([output.mel for output in outputs], [output.pitch for output in outputs])
        scores = [[np.asarray(x) for x in self.judge(*data_load.pad(spectrograms, 1))] for spectrograms in (
            [self.corpus.target_features(pair, "linear") for pair in self.validation], drawn)]
        real, fake = (float(np.average((score > 0.5) == right, weights=weights))
                      for (score, weights), right in zip(scores, (True, False)))
        accuracy = (real + fake) / 2
        scalars |= {"gan/accuracy_real": real, "gan/accuracy_fake": fake, "gan/accuracy": accuracy}
        if stage != "adversarial":
            scalars.pop("score")  # the generator has not changed yet, so there is nothing to select
            return scalars
        ratio = float(np.mean([metrics.global_variance_ratio(*pair) for pair in cepstra]))
        scalars |= {"free_running/global_variance_ratio": ratio,
                    "free_running/modulation_distance": metrics.modulation_distance(*zip(*cepstra))}
        # Distances do not hear what a discriminator adds. The rates fall, so the newest generator is kept as the best
        scalars["score"] = -float(run.step)
        if accuracy > WON:
            tqdm.write(f"warning: the discriminator is right in {accuracy:.0%}; it has won and the generator does "
                       "not keep up: raise gan_weight or k, or lower dis_learning_rate", file=sys.stderr)
        elif accuracy < LOST:
            tqdm.write(f"warning: the discriminator is right in {accuracy:.0%}; it has lost and teaches nothing: "
                       "raise dis_learning_rate, lower k or gan_weight", file=sys.stderr)
        return scalars


def plot_curves(logdir: pathlib.Path) -> None:
    """Plot the losses of a run into its folder."""
    curves = {name: run_folder.read_scalars(logdir / "train", f"gan/{name}")
              for name in ("dis_loss_real", "dis_loss_fake", "gen_loss")}
    figures.plot_curves(logdir / "gan_loss.png", curves, "least-squares losses of discriminator and generator", "loss")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--num-gpus", type=int, metavar="N", help="how many to use (default: one)")
    run_folder.add_arguments(parser, "logdir/NAME-gan, where NAME is the folder of --init-from",
                             "begin with the weights, hyperparameters and features of another run (default: "
                             "logdir/demo, or logdir/paired if it was trained on --data)")
    return parser.parse_args(argv)


def complete(args: argparse.Namespace) -> argparse.Namespace:
    """Fill in the run to begin with and the run folder; raises UserError if a new run is given neither --init-from nor
    --preset, and no paired run of train.py's own names was trained on the same features."""
    before = run_folder.read_run_info(args.logdir) if args.logdir and args.no_resume else {}
    args.init_from = args.init_from or run_folder.former_init_from(args, before)
    if args.preset is None:
        args.data = args.data or before.get("data")
    if args.init_from is None and args.preset is None and not (args.logdir and run_folder.is_resuming(args)):
        args.init_from = HERE / "logdir" / ("paired" if args.data else "demo")
        trained_on = run_folder.read_run_info(args.init_from).get("data")
        if trained_on is None or before or args.data and args.data.resolve() != trained_on:
            raise UserError(f"{args.init_from} is no paired run of {args.data or 'the demo'}: say with --init-from "
                            "which run of train.py to begin with, or with --preset that weights are random at first")
    name = args.init_from.resolve().name + "-gan" if args.init_from else "gan"
    args.logdir = args.logdir or HERE / "logdir" / name
    return args


def run(args: argparse.Namespace) -> None:
    """Train on one device or on several; raises UserError and OSError."""
    strategy = devices.make_strategy(args.num_gpus) if args.num_gpus is not None else None
    plan = run_folder.open_run(complete(args), "train_gan.py", inherit_with=GAN_SETTINGS)
    if plan.initial_weights and not plan.is_resuming:
        run_folder.read_finished(plan.init_from)
    trainer.train(plan, GANTrainer, args.steps, strategy)
    plot_curves(args.logdir)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return cli.run_main("train_gan.py", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
