"""Building blocks: padding has no effect, and the attention advances through the source."""

from modules import CBHG, GRUCell, Highway, LocalAttention, MaskedNorm, PreNet, take

import keras
import numpy as np
import pytest
import tensorflow as tf

NORMS = ("bn", "ln", "ins")
LENGTHS = (7, 4)
EXTRA = 5  # frames of padding beyond the longest utterance


def batch(channels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return x (2, 7, C) with silence as padding, its mask, and both again with longer padding that holds garbage."""
    rng = np.random.default_rng(seed)
    mask = np.asarray(tf.sequence_mask(LENGTHS, dtype=tf.float32))
    x = rng.normal(3.0, 10.0, (2, max(LENGTHS), channels)).astype(np.float32)
    longer = np.asarray(tf.sequence_mask(LENGTHS, max(LENGTHS) + EXTRA, tf.float32))
    garbage = rng.normal(-50.0, 200.0, (2, max(LENGTHS) + EXTRA, channels)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, EXTRA), (0, 0)))
    return x * mask[:, :, None], mask, np.where(longer[:, :, None] > 0, padded, garbage), longer


def randomise(layer: keras.Layer, seed: int = 1) -> None:
    """Give all weights values that an untrained layer does not have (moving statistics, scales and biases too)."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.uniform(0.2, 1.5, weight.shape) if "variance" in weight.path
                      else weight + rng.normal(0.0, 0.2, weight.shape))


def check_padding(layer, channels: int, training: bool, tolerance: float) -> None:
    """Garbage beyond the mask changes no valid output, and padding comes out as zero."""
    x, mask, padded, longer = batch(channels)
    layer(x, mask)
    randomise(layer)
    expected = np.asarray(layer(x, mask, training=training))
    found = np.asarray(layer(padded, longer, training=training))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found[:, :max(LENGTHS)], expected, atol=tolerance, rtol=tolerance)
    assert not found[longer == 0].any()
    assert not expected[mask == 0].any()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", NORMS)
def test_padding_does_not_change_a_norm(kind, training):
    check_padding(MaskedNorm(kind), 3, training, 1e-4)


def test_moving_statistics_use_valid_frames_only():
    _, _, padded, longer = batch(3)
    norm = MaskedNorm("bn", momentum=0.75)
    norm(padded, longer)
    norm.mean.assign([1.0, 2.0, 3.0])
    norm.variance.assign([4.0, 5.0, 6.0])
    norm(padded, longer, training=True)
    valid = padded[longer > 0]
    np.testing.assert_allclose(norm.mean, 0.75 * np.array([1.0, 2.0, 3.0]) + 0.25 * valid.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(norm.variance, 0.75 * np.array([4.0, 5.0, 6.0]) + 0.25 * valid.var(axis=0), rtol=1e-4)


def test_moving_statistics_are_used_and_unchanged_at_inference():
    x, mask, _, _ = batch(3)
    norm = MaskedNorm("bn")
    norm(x, mask)
    norm.mean.assign([1.0, 2.0, 3.0])
    norm.variance.assign([4.0, 5.0, 6.0])
    found = np.asarray(norm(x, mask))
    expected = (x - [1.0, 2.0, 3.0]) / np.sqrt(np.array([4.0, 5.0, 6.0]) + norm.epsilon)
    np.testing.assert_allclose(found[mask > 0], expected[mask > 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(norm.mean, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(norm.variance, [4.0, 5.0, 6.0])


@pytest.mark.parametrize("kind", NORMS)
def test_valid_output_has_mean_0_and_variance_1(kind):
    _, _, padded, longer = batch(16)
    found = np.asarray(MaskedNorm(kind)(padded, longer, training=True))
    frames = [utterance[:length] for utterance, length in zip(found, LENGTHS)]
    groups = {"bn": [np.concatenate(frames)], "ins": frames, "ln": [np.concatenate(frames).T]}[kind]
    for group in groups:  # statistics along the first axis
        np.testing.assert_allclose(group.mean(axis=0), 0.0, atol=1e-4)
        np.testing.assert_allclose(group.var(axis=0), 1.0, atol=1e-3)


def make_cbhg(norm: str) -> CBHG:
    return CBHG(banks=4, channels=4, projections=(5, 3), highways=2, norm=norm)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_padding_does_not_change_a_cbhg(norm, training):
    check_padding(make_cbhg(norm), 3, training, 1e-4)


@pytest.mark.parametrize("norm", ["ln", "ins"])
def test_cbhg_output_does_not_depend_on_the_rest_of_the_batch(norm):
    x, mask, _, _ = batch(3)
    cbhg = make_cbhg(norm)
    together = np.asarray(cbhg(x, mask, training=True))
    for i, length in enumerate(LENGTHS):
        alone = np.asarray(cbhg(x[i:i + 1, :length], mask[i:i + 1, :length], training=True))
        np.testing.assert_allclose(together[i, :length], alone[0], atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_reaches_padding(norm):
    _, _, padded, longer = batch(3)
    cbhg = make_cbhg(norm)
    x = tf.constant(padded)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = cbhg(x, longer, training=True)
        loss = tf.reduce_sum(y * np.random.default_rng(2).normal(size=y.shape))
    gradient = tape.gradient(loss, x).numpy()
    assert not gradient[longer == 0].any()
    assert np.abs(gradient[longer > 0]).max(axis=1).min() > 0.0  # and every valid frame matters


def test_cbhg_reads_in_both_directions():
    x, mask, _, _ = batch(3)
    cbhg = CBHG(banks=1, channels=4, projections=(5, 3), highways=1, norm="ln")
    before = np.asarray(cbhg(x, mask))
    for changed, reached in ((0, 6), (6, 0)):  # too far apart for the convolutions
        other = x.copy()
        other[0, changed] += 5.0
        assert np.abs(np.asarray(cbhg(other, mask)) - before)[0, reached].max() > 1e-6
        assert not (np.asarray(cbhg(other, mask)) - before)[1].any()


def test_a_step_of_the_gru_is_that_of_keras():
    rng = np.random.default_rng(4)
    x, state = (rng.normal(size=(3, size)).astype(np.float32) for size in (5, 4))
    ours, keras_own = GRUCell(4), keras.layers.GRUCell(4)
    ours(x, state), keras_own(x, state)
    for weight in ours.weights:
        weight.assign(rng.normal(size=weight.shape))
    keras_own.set_weights([ours.kernel, ours.recurrent_kernel, np.stack([ours.bias, ours.recurrent_bias])])
    np.testing.assert_allclose(ours(x, state), keras_own(x, state)[0], atol=1e-6)


def test_highway_starts_mostly_as_identity():
    keras.utils.set_random_seed(3)
    x = np.random.default_rng(3).normal(size=(400, 64)).astype(np.float32)
    kept = (np.asarray(Highway(64)(x)) * x).sum() / (x * x).sum()  # share of the input that is carried through
    assert 0.6 < kept < 1.0


def test_prenet_applies_dropout_in_training_only():
    x = np.ones((1, 50, 8), np.float32)
    seeds = keras.random.SeedGenerator(1)
    prenet = PreNet(16, 0.5, seeds)
    plain = np.asarray(prenet(x))
    assert plain.shape == (1, 50, 8)
    np.testing.assert_array_equal(plain, prenet(x))
    seeds.state.assign([1, 2])
    first = np.asarray(prenet(x, training=True))
    other = np.asarray(prenet(x, training=True))
    assert 0.3 < (first[plain > 0] == 0).mean() < 0.9 and (first != other).any()
    seeds.state.assign([1, 2])  # dropout is a function of the seed's state
    np.testing.assert_array_equal(first, prenet(x, training=True))


WIDTH, BASE, SPAN = 8, 3, 40  # width of the attention and of the base, frames of the memory


def make_attention(r: int = 5, sigma: float = 1.5, max_advance: float = 3.0, smoothing: float = 1.0) -> LocalAttention:
    attention = LocalAttention(WIDTH, r, sigma, max_advance, smoothing, 1.0)
    attention.advance(*states(0, 1))
    attention.attend(np.zeros(1, np.float32), np.ones(1, np.float32), *memory_of(0, [SPAN]))
    return attention


def states(seed: int, n: int) -> list[np.ndarray]:
    """Paces (n,), states (n, E) and contexts (n, E)."""
    rng = np.random.default_rng(seed)
    return [rng.uniform(0, 3, n).astype(np.float32), *(rng.normal(size=(n, WIDTH)).astype(np.float32)
                                                       for _ in range(2))]


def memory_of(seed: int, lengths: list[int]) -> list[np.ndarray]:
    """States (n, E), memory (n, S, E), corrected source (n, S, B) and lengths (n,)."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(len(lengths), WIDTH)).astype(np.float32),
            *np.split(rng.normal(size=(len(lengths), SPAN, WIDTH + BASE)).astype(np.float32), [WIDTH], axis=2),
            np.array(lengths, np.float32)]


def look(attention: LocalAttention, *arguments) -> tuple[np.ndarray, np.ndarray]:
    """Return the contexts of `attention.attend` and its weights over the whole memory (n, r, S)."""
    contexts, _, origins, weights = (np.asarray(x) for x in attention.attend(*arguments))
    whole = np.zeros((*weights.shape[:2], SPAN), np.float32)
    for i, origin in enumerate(origins.astype(int)):
        frames = np.arange(origin, origin + weights.shape[2])
        inside = (frames >= 0) & (frames < SPAN)
        whole[i][:, frames[inside]] = weights[i][:, inside]
        assert not weights[i][:, ~inside].any()
    return contexts, whole


@pytest.mark.parametrize("max_advance", [2.0, 3.0, 4.5])
@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_untrained_attention_advances_one_source_frame_per_output_frame(max_advance, smoothing):
    _, state, context = states(1, 6)
    pace = make_attention(max_advance=max_advance, smoothing=smoothing).advance(np.ones(6, np.float32), state, context)
    np.testing.assert_allclose(pace, 1.0, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_pace_stays_between_zero_and_max_advance_for_any_weights(seed):
    attention = make_attention()
    rng = np.random.default_rng(seed)
    for weight in attention.weights:
        weight.assign(rng.normal(0.0, 30.0, weight.shape))
    pace = np.asarray(attention.advance(*states(seed, 200)))
    assert pace.min() >= 0.0 and pace.max() <= 3.0 + 1e-4
    assert pace.min() < 0.02 and pace.max() > 2.98  # these weights reach both limits


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothing_limits_the_change_of_pace_in_a_step(smoothing):
    """The pace moves by the share `smoothing` from its last value towards the one that the state asks for."""
    fresh, smooth = make_attention(), make_attention(smoothing=smoothing)
    rng = np.random.default_rng(7)
    for weight, other in zip(fresh.weights, smooth.weights):
        weight.assign(rng.normal(0.0, 3.0, weight.shape))
        other.assign(weight)
    pace, state, context = states(8, 50)
    wanted, found = (np.asarray(attention.advance(pace, state, context)) for attention in (fresh, smooth))
    np.testing.assert_allclose(found, (1.0 - smoothing) * pace + smoothing * wanted, atol=1e-5)
    assert np.abs(wanted - pace).max() > 1.0
    for _ in range(200):  # repeated steps reach the pace that is asked for
        pace = np.asarray(smooth.advance(pace, state, context))
    if smoothing:
        np.testing.assert_allclose(pace, wanted, atol=1e-3)


def test_base_is_interpolated_at_each_point_up_to_the_end_of_the_source():
    attention, lengths = make_attention(), [SPAN, 25, 12]
    start = np.array([20.25, 10.0, 9.5], np.float32)
    end = start + np.array([10.0, 0.0, 8.0], np.float32)
    state, memory, corrected, size = memory_of(2, lengths)
    for i, length in enumerate(lengths):
        corrected[i, length:] = 1e6
    found = np.asarray(attention.attend(start, end, state, memory, corrected, size)[1])
    assert found.shape == (3, 5, BASE)
    for i, length in enumerate(lengths):
        points = np.minimum(start[i] + (end[i] - start[i]) * np.arange(5) / 5, length - 1)
        expected = np.stack([np.interp(points, np.arange(length), band[:length]) for band in corrected[i].T], axis=1)
        np.testing.assert_allclose(found[i], expected, atol=1e-4)


@pytest.mark.parametrize("sigma", [0.5, 1.5, 3.0])
def test_attention_weights_sum_to_1_avoid_padding_and_stay_near_the_centre(sigma):
    attention = make_attention(sigma=sigma)
    lengths = [SPAN, 25, 12]
    start = np.array([20.0, 10.0, 30.0], np.float32)  # the third is past the end of its source
    end = start + np.array([10.0, 0.0, 5.0], np.float32)
    contexts, weights = look(attention, start, end, *memory_of(2, lengths))
    assert contexts.shape == (3, 5, WIDTH) and weights.shape == (3, 5, SPAN)
    np.testing.assert_allclose(weights.sum(axis=2), 1.0, rtol=1e-5)
    frames = np.arange(SPAN)
    for i, length in enumerate(lengths):
        assert not weights[i, :, length:].any()
        for k in range(5):
            centre = min(start[i] + (end[i] - start[i]) * k / 5, length - 1)
            # 4 sigma; a window narrower than a frame still has to reach the frames beside the centre
            near = np.abs(frames - centre) <= max(4 * sigma, 1.5)
            assert weights[i, k, near].sum() > 0.98
    np.testing.assert_allclose(contexts, np.matmul(weights, memory_of(2, lengths)[1]), atol=1e-5)


def test_expected_position_is_the_centre_without_a_score():
    attention = make_attention(sigma=2.0)
    attention.query.kernel.assign(np.zeros(attention.query.kernel.shape))
    start = np.array([15.3, 20.0], np.float32)
    _, weights = look(attention, start, start + 7.0, *memory_of(3, [SPAN, SPAN]))
    expected = start[:, None] + 7.0 * np.arange(5)[None, :] / 5
    np.testing.assert_allclose(np.asarray(weights) @ np.arange(SPAN), expected, atol=0.02)


def test_score_changes_the_weights_within_the_window():
    attention = make_attention()
    state, memory, corrected, lengths = memory_of(4, [SPAN])
    attention.query.kernel.assign(20.0 * attention.query.kernel)
    position = np.array([20.0], np.float32)
    quiet = look(attention, position, position, state, 0.0 * memory, corrected, lengths)[1]
    assert np.abs(look(attention, position, position, state, memory, corrected, lengths)[1] - quiet).max() > 0.05


def test_frames_beyond_the_ends_of_a_memory_are_the_nearest():
    memory, frames = tf.reshape(tf.range(8.0), (2, 4, 1)), tf.constant([[-2.0, -1.0, 0.0, 1.0], [2.0, 3.0, 4.0, 5.0]])
    np.testing.assert_array_equal(take(memory, frames)[:, :, 0], [[0, 0, 0, 1], [6, 7, 7, 7]])


def test_backward_gru_gets_no_fully_masked_row(monkeypatch):
    """cuDNN's GRU refuses such rows, which windows and shared batches contain. Their output is still zero."""
    cbhg = CBHG(2, 4, (4, 6), 1, "bn")
    x, mask = np.ones((3, 5, 6), np.float32), np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], np.float32)
    cbhg(x, mask)
    backwards, seen = cbhg.backwards.call, []

    def spy(sequences, initial_state=None, mask=None, training=False):
        seen.append(np.asarray(mask))
        return backwards(sequences, mask=mask)
    monkeypatch.setattr(cbhg.backwards, "call", spy)
    out = np.asarray(cbhg(x, mask))
    np.testing.assert_array_equal(seen[0], [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    assert not out[2].any() and out[0].any()
