"""Kill training again and again, and watch its memory; this is started by hand because it takes minutes.

    python tests/stress_training.py --kills 50 --seed 0     # SIGKILL at random moments, also during checkpoint writes
    python tests/stress_training.py --kills 10 --networks train         # the same with the networks, tiny; or train_gan
    python tests/stress_training.py --memory 2000           # resident memory over 2,000 steps of tiny networks

A run is killed and started again by the same command until it ends, then compared with an uninterrupted one: curves and
weights must be equal bit by bit. Without --networks the command is train.py with a smaller task, which starts sooner
and takes longer to write its checkpoints.
"""
import argparse
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time
import types

from corpus import demo

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

SAVE_STEPS, LOG_STEPS = 10, 3
STEPS = {"postnet_steps": 25, "decoder_steps": 225}
TINY = {"width": 16, "encoder_banks": 2, "postnet_banks": 2, "highway_layers": 1, "batch_size": 4, "postnet_window": 32,
        "n_samples": 1, "griffin_lim_iters": 4, "validation_limit": 1}
SETTINGS = {"small": STEPS, "train": TINY | {"postnet_steps": 15, "decoder_steps": 75},
            "train_gan": {"dis_pretrain_steps": 15, "gan_steps": 45}}
CURVES = {"small": ["loss/minimised"], "train": ["loss/minimised", "loss/mean_loss2"],
          "train_gan": ["gan/dis_loss", "gan/gen_loss"]}


# The process that is killed -------------------------------------------------------------------------------------------

def child(logdir: pathlib.Path, networks: str) -> int:
    """Train the task that `networks` names; records the first step and the last step that it finished."""
    import train
    import train_gan

    script = train_gan if networks == "train_gan" else train
    if networks == "small":
        train.PairedTrainer = make_small()
    name = "GANTrainer" if script is train_gan else "PairedTrainer"
    setattr(script, name, noting(getattr(script, name), logdir))
    settings = SETTINGS[networks] | {"save_steps": SAVE_STEPS, "log_steps": LOG_STEPS}
    begin = ["--init-from", str(logdir.parent / "paired")] if script is train_gan else []
    return script.main(["--data", str(logdir.parent / "features"), "--logdir", str(logdir), *begin,
                        *(f"--set={name}={value}" for name, value in settings.items())])


def noting(make_task, logdir: pathlib.Path):
    """Wrap `make_task` so that the task records its steps in files."""
    def make(hp, corpus):
        task = make_task(hp, corpus)
        train_step, begun = task.train_step, []

        def noted(stage, batch, step):
            if not begun:
                (logdir / "begun").write_text(str(int(step)))
                begun.append(step)
            scalars = train_step(stage, batch, step)
            with open(logdir / "reached", "wb") as file:
                file.write(struct.pack("q", int(step)))
            return scalars
        task.train_step = noted
        return task
    return make


def make_small():
    """The class of a small training task."""
    import keras
    import numpy as np
    import tensorflow as tf

    from conversion import base
    import data_load
    from training import trainer

    class Small:
        """A regression of noise, so that every step changes every weight, with ballast that makes checkpoints slow."""

        def __init__(self, hp, corpus):
            keras.utils.set_random_seed(hp.seed)
            self.stages = [(name, getattr(hp, f"{name}_steps")) for name in ("postnet", "decoder")]
            self.generator = keras.Sequential([keras.Input((8,)), keras.layers.Dense(32, "relu"),
                                               keras.layers.Dense(1)])
            self.optimizer = keras.optimizers.Adam(trainer.cosine_decay(1e-2, 250, hp.replace(warmup_steps=10)))
            self.optimizer.build(self.generator.trainable_variables)
            ballast = [keras.Variable(np.ones(200_000)) for _ in range(5)]
            self.parts = {"generator": self.generator.weights, "optimizer": self.optimizer.variables, "rest": ballast}
            self.compiled = tf.function(self.update)

        def batches(self, stage, start, stop):
            return range(start, stop)

        def update(self, x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self.generator(x) - y))
            variables = [variable.value for variable in self.generator.trainable_variables]
            self.optimizer.apply(tape.gradient(loss, variables), self.generator.trainable_variables)
            for variable in self.parts["rest"]:
                variable.assign_add(tf.fill(variable.shape, loss))
            return {"loss": loss}

        def train_step(self, stage, batch, step):
            rng = np.random.default_rng([int(step), len(stage)])
            scalars = self.compiled(rng.normal(size=(16, 8)).astype("f"), rng.normal(size=(16, 1)).astype("f"))
            step.assign_add(1)
            return scalars

        def validate(self, run, stage):
            return {"score": float(tf.reduce_mean(tf.abs(self.generator(np.ones((4, 8), "f")))))}
    data_load.Corpus = lambda *_: types.SimpleNamespace(use_base=lambda found: None, has_target_only=False)
    base.solve = lambda corpus: base.Base(*np.zeros((len(base.Base._fields), 2)))
    return Small


def prepare(folder: pathlib.Path, networks: str) -> None:
    """Make the features and the paired run that a child reads beside its run folder."""
    import hyperparams
    from corpus import manifest
    import prepro

    if networks == "small":
        return
    corpora, target = manifest.gather([demo.RECORDINGS / "rms"], demo.RECORDINGS / "slt", "demo_00(.)")
    prepro.prepare(corpora, target, folder / "features", hyperparams.HyperParams())
    if networks == "train_gan" and start(folder / "paired", "train").wait():
        raise RuntimeError("there is no paired run to begin with")


# The process that kills -----------------------------------------------------------------------------------------------

def start(logdir: pathlib.Path, networks: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, __file__, "--child", str(logdir), "--networks", networks],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def writes_under_way(logdir: pathlib.Path) -> list[pathlib.Path]:
    """The files of unfinished checkpoint writes."""
    folder = logdir / "checkpoints"
    return [path for pattern in ("*_temp", "checkpoint.tmp*", "best/*_temp", "best/checkpoint.tmp*")
            for path in folder.glob(pattern)]


def kill_at_random(process: subprocess.Popen, logdir: pathlib.Path, rng: random.Random) -> bool:
    """Kill a run while it starts, at a random moment of training or during a checkpoint write.

    Returns False if it ended before."""
    kind, reached = rng.choice(["start", "step", "step", "write", "write", "write"]), logdir / "begun"
    reached.unlink(missing_ok=True)
    if kind == "start":
        with_delay(process, rng.uniform(0.0, 4.0))
    else:
        while not reached.exists() and process.poll() is None:
            time.sleep(0.01)
        with_delay(process, rng.uniform(0.0, 1.0))
    if kind == "write":
        while process.poll() is None and not writes_under_way(logdir):
            pass
        with_delay(process, rng.choice([0.0, 0.0, 0.002, 0.01]))
    process.kill()
    return process.wait() != 0


def with_delay(process: subprocess.Popen, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.001)


def contents(logdir: pathlib.Path, networks: str) -> dict[str, bytes]:
    """All arrays of the newest and of the best checkpoint, and the curves, as bytes."""
    from backend import checkpoints
    from training import run_folder
    import tensorflow as tf

    found = {}
    for folder in ("checkpoints", "checkpoints/best"):
        reader = tf.train.load_checkpoint(checkpoints.checkpoints_in(logdir / folder)[0])
        found |= {f"{folder} {name}": reader.get_tensor(name).tobytes()
                  for name in reader.get_variable_to_shape_map()
                  if name.split("/")[0] not in ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter")}
    for kind, tag in (*(("train", tag) for tag in CURVES[networks]), ("validation", "free_running/score")):
        steps, values = run_folder.read_scalars(logdir / kind, tag)
        if not steps:
            raise RuntimeError(f"{logdir / kind} holds no {tag}")
        found[f"{kind} {tag}"] = struct.pack(f"{len(steps)}q{len(values)}d", *steps, *values)
    return found


def stress(kills: int, seed: int, folder: pathlib.Path, networks: str = "small", say=print) -> types.SimpleNamespace:
    """Kill runs below `folder` until there were `kills` kills; raises RuntimeError if a restarted run fails."""
    rng, result = random.Random(seed), types.SimpleNamespace(kills=0, in_writes=0, lost=0, runs=0, differing=[])

    def begun(logdir: pathlib.Path, reached: int) -> None:
        if (logdir / "begun").exists():
            result.lost = max(result.lost, reached - int((logdir / "begun").read_text() or reached))
    prepare(folder, networks)
    whole = start(folder / "whole", networks)
    if whole.communicate() and whole.returncode:
        raise RuntimeError("the unbroken run failed")
    expected = contents(folder / "whole", networks)
    while result.kills < kills:
        logdir, ended = folder / f"broken-{result.runs}", False
        logdir.mkdir()
        while not ended:
            reached = struct.unpack("q", (logdir / "reached").read_bytes() or bytes(8))[0] if (
                logdir / "reached").exists() else 0
            process = start(logdir, networks)
            if result.kills < kills and kill_at_random(process, logdir, rng):
                if process.returncode == -9:
                    result.kills += 1
                    result.in_writes += bool(writes_under_way(logdir))
            error = process.communicate()[1]
            if process.returncode not in (0, -9):
                raise RuntimeError(f"a restart failed, {process.returncode}: {error}")
            ended = process.returncode == 0
            begun(logdir, reached)
            for line in error.splitlines():
                if line.startswith("warning"):
                    say(line)
        found = contents(logdir, networks)
        result.differing += sorted(name for name in expected.keys() | found.keys()
                                   if expected.get(name) != found.get(name))
        result.runs += 1
        say(f"run {result.runs} ended after {result.kills} kills")
    return result


# Memory ---------------------------------------------------------------------------------------------------------------

def resident_mib() -> float:
    """The resident memory of this process, in MiB (Linux)."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2 ** 20


def watch_memory(steps: int) -> None:
    """Print the resident memory at a tenth, at each quarter and at the end of `steps` steps in the longest stage."""
    from conversion import base
    import data_load
    import hyperparams
    from corpus import manifest
    import prepro
    from training import run_folder
    import train
    from training import trainer

    hp = hyperparams.HyperParams(**TINY, postnet_steps=5, decoder_steps=steps, log_steps=10, save_steps=200)
    with tempfile.TemporaryDirectory() as folder:
        corpora, target = manifest.gather([demo.RECORDINGS / "rms"], demo.RECORDINGS / "slt", "demo_00(.)")
        prepro.prepare(corpora, target, pathlib.Path(folder) / "features", hp)
        corpus = data_load.Corpus(pathlib.Path(folder) / "features", hp)
        corpus.use_base(base.solve(corpus))
        task = train.PairedTrainer(hp, corpus)
        run, train_step = run_folder.Run(pathlib.Path(folder) / "run", hp, task.parts), task.train_step

        def watched(stage, batch, step):
            scalars = train_step(stage, batch, step)
            if int(step) in {steps // 10, steps // 4, steps // 2, 3 * steps // 4, steps}:
                print(f"step {int(step)}: {resident_mib():.0f} MiB")
            return scalars
        task.train_step = watched
        trainer.fit(run, task, steps)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="how often to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--memory", type=int, default=0, metavar="STEPS", help="watch memory over so many steps")
    parser.add_argument("--networks", choices=SETTINGS, default="small", help="what to train")
    parser.add_argument("--child", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child, args.networks)
    if args.memory:
        watch_memory(args.memory)
    if args.kills:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            result = stress(args.kills, args.seed, pathlib.Path(folder), args.networks)
        print(f"{result.kills} kills, {result.in_writes} of them inside a checkpoint write, in {result.runs} runs\n"
              f"steps lost at most: {result.lost}, a checkpoint every {SAVE_STEPS}\n"
              f"unlike the unbroken run: {', '.join(result.differing) or 'nothing'}\n"
              f"{time.perf_counter() - began:.0f} s")
        return 1 if result.differing or result.lost > SAVE_STEPS else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
