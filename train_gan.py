"""Train the model against a discriminator.

    python train_gan.py                                     # goes on from the demo's paired run
    python train_gan.py --init-from logdir/mine             # goes on from a paired run of yours
    python train_gan.py --logdir logdir/gan                 # the same again resumes where it stopped
    python train_gan.py --preset 2017-gan --data DIR        # nothing but the discriminator teaches, as in 2017

Least-squares GAN (Mao et al. 2017). Two stages: "warmup" teaches the discriminator to tell the target's speech from the
converted one, "joint" then alternates one update of it with `k` of the generator on the same batch. The generator hears
itself, and gradients flow through all it decodes.
"""
import argparse
import pathlib
import sys
from collections.abc import Iterator

import commands
import data_load
import hyperparams
import losses
import metrics
import report
import trainer
import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from hyperparams import HyperParams
from networks import DecoderOutput, Discriminator
from tasks import Task

HERE = pathlib.Path(__file__).resolve().parent
SURE = 0.98       # a discriminator that is right so often has won: it teaches nothing any more
LOST = 0.55       # and one that is right so seldom has lost
OFTEN = {"log_steps": 5, "save_steps": 50}  # a step takes several times as long as one of paired training
GENERATOR_SCALARS = ("gan/gen_loss", "loss/mean_loss1", "loss/mean_loss2", "gradient_norm")


def windows(linear: tf.Tensor, mask: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Linear (N, T, F), mask (N, T) cut into windows of `size` frames: (W, size, F), (W, size); 0 for no cutting."""
    if not size:
        return linear, mask
    missing = -tf.shape(mask)[1] % size
    linear = tf.pad(linear, ((0, 0), (0, missing), (0, 0)))
    return (tf.reshape(linear, (-1, size, linear.shape[2])),
            tf.reshape(tf.pad(mask, ((0, 0), (0, missing))), (-1, size)))


class Adversarial(Task):
    """Adversarial training, one update of the discriminator and `k` of the generator a step."""

    def __init__(self, hp: HyperParams, corpus: data_load.Corpus):
        super().__init__(hp, corpus)
        self.discriminator = Discriminator(hp)
        self.stages = [("warmup", hp.gan_warmup_steps), ("joint", hp.gan_steps)]
        schedule = trainer.cosine(hp.gen_learning_rate, hp.gan_steps * hp.k, hp.warmup_steps)
        self.generator_optimizer = trainer.scaled(keras.optimizers.Adam(schedule, beta_1=0.5), hp)
        self.discriminator_optimizer = trainer.scaled(keras.optimizers.Adam(hp.dis_learning_rate, beta_1=0.5), hp)
        self.generator_optimizer.build(self.generator.trainable_variables)
        self.discriminator_optimizer.build(self.discriminator.trainable_variables)
        self.judge = tf.function(self.scores)

    @property
    def parts(self) -> dict:
        """The variables that a checkpoint holds."""
        return {"generator": self.generator.weights, "discriminator": self.discriminator.weights,
                "optimizer_generator": self.generator_optimizer.variables,
                "optimizer_discriminator": self.discriminator_optimizer.variables}

    def batches(self, stage: str, start: int, stop: int) -> Iterator[dict]:
        return self.corpus.batches(data_load.PAIRED, start, stop)

    def draw(self, batch: dict) -> tuple[DecoderOutput, tf.Tensor]:
        """What the decoder writes when it hears itself, and the linear spectrogram (N, T, F) of it.

        With paired losses it reads along the true positions and gets the target's pitch, so that the two can be
        compared; without, nothing of the target is known but its length. All as at synthesis, without dropout: the
        texture that dropout leaves would pass for speech.
        """
        generator, mask = self.generator, batch["mask"]
        if self.hp.paired_weight > 0.0:
            decoded = generator(batch["source"], batch["carried"], batch["source_mask"], batch["positions"])
            pitch = batch["pitch"]
        else:
            memory = generator.encoder(batch["source"], batch["source_mask"])
            decoded = generator.decoder(memory, batch["carried"], batch["source_mask"], batch["positions"][:, 0],
                                        steps=tf.shape(batch["positions"])[1] - 1)
            pitch = generator.heard_pitch(decoded.pitch)
        mel = generator.textured(decoded, batch["carried"], batch["source_mask"], mask)
        return decoded, generator.postnet(mel, pitch, mask)

    def score(self, linear: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The discriminator's scores of all windows (W,) of linear (N, T, F), mask (N, T), and their weights (W,)."""
        linear, mask = windows(linear, mask, self.hp.dis_frames)
        return self.discriminator(linear, mask), tf.reduce_mean(mask, axis=1)

    def scores(self, batch: dict) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The scores (W,) of the target's speech, of the converted, and the weights (W,) of both."""
        _, converted = self.draw(batch)
        return (self.score(batch["linear"], batch["mask"])[0],
                *self.score(tf.stop_gradient(converted), batch["mask"]))

    def discriminator_losses(self, batch: dict) -> dict:
        real, fake, weights = self.scores(batch)
        loss_real, loss_fake = losses.least_squares(real, 1.0, weights), losses.least_squares(fake, 0.0, weights)
        return {"loss": loss_real + loss_fake, "gan/dis_loss_real": loss_real, "gan/dis_loss_fake": loss_fake}

    def generator_losses(self, batch: dict) -> dict:
        """The adversarial loss, and the paired ones if they count.

        They are balanced where they meet, at the spectrogram: there the gradient of the adversarial loss is scaled to
        `gan_weight` times the norm of the L1 loss's, so that it neither fades as the discriminator wins nor drowns the
        other. What a tape is given for it is the product of that gradient and the spectrogram.
        """
        decoded, linear = self.draw(batch)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(linear)
            scores, weights = self.score(linear, batch["mask"])
            adversarial = losses.least_squares(scores, 1.0, weights)
            scaled = self.generator_optimizer.scale_loss(adversarial)  # the balance takes the factor out again
        paired = self.decoder_losses(decoded, batch)
        linear_loss = losses.l1(linear, batch["linear"], batch["mask"])
        if self.hp.paired_weight > 0.0:
            gradient = tape.gradient(scaled, linear)
            norm_of_l1 = tf.math.rsqrt(tf.reduce_sum(batch["mask"]) * self.hp.n_linear)
            scale = self.hp.gan_weight * norm_of_l1 / (tf.norm(gradient) + 1e-12)
            loss = self.hp.paired_weight * (paired["loss"] + linear_loss) + tf.reduce_sum(
                tf.stop_gradient(scale * gradient) * linear)
        else:
            loss = self.hp.gan_weight * adversarial
        return {"loss": loss, "gan/gen_loss": adversarial, "loss/mean_loss1": paired["loss/mean_loss1"],
                "loss/mean_loss2": linear_loss}

    def train_step(self, stage: str, batch: dict, step: tf.Variable) -> dict:
        """One update of the discriminator and, in the joint stage, `k` of the generator; counts `step` up with them."""
        def steps(batch):
            scalars = self.update(self.discriminator_optimizer, self.discriminator.trainable_variables,
                                  self.hp.gan_clip_norm, lambda: self.discriminator_losses(batch))
            scalars["gan/dis_loss"] = scalars.pop("loss")
            if stage == "joint":
                last, skipped = tf.zeros(len(GENERATOR_SCALARS)), scalars["skipped"]
                for _ in tf.range(self.hp.k):
                    found = self.update(self.generator_optimizer, self.generator.trainable_variables,
                                        self.hp.gan_clip_norm, lambda: self.generator_losses(batch))
                    last = tf.stack([found[name] for name in GENERATOR_SCALARS])
                    skipped = tf.maximum(skipped, found["skipped"])
                scalars |= dict(zip(GENERATOR_SCALARS, tf.unstack(last))) | {"skipped": skipped}
            step.assign_add(1)
            return scalars
        return self.compile(stage, batch, steps)(batch)

    def validate(self, run: trainer.Run, stage: str) -> dict[str, float]:
        """The discriminator's accuracy on held-out speech and, in the joint stage, how conversion does."""
        batch = self.corpus.assemble([self.corpus.whole(pair) for pair in self.validation])
        real, fake, weights = (np.asarray(x) for x in self.judge(batch))
        scalars = {"gan/accuracy_real": float(np.average(real > 0.5, weights=weights)),
                   "gan/accuracy_fake": float(np.average(fake <= 0.5, weights=weights))}
        accuracy = (scalars["gan/accuracy_real"] + scalars["gan/accuracy_fake"]) / 2
        if stage == "joint":
            found, cepstra = self.free_running(run)
            ratio = float(np.mean([metrics.global_variance_ratio(*pair) for pair in cepstra]))
            scalars |= found | {"gan/accuracy": accuracy, "free_running/global_variance_ratio": ratio,
                                "free_running/modulation_distance": metrics.modulation_distance(*zip(*cepstra))}
            # What adversarial training is for counts, too: a tenth of the target's variance as much as 0.1 dB
            scalars["score"] += abs(1.0 - ratio)
            if accuracy > SURE:
                tqdm.write(f"warning: the discriminator is right in {accuracy:.0%}; it has won and the generator does "
                           "not follow: raise gan_weight or k, or lower dis_learning_rate")
            elif accuracy < LOST:
                tqdm.write(f"warning: the discriminator is right in {accuracy:.0%}; it has lost and teaches nothing: "
                           "raise dis_learning_rate, lower k or gan_weight")
        return scalars


def draw_curves(logdir: pathlib.Path) -> None:
    """Draw the losses of a run into its folder."""
    curves = {name: trainer.read_scalars(logdir / "train", f"gan/{name}")
              for name in ("dis_loss_real", "dis_loss_fake", "gen_loss")}
    curves = {name: curve for name, curve in curves.items() if curve[0]}
    if curves:
        report.plot_curves(logdir / "gan_loss.png", curves, "least-squares losses of discriminator and generator",
                           "loss")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trainer.add_arguments(parser, "that of --init-from and -gan")
    args = parser.parse_args(argv)
    if args.init_from is None and args.preset is None and not (args.logdir and trainer.goes_on(args)):
        paired = HERE / "logdir" / ("paired" if args.data else "demo")
        args.init_from = paired if (paired / "hparams.json").exists() else None
    args.logdir = args.logdir or HERE / "logdir" / (f"{args.init_from.name}-gan" if args.init_from else "gan")
    return args


def run(args: argparse.Namespace) -> None:
    """Train; raises ValueError, OSError and TrainingError."""
    default = hyperparams.PRESETS["default" if args.data else "demo"]
    if trainer.goes_on(args):
        default = HyperParams.from_json(args.logdir / "hparams.json")
    elif args.init_from:  # its networks and, unless others are named, its features
        if not (args.init_from / "hparams.json").exists():
            raise trainer.TrainingError(f"--init-from {args.init_from} is no run folder; train.py makes one")
        default = HyperParams.from_json(args.init_from / "hparams.json").replace(**OFTEN)
        if args.data is None:
            args.data = trainer.find_data(argparse.Namespace(logdir=args.init_from, data=None), default)
    trainer.train(args, trainer.resolve(args, default), Adversarial, "train_gan.py")
    draw_curves(args.logdir)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return commands.run_main("train_gan.py", lambda: run(args), trainer.TrainingError)


if __name__ == "__main__":
    sys.exit(main())
