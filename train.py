"""Train the paired model.

    python train.py                                         # the demo corpus, a small model, minutes on a CPU
    python train.py --data DIR --logdir logdir/mine         # your own features, see prepro.py
    python train.py --logdir logdir/mine                    # the same again resumes where it stopped
    python train.py --set mel_steps=8000 --set norm=ln      # other hyperparameters, see hyperparams.py

Three stages, each with an optimizer of its own: "postnet" teaches the post-net to draw the target's linear
spectrogram from the target's own mel, "mel" the encoder and decoder to convert, "finetune" the post-net to draw from
what the decoder writes.
"""
import argparse
import pathlib
import sys

import data_load
import hyperparams
import losses
import metrics
import prepro
import trainer
import utils
import keras
import numpy as np
import tensorflow as tf

from convert import Converter
from hyperparams import HyperParams
from networks import Generator

HERE = pathlib.Path(__file__).resolve().parent


class Paired:
    """The paired training task: stages, one step of each, validation in free running."""

    def __init__(self, hp: HyperParams, corpus: data_load.Corpus):
        self.hp, self.corpus = hp, corpus
        keras.utils.set_random_seed(hp.seed)
        self.generator = Generator(hp)
        self.stages = [("postnet", hp.postnet_steps), ("mel", hp.mel_steps), ("finetune", hp.finetune_steps)]
        core = self.generator.encoder.trainable_variables + self.generator.decoder.trainable_variables
        postnet = self.generator.postnet.trainable_variables
        self.variables = {"postnet": postnet, "mel": core, "finetune": postnet}
        peaks = {"postnet": hp.learning_rate, "mel": hp.learning_rate, "finetune": hp.learning_rate / 4}
        self.optimizers = {}
        for stage, steps in self.stages:
            self.optimizers[stage] = keras.optimizers.Adam(trainer.cosine(peaks[stage], steps, hp.warmup_steps))
            self.optimizers[stage].build(self.variables[stage])
        self.converter = Converter(self.generator)
        self.validation = corpus.split("val")
        self._steps = {}

    @property
    def parts(self) -> dict:
        """What a checkpoint holds."""
        return {"generator": self.generator,
                **{f"optimizer_{stage}": optimizer for stage, optimizer in self.optimizers.items()}}

    def dataset(self, stage: str, start: int, stop: int) -> tf.data.Dataset:
        return self.corpus.dataset(data_load.POSTNET if stage == "postnet" else data_load.PAIRED, start, stop)

    def forward(self, stage: str, batch: dict) -> dict:
        """Losses of a stage; `loss` is what is minimised."""
        generator, mask = self.generator, batch["mask"]
        if stage == "postnet":
            linear = generator.postnet(batch["mel"], mask, training=True)
            loss = losses.l1(linear, batch["linear"], mask)
            return {"loss": loss, "loss/mean_loss2": loss}
        if stage == "finetune":  # hears itself, on the true path, so that its output and the target are in step
            decoded = generator(batch["source"], batch["source_mask"], batch["positions"])
            linear = generator.postnet(decoded.mel * mask[:, :, None], mask, training=True)
            mel_loss, linear_loss = (losses.l1(decoded.mel, batch["mel"], mask),
                                     losses.l1(linear, batch["linear"], mask))
            return {"loss": linear_loss, "loss/mean_loss": mel_loss + linear_loss, "loss/mean_loss1": mel_loss,
                    "loss/mean_loss2": linear_loss}
        decoded = generator(batch["source"], batch["source_mask"], batch["positions"], batch["mel"], training=True)
        mel_loss = losses.l1(decoded.mel, batch["mel"], mask)
        r = self.hp.r
        position_loss = losses.huber(decoded.positions[:, :, 1] / r, batch["positions"][:, 1:] / r, mask[:, ::r])
        return {"loss": mel_loss + self.hp.position_weight * position_loss, "loss/mean_loss1": mel_loss,
                "align/position_loss": position_loss}

    def train_step(self, stage: str, batch: dict, step: tf.Variable) -> dict:
        """One update; compiled once a stage, whatever the lengths."""
        if stage not in self._steps:
            signature = {name: tf.TensorSpec((None, None, *array.shape[2:])) for name, array in batch.items()}

            @tf.function(input_signature=[signature, tf.TensorSpec((), tf.int64)])
            def compiled(batch, number):
                self.generator.seeds.state.assign(tf.cast([self.hp.seed, number], "uint32"))
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch([variable.value for variable in self.variables[stage]])
                    scalars = self.forward(stage, batch)
                gradients = tape.gradient(scalars["loss"], [variable.value for variable in self.variables[stage]])
                gradients, norm = tf.clip_by_global_norm(gradients, self.hp.clip_norm)
                self.optimizers[stage].apply(gradients, self.variables[stage])
                return {**scalars, "gradient_norm": norm}
            self._steps[stage] = compiled
        return self._steps[stage](batch, step)

    def validate(self, run: trainer.Run, stage: str) -> dict[str, float]:
        """Free running on the validation sentences; nothing is selected before the decoder has begun to learn."""
        if stage == "postnet":
            pair = self.validation[0]
            mel, mask = data_load.pad([self.corpus.spoken_target(pair, "mel") for pair in self.validation], self.hp.r)
            linear, _ = data_load.pad([self.corpus.spoken_target(pair, "linear") for pair in self.validation], self.hp.r)
            return {"loss/mean_loss2": float(losses.l1(self.generator.postnet(mel, mask), linear, mask))}
        outputs = self.converter([self.corpus.source(pair) for pair in self.validation])
        rows = []
        for pair, out in zip(self.validation, outputs):
            target = self.corpus.spoken_target(pair, "mel")
            path = self.corpus.path((pair.source, pair.name))
            # What will be heard is the linear output, so the distortion is measured on the mel of that
            heard = utils.mel_of_linear(out.linear, self.hp)
            rows.append((metrics.mel_cepstral_distortion(metrics.speech_cepstra(heard, self.hp),
                                                         metrics.speech_cepstra(target, self.hp)),
                         metrics.path_distance(out.positions, path),
                         metrics.duration_error(len(out.mel), len(target)), out.stopped))
        distortion, distance, duration, stopped = np.mean(rows, axis=0)
        # Distortion along a DTW path rewards stalling; the duration's error takes that advantage away.
        return {"score": distortion * (1.0 + duration), "free_running/mcd": distortion,
                "align/path_distance": distance, "align/duration_error": duration, "align/stopped": stopped}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trainer.add_arguments(parser)
    args = parser.parse_args(argv)
    args.logdir = args.logdir or HERE / "logdir" / ("paired" if args.data else "demo")
    try:
        hp = trainer.resolve(args, "default" if args.data else "demo")
        corpus = data_load.Corpus(args.data or prepro.prepare_demo(hp), hp)
        task = Paired(hp, corpus)
        run = trainer.Run(args.logdir, hp, task.parts)
        if args.no_resume:
            run.forget()
        elif not run.resume() and args.init_from:
            trainer.restore(tf.train.Checkpoint(generator=task.generator), trainer.best_checkpoint(args.init_from))
        trainer.fit(run, task, min(args.steps or hp.total_steps, hp.total_steps))
    except (ValueError, OSError, trainer.TrainingError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
