"""The generator: padding, teacher forcing compared with free running, the base, and conversion."""
import types

import hyperparams
import train
from conftest import plain_base
from conversion import base
from conversion.inference import Converter
from corpus.analysis import Features
from modules import DecoderCell
from networks import Generator

import keras
import numpy as np
import pytest
import tensorflow as tf

STAGES = ("postnet", "encoder", "decoder")
SOURCE_LENGTHS, STEPS = (15, 13), (3, 2)  # source frames and decoder steps of two utterances


def randomise(generator: Generator, seed: int = 5) -> Generator:
    """Perturb all weights: an untrained model advances at a constant pace, and its moving statistics are 0 and 1."""
    rng = np.random.default_rng(seed)
    for weight in generator.weights:
        weight.assign(weight * rng.uniform(0.5, 1.5, weight.shape) if "variance" in weight.path
                      else weight + rng.normal(0.0, 0.05, weight.shape))
    if generator.hp.attention == "local":
        advance = generator.decoder.cell.attention.pace_layer
        advance.kernel.assign(rng.normal(0.0, 0.5, advance.kernel.shape))
    return generator


def make_generator(hp: hyperparams.HyperParams) -> Generator:
    keras.utils.set_random_seed(6)
    return Generator(hp)


@pytest.fixture(scope="module")
def generator(tiny_hp):
    return randomise(make_generator(tiny_hp.replace(frame_dropout=0.5, advance_smoothing=0.6)))


@pytest.fixture
def change(monkeypatch):
    """Change hyperparameters that the decoder reads when it is called."""
    def replace(generator, **changes):
        monkeypatch.setattr(generator.decoder, "hp", generator.decoder.hp.replace(**changes))
    return replace


def make_task(hp: hyperparams.HyperParams) -> train.PairedTrainer:
    """The training task without a corpus."""
    return train.PairedTrainer(hp, types.SimpleNamespace(split=lambda name: [None], has_target_only=False,
                                                         slices=[None] * 99, base=plain_base(hp)))


def make_batch(hp: hyperparams.HyperParams, more: int = 0, garbage: bool = False, seed: int = 7) -> dict:
    """Return a batch like `Corpus.assemble`, with `more` additional steps of padding, which may hold garbage."""
    rng, trash = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    n, size, frames = len(STEPS), max(SOURCE_LENGTHS), max(STEPS) * hp.r
    lengths = np.array([frames - 1, STEPS[1] * hp.r - 2])  # the last step of each is not full
    batch = {
        "source": rng.uniform(0, 1, (n, size, hp.n_linear)), "source_mask": None,
        "mapped": np.concatenate([
            rng.uniform(0, 1, (n, size, hp.n_mels)), rng.uniform(-1, 1, (n, size, 1)),
            rng.integers(0, 2, (n, size, 1))], axis=2),
        "mel": rng.uniform(0, 1, (n, frames, hp.n_mels)), "linear": rng.uniform(0, 1, (n, frames, hp.n_linear)),
        "pitch": np.stack([rng.uniform(-1, 1, (n, frames)), rng.integers(0, 2, (n, frames))], axis=2),
        "mask": None, "positions": np.cumsum(rng.uniform(2.0, 6.0, (n, max(STEPS) + 1)), axis=1) - 2.0}
    for kind, extra, valid in (("source", more * hp.encoder_stack, SOURCE_LENGTHS),
                               ("mapped", more * hp.encoder_stack, SOURCE_LENGTHS), ("mel", more * hp.r, lengths),
                               ("pitch", more * hp.r, lengths), ("linear", more * hp.r, lengths),
                               ("positions", more, np.array(STEPS) + 1)):
        array = np.pad(batch[kind], [(0, 0), (0, extra)] + [(0, 0)] * (batch[kind].ndim - 2))
        mask = np.asarray(tf.sequence_mask(valid, array.shape[1], tf.float32)).reshape(n, -1, *[1] * (array.ndim - 2))
        fill = trash.uniform(-3, 5, array.shape) if garbage else 0.0
        batch[kind] = np.where(mask > 0, array, fill).astype(np.float32)
        if kind in ("source", "mel"):
            batch["source_mask" if kind == "source" else "mask"] = mask[:, :, 0].astype(np.float32)
    return batch


def teach(generator: Generator, batch: dict):
    """Return the output of the decoder with teacher forcing of the positions and frames of a batch."""
    return generator(batch["source"], batch["mapped"], batch["source_mask"], batch["positions"], batch["mel"])


@pytest.mark.parametrize("norm", ["bn", "ln", "ins"])
def test_padding_changes_no_loss_of_any_stage(tiny_hp, change, norm):
    task = make_task(tiny_hp.replace(norm=norm, dropout=0.0, encoder_dropout=0.0))
    randomise(task.generator)
    short, longer = make_batch(tiny_hp), make_batch(tiny_hp, more=2, garbage=True)
    change(task.generator, frame_dropout=0.0)
    for stage in STAGES:
        expected = {name: float(value) for name, value in task.forward(stage, short).items()}
        found = {name: float(value) for name, value in task.forward(stage, longer).items()}
        assert expected["loss"] > 0.05
        assert found == pytest.approx(expected, rel=2e-4), stage


@pytest.mark.parametrize("teacher", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_no_output(generator, change, training, teacher):
    hp = generator.hp
    change(generator, dropout=0.0, frame_dropout=0.0)
    results = []
    for batch in (make_batch(hp), make_batch(hp, more=2, garbage=True)):
        encoder = generator.encoder
        dropping = (encoder, encoder.prenet, encoder.frame_prenet, encoder.cbhg)
        before = [layer.dropout for layer in dropping]
        for layer in dropping:
            layer.dropout = 0.0
        memory, corrected = encoder(batch["source"], batch["mapped"], batch["source_mask"], training=training)
        for layer, dropout in zip(dropping, before):
            layer.dropout = dropout
        decoded = generator.decoder(
            memory, corrected, batch["source_mask"], batch["positions"][:, 0],
            steps=batch["positions"].shape[1] - 1, frames=batch["mel"] if teacher else None,
            positions=batch["positions"] if teacher else None, training=training)
        mel, _ = generator.speech(decoded, batch["mapped"], batch["source_mask"], batch["mask"])
        linear = generator.postnet(mel, batch["pitch"], batch["mask"], training=training)
        results.append([np.asarray(x) for x in (memory, *decoded, mel, linear)])
    written, heard = np.array(STEPS) * hp.r, (max(STEPS) * hp.r - 1, STEPS[1] * hp.r - 2)
    for expected, found, valid in zip(*results, (SOURCE_LENGTHS, written, written, STEPS, STEPS, STEPS, heard, heard)):
        for i, length in enumerate(valid):
            np.testing.assert_allclose(found[i, :length], expected[i, :length], atol=3e-5)
            assert np.abs(expected[i, :length]).max() > 0.01


@pytest.mark.parametrize("frame_dropout", [0.0, 0.5])
def test_teacher_forcing_with_free_running_output_gives_the_same_output(generator, change, frame_dropout):
    change(generator, frame_dropout=frame_dropout)
    batch = make_batch(generator.hp)
    memory, mapped = generator.encoder(batch["source"], batch["mapped"], batch["source_mask"])
    start = np.array([0.0, 1.5], np.float32)

    def decode(**given):
        generator.seeds.state.assign([8, 9])  # the same frames are hidden
        return generator.decoder(memory, mapped, batch["source_mask"], start, steps=6, **given)
    free = decode()
    positions = np.concatenate([free.positions[:, :, 0], free.positions[:, -1:, 1]], axis=1)
    assert np.diff(positions, axis=1).std() > 0.1  # the pace is not constant
    for given in ({"frames": free.mel}, {"positions": positions}, {"frames": free.mel, "positions": positions}):
        for found, expected in zip(decode(**given), free):
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(decode(positions=positions + 3.0).mel - free.mel).max() > 1e-3


def base_at(mapped: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Interpolate `mapped` (N, S, C) at `places` (N, T); each row is limited to its frames in `SOURCE_LENGTHS`."""
    return np.stack([[np.interp(row, np.arange(length), column[:length]) for column in each.T]
                     for each, row, length in zip(mapped, np.asarray(places), SOURCE_LENGTHS)]).swapaxes(1, 2)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_speech_has_a_share_of_the_correction_and_the_voicing_of_the_source(generator, monkeypatch, share):
    monkeypatch.setattr(generator, "hp", generator.hp.replace(correction=share))
    batch = make_batch(generator.hp)
    decoded, m = teach(generator, batch), generator.hp.n_mels
    mel, pitch = map(np.asarray, generator.speech(decoded, batch["mapped"], batch["source_mask"], batch["mask"]))
    last = np.array(SOURCE_LENGTHS, np.float32)[:, None] - 1.0
    base = base_at(batch["mapped"], np.minimum(generator.decoder.places(decoded), last))
    expected = (1.0 - share) * base[:, :, :m] + share * np.asarray(decoded.mel)  # the map itself with a share of 0
    assert np.abs(base[:, :, :m] - np.asarray(decoded.mel)).max() > 0.01
    np.testing.assert_allclose(mel, np.clip(expected, 0.0, 1.0) * batch["mask"][:, :, None], atol=1e-4)
    octaves = (1.0 - share) * base[:, :, m] + share * np.asarray(decoded.pitch)[:, :, 0]
    np.testing.assert_allclose(pitch[:, :, 0], octaves, atol=1e-4)
    np.testing.assert_allclose(pitch[:, :, 1], base[:, :, m + 1], atol=1e-4)


@pytest.mark.parametrize("free", [True, False])
def test_untrained_model_outputs_the_mapped_source(tiny_hp, free):
    hp, batch = tiny_hp.replace(r=4), make_batch(tiny_hp.replace(r=4))
    generator, mask, m = make_generator(hp), batch["mask"], hp.n_mels
    decoded = teach(generator, batch | {"mel": None} if free else batch)
    # Each step starts at the given position and advances at the pace of the source
    places = (batch["positions"][:, :-1, None] + np.arange(hp.r)).reshape(2, -1)
    np.testing.assert_allclose(generator.decoder.places(decoded), places, atol=1e-4)
    expected = base_at(batch["mapped"], places)
    np.testing.assert_allclose(decoded.mel, expected[:, :, :m], atol=1e-4)
    np.testing.assert_allclose(decoded.pitch[:, :, 0], expected[:, :, m], atol=1e-4)
    np.testing.assert_allclose(decoded.pitch[:, :, 1], DecoderCell.LOGITS * (expected[:, :, m + 1] - 0.5), atol=1e-3)
    mel, pitch = map(np.asarray, generator.speech(decoded, batch["mapped"], batch["source_mask"], mask))
    np.testing.assert_allclose(pitch, expected[:, :, m:m + 2], atol=1e-4)
    np.testing.assert_allclose(mel, np.clip(expected[:, :, :m], 0.0, 1.0) * mask[:, :, None], atol=1e-4)
    starts, ends = batch["positions"][:, :-1, None], batch["positions"][:, 1:, None]
    expected = base_at(batch["mapped"], (starts + (ends - starts) * np.arange(hp.r) / hp.r).reshape(2, -1))
    on_path = generator.encode_on_path(batch["source"], batch["mapped"], batch["source_mask"], batch["positions"])
    np.testing.assert_allclose(on_path, expected[:, :, :m], atol=1e-4)


def test_correction_by_the_networks_does_not_depend_on_the_base(generator, change, eager):
    """This also holds for gradients of weights behind the attention, which do not decide where the base is read."""
    change(generator, frame_dropout=0.0)
    batch, cell = make_batch(generator.hp), generator.decoder.cell
    behind = [*cell.residual_grus, cell.mel_of_state, cell.mel_of_context, cell.pitch_of_state, cell.pitch_of_context]
    weights = [weight for layer in behind for weight in layer.weights] + cell.attention.pace_layer.weights
    say = np.random.default_rng(0).normal(size=(2, max(STEPS) * generator.hp.r, generator.hp.n_mels))

    def learn(mapped):
        with tf.GradientTape() as tape:
            decoded = teach(generator, batch | {"mapped": mapped})
            loss = tf.reduce_sum(decoded.mel * say) + tf.reduce_sum(decoded.pitch * say[:, :, :2])
        return decoded, tape.gradient(loss, [weight.value for weight in weights])
    with_base, gradients = learn(batch["mapped"])
    alone, others = learn(0.0 * batch["mapped"])
    expected = base_at(batch["mapped"], generator.decoder.places(with_base))
    np.testing.assert_allclose(with_base.mel - alone.mel, expected[:, :, :generator.hp.n_mels], atol=1e-4)
    assert np.abs(alone.mel).max() > 0.1
    for weight, gradient, other in zip(weights[:-2], gradients, others):
        np.testing.assert_allclose(gradient, other, atol=2e-4 * (1.0 + np.abs(other).max()), err_msg=weight.path)
        assert np.abs(gradient).max() > 1e-3, weight.path
    assert np.abs(gradients[-1] - others[-1]).max() > 1e-3


def test_gradient_of_the_pace_flows_through_the_base(generator, change, eager):
    """The gradient is compared with the difference quotient of two losses."""
    change(generator, frame_dropout=0.0)
    batch, bias = make_batch(generator.hp), generator.decoder.cell.attention.pace_layer.bias
    # Straight lines, which have the same slope between all frames
    slope = np.random.default_rng(1).normal(0.0, 0.1, generator.hp.n_mels + 2)
    batch["mapped"] = (np.arange(max(SOURCE_LENGTHS))[None, :, None] * slope).astype(np.float32).repeat(2, axis=0)

    def loss():
        return tf.reduce_sum(tf.sin(teach(generator, batch).mel))
    with tf.GradientTape() as tape:
        found = loss()
    gradient, before = float(tape.gradient(found, bias.value)[0]), bias.numpy()
    bias.assign(before + 1e-2)
    above = float(loss())
    bias.assign(before - 1e-2)
    below = float(loss())
    bias.assign(before)
    assert gradient == pytest.approx((above - below) / 2e-2, rel=0.03) and abs(gradient) > 0.1


def test_free_running_equals_stepping_the_cell_by_hand(generator, change):
    change(generator, frame_dropout=0.0)
    hp, batch, steps = generator.hp, make_batch(generator.hp), 5
    memory, mapped = generator.encoder(batch["source"], batch["mapped"], batch["source_mask"])
    lengths = batch["source_mask"].sum(axis=1)
    start, width = np.zeros(2, np.float32), hp.width + hp.width // 2
    free = generator.decoder(memory, mapped, batch["source_mask"], start, steps=steps)
    state = generator.decoder.cell.start(start, memory)
    for step in range(steps):
        given = {"is_frame_visible": np.ones((2, 1), np.float32), "dropout_mask": np.ones((2, width), np.float32)}
        before, state = state, generator.decoder.cell(state, given, memory, mapped, lengths)
        np.testing.assert_array_equal(state.start, before.end)
        np.testing.assert_allclose(state.end - state.start, hp.r * state.pace, rtol=1e-5)
        # A step renews only a share of the pace, which lies between 0 and `max_advance`
        change_at_most = hp.advance_smoothing * np.maximum(before.pace, hp.max_advance - before.pace)
        assert (np.abs(state.pace - before.pace) <= change_at_most + 1e-6).all()
        frames = slice(step * hp.r, (step + 1) * hp.r)
        np.testing.assert_allclose(free.mel[:, frames], state.mel, atol=1e-5)
        np.testing.assert_allclose(free.weights[:, step], state.weights, atol=1e-5)
        np.testing.assert_allclose(free.positions[:, step, 1], state.end, atol=1e-4)


def test_only_visible_teacher_frames_affect_the_output(generator, change):
    batch = make_batch(generator.hp)
    other = {**batch, "mel": 1.0 - batch["mel"]}

    def decode(batch):
        return np.asarray(teach(generator, batch).mel)
    change(generator, frame_dropout=1.0)
    np.testing.assert_array_equal(decode(batch), decode(other))
    change(generator, frame_dropout=0.0)
    changed = np.abs(decode(batch) - decode(other)).max(axis=(0, 2))
    assert not changed[:generator.hp.r].any()  # the first step is fed silence
    assert changed[generator.hp.r:].min() > 1e-4


@pytest.mark.parametrize("dropout", [0.2, 0.5])
def test_dropout_keeps_the_mean(generator, change, dropout):
    change(generator, dropout=dropout)
    drop = np.asarray(generator.decoder.inputs(16, 200, True)["dropout_mask"])
    assert set(np.unique(drop)) == {np.float32(0.0), np.float32(1.0) / np.float32(1.0 - dropout)}
    assert drop.mean() == pytest.approx(1.0, abs=0.02) and np.ptp(drop.mean(axis=0)) > 0.0
    assert (np.asarray(generator.decoder.inputs(2, 3, False)["dropout_mask"]) == 1.0).all()


def test_only_the_last_frame_of_a_group_is_fed_back(generator, change):
    change(generator, frame_dropout=0.0)
    batch, r = make_batch(generator.hp), generator.hp.r

    def decode(changed):
        mel = batch["mel"].copy()
        mel[:, changed] += 1.0
        return np.asarray(teach(generator, batch | {"mel": mel}).mel)
    plain = decode(slice(0))
    np.testing.assert_array_equal(decode(slice(r - 1)), plain)
    assert np.abs(decode(slice(r - 1, r)) - plain)[:, r:].max() > 1e-4


VOICE = base.Voice(np.zeros(80, np.float32), np.zeros(513, np.float32), 0.0, 1.0, 1.0)


def sources(hp: hyperparams.HyperParams, lengths: list[int], seed: int = 10) -> list[Features]:
    rng = np.random.default_rng(seed)
    return [Features(*(rng.uniform(0, 1, (length, size)).astype(np.float16) for size in (hp.n_linear, hp.n_mels)),
                     rng.uniform(80, 300, length).astype(np.float32)) for length in lengths]


def test_untrained_conversion_has_the_length_of_its_source_and_stops(tiny_hp):
    hp, lengths = tiny_hp.replace(r=2, encoder_stack=3), [40, 17, 31, 5]
    generator = make_generator(hp)
    converter, inputs = Converter(generator, plain_base(hp)), sources(hp, lengths)
    written = converter.predict(inputs, [VOICE] * 4)
    for length, source, raw, result in zip(lengths, inputs, written, converter(inputs, [VOICE] * 4)):
        assert result.stopped
        assert abs(len(result.mel) - length) <= hp.r
        assert len(result.mel) == len(result.linear) == len(result.positions) == len(result.weights)
        assert result.weights.shape[1] == length
        np.testing.assert_allclose(result.positions, np.arange(len(result.mel)), atol=1e-2)
        n = min(len(result.mel), length)  # with an identity base the output equals the source
        np.testing.assert_allclose(result.mel[:n], source.mel[:n], atol=1e-2)
        np.testing.assert_allclose(raw.pitch[:n, 0], np.log2(source.hertz / hp.pitch_middle)[:n], atol=1e-2)
        np.testing.assert_allclose(result.pitch, base.restore_pitch(converter.base, raw.pitch, hp), atol=1e-4)
    generator.decoder.cell.attention.pace_layer.bias.assign([-9.0])  # hardly advances: cut off, and reported as such
    result, = converter(sources(hp, [20]), [VOICE])
    assert not result.stopped and 20 < len(result.mel) <= 3 * 20


def test_without_its_pace_a_conversion_keeps_the_time_of_its_source(tiny_hp):
    """Whatever the networks predict; half of the pace goes half as far away from it."""
    heard, away = sources(tiny_hp, [60]), {}
    for pace in (0.0, 0.5, 1.0):
        hp = tiny_hp.replace(pace=pace)
        generator = randomise(make_generator(hp))
        result, = Converter(generator, plain_base(hp))(heard, [VOICE])
        away[pace] = np.abs(result.positions - np.arange(len(result.positions)))[:20].max()
    assert away[0.0] < 1e-3 and 0.3 * away[1.0] < away[0.5] < 0.7 * away[1.0] and away[1.0] > 1.0


@pytest.mark.parametrize("frame_dropout", [0.0, 0.5])
def test_conversion_does_not_depend_on_the_rest_of_the_batch(generator, change, frame_dropout):
    change(generator, frame_dropout=frame_dropout)
    inputs = sources(generator.hp, [20, 33, 8])
    converter = Converter(generator, plain_base(generator.hp))
    together = converter(inputs, [VOICE] * 3)
    for result in together:  # the output of the decoder after the end has no effect
        linear = generator.postnet(result.mel[None], result.pitch[None], np.ones((1, len(result.mel)), np.float32))[0]
        textured = base.with_texture(np.asarray(linear), result.pitch, generator.hp)
        np.testing.assert_allclose(result.linear, textured, atol=1e-4)
        assert np.abs(textured - linear).max() > 0.05
    for alone, result in zip([converter([each], [VOICE])[0] for each in inputs], together):
        assert alone.stopped == result.stopped and len(alone.mel) == len(result.mel)
        for field in ("mel", "pitch", "linear", "positions", "weights"):
            tolerance = 2e-3 if field == "linear" else 1e-4  # the highest harmonics amplify small changes of pitch
            np.testing.assert_allclose(getattr(alone, field), getattr(result, field), atol=tolerance, err_msg=field)


@pytest.mark.parametrize("hp", list(dict.fromkeys(hyperparams.PRESETS.values())), ids=lambda hp: f"width{hp.width}")
def test_presets_can_be_built(hp):
    largest = hp.width == 512
    generator = Generator(hp if largest else hp.replace(encoder_banks=2, postnet_banks=2, highway_layers=1))
    low, high = (15e6, 40e6) if largest else (0.3e6, 10e6)  # the system of 2017 had 22.2 million
    assert low < generator.count_params() < high
    assert generator.decoder.cell.mel_of_state.kernel.shape == (hp.width, hp.r * hp.n_mels)
