"""Inference: a trained model converts spectrograms and recordings of any length in free running.

    from conversion.inference import load
    converter = load("bdl")                                    # a voice of pretrained/, or a run folder
    converter.save("out.wav", converter.convert("my.wav").wav)
"""
import concurrent.futures
import itertools
import os
import pathlib
import warnings
from typing import NamedTuple

import data_load
import utils
from backend import checkpoints, devices
from common import audio_files, cli, storage
from common.cli import UserError
from conversion import base
from conversion.chunks import Chunk, Speakers, join, silenced, split_at_pauses
from corpus import analysis
from corpus.analysis import Features
from corpus.manifest import Pair
from corpus.remarks import loud_frames, noise, remarks, without_pitch
from hyperparams import SYNTHESIS, HyperParams, differences
from networks import Conversion, Generator

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from tqdm import tqdm

CHUNKS_AT_ONCE = 8
USUAL_RATIO = 1.25  # most conversions end before this multiple of the source's length
MAX_RATIO = 2.0  # a conversion that does not end is cut at this multiple of the source's length


class Converted(NamedTuple):
    """One conversion, cut to its length."""
    mel: np.ndarray        # (T, M) input of the post-net
    pitch: np.ndarray      # (T, 2) octaves above the middle, voicing from 0 to 1
    linear: np.ndarray     # (T, F)
    positions: np.ndarray  # (T,) source frame that was read for each output frame
    weights: np.ndarray    # (T, S) attention
    stopped: bool          # False if the limit of steps cut it


class ConvertedRecording(NamedTuple):
    """A converted recording."""
    wav: np.ndarray        # (samples,)
    chunks: list[Chunk]
    heard: Features        # of the first chunk, for the picture
    first: Converted       # the first chunk
    stopped: bool          # False if the limit of steps cut one of the chunks
    hertz: np.ndarray      # (S,) pitch of all chunks, 0 where unvoiced
    remarks: list[str]     # what looks odd in the recording, and the cure


class Converter:
    """Converts recordings in batches. What becomes of a recording, and by which method:

        mel, pitch = predict(recording)         encoder and decoder correct the linear map of the base
        mel = restore_mel(mel)                  detail of the source, movements of the target (base.restore_mel)
        pitch = base.restore_pitch(pitch)       moves as much as the target's
        linear = draw(mel, pitch)               the post-net
        linear = base.with_texture(linear)      of noise; Griffin-Lim makes a waveform of it (convert_recording)
    """

    def __init__(self, generator: Generator, base_map: base.Base):
        self.generator, self.base, self.hp = generator, base_map, generator.hp
        self.keep_intervals = False  # for singing: move the pitch by a constant number of octaves
        frames = [tf.TensorSpec((None, None, size)) for size in (self.hp.n_linear, self.hp.n_mels + 2)]
        self._convert = devices.compiled(generator.convert, input_signature=[
            *frames, tf.TensorSpec((None, None)), tf.TensorSpec((), tf.int32), tf.TensorSpec((None,))])
        self._draw = devices.compiled(generator.postnet, input_signature=[
            tf.TensorSpec((None, None, size)) for size in (self.hp.n_mels, 2)] + [tf.TensorSpec((None, None))])

    def convert(self, recording: str | os.PathLike | ArrayLike, sample_rate: int | None = None) -> ConvertedRecording:
        """Convert a file, or an array (samples,) of any scale at `sample_rate` (Hz; default: `hp.sample_rate`). Of the
        result, `wav` is (samples,) float32 at `hp.sample_rate`, as long as the recording at least and at the level
        `hp.loudness_db`. Raises BadAudio, a UserError, if there is no sound in it; warns of `remarks`, what looks odd,
        which Python shows only once if another array has the same."""
        hp, is_array = self.hp, not isinstance(recording, (str, os.PathLike))
        if sample_rate is not None and not is_array:
            raise UserError("sample_rate is that of an array; a file says its own")
        name = "the array" if is_array else storage.printable(recording)
        rate = hp.sample_rate if sample_rate is None else sample_rate
        read = audio_files.from_array(recording, rate, hp) if is_array else audio_files.read_audio(recording, hp)
        wav, _, odd = utils.normalise_recording(read, hp, False, name)
        with concurrent.futures.ThreadPoolExecutor(cli.cores()) as pool:
            made = convert_recording(wav, self, pool)
        made = made._replace(remarks=[*odd, *(f"{name}: {text}" for text in made.remarks)])
        for text in made.remarks:
            warnings.warn(text, stacklevel=2)
        return made

    def save(self, path: str | os.PathLike, wav: np.ndarray) -> None:
        """Write (samples,) at `hp.sample_rate` as a 16-bit wav file; what is above full scale is turned down. Raises
        UserError."""
        audio_files.save_wav(path, wav, self.hp)

    def find_voice(self, recording: Features) -> base.Voice:
        """Measure the voice of a recording."""
        voice = base.find_voice(self.base, recording, self.hp)
        return voice._replace(deviation=float(self.base.octaves[2])) if self.keep_intervals else voice

    def convert_pairs(self, corpus: data_load.Corpus, pairs: list[Pair],
                      measure_movement: bool = False) -> list[Converted]:
        """Convert the sources of pairs. With `measure_movement`, first measure on them how much movement conversions
        lack, and set this weight of the generator."""
        heard = [corpus.recording(pair) for pair in pairs], [corpus.voice(pair) for pair in pairs]
        written = self.predict(*heard)
        if measure_movement and self.hp.base:
            mels = [base.with_detail(self.base, out.mel, out.positions, *each, self.hp)
                    for out, *each in zip(written, *heard)]
            self.generator.movement.assign(base.gains(base.modulation_power(mels), self.base.modulation))
        return self.finish(written, *heard)

    def __call__(self, sources: list[Features], voices: list[base.Voice]) -> list[Converted]:
        """Convert recordings of `voices`; results are in the same order."""
        return self.finish(self.predict(sources, voices), sources, voices)

    def predict(self, sources: list[Features], voices: list[base.Voice], batch_size: int = 16) -> list[Converted]:
        """What the networks write for recordings of `voices`, in whatever batch: nothing is restored or drawn yet."""
        results: list[Converted | None] = [None] * len(sources)
        # Batches of recordings of similar length need little padding
        order = sorted(range(len(sources)), key=lambda i: len(sources[i].linear))
        for first in tqdm(range(0, len(order), batch_size), "converting", disable=None, leave=False, delay=2.0):
            chosen = order[first:first + batch_size]
            inputs, maps = zip(*(base.network_input(self.base, sources[i], voices[i], self.hp) for i in chosen))
            source, mask = data_load.pad(inputs, self.hp.encoder_stack)
            mapped, _ = data_load.pad(maps, self.hp.encoder_stack)
            # Global attention does not tell when a sentence ends, so it comes from the length ratio of the training
            known = self.hp.attention == "global"
            limits = [round(float(self.base.length_ratio) * len(each)) if known
                      else int(MAX_RATIO * len(each)) + self.hp.r for each in inputs]
            # Each step takes its time, also after the end, and no step changes those before it
            for most in [max(limits)] if known else [USUAL_RATIO * source.shape[1], MAX_RATIO * source.shape[1]]:
                out = Conversion(*map(np.asarray, self._convert(source, mapped, mask, int(most / self.hp.r) + 2,
                                                                np.float32(limits))))
                if out.stopped.all():
                    break
            for i, limit, each, mel, pitch, length, stopped, positions, weights in zip(chosen, limits, maps, *out):
                stopped, length = bool(stopped) and length <= limit, min(length, limit)
                if self.keep_intervals and self.hp.base:  # the octaves of the map instead of the networks'
                    octaves = np.interp(positions, np.arange(len(each)), each[:, self.hp.n_mels])
                    pitch = np.stack([octaves, pitch[:, 1]], axis=1)
                results[i] = Converted(mel[:length], pitch[:length], None, positions[:length],
                                       weights[:length, :len(sources[i].linear)], stopped)
        return results

    def finish(self, written: list[Converted], sources: list[Features], voices: list[base.Voice],
               batch_size: int = 16) -> list[Converted]:
        """Restore what the networks wrote, draw it, and give it texture."""
        finished, order = list(written), sorted(range(len(written)), key=lambda i: len(written[i].mel))
        for first in range(0, len(order), batch_size):
            chosen = order[first:first + batch_size]
            mels = [self.restore_mel(written[i].mel, written[i].positions, sources[i], voices[i]) for i in chosen]
            pitches = [written[i].pitch if self.keep_intervals else
                       base.restore_pitch(self.base, written[i].pitch, self.hp) for i in chosen]
            for i, mel, pitch, linear in zip(chosen, mels, pitches, self.draw(mels, pitches)):
                textured = base.with_texture(linear, pitch, self.hp)
                finished[i] = written[i]._replace(mel=mel, pitch=pitch, linear=textured)
        return finished

    def restore_mel(self, mel: np.ndarray, positions: np.ndarray, source: Features, voice: base.Voice) -> np.ndarray:
        """The input of the post-net (T, M) from the networks' mel (T, M), which was read at `positions` (T,)."""
        return base.restore_mel(self.base, np.asarray(self.generator.movement), mel, positions, source, voice, self.hp)

    def draw(self, mels: list[np.ndarray], pitches: list[np.ndarray]) -> list[np.ndarray]:
        """Linear spectrograms (T, F) of mel (T, M) and pitch (T, 2) by the post-net."""
        mel, mask = data_load.pad(mels, 1)
        linear = np.asarray(self._draw(mel, data_load.pad(pitches, 1)[0], mask))
        return [each[:len(mel)] for each, mel in zip(linear, mels)]


def load(voice: str | os.PathLike = checkpoints.VOICES[0], **settings) -> Converter:
    """Load a voice of pretrained/ by its name, or a model of yours by its run folder; `settings` are hyperparameters of
    synthesis, for instance power=1.2 (`hyperparams.SYNTHESIS`). Raises UserError."""
    folder = checkpoints.PRETRAINED.with_name(voice) if voice in checkpoints.VOICES else voice
    if isinstance(voice, str) and not os.path.exists(folder):
        raise UserError(f"{storage.printable(voice)} is no run folder and no voice of pretrained/; the voices are "
                        f"{', '.join(checkpoints.VOICES)}")
    return load_converter(folder, None, [f"{name}={value}" for name, value in settings.items()])


def load_converter(logdir: pathlib.Path, checkpoint: str | None = None, overrides: list[str] = ()) -> Converter:
    """Load the generator of a run from its best or another `checkpoint`, with `name=value` overrides. Raises
    UserError."""
    path = pathlib.Path(logdir) / "hparams.json"
    if not path.exists():
        is_ours = pathlib.Path(logdir).resolve().parent == checkpoints.PRETRAINED.parent
        cure = "git checkout brings it back" if is_ours else "train first, or give --logdir"
        raise UserError(f"{path} does not exist: {logdir} is no run folder; {cure}")
    if checkpoint and os.path.exists(checkpoint) and not (
            pathlib.Path(checkpoint).resolve().is_relative_to(pathlib.Path(logdir).resolve())):
        raise UserError(f"{checkpoint} is not of {logdir}: name the run that it is of as --logdir")
    prefix, found = checkpoint or checkpoints.best_checkpoint(logdir), base.load(logdir)
    trained = base.with_timing(found, HyperParams.from_json(path))
    hp = trained.override(overrides)
    fixed = [text for text in differences(vars(trained), hp) if text.split()[0] not in SYNTHESIS]
    if fixed:
        raise UserError(f"--set {fixed[0]}: the model was trained with it; only {', '.join(SYNTHESIS)} may change")
    generator = Generator(hp)
    checkpoints.load_generator(generator, prefix)
    return Converter(generator, found)


def convert_recording(wav: np.ndarray, converter: Converter, pool) -> ConvertedRecording:
    """Convert a recording (samples,) of any length, CHUNKS_AT_ONCE chunks at a time to limit the use of memory; the
    voice is measured on the first of them, and where somebody else begins to speak."""
    hp, voices, speakers, stopped, hertz = converter.hp, [], Speakers(converter), True, []
    heard = first = None
    chunks = split_at_pauses(wav, hp, converter.keep_intervals)
    for start in range(0, len(chunks), CHUNKS_AT_ONCE):
        group = chunks[start:start + CHUNKS_AT_ONCE]
        features = [analysis.extract(chunk.gain * chunk.wav, hp) for chunk in group]
        outputs = converter(features, speakers.follow(features, [chunk.person for chunk in group]))
        voices += pool.map(lambda out, chunk: utils.griffin_lim(out.linear, out.pitch, hp) / chunk.gain, outputs, group)
        stopped, heard, first = (stopped and all(out.stopped for out in outputs), heard or features[0],
                                 first or outputs[0])
        hertz += [source.hertz for source in features]
    pitch = np.concatenate(hertz)
    changes = [after.start / hp.sample_rate for before, after in itertools.pairwise(chunks)
               if after.person != before.person]
    whispered = sum(without_pitch(chunk.wav, each, hp) for chunk, each in zip(chunks, hertz))
    odd = remarks(pitch, changes, hp, converter.keep_intervals, whispered, loud_frames(wav, hp).sum())
    odd += [] if converter.keep_intervals else noise(wav, hp)
    if lost := silenced(wav, chunks, hp):
        odd.append(f"at least {lost:.1f} s of speech in it become silence, because something else is much louder; if "
                   "they are to be heard, cut that out of the recording")
    return ConvertedRecording(join(chunks, voices, hp, len(wav)), chunks, heard, first, stopped, pitch, odd)
