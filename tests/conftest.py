"""Shared by all tests: the import path, a tiny model's hyperparameters and a handful of prepared demo utterances.

Everything runs on the CPU unless CUDA_VISIBLE_DEVICES says otherwise, so that the numbers do not depend on the machine.
Each worker of pytest-xdist uses one core, and graphs are compiled without optimising them. A test of a few small steps
takes fewer seconds without compilation (`eager`), a conversion of a whole recording takes fewer with it.
"""
import contextlib
import ctypes
import dataclasses
import gc
import os
import pathlib
import resource
import shutil
import signal
import sys
import types

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "")
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import data_load
import eval as eval_script
import hyperparams
import prepro
import utils
from backend import checkpoints
from common import storage
from conversion import base
from corpus import demo, linear_map, manifest
from networks import Generator
from training import trainer
from training.run_folder import Run

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf
from tensorflow.python.framework import ops as tf_ops

DEMO = demo.RECORDINGS
with contextlib.suppress(AttributeError):  # glibc: what is large gets pages of its own, which are given back when freed
    ctypes.CDLL(None).mallopt(-3, 2 ** 17)  # M_MMAP_THRESHOLD, which otherwise grows
gc.freeze()  # what was imported is not searched again whenever a file's tests are finished
# A second logical device, used only by the tests of several GPUs
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0],
                                           [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # it takes longer than it saves
# Both wrap every operation to shorten tracebacks, a tenth of the time of all tests
tf.debugging.disable_traceback_filtering()
keras.config.disable_traceback_filtering()
DEMO_IDS = [f"demo_{i:03d}" for i in range(1, 11)]


TINY = hyperparams.HyperParams(
    width=16, encoder_banks=2, postnet_banks=2, highway_layers=1, batch_size=4, postnet_window=16, dis_frames=16,
    postnet_steps=3, encoder_steps=2, decoder_steps=3, warmup_steps=1, log_steps=1, save_steps=2, n_samples=1,
    griffin_lim_iters=4)


def pytest_collection_modifyitems(items: list) -> None:
    """Begin with the files that take longest, so that no worker has one of them left when the others are finished."""
    first = ["test_scripts", "test_multi_gpus", "test_gan", "test_training", "test_elsewhere", "test_steps"]
    items.sort(key=lambda item: first.index(item.path.stem) if item.path.stem in first else len(first))


def resume(run: Run) -> bool:
    """Resume a run from its newest readable checkpoint; returns whether there is one."""
    prefix = checkpoints.newest_readable(checkpoints.checkpoints_in(run.folder))
    if prefix:
        run.resume(prefix)
    return prefix is not None


def end_at(step: int, run: pathlib.Path, folder: pathlib.Path) -> None:
    """Copy the checkpoint of a step into the run folder `folder`, as if the run had ended there."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "checkpoints" / f"step-{step}.npz", folder / "checkpoints")


def no_workers():
    """Replace `prepro.workers` by this process: starting others takes longer than the work on a few files."""
    return contextlib.nullcontext(lambda function, items, title: [function(*item) for item in items])


@pytest.fixture(scope="session")
def tiny_hp() -> hyperparams.HyperParams:
    """The hyperparameters of a network that trains in seconds, with the real signal settings."""
    return TINY


def plain_base(hp: hyperparams.HyperParams = TINY) -> base.Base:
    """A base that leaves the source unchanged, less its mean: its map picks the middle frame."""
    kernel = np.zeros(((2 * linear_map.CONTEXT + 1) * hp.n_mels, hp.n_mels), np.float32)
    kernel[linear_map.CONTEXT * hp.n_mels:(linear_map.CONTEXT + 1) * hp.n_mels] = np.eye(hp.n_mels)
    bands, bins = np.zeros(hp.n_mels, np.float32), np.zeros(hp.n_linear, np.float32)
    movements = np.ones((utils.MODULATION_FRAMES // 2 + 1, hp.n_mels), np.float32)
    return base.Base(np.stack([kernel, 0.0 * kernel]), np.stack([bands, bands]), np.array([-1.0, 1.0]), bands - 1.0,
                     bins - 1.0, bins + 1.0, np.array([1.0, 0.0, 1.0]), movements, np.array(1.0),
                     np.eye(hp.n_mels, dtype=np.float32), bands)


def plain_corpus(data: pathlib.Path, hp: hyperparams.HyperParams = TINY):
    """The corpus in `data` with a plain base, which need not be solved."""
    corpus = data_load.Corpus(data, hp)
    corpus.use_base(plain_base(hp))
    return corpus


def no_corpus(monkeypatch) -> None:
    """Train without features, for a task that reads none; its base is a small file."""
    monkeypatch.setattr(data_load, "Corpus", lambda *_: types.SimpleNamespace(
        use_base=lambda found: None, has_target_only=False))
    monkeypatch.setattr(base, "solve", lambda corpus: plain_base(TINY.replace(n_mels=2)))


def untrained_run(folder: pathlib.Path, hp: hyperparams.HyperParams = TINY) -> pathlib.Path:
    """Make a run folder with the checkpoint of an untrained network and a plain base; returns it."""
    storage.write_json(folder / "hparams.json", dataclasses.asdict(hp))
    base.save(plain_base(hp), folder)
    run = Run(folder, hp, {"generator": Generator(hp).weights})
    run.step.assign(1)
    run.select(1.0)
    return folder


@pytest.fixture(scope="session")
def demo_recordings(tmp_path_factory) -> pathlib.Path:
    """A folder with ten demo sentences of two speakers, rms/ and slt/."""
    folder = tmp_path_factory.mktemp("recordings")
    for speaker in ("rms", "slt"):
        (folder / speaker).mkdir()
        for utterance in DEMO_IDS:
            shutil.copy(DEMO / speaker / f"{utterance}.ogg", folder / speaker)
    return folder


@pytest.fixture(scope="session")
def demo_data(demo_recordings, tmp_path_factory, tiny_hp) -> pathlib.Path:
    """The features of `demo_recordings`, rms to slt, as prepro.py writes them; tests must not change them."""
    data = tmp_path_factory.mktemp("features")
    corpora, target = manifest.gather([demo_recordings / "rms"], demo_recordings / "slt", "(.*)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepro, "workers", no_workers)
        prepro.prepare(corpora, target, data, tiny_hp)
    return data


@pytest.fixture(scope="session")
def demo_base(demo_data, tiny_hp) -> base.Base:
    """The base of `demo_data`."""
    return base.solve(data_load.Corpus(demo_data, tiny_hp))


@contextlib.contextmanager
def uncompiled():
    """Do not compile within this context."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture
def eager():
    """Do not compile, because compilation takes longer than a few steps."""
    with uncompiled():
        yield


@pytest.fixture
def loaded_once(monkeypatch):
    """Load the converter of the first command, which takes seconds, and give it to the later commands of a test."""
    load, found = eval_script.load_converter, []

    def first(*arguments):
        if not found:
            found.append(load(*arguments))
        return found[0]
    monkeypatch.setattr(eval_script, "load_converter", first)


@pytest.fixture
def eager_steps(monkeypatch):
    """Do not compile the steps of training; conversions are compiled."""
    run_step = trainer.Trainer.run_step

    def run_uncompiled(*arguments):
        with uncompiled():
            return run_step(*arguments)
    monkeypatch.setattr(trainer.Trainer, "run_step", run_uncompiled)


@pytest.fixture(scope="module", autouse=True)
def forget():
    """Let the networks and graphs of a file's tests go when they are finished."""
    yield
    let_graphs_go()


def let_graphs_go() -> None:
    """Free the networks and graphs that nothing uses any more. A training's are half a gigabyte."""
    # TensorFlow keeps the gradient of every `tf.custom_gradient`, here of every loop, and so the whole graph around it
    registry = tf_ops.gradient_registry._registry
    for name in [name for name in registry if name.startswith("CustomGradient-")]:
        del registry[name]
    keras.backend.clear_session()
    gc.collect()
    with contextlib.suppress(AttributeError):  # only glibc keeps what was freed until it is told to give it back
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def serial(monkeypatch):
    """Prepare in this process: starting others takes longer than the work on a few files."""
    monkeypatch.setattr(prepro, "workers", no_workers)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, tiny_hp) -> pathlib.Path:
    """A run folder with the checkpoint of an untrained network."""
    return untrained_run(tmp_path_factory.mktemp("run"), tiny_hp)


@pytest.fixture(scope="session")
def converter(run_folder):
    return eval_script.load_converter(run_folder)


@pytest.fixture
def loaded(monkeypatch, converter):
    """Load the converter, which takes seconds, only once for all tests that are not about loading."""
    monkeypatch.setattr(eval_script, "load_converter", lambda *_: converter)


def tone(hertz: float, sample_rate: int = 16000, seconds: float = 1.0) -> np.ndarray:
    """(samples,) sine of half full scale."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * sample_rate)) / sample_rate)).astype(np.float32)


def words(seed: int, sample_rate: int = 16000, seconds: float = 1.0, pitch: float = 120.0) -> np.ndarray:
    """(samples,) a sound that changes like speech: a buzz through two formants that move as `seed` determines.

    The same seed gives the same words at any `seconds` and `pitch`, like a parallel recording by another speaker.
    """
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    knots = np.linspace(0.0, seconds, 9)
    formants = [np.interp(time, knots, rng.uniform(*span, len(knots))) for span in ((250, 900), (900, 2800))]
    harmonics = pitch * np.arange(1, int(3500 / pitch))[:, None]
    gains = sum(np.exp(-((harmonics - formant) / 150.0) ** 2) for formant in formants)
    wav = (gains * np.sin(2 * np.pi * harmonics * time)).sum(axis=0)
    return (0.3 * wav / np.abs(wav).max() + 0.002 * rng.normal(size=len(wav))).astype(np.float32)


def write(path: pathlib.Path, wav: np.ndarray, sample_rate: int = 16000, subtype: str = "PCM_16") -> pathlib.Path:
    """Write (samples,) or (samples, channels) as a recording; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, sample_rate, subtype=subtype)
    return path


def demo_wav(speaker: str, utterance: str, hp: hyperparams.HyperParams) -> np.ndarray:
    """(samples,) of a demo sentence."""
    return utils.load_recording(DEMO / speaker / f"{utterance}.ogg", hp).wav


@pytest.fixture(scope="session", autouse=True)
def interrupts():
    """Let SIGINT raise KeyboardInterrupt in tests, and end the processes that they start, even if it is ignored here:
    whatever runs in the background of a script or under nohup ignores it, and so do its child processes."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def full_disk(room: int):
    """Refuse to write a file of more than `room` bytes within this context, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """The contents of all files below a folder except the lock, which names the process that uses it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and path.name != ".lock"}


def leftovers(folder: pathlib.Path) -> list[pathlib.Path]:
    """Temporary files below `folder`; there must be none after any command."""
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]
