"""The system as described in 2017: what its presets build, and that they train, resume, evaluate and convert."""
import types

import eval as eval_script
import eval_gan
import hyperparams
import train
import train_gan
import utils
from common.cli import UserError
from conftest import DEMO, demo_wav, end_at, leftovers, plain_base, plain_corpus, resume, tone
from conversion import base
from conversion.inference import Converter
from networks import Discriminator, Generator
from training import run_folder, trainer

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from test_networks import VOICE, make_batch, make_generator, make_task, randomise, sources
from test_training import assert_equal, kept, variables_of

SMALL = ["width=16", "encoder_banks=2", "postnet_banks=2", "highway_layers=1", "batch_size=4", "joint_steps=2",
         "gan_steps=2", "k=2", "log_steps=1", "save_steps=2", "n_samples=1", "griffin_lim_iters=2"]
HP = hyperparams.PRESETS["2017"].override(SMALL)
PARTS = {"base": 0, "attention": "global", "harmonics": 0, "joint_steps": 3}


def test_the_preset_builds_the_described_networks_and_nothing_else():
    generator, ours = make_generator(HP), make_generator(HP.replace(base=1, attention="local", harmonics=1))
    cell, encoder = generator.decoder.cell, generator.encoder
    assert not hasattr(cell.attention, "advance") and not hasattr(encoder, "unfold") and not generator.postnet.depths
    for extra in (cell.mel_of_context, cell.pitch_of_state, cell.pitch_of_context):
        assert extra is None
    names = {tuple(weight.shape) for weight in generator.postnet.weights}
    assert (HP.width, HP.n_linear) in names and generator.count_params() < ours.count_params()
    memory, _ = encoder(np.zeros((1, 30, HP.n_linear), np.float32), np.zeros((1, 30, HP.n_mels + 2), np.float32),
                        np.ones((1, 30), np.float32))
    assert memory.shape == (1, 6, HP.width)  # one vector per step
    assert {each.kind for each in (encoder.cbhg.bank_norm, generator.postnet.cbhg.bank_norm)} == {"ins"}
    # No norm needs statistics of paired training for synthesis
    assert not [weight.path for weight in generator.non_trainable_weights if "norm" in weight.path]


def test_both_presets_have_the_same_generator():
    paired, adversarial = hyperparams.PRESETS["2017"], hyperparams.PRESETS["2017-gan"]
    assert [variable.shape for variable in Generator(paired.replace(width=16)).weights] == [
        variable.shape for variable in Generator(adversarial.replace(width=16)).weights]
    assert [Discriminator(HP.replace(norm=norm)).cbhg.bank_norm.kind for norm in ("ins", "bn")] == ["ins", "ln"]
    assert (adversarial.gan_networks, adversarial.k, adversarial.gan_clip_norm) == ("all", 5, 5.0)
    for hp in (paired, adversarial):
        rates = [trainer.cosine_decay(peak, 100, hp)(step) for peak in (hp.learning_rate, hp.gen_learning_rate)
                 for step in (0, 50, 99)]
        assert np.asarray(rates[:3]) == pytest.approx(1e-3)
    assert adversarial.gen_learning_rate == adversarial.dis_learning_rate == 1e-3


def test_one_optimizer_updates_all_weights_by_the_mel_and_linear_losses(eager):
    task, batch = make_task(HP.replace(dropout=0.2)), make_batch(HP)
    assert task.stages == [("joint", 2)] and list(task.optimizers) == ["joint"]
    weights = randomise(task.generator).trainable_weights
    losses = {name: float(value) for name, value in task.forward("joint", batch).items()}
    assert set(losses) == {"loss", "loss/mean_loss1", "loss/mean_loss2", "loss/mean_loss"}
    assert losses["loss"] == pytest.approx(losses["loss/mean_loss1"] + losses["loss/mean_loss2"])
    assert losses["loss"] == losses["loss/mean_loss"]
    before = [weight.numpy() for weight in weights]
    task.train_step("joint", batch, tf.Variable(0, dtype=tf.int64))
    for weight, old in zip(weights, before):
        assert (weight.numpy() != old).any(), weight.path


def test_the_loss_of_the_linear_spectrogram_reaches_the_encoder(eager):
    task, batch = make_task(HP.replace(dropout=0.0)), make_batch(HP)
    first = randomise(task.generator).encoder.prenet.trainable_variables
    with tf.GradientTape() as tape:
        loss = task.forward("joint", batch)["loss/mean_loss2"]
    for gradient in tape.gradient(loss, [variable.value for variable in first]):
        assert np.abs(gradient).max() > 0.0


@pytest.mark.parametrize("name", PARTS)
def test_each_part_trains_and_converts_as_an_ablation_of_the_default(tiny_hp, eager, name):
    hp = tiny_hp.replace(**{name: PARTS[name]})
    task, batch = make_task(hp), make_batch(hp)
    randomise(task.generator)
    assert [stage for stage, _ in task.stages] == ["postnet", *["encoder"] * (name != "attention"), "decoder",
                                                   *["joint"] * (name == "joint_steps")]
    for stage, _ in task.stages:
        assert float(task.train_step(stage, batch, tf.Variable(0, dtype=tf.int64))["skipped"]) == 0.0
    for result in Converter(task.generator, plain_base(hp))(sources(hp, [20, 31]), [VOICE] * 2):
        assert np.isfinite(result.linear).all()


def test_without_a_base_the_mapped_source_is_zero_and_has_no_effect():
    source, = sources(HP, [23])
    linear, mapped = base.network_input(plain_base(HP), source, VOICE, HP)
    np.testing.assert_array_equal(linear, source.linear)
    assert mapped.shape == (23, HP.n_mels + 2) and not mapped.any()
    found = plain_base(HP)
    results = [Converter(randomise(make_generator(HP)), each)([source], [VOICE])[0]
               for each in (found, found._replace(bias=found.bias + 0.5))]
    np.testing.assert_array_equal(results[0].linear, results[1].linear)


def test_postnet_uses_the_mel_and_ignores_the_pitch():
    batch, generator = make_batch(HP), make_generator(HP)
    assert not np.asarray(generator.postnet(batch["mel"], batch["pitch"], batch["mask"])).any()  # zero before training
    randomise(generator)
    one, other = (generator.postnet(batch["mel"], share * batch["pitch"], batch["mask"]) for share in (1.0, 0.0))
    assert np.asarray(one).any()
    np.testing.assert_array_equal(one, other)


def test_target_mel_contains_the_harmonics(demo_data, tiny_hp):
    with_them, without = plain_corpus(demo_data, HP), plain_corpus(demo_data, tiny_hp)
    pair = with_them.train[0]
    own = utils.spectrograms(demo_wav("slt", pair.name, HP), HP)[0][pair.target_start:pair.target_end]
    mel, envelope = with_them.target_mel(pair), without.target_mel(pair)
    n = min(len(mel), len(own))
    assert np.abs(mel[:n] - own[:n]).mean() < 0.01 < np.abs(mel - envelope).mean()
    np.testing.assert_array_equal(with_them.assemble([with_them.whole(pair)])["mel"][0, :len(mel)], mel)
    np.testing.assert_array_equal(envelope, without.target_features(pair, "mel"))


def test_griffin_lim_ignores_the_pitch_and_applies_the_power_to_loud_frames_too():
    wav = np.concatenate([tone(300), 0.1 * tone(300)])
    linear = utils.spectrograms(wav, HP)[1]
    hp = HP.replace(griffin_lim_iters=30)
    one, other = (utils.griffin_lim(linear, np.full((len(linear), 2), value), hp) for value in (0.0, 1.0))
    np.testing.assert_array_equal(one, other)
    plain = utils.griffin_lim(linear, np.zeros((len(linear), 2)), hp.replace(power=1.0))
    loud, soft = slice(2000, 14000), slice(18000, 30000)
    assert plain[loud].std() / plain[soft].std() == pytest.approx(10.0, rel=0.1)
    assert one[loud].std() / one[soft].std() == pytest.approx(10.0 ** 1.2, rel=0.1)


def test_batches_contain_whole_utterances_without_augmentation(demo_data):
    corpus = plain_corpus(demo_data, HP)
    for step in range(5):
        assert all(len(item) == 1 for item in corpus.paired_items(step))
    items = [(pair,) for pair in corpus.by_length[-4:]]
    corpus.paired_items = lambda step: items
    for row, (pair,) in zip(corpus.paired_batch(0)["source"], items):
        np.testing.assert_allclose(row[:pair.source_end - pair.source_start], corpus.recording(pair).linear, atol=1e-6)


def test_corpus_of_the_target_alone_is_refused():
    corpus = types.SimpleNamespace(has_target_only=True, data="her")
    with pytest.raises(UserError, match="her holds the target alone"):
        train.PairedTrainer(HP, corpus)


@pytest.mark.slow
def test_resumed_joint_stage_ends_like_an_uninterrupted_run(demo_data, tmp_path, monkeypatch):
    hp = HP.replace(joint_steps=2, save_steps=1)
    monkeypatch.setattr(train.PairedTrainer, "validate", lambda self, run, stage: {})

    def go(logdir, first):
        task = train.PairedTrainer(hp, plain_corpus(demo_data, hp))
        run = run_folder.Run(tmp_path / logdir, hp, task.parts)
        assert resume(run) == (first > 0) and int(run.step) == first
        trainer.fit(run, task, 2)
        return variables_of(task)
    unbroken = go("unbroken", 0)
    end_at(1, tmp_path / "unbroken", tmp_path / "broken")
    assert_equal(go("broken", 1), unbroken)


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.slow
@pytest.mark.parametrize("script, evaluate, preset", [(train, eval_script, "2017"), (train_gan, eval_gan, "2017-gan")])
def test_the_preset_trains_evaluates_and_converts(demo_data, tmp_path, capsys, request, script, evaluate, preset):
    if script is train:  # its two steps take less time than their compilation, the adversarial ones more
        request.getfixturevalue("eager_steps")
    flags = ["--preset", preset, "--data", str(demo_data), *(f"--set={text}" for text in SMALL)]
    assert script.main([*flags, "--logdir", str(tmp_path / "a")]) == 0, capsys.readouterr().err
    assert kept(tmp_path / "a")[-1] == 2
    assert float(base.load(tmp_path / "a").length_ratio) == pytest.approx(1.0, abs=0.5)
    logdir, held, out = ["--logdir", str(tmp_path / "a")], tmp_path / "held", tmp_path / "out"
    assert evaluate.main(["--data", str(demo_data), *logdir, "--out", str(held)]) == 0
    assert (held / "metrics.json").exists() and list((held / "audio").glob("*.wav"))
    assert evaluate.main([str(DEMO / "rms" / "demo_001.ogg"), *logdir, "--out", str(out)]) == 0
    wav, rate = soundfile.read(out / "demo_001.wav")
    assert rate == HP.sample_rate and len(wav) > 0.5 * rate and np.isfinite(wav).all()
    assert leftovers(tmp_path) == []
