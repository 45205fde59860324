"""The settings: one table with the bounds of each, presets, strict overrides.

What a user may change stands here, is saved with a run and read back by evaluation. What nobody changes stands as a
constant at the top of the file that uses it: how the base is fitted (conversion/base.py, corpus/linear_map.py), how
sounds are matched (corpus/unpaired.py), how recordings are cut for conversion (conversion/chunks.py), who speaks in
them (corpus/people.py).

Letters for shapes, used in docstrings and comments: N batch, S source frames, T target frames, Tx source steps (of
`encoder_stack` frames), Ty target steps (of `r` frames), r reduction factor, M mel bands, F linear bins, E model width,
C channels.

"paper" is Tacotron (Wang et al. 2017, arXiv:1703.10135, table 1); "2017" is the system that this project remakes.
"""
import dataclasses
import difflib
import json
import pathlib

from common.cli import UserError


def number(default: float, lowest: float, highest: float):
    """A setting and its bounds; both belong to the values that work."""
    return dataclasses.field(default=default, metadata={"bounds": (lowest, highest)})


def choice(default, *others):
    """A setting that has one of a few values, the default first."""
    return dataclasses.field(default=default, metadata={"choices": (default, *others)})


@dataclasses.dataclass(frozen=True)
class HyperParams:
    """All settings of features, networks, training and synthesis."""

    # Signal
    sample_rate: int = number(16000, 8000, 48000)       # Hz                               (paper 24000, 2017 16000)
    n_fft: int = number(1024, 64, 4096)                 # samples                                       (paper 2048)
    win_length: int = number(800, 32, 4096)             # samples = 50 ms                              (paper 50 ms)
    hop_length: int = number(200, 8, 1024)              # samples = 12.5 ms                          (paper 12.5 ms)
    n_mels: int = number(80, 20, 256)                   # bands                                           (paper 80)
    preemphasis: float = number(0.97, 0, 0.99)          #                                               (paper 0.97)
    loudness_db: float = number(-26.0, -60, -10)        # dBFS, root mean square of the speech in every recording
    top_db: float = number(25.0, -20, 60)               # dB of magnitude that maps to 1
    range_db: float = number(80.0, 40, 160)             # dB below top_db that map to 0 (silence)
    quiet_db: float = number(40.0, 10, 100)             # dB; frames so far below the loudest one do not count
    trim_level: float = number(0.35, 0.01, 0.9)         # share of the speech level below which both ends are cut off
    pitch_min: float = number(60.0, 47, 1000)           # Hz, lowest pitch of any voice; lower is the hum of mains
    pitch_max: float = number(1000.0, 100, 2000)        # Hz, highest pitch, of a soprano's song
    pitch_middle: float = number(173.2, 50, 1000)       # Hz, pitch from which octaves are counted

    # Corpus
    min_seconds: float = number(0.4, 0.1, 60)           # s, shorter recordings are dropped
    max_seconds: float = number(12.0, 1, 60)            # s, longer recordings are cut at pauses that match
    max_ratio: float = number(3.0, 1, 100)              # pairs whose lengths differ by a larger factor are dropped
    slice_min_seconds: float = number(1.0, 0.1, 60)     # s, shortest training slice
    slice_max_seconds: float = number(2.0, 0.1, 60)     # s, longest
    validation: float = number(0.05, 0, 0.9)            # share of the pairs that selects the best checkpoint
    test: float = number(0.05, 0, 0.9)                  # share held out from all decisions, unless a list names them

    # Networks
    base: int = choice(1, 0)                            # 1: linear map and correction; 0: networks alone  (2017 0)
    attention: str = choice("local", "global")          # local: at a position that moves on           (2017 global)
    harmonics: int = choice(1, 0)                       # 1: mels are envelopes, the post-net draws harmonics from the
                                                        # pitch; 0: mels have them, zero phase at first  (2017 0)
    r: int = number(5, 1, 20)                           # frames per decoder step                  (paper 2, 2017 5)
    width: int = number(256, 2, 4096)                   # E                                    (paper 256, 2017 512)
    norm: str = choice("bn", "ln", "ins")               # always masked                         (paper bn, 2017 ins)
    encoder_stack: int = number(5, 1, 20)               # source frames per encoder step                    (2017 5)
    encoder_banks: int = number(8, 1, 32)               # K                                      (paper 16, 2017 10)
    postnet_banks: int = number(8, 1, 32)               # K                                                (paper 8)
    highway_layers: int = number(4, 1, 32)              #                                          (paper 4, 2017 2)
    dropout: float = number(0.02, 0, 0.95)              # of both pre-nets in training         (paper 0.5, 2017 0.5)
    encoder_dropout: float = number(0.2, 0, 0.95)       # of the encoder's bank and of its CBHG   (paper 0, 2017 0)
    frame_dropout: float = number(0.85, 0, 1)           # share of steps without the last frame  (paper 0, 2017 0)
    sigma: float = number(1.5, 0.1, 50)                 # frames, deviation of local attention (Luong 2015, eq. 10)
    max_advance: float = number(3.0, 1.1, 20)           # source frames per output frame, fastest pace of the position
    advance_smoothing: float = number(0.1, 0, 1)        # share of the pace that each decoder step replaces

    # Training
    batch_size: int = number(16, 1, 4096)               #                                        (paper 32, 2017 32)
    postnet_steps: int = number(1000, 0, 1e7)           # stage 1: the post-net alone, on the target's own speech
    encoder_steps: int = number(1500, 0, 1e7)           # stage 2: the encoder corrects the map, loss on mel
    encoder_rate: float = number(2e-3, 1e-8, 1)         # peak of its learning rate
    weight_decay: float = number(0.01, 0, 1)            # of its weights (AdamW, Loshchilov & Hutter 2019)
    decoder_steps: int = number(400, 0, 1e7)            # stage 3: the decoder learns pace and the rest, loss on mel
    most_epochs: float = number(60.0, 0.01, 1e6)        # of the slices in each of stages 2 and 3, against overfitting
    joint_steps: int = number(0, 0, 1e7)                # stage 4: all networks, one optimizer      (2017 all steps)
    postnet_window: int = number(64, 1, 1e4)            # frames per training window of stage 1
    whole_utterances: float = number(0.2, 0, 1)         # share of the batches that hold whole utterances, no slices
    learning_rate: float = number(1e-3, 1e-8, 1)        # peak; warm-up, then a cosine decay  (paper 1e-3, 2017 1e-3)
    warmup_steps: int = number(100, 0, 1e6)             # steps until the peak of the learning rate
    lowest_rate: float = number(0.01, 1e-6, 1)          # first and last rate, share of the peak; 1: constant  (2017 1)
    clip_norm: float = number(1.0, 1e-3, 1e6)           # global gradient norm
    slice_context: int = number(10, 0, 1000)            # most source frames added on each side of a slice
    pace_weight: float = number(0.1, 0, 1000)           # of the Huber loss between pace and slope of the DTW path
    pitch_weight: float = number(0.4, 0, 1000)          # of the squared error of pitch (octaves)
    voicing_weight: float = number(0.1, 0, 1000)        # of the cross-entropy of voicing; only base=0 converts by it
    augment_vtl: float = number(0.08, 0, 0.5)           # largest change of formants and harmonics, log of the factor
    augment_eq: float = number(2.0, 0, 40)              # dB, largest random gain or loss at any frequency of the source
    mel_blur_freq: float = number(0.12, 0, 1)           # share of frequency: stage 1 blurs its mel by such warps
    mel_blur_time: float = number(2.5, 0, 100)          # frames: and by such shifts, like an unsure decoder's output
    seed: int = number(2017, 0, 2e9)                    # of weights, data order and dropout
    precision: str = choice("float32", "bfloat16", "float16")  # norms, decoder and losses stay float32; for GPUs

    # Adversarial training
    gan_networks: str = choice("postnet", "all")        # networks that learn from the discriminator      (2017 all)
    dis_pretrain_steps: int = number(100, 0, 1e7)       # steps that train the discriminator alone
    gan_steps: int = number(100, 0, 1e7)                # of one update of the discriminator and `k` of the generator
    k: int = number(1, 1, 100)                          #                                                   (2017 5)
    dis_stack: int = number(1, 1, 20)                   # frames per step of the discriminator              (2017 5)
    dis_frames: int = number(32, 0, 1e4)                # frames per window; 0: no windows                  (2017 0)
    gen_learning_rate: float = number(1e-4, 1e-8, 1)    # peak; warm-up, then a cosine decay
    dis_learning_rate: float = number(1e-4, 1e-8, 1)    # peak; likewise
    gan_clip_norm: float = number(5.0, 1e-3, 1e6)       #                                                   (2017 5)
    gan_weight: float = number(6.0, 0, 1000)            # of the adversarial loss relative to L1, see train_gan.py
    gan_share: float = number(0.5, 0, 1)                # share of what it changes that conversions get       (2017 1)

    # Checks, checkpoints and samples
    log_steps: int = number(20, 1, 1e6)                 # steps between scalars in TensorBoard
    save_steps: int = number(400, 1, 1e6)               # steps between checkpoints, each with a validation
    keep_checkpoints: int = number(3, 1, 1000)          # newest checkpoints to keep beside the best one
    validation_limit: int = number(32, 1, 1e6)          # most utterances in a validation
    n_samples: int = number(3, 1, 100)                  # validation utterances plotted and played in TensorBoard

    # Synthesis
    griffin_lim_iters: int = number(20, 1, 1000)        #                                        (paper 50, 2017 30)
    correction: float = number(1.0, 0, 10)              # share of the networks' correction that is applied
    pace: float = number(1.0, 0, 1)                     # share of the predicted pace; 0: the source's own timing
    detail: float = number(0.5, 0, 1)                   # share of the finest detail that is the source's
    postfilter: float = number(1.0, 0, 10)              # exponent of gains to the target's modulation spectrum
    texture: float = number(1.0, 0, 10)                 # share of the texture of noise that high voiced sound gets
    power: float = number(1.0, 0.1, 10)                 # sharpening of each frame before Griffin-Lim    (paper 1.2)

    @property
    def n_linear(self) -> int:
        """F, bins of a linear-scale spectrogram."""
        return self.n_fft // 2 + 1

    @property
    def frames_per_second(self) -> float:
        return self.sample_rate / self.hop_length

    @property
    def policy(self) -> str:
        """Keras' name of `precision`: weights stay float32."""
        return self.precision if self.precision == "float32" else f"mixed_{self.precision}"

    def replace(self, **changes) -> "HyperParams":
        return dataclasses.replace(self, **changes)

    def override(self, assignments: list[str]) -> "HyperParams":
        """Apply `name=value` strings; raises UserError on an unknown name or a value of the wrong type."""
        types = {field.name: field.type for field in dataclasses.fields(self)}
        changes = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise UserError(f"--set {assignment}: write it as name=value")
            if name not in types:
                close = difflib.get_close_matches(name, types, n=1, cutoff=0.0)
                raise UserError(f"--set {assignment}: there is no hyperparameter {name!r}; "
                                f"the closest is {close[0]!r}")
            try:
                changes[name] = types[name](text)
            except ValueError:
                raise UserError(f"--set {assignment}: {name} is of type {types[name].__name__}, "
                                f"{text!r} is not") from None
        return self.replace(**changes).check()

    def check(self) -> "HyperParams":
        """Return self; raises UserError if a value is out of its bounds, or if values contradict each other."""
        for field in dataclasses.fields(self):
            name, value, allowed = field.name, getattr(self, field.name), field.metadata.get("choices")
            if allowed and value not in allowed:
                raise UserError(f"{name}={value}: choose {' or '.join(map(str, allowed))}")
            if not allowed and not field.metadata["bounds"][0] <= value <= field.metadata["bounds"][1]:  # also NaN
                raise UserError(f"{name}={value}: must lie between {' and '.join(map(str, field.metadata['bounds']))}")
        for name in ("width", "n_fft"):
            if getattr(self, name) % 2:
                raise UserError(f"{name}={getattr(self, name)}: must be even")
        for less, more in (("win_length", "n_fft"), ("min_seconds", "max_seconds"),
                           ("slice_min_seconds", "slice_max_seconds")):
            if getattr(self, less) > getattr(self, more):
                raise UserError(f"{less}={getattr(self, less)} is more than {more}={getattr(self, more)}")
        if 2 * self.hop_length > self.win_length:
            raise UserError(f"hop_length={self.hop_length} is more than half of win_length={self.win_length}: windows "
                            "that overlap less lose sound")
        if self.pitch_max < 1.5 * self.pitch_min:
            raise UserError(f"pitch_max={self.pitch_max}: must be at least half as high again as "
                            f"pitch_min={self.pitch_min}")
        lowest, highest = self.sample_rate / (self.n_fft - 1), self.sample_rate / 2
        if not lowest < self.pitch_min or not self.pitch_max <= highest:
            raise UserError(f"pitch_min={self.pitch_min} and pitch_max={self.pitch_max}: must lie between "
                            f"{lowest:.1f} Hz, whose period fits into n_fft={self.n_fft}, and {highest:.0f} Hz")
        silence = self.top_db - self.range_db
        if not silence + 20.0 <= self.loudness_db <= self.top_db:
            raise UserError(f"loudness_db={self.loudness_db}: must be at most top_db={self.top_db} and 20 dB above "
                            f"silence, which is top_db - range_db = {silence}")
        if self.validation + self.test >= 1.0:
            raise UserError(f"validation={self.validation} and test={self.test} leave nothing to train on")
        return self

    @classmethod
    def from_json(cls, path: pathlib.Path) -> "HyperParams":
        """Read the hparams.json of a run; raises UserError if names or types do not fit this version. What an earlier
        version did not know of synthesis gets its default: conversion may change it, and no weight depends on it."""
        try:
            values = dict(json.loads(pathlib.Path(path).read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}); restore it or train into another folder") from None
        values = {name: getattr(cls, name) for name in SYNTHESIS} | values
        types = {field.name: field.type for field in dataclasses.fields(cls)}
        if set(values) != set(types):
            raise UserError(f"{path} is of another version of this project: "
                            f"unknown {sorted(set(values) - set(types))}, missing {sorted(set(types) - set(values))}")
        for name, value in values.items():
            if not isinstance(value, (float, int) if types[name] is float else types[name]):
                raise UserError(f"{path}: {name} is of type {types[name].__name__}, {value!r} is not")
        return cls(**values).check()


def differences(there: dict, here: HyperParams) -> list[str]:
    """Names and both values of the hyperparameters that differ; `there` may be of another version."""
    return [f"{name} ({value} there, {getattr(here, name, 'unknown')} asked for)"
            for name, value in there.items() if value != getattr(here, name, None)]


# The system of 2017 as it was described; docs/design.md describes it and what is left out of it on purpose.
SYSTEM_2017 = HyperParams(
    base=0, attention="global", harmonics=0, r=5, encoder_stack=5, width=512, norm="ins", encoder_banks=10,
    highway_layers=2, dropout=0.5, encoder_dropout=0.0, frame_dropout=0.0,
    # Batches of whole utterances, as many as there would be slices, without augmentation
    batch_size=32, whole_utterances=1.0, slice_max_seconds=12.0, augment_vtl=0.0, augment_eq=0.0,
    mel_blur_freq=0.0, mel_blur_time=0.0,
    postnet_steps=0, encoder_steps=0, decoder_steps=0, joint_steps=10000, learning_rate=1e-3, lowest_rate=1.0,
    griffin_lim_iters=30, postfilter=0.0, texture=0.0, power=1.2)

PRESETS: dict[str, HyperParams] = {
    "default": HyperParams(),
    "demo": HyperParams(width=128, postnet_steps=800, encoder_steps=800, decoder_steps=300,
                        dis_pretrain_steps=60, gan_steps=60, dis_learning_rate=5e-4),
    "2017": SYSTEM_2017,
    # The same generator, trained from scratch by the discriminator alone
    "2017-gan": SYSTEM_2017.replace(gan_networks="all", dis_pretrain_steps=0, gan_steps=300, k=5, dis_stack=5,
                                    dis_frames=0, gen_learning_rate=1e-3, dis_learning_rate=1e-3, gan_clip_norm=5.0,
                                    gan_share=1.0, log_steps=1, save_steps=20),
}

# Hyperparameters that conversion may change in a trained model.
SYNTHESIS = ("griffin_lim_iters", "correction", "pace", "detail", "postfilter", "texture", "power")

# Features on disk depend on these values: prepro.py stores them, training and evaluation compare them.
SIGNAL = ("sample_rate", "n_fft", "win_length", "hop_length", "n_mels", "preemphasis", "loudness_db", "top_db",
          "range_db", "quiet_db", "trim_level", "pitch_min", "pitch_max", "pitch_middle")

# Only prepro.py reads these.
PREPARATION = ("min_seconds", "max_seconds", "max_ratio", "slice_min_seconds", "validation", "test")
