"""Train the paired model.

    python train.py                                         # the demo corpus, a small model, minutes on a CPU
    python train.py --set norm=ln --logdir logdir/ln        # other hyperparameters, see hyperparams.py
    python train.py --logdir logdir/ln                      # the same run again resumes where it stopped
    python train.py --data DIR --logdir logdir/mine         # your own features, see prepro.py
    python train.py --data DIR --init-from pretrained/slt   # behind a pretrained voice: better with ten minutes
    python train.py --preset 2017 --data DIR                # the system of 2017 as it was described

First the base is solved: a linear map from the sources' mel spectrograms to the target's. Then three stages follow,
each with its own optimizer. In "postnet" the post-net learns to draw the target's linear spectrogram from the target's
own mel. In "encoder" the encoder learns to correct the map. In "decoder" the decoder learns the pace, and what is left
to correct. The system of 2017 had a single stage, "joint", in which all networks learn at once.

With --init-from pretrained/slt, or another exported voice, its networks stay, and a second map, which is solved in the
place of the base, takes what they write on to the target. Then there is no stage "decoder", and "encoder" is shorter.
"""
import argparse
import math
import pathlib
import sys

import data_load
from backend import devices
from common import cli
from common.cli import UserError
from evaluation import figures
from hyperparams import HyperParams
from networks import DecoderOutput
from training import losses, run_folder, trainer
from training.run_folder import Run
from training.trainer import Trainer

import keras
import tensorflow as tf

HERE = pathlib.Path(__file__).resolve().parent
FINE_STEPS, FINE_RATE = 1 / 3, 1 / 4  # shares of the encoder's, where it was trained before


class PairedTrainer(Trainer):
    """Paired training in stages, see above; a stage of 0 steps is left out."""

    def __init__(self, hp: HyperParams, corpus: data_load.Corpus):
        if corpus.has_target_only and not (hp.base and hp.attention == "local"):
            raise UserError(f"{corpus.data} holds the target alone, which takes the base: base=1 and attention=local")
        super().__init__(hp, corpus)
        self.encode_on_path = devices.compiled(self.generator.encode_on_path)
        most = math.ceil(hp.most_epochs * len(corpus.slices) / hp.batch_size)
        self.encoder_learns_alone = hp.attention == "local"  # otherwise it has no head that a loss could judge
        # A corpus of the target alone has no pairs from which encoder and decoder could learn
        planned, rate = {"postnet": hp.postnet_steps}, hp.encoder_rate
        if corpus.base.is_followed and not corpus.has_target_only:  # the encoder is trained, the pace the source's
            planned["encoder"], rate = min(round(FINE_STEPS * hp.encoder_steps), most), FINE_RATE * rate
        elif not corpus.has_target_only:
            planned |= {"encoder": min(hp.encoder_steps, most) * self.encoder_learns_alone,
                        "decoder": min(hp.decoder_steps, most), "joint": hp.joint_steps}
        self.stages = [(stage, steps) for stage, steps in planned.items() if steps]
        encoder, decoder, postnet = (network.trainable_variables for network in (
            self.generator.encoder, self.generator.decoder, self.generator.postnet))
        self.variables = {"postnet": postnet, "encoder": encoder, "joint": encoder + decoder + postnet,
                          "decoder": decoder if self.encoder_learns_alone else encoder + decoder}
        self.optimizers = {}
        for stage, steps in self.stages:
            adam = keras.optimizers.AdamW(
                trainer.cosine_decay(rate if stage == "encoder" else hp.learning_rate, steps, hp),
                weight_decay=hp.weight_decay if stage == "encoder" else 0.0)
            adam.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
            self.optimizers[stage] = trainer.with_loss_scale(adam, hp)
            self.optimizers[stage].build(self.variables[stage])

    @property
    def parts(self) -> dict:
        """The variables that a checkpoint holds."""
        return {"generator": self.generator.weights,
                **{f"optimizer_{stage}": optimizer.variables for stage, optimizer in self.optimizers.items()}}

    def batch_kind(self, stage: str) -> str:
        return data_load.POSTNET if stage == "postnet" else data_load.PAIRED

    def decoder_losses(self, decoded: DecoderOutput, batch: dict) -> dict:
        """Losses of the decoder's output at the true positions; `loss` is their weighted sum."""
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

    def forward(self, stage: str, batch: dict) -> dict:
        """Losses of a stage; `loss` is the one to minimise."""
        generator, mask = self.generator, batch["mask"]
        if stage == "postnet":
            linear = generator.postnet(batch["mel"], batch["pitch"], mask, training=True)
            loss = losses.l1(linear, batch["linear"], mask)
            return {"loss": loss, "loss/mean_loss2": loss}
        source = batch["source"], batch["mapped"], batch["source_mask"]
        if stage == "encoder":
            mel = self.onward(generator.encode_on_path(*source, batch["positions"], training=True))
            loss = losses.l1(mel, batch["mel"], mask)
            return {"loss": loss, "loss/mean_loss1": loss}
        decoded = generator(*source, batch["positions"], batch["mel"], training=True,
                            train_encoder=stage == "joint" or not self.encoder_learns_alone)
        scalars = self.decoder_losses(decoded, batch)
        if stage == "joint":  # the post-net gets the decoder's output, so its loss also trains the decoder
            mel, _ = generator.speech(decoded, batch["mapped"], batch["source_mask"], mask)
            linear = losses.l1(generator.postnet(mel, batch["pitch"], mask, training=True), batch["linear"], mask)
            scalars |= {"loss": scalars["loss"] + linear, "loss/mean_loss2": linear,
                        "loss/mean_loss": scalars["loss/mean_loss1"] + linear}
        return scalars

    def train_step(self, stage: str, batch: dict, step: tf.Variable) -> dict:
        """Run one update and add 1 to `step`; returns the scalars."""
        def step_on_device(batch):
            batch, device = self.shard_for_device(batch), tf.distribute.get_replica_context().replica_id_in_sync_group
            # The second number of the seed grows by 1 with each random draw, and a step makes fewer than 16 draws
            seed = tf.stack([tf.cast(self.hp.seed + device, "uint32"), tf.cast(step * 16, "uint32")])
            self.generator.seeds.state.assign(seed)
            return self.update(self.optimizers[stage], self.variables[stage], self.hp.clip_norm,
                               lambda: self.forward(stage, batch))

        return self.run_step(stage, batch, step, step_on_device)

    def validate(self, run: Run, stage: str) -> dict[str, float]:
        """Losses on the validation sentences and, in the last stage, measures in free running with a score."""
        if stage not in ("postnet", "encoder") or stage == "encoder" and self.corpus.base.is_followed:
            return self.free_running(run)[0]
        batch = self.corpus.assemble([self.corpus.whole(pair) for pair in self.validation])
        if stage == "encoder":
            mel = self.encode_on_path(*(batch[name] for name in ("source", "mapped", "source_mask", "positions")))
            return {"loss/mean_loss1": float(losses.l1(mel, batch["mel"], batch["mask"]))}
        linear = self.postnet(batch["mel"], batch["pitch"], batch["mask"])
        return {"loss/mean_loss2": float(losses.l1(linear, batch["linear"], batch["mask"]))}


def plot_curves(logdir: pathlib.Path) -> None:
    """Plot the training and validation losses of a run, if there are any, into its folder."""
    for name, meaning in (("mean_loss", "mel and linear spectrograms"), ("mean_loss1", "mel spectrograms"),
                          ("mean_loss2", "linear spectrograms (at the end of conversions)")):
        curves = {kind: run_folder.read_scalars(logdir / kind, f"loss/{name}") for kind in ("train", "validation")}
        figures.plot_curves(logdir / f"{name}.png", curves, f"{name}: L1 of {meaning}", "L1")


def parse_arguments(argv: list[str] | None = None, parser: argparse.ArgumentParser | None = None) -> argparse.Namespace:
    """Add the flags of this script to those of `parser` and parse."""
    parser = parser or cli.new_parser(__doc__)
    run_folder.add_arguments(parser, "logdir/demo, with --data logdir/paired")
    args = parser.parse_args(argv)
    args.logdir = args.logdir or HERE / "logdir" / ("paired" if args.data else "demo")
    return args


def run(args: argparse.Namespace, strategy: tf.distribute.Strategy | None = None) -> None:
    """Train on one device or on the devices of `strategy`; raises UserError and OSError."""
    trainer.train(run_folder.open_run(args, "train.py"), PairedTrainer, args.steps, strategy)
    plot_curves(args.logdir)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return cli.run_main("train.py", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
