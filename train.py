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
to correct. With --set refiner_steps=5000 a refiner learns to make of the average that these write a mel that the target
could have spoken: for an hour of speech, and for speakers of the training. The system of 2017 had a single stage,
"joint", in which all networks learn at once.

With --init-from pretrained/slt, or another exported voice, its networks stay, and a second map, which is solved in the
place of the base, takes what they write on to the target. Then there is no stage "decoder", and "encoder" is shorter.
"""
import argparse
import math
import pathlib
import random
import sys
from collections.abc import Iterator

import data_load
from backend import recurrent
from common import cli
from common.cli import UserError
from conversion import base
from evaluation import figures
from hyperparams import HyperParams
from networks import DecoderOutput
from training import losses, run_folder, trainer
from training.run_folder import Run
from training.trainer import Trainer

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

HERE = pathlib.Path(__file__).resolve().parent
FINE_STEPS, FINE_RATE = 1 / 3, 1 / 4  # shares of the encoder's, where it was trained before
WRITTEN_AT_MOST = 2048  # pairs kept in memory for the refiner, .25 MB each


class PairedTrainer(Trainer):
    """Paired training in stages, see above; a stage of 0 steps is left out."""

    def __init__(self, hp: HyperParams, corpus: data_load.Corpus):
        if corpus.has_target_only and not (hp.base and hp.attention == "local"):
            raise UserError(f"{corpus.data} holds the target alone, which takes the base: base=1 and attention=local")
        super().__init__(hp, corpus)
        arrays = [tf.TensorSpec((None, None, size)) for size in (hp.n_linear, hp.n_mels + 2)]
        self.encode_on_path = recurrent.compiled(self.generator.encode_on_path,
                                                 input_signature=[*arrays, *[tf.TensorSpec((None, None))] * 2])
        most = math.ceil(hp.most_epochs * len(corpus.slices) / hp.batch_size)
        self.encoder_learns_alone = hp.attention == "local"  # otherwise it has no head that a loss could judge
        # A corpus of the target alone has no pairs from which encoder and decoder could learn
        planned, rate = {"postnet": hp.postnet_steps}, hp.encoder_rate
        if corpus.base.is_followed and not corpus.has_target_only:  # the encoder is trained, the pace the source's
            planned["encoder"], rate = min(round(FINE_STEPS * hp.encoder_steps), most), FINE_RATE * rate
        elif not corpus.has_target_only:
            planned |= {"encoder": min(hp.encoder_steps, most) * self.encoder_learns_alone,
                        "decoder": min(hp.decoder_steps, most), "joint": hp.joint_steps,
                        "refiner": min(hp.refiner_steps, most) if self.refiner else 0}
        self.stages = [(stage, steps) for stage, steps in planned.items() if steps]
        encoder, decoder, postnet = (network.trainable_variables for network in (
            self.generator.encoder, self.generator.decoder, self.generator.postnet))
        self.variables = {"postnet": postnet, "encoder": encoder, "joint": encoder + decoder + postnet,
                          "decoder": decoder if self.encoder_learns_alone else encoder + decoder,
                          "refiner": self.refiner.trainable_variables if self.refiner else []}
        self.optimizers = {}
        for stage, steps in self.stages:
            adam = keras.optimizers.AdamW(
                trainer.cosine_decay(rate if stage == "encoder" else hp.learning_rate, steps, hp),
                weight_decay=hp.weight_decay if stage in ("encoder", "refiner") else 0.0)
            adam.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
            self.optimizers[stage] = trainer.with_loss_scale(adam, hp)
            self.optimizers[stage].build(self.variables[stage])

    @property
    def parts(self) -> dict:
        """The variables that a checkpoint holds."""
        return {**self.converter.networks,
                **{f"optimizer_{stage}": optimizer.variables for stage, optimizer in self.optimizers.items()}}

    def batch_kind(self, stage: str) -> str:
        return {"postnet": data_load.POSTNET, "refiner": data_load.REFINER}.get(stage, data_load.PAIRED)

    def batches(self, stage: str, start: int, stop: int) -> Iterator[dict]:
        if stage == "refiner" and not self.corpus.written:  # once, as the networks that write do not change any more
            self.corpus.written = self.write_pairs()
        return super().batches(stage, start, stop)

    def write_pairs(self) -> list[tuple]:
        """Training pairs, each with what map and encoder write for it, the moved source, and the target's mel, (T, M)
        each, in float16 and on the target's time axis: once as they are, once as if somebody else had spoken. The
        encoder knows its training sentences hardly better than others, so the refiner may learn from them."""
        corpus, hp, made = self.corpus, self.hp, []
        pairs = random.Random(hp.seed).sample(corpus.train, len(corpus.train))
        pairs.sort(key=lambda pair: pair.spliced)  # what both said first: what is put together is smoother than speech
        for number, pair in enumerate(tqdm(pairs[:WRITTEN_AT_MOST], "writing", disable=None, leave=False, delay=2.0)):
            mel = corpus.target_mel(pair)
            positions = corpus.positions(pair, 0, math.ceil(len(mel) / hp.r))[None].astype(np.float32)
            for heard in corpus.recording(pair), corpus.varied(pair, corpus.rng(data_load.REFINER, number)):
                voice = base.find_voice(corpus.base, heard, hp)
                arrays = *base.prepare(corpus.base, heard, voice, hp), base.moved(
                    corpus.base, heard.mel - voice.mel, voice, hp)
                (source, mask), (mapped, _), (moved, _) = (data_load.pad([each], hp.encoder_stack) for each in arrays)
                read = (self.encode_on_path(source, mapped, mask, positions),
                        self.generator.read_on_path(moved, mask, positions))
                made.append((pair, *(np.asarray(each)[0, :len(mel)].astype(np.float16) for each in read),
                             mel.astype(np.float16)))
        return made

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
        if stage == "refiner":
            errors = self.refiner.errors(batch["written"], batch["moved"], batch["mel"], mask)
            return {"loss": losses.masked_mean(errors, mask)}
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
            scalars = self.free_running(run)[0]
            # Distances do not hear what a refiner adds. Its rate falls, so the newest one is kept as the best
            return scalars | ({"score": -float(run.step)} if stage == "refiner" else {})
        batch = self.corpus.assemble([self.corpus.whole(pair) for pair in self.validation])
        if stage == "encoder":
            mel = self.encode_on_path(*(batch[name] for name in ("source", "mapped", "source_mask", "positions")))
            return {"loss/mean_loss1": float(losses.l1(mel, batch["mel"], batch["mask"]))}
        linear = self.postnet(batch["mel"], batch["pitch"], batch["mask"])
        return {"loss/mean_loss2": float(losses.l1(linear, batch["linear"], batch["mask"]))}


def plot_curves(logdir: pathlib.Path) -> None:
    """Plot the training and validation losses of a run, if there are any, into its folder."""
    for name, meaning in (("mean_loss", "mel and linear"), ("mean_loss1", "mel"), ("mean_loss2", "linear")):
        curves = {kind: run_folder.read_scalars(logdir / kind, f"loss/{name}") for kind in ("train", "validation")}
        figures.plot_curves(logdir / f"{name}.png", curves, f"{name}: L1 of {meaning} spectrograms", "L1")


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
