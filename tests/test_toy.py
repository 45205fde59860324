"""What the networks promise: where a linear map must fail they do not, and who speaks makes no difference."""
import data_load
import utils
from conftest import DEMO
from conversion.inference import Converter
from corpus import analysis
from corpus.linear_map import PENALTY, Sums, in_context

import numpy as np
import tensorflow as tf
from test_networks import make_generator, make_task, randomise

SOUND_FRAMES, N_SOUNDS = 10, 8


def speak(rng: np.random.Generator, sounds: np.ndarray, said: np.ndarray, n: int) -> list[tuple]:
    """`n` pairs of a source (S, F) and its target (S, M): after the sound 2 the sounds 0 and 1 stay as they are, after
    the sound 3 each becomes the other."""
    pairs = []
    for _ in range(n):
        contexts, own = rng.integers(2, size=(2, N_SOUNDS // 2))
        heard = np.stack([2 + contexts, own], axis=1).ravel().repeat(SOUND_FRAMES)
        written = np.stack([2 + contexts, own ^ contexts], axis=1).ravel().repeat(SOUND_FRAMES)
        pairs.append((sounds[heard] + 0.1 * rng.normal(size=(len(heard), sounds.shape[1])), said[written]))
    return pairs


def test_encoder_learns_a_swap_by_context_that_no_linear_map_can_learn(tiny_hp):
    hp = tiny_hp.replace(width=32, encoder_banks=4, encoder_rate=5e-3, encoder_steps=150, encoder_dropout=0.0)
    rng = np.random.default_rng(0)
    sounds, said = rng.normal(size=(4, hp.n_linear)), rng.uniform(0.3, 0.7, (4, hp.n_mels))
    learnt, unseen = speak(rng, sounds, said, 40), speak(rng, sounds, said, 10)
    sums = Sums(9 * hp.n_mels, hp.n_mels)
    for source, target in learnt:
        sums.add(in_context(source[:, :hp.n_mels]), target)
    kernel, bias = sums.solve(PENALTY)

    def batch(pairs: list[tuple]) -> dict:
        source, mel = (np.stack(each).astype(np.float32) for each in zip(*pairs))
        n, length = mel.shape[:2]
        mapped = np.stack([in_context(each[:, :hp.n_mels]) @ kernel + bias for each in source])
        mapped = np.pad(mapped, ((0, 0), (0, 0), (0, 2))).astype(np.float32)
        return {"source": tf.constant(source), "mapped": tf.constant(mapped),
                "source_mask": tf.ones((n, length)), "mel": tf.constant(mel), "mask": tf.ones((n, length)),
                "pitch": tf.zeros((n, length, 2)), "linear": tf.zeros((n, length, hp.n_linear)),
                "positions": tf.constant(np.tile(np.arange(0, length + 1, hp.r, dtype=np.float32), (n, 1)))}
    task, step = make_task(hp), tf.Variable(0, dtype=tf.int64)
    for _ in range(hp.encoder_steps):
        task.train_step("encoder", batch([learnt[i] for i in rng.integers(len(learnt), size=8)]), step)
    new = batch(unseen)
    written = task.encode_on_path(*(new[name] for name in ("source", "mapped", "source_mask", "positions")))
    errors = [float(tf.reduce_mean(tf.abs(mel - new["mel"]))) for mel in (new["mapped"][:, :, :hp.n_mels], written)]
    swapped = np.abs(said[0] - said[1]).mean()
    assert errors[0] > 0.2 * swapped and errors[1] < 0.5 * errors[0], (errors, swapped)


def test_a_recording_of_a_known_speaker_gives_the_same_sound_as_that_of_a_stranger(demo_data, demo_base, tiny_hp):
    """A source of the corpus is converted as a pair, and its recording as a file of anybody."""
    corpus = data_load.Corpus(demo_data, tiny_hp)
    corpus.use_base(demo_base)
    pair, converter = corpus.train[0], Converter(randomise(make_generator(tiny_hp)), demo_base)
    known, = converter.convert_pairs(corpus, [pair])
    features = analysis.extract(utils.load_recording(DEMO / "rms" / f"{pair.utterance}.ogg", tiny_hp).wav, tiny_hp)
    stranger, = converter([features], [converter.find_voice(features)])
    sounds = [utils.griffin_lim(out.linear, out.pitch, tiny_hp) for out in (known, stranger)]
    np.testing.assert_array_equal(sounds[0], sounds[1])
    assert np.abs(sounds[0]).max() > 1e-4
