"""Measure how fast everything is on this machine.

    python tools/bench.py               # a table, on the demo corpus and with the default networks, six minutes
    python tools/bench.py --json FILE   # the table also as a file
    python tools/bench.py --set width=512   # other hyperparameters

It uses real recordings and untrained networks, which are as fast as trained ones. Values are medians of several
repetitions without the first, which compiles, with the fastest and the slowest. Compare lines of one run only: the
speed of a machine varies.
"""
import argparse
import concurrent.futures
import contextlib
import functools
import io
import itertools
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import data_load
import eval as eval_script
import hyperparams
import prepro
import train_gan
import utils
from common import cli, storage
from conversion import base, inference
from conversion.inference import Converter
from corpus import analysis, demo, manifest
from networks import Generator
from train import PairedTrainer

import keras
import numpy as np
import tensorflow as tf

HERE = pathlib.Path(__file__).resolve().parents[1]
REPEATS = 5
MATRIX = 4096


class Table:
    """Rows of a name, a value and its unit, printed as they are added."""

    def __init__(self):
        self.rows: dict[str, dict] = {}

    def add(self, name: str, value: float, unit: str, spread: tuple[float, float] | None = None) -> float:
        self.rows[name] = {"value": value, "unit": unit} | ({"spread": spread} if spread else {})
        note = f"({spread[0]:.3g} to {spread[1]:.3g})" if spread else ""
        print(f"{name:58} {value:9.3g} {unit:12} {note}", flush=True)
        return value

    def time(self, name: str, function, unit: str = "s", per: float = 1.0, repeats: int = REPEATS) -> float:
        """Add the median time of `function()`, as a multiple of `per`; returns it in seconds."""
        wait(function())
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            wait(function())
            seconds.append(time.perf_counter() - began)
        self.add(name, float(np.median(seconds)) / per, unit, (min(seconds) / per, max(seconds) / per))
        return float(np.median(seconds))

    def share(self, name: str, function, flops: float, product) -> None:
        """Add the rate of `function()`, which takes `flops`, as a share of that of `product()`.

        The two alternate, because the rate of a shared machine changes from second to second.
        """
        shares = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            wait(product())
            between = time.perf_counter()
            wait(function())
            shares.append(flops / (time.perf_counter() - between) / (2 * MATRIX ** 3 / (between - began)))
        self.add(name, float(np.median(shares)), "", (min(shares), max(shares)))


def wait(result) -> None:
    """Wait until the GPU has computed a result."""
    for tensor in tf.nest.flatten(result)[:1]:
        np.asarray(tensor)


def memory() -> float:
    """The peak memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2 ** 20 if platform.system() == "Darwin" else 2 ** 10)


def recordings(n: int) -> list[pathlib.Path]:
    """The first `n` recordings of the demo's source speaker."""
    return sorted((demo.RECORDINGS / "rms").glob("*.ogg"))[:n]


def bench_preparation(table: Table, hp: hyperparams.HyperParams) -> None:
    """Measure the computation of features and of the DTW paths between them."""
    files = recordings(16)
    seconds = sum(len(utils.load_recording(path, hp).wav) for path in files) / hp.sample_rate

    def prepare():
        with tempfile.TemporaryDirectory() as folder:  # a new folder, because existing features are not computed again
            for path in files:
                prepro.compute_features(path, pathlib.Path(folder) / path.stem, hp)
    taken = table.time("features of recordings, one core", prepare, "s/s", seconds, 3)
    table.add("features of recordings, one core, audio by time", seconds / taken, "s/s")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run([sys.executable, "prepro.py", "--source", demo.RECORDINGS / "rms", "--target",
                        demo.RECORDINGS / "slt", "--data", folder], cwd=HERE, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        taken = time.perf_counter() - began
        pairs = manifest.read_manifest(pathlib.Path(folder))
        seconds = sum(pair.source_seconds + pair.target_seconds for pair in pairs)
    table.add("prepro.py, all of the demo, all cores, from its start", taken, "s")
    table.add("the same, audio of both speakers by time", seconds / taken, "s/s")


def bench_training(table: Table, hp: hyperparams.HyperParams, corpus: data_load.Corpus, product) -> None:
    """Measure the paired step, its parts and the input pipeline."""
    task, step = PairedTrainer(hp, corpus), tf.Variable(0, dtype=tf.int64)
    batch = {name: tf.constant(array) for name, array in batch_of_slices(corpus, hp).items()}
    generator, mask = task.generator, batch["mask"]
    table.add("paired batch, seconds of target speech", float(tf.reduce_sum(mask)) / hp.frames_per_second, "s")
    steps = tf.shape(batch["positions"])[1] - 1
    encode = tf.function(lambda: generator.encoder(batch["source"], batch["mapped"], batch["source_mask"]))
    memory_of_source, mapped = encode()
    table.time("encoder, forwards", encode)
    table.time("attention decoder, forwards", tf.function(lambda: generator.decoder(
        memory_of_source, mapped, batch["source_mask"], batch["positions"][:, 0], steps=steps,
        frames=batch["mel"], positions=batch["positions"]).mel))
    table.time("post-net, forwards", tf.function(lambda: generator.postnet(batch["mel"], batch["pitch"], mask)))
    table.time("encoder step (forwards, backwards, update)", lambda: task.train_step("encoder", batch, step))
    mel = table.time("decoder step (encoder forwards, decoder forwards, backwards, update)",
                     lambda: task.train_step("decoder", batch, step))
    for name, variables in (("encoder", task.variables["encoder"]), ("decoder", task.variables["decoder"]),
                            ("post-net", task.variables["postnet"])):
        optimizer = keras.optimizers.Adam(0.0)
        optimizer.build(variables)
        update = functools.partial(optimizer.apply, [tf.zeros(each.shape) for each in variables], variables)
        table.time(f"update of the weights of the {name} step alone", tf.function(update))
    bench_paired_step(table, "paired step", task, batch, product)
    number = iter(range(10 ** 6))
    fed = table.time("input pipeline, a paired batch on one core", lambda: corpus.paired_batch(next(number)),
                     repeats=20)
    table.add("input pipeline, times as fast as the decoder step", mel / fed, "")
    table.add("memory after paired training", memory(), "MiB")


def bench_paired_step(table: Table, name: str, trainer: PairedTrainer, batch: dict, product) -> None:
    """Measure a step of all networks: one of each of them on the same batch, or a single joint update as in 2017."""
    step = tf.Variable(0, dtype=tf.int64)

    def paired_step():
        if trainer.hp.joint_steps:
            return trainer.train_step("joint", batch, step)
        for stage in ("encoder", "decoder"):
            trainer.train_step(stage, batch, step)
        return trainer.train_step("postnet", {name: batch[name] for name in ("mel", "pitch", "linear", "mask")}, step)
    table.time(name, paired_step, repeats=3)
    table.share(f"{name}, share of the rate of a matrix product", paired_step,
                3 * multiplications(trainer.generator, trainer.hp, batch) * 2, product)


def multiplications(generator: Generator, hp: hyperparams.HyperParams, batch: dict) -> float:
    """The multiplications of a forward pass through matrices and kernels, without those inside attention.

    A step counts as three times as many, about 5 % too many, because layers that read data need no gradient of it.
    """
    n, frames = batch["mel"].shape[:2]
    sources = batch["source"].shape[1]
    places = {generator.encoder: n * sources / hp.encoder_stack, generator.decoder: n * frames / hp.r,
              generator.postnet: n * frames}
    encoder = generator.encoder
    of_frames = encoder.frame_prenet.weights + encoder.of_frame.weights if encoder.unfolds else []
    more = sum(int(np.prod(weight.shape)) for weight in of_frames) * n * sources * (1 - 1 / hp.encoder_stack)
    return more + sum(int(np.prod(weight.shape)) * place for layer, place in places.items()
                      for weight in layer.trainable_weights if len(weight.shape) > 1)


def batch_of_slices(corpus: data_load.Corpus, hp: hyperparams.HyperParams) -> dict:
    """The first batch that is made of slices."""
    return next(batch for batch in map(corpus.paired_batch, range(100)) if len(batch["mask"]) == hp.batch_size)


def batch_of_joined(corpus: data_load.Corpus, n: int, seconds: float) -> dict:
    """A batch of `n` utterances of any length: sentences are joined and cut after `seconds`."""
    hp, pairs, rows = corpus.hp, itertools.cycle(corpus.train), []
    frames = round(seconds * hp.frames_per_second)
    for _ in range(n):
        parts = {kind: [] for kind in ("mel", "linear", "pitch", "source", "mapped")}
        path, read = np.zeros(0, np.float32), 0
        while len(path) < frames:
            pair = next(pairs)
            source, mapped = corpus.network_input(pair, 0, pair.source_end - pair.source_start, None)
            for kind, array in (("mel", corpus.target_mel(pair)), ("pitch", corpus.pitch(pair)),
                                ("linear", corpus.target_features(pair, "linear")), ("source", source),
                                ("mapped", mapped)):
                parts[kind].append(array)
            path, read = np.concatenate([path, corpus.path(pair) + read]), read + len(source)
        path = path[:frames]
        rows.append({kind: np.concatenate(arrays)[:int(path[-1]) + 1 if kind in ("source", "mapped") else frames]
                     for kind, arrays in parts.items()} | {"positions": np.append(path[::hp.r], path[-1] + 1)})
    source, source_mask = data_load.pad([row["source"] for row in rows], hp.encoder_stack)
    mapped, _ = data_load.pad([row["mapped"] for row in rows], hp.encoder_stack)
    batch = {"source": source, "mapped": mapped, "source_mask": source_mask, "mask": np.ones((n, frames), np.float32)}
    batch |= {kind: np.stack([row[kind] for row in rows]) for kind in ("mel", "linear", "pitch", "positions")}
    return {name: tf.constant(array, tf.float32) for name, array in batch.items()}


def bench_adversarial(table: Table, hp: hyperparams.HyperParams, corpus: data_load.Corpus) -> None:
    task, step = train_gan.GANTrainer(hp, corpus), tf.Variable(0, dtype=tf.int64)
    batch = next(task.batches("adversarial", 0, 1))
    table.time("update of the discriminator", lambda: task.train_step("discriminator", batch, step))
    table.time(f"adversarial iteration, 1 + {hp.k} updates", lambda: task.train_step("adversarial", batch, step),
               repeats=3)


def bench_2017(table: Table, corpus: data_load.Corpus, product) -> None:
    """Measure the system of 2017, whose first code took 3.83 s and 25 to 30 s for these steps on 4 cores of a CPU, and
    beside it ours with the same adversarial training."""
    described, adversarial = (hyperparams.PRESETS[preset] for preset in ("2017", "2017-gan"))
    ours = corpus.hp.replace(batch_size=described.batch_size)
    schedule = {name: getattr(adversarial, name) for name in ("gan_networks", "k", "dis_stack", "dis_frames")}
    for name, paired, judged in (("2017", described, adversarial), *(
            ("ours", hp, hp.replace(**schedule)) for hp in (ours.replace(width=described.width), ours))):
        known = data_load.Corpus(corpus.data, paired)
        known.use_base(corpus.base)
        batch = batch_of_joined(known, paired.batch_size, 5.0)
        name = f"{name}, {paired.batch_size} utterances of 5 s, width {paired.width}"
        bench_paired_step(table, f"paired step, {name}", PairedTrainer(paired, known), batch, product)
        task, step = train_gan.GANTrainer(judged, known), tf.Variable(0, dtype=tf.int64)
        table.time(f"adversarial iteration, 1 + {judged.k}, {name}", lambda task=task, batch=batch, step=step:
                   task.train_step("adversarial", batch, step), repeats=2)


def bench_conversion(table: Table, hp: hyperparams.HyperParams, base_map: base.Base) -> None:
    """Measure the seconds of computing per second of speech."""
    converter = Converter(Generator(hp), base_map)
    speech = np.concatenate([utils.load_recording(path, hp).wav for path in recordings(16)])
    with concurrent.futures.ThreadPoolExecutor(cli.cores()) as pool:
        for seconds, repeats in ((3, REPEATS), (30, REPEATS), (600, 1)):
            wav = np.resize(speech, seconds * hp.sample_rate)
            table.time(f"conversion of a recording of {seconds} s", lambda wav=wav: inference.convert_recording(
                wav, converter, pool)[0], "s/s", seconds, repeats)
            table.add(f"memory after it, {seconds} s", memory(), "MiB")
        wavs = [utils.load_recording(path, hp).wav for path in recordings(32)]
        total = sum(map(len, wavs)) / hp.sample_rate

        def convert_folder():  # into a new folder, because finished conversions are not repeated
            with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
                return eval_script.convert_files(recordings(32), pathlib.Path(out), converter, "bench")
        table.time("folder of 32 by eval.py, with pictures and page", convert_folder, "s/s", total, 3)
        with concurrent.futures.ThreadPoolExecutor(cli.cores()) as files:
            table.time("  without pictures and page", lambda: [list(files.map(
                lambda path: inference.convert_recording(utils.load_recording(path, hp).wav, converter, pool)[0],
                recordings(32)))[0]], "s/s", total)
        features = [analysis.extract(wav, hp) for wav in wavs]
        voices = [converter.find_voice(recording) for recording in features]
        table.time("  its networks, in batches of 16", lambda: converter(features, voices)[0].linear, "s/s", total)
        outputs = converter(features, voices)
        table.time("  its Griffin-Lim, all cores", lambda: list(pool.map(
            lambda output: utils.griffin_lim(output.linear, output.pitch, hp), outputs)), "s/s", total)


def bench_start(table: Table) -> None:
    """Measure the time from the start of a process to its first saved step, and to its first converted file."""
    with tempfile.TemporaryDirectory() as folder:
        logdir, out = pathlib.Path(folder) / "run", pathlib.Path(folder) / "out"
        path = recordings(1)[0]
        for name, words, sign in (
                ("start of train.py, demo, to its first step saved", ["train.py", "--steps", "1"],
                 "run/checkpoints/*.npz"),
                ("start of eval.py, demo, to the first converted file", ["eval.py", path, "--out", out], "out/*.wav")):
            began = time.perf_counter()
            process = subprocess.Popen([sys.executable, *words, "--logdir", str(logdir)], cwd=HERE,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and not any(pathlib.Path(folder).glob(sign)):
                time.sleep(0.02)
            table.add(name, time.perf_counter() - began, "s")
            if process.wait():
                raise RuntimeError(f"{words[0]} failed")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.new_parser(__doc__)
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a hyperparameter")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    return cli.run_main("bench.py", lambda: bench(args))


def bench(args: argparse.Namespace) -> None:
    """Measure everything; raises UserError and OSError."""
    hp = hyperparams.HyperParams().override(args.set)
    corpus, table = data_load.Corpus(demo.prepare(hp), hp), Table()
    began = time.perf_counter()
    corpus.use_base(base.solve(corpus))
    table.add("base of the demo", time.perf_counter() - began, "s")
    matrix = tf.random.normal((MATRIX, MATRIX))
    product = tf.function(lambda: tf.linalg.matmul(matrix, matrix))
    taken = table.time(f"product of matrices of {MATRIX} x {MATRIX}", product)
    table.add("rate of that", 2 * MATRIX ** 3 / taken / 1e9, "GFLOP/s")
    bench_preparation(table, hp)
    bench_conversion(table, hp, corpus.base)  # before training, whose peak memory would hide that of conversion
    bench_training(table, hp, corpus, product)
    bench_adversarial(table, hp, corpus)
    bench_2017(table, corpus, product)
    bench_start(table)
    if args.json:
        storage.write_json(args.json, {"machine": platform.platform(), "cores": cli.cores(),
                                     "devices": [device.name for device in tf.config.list_physical_devices()],
                                     "hyperparameters": args.set, "table": table.rows})


if __name__ == "__main__":
    sys.exit(main())
