"""Every number of the system: one table, presets, strict overrides.

Letters for shapes, used in docstrings and comments: N batch, S source frames, T target frames, Tx source steps (of
`encoder_stack` frames), Ty target steps (of `r` frames), r reduction factor, M mel bands, F linear bins, E model width,
C channels.

"paper" is Tacotron (Wang et al. 2017, arXiv:1703.10135, table 1); "2017" is the system that this project remakes.
"""
import dataclasses
import difflib
import json
import math
import pathlib


@dataclasses.dataclass(frozen=True)
class HyperParams:
    """All settings of features, networks, training and synthesis."""

    # Signal
    sample_rate: int = 16000        # Hz                                      (paper 24000, 2017 16000)
    n_fft: int = 1024               # samples                                 (paper 2048)
    win_length: int = 800           # samples = 50 ms                         (paper 50 ms)
    hop_length: int = 200           # samples = 12.5 ms                       (paper 12.5 ms)
    n_mels: int = 80                # bands                                   (paper 80)
    preemphasis: float = 0.97       #                                         (paper 0.97)
    loudness_db: float = -26.0      # dBFS, root mean square to which every recording is scaled
    top_db: float = 25.0            # dB of magnitude that maps to 1
    range_db: float = 80.0          # dB below top_db that map to 0 (silence)
    quiet_db: float = 40.0          # dB; frames this far below the loudest one do not count in the loudness
    trim_level: float = 0.35        # share of the speech level; both ends of a recording below it are cut off
    pitch_min: float = 60.0         # Hz, lowest pitch of any voice
    pitch_max: float = 500.0        # Hz, highest pitch

    # Corpus
    min_seconds: float = 0.4        # s, shorter recordings are dropped
    max_seconds: float = 12.0       # s, longer recordings are cut at pauses that match in both speakers
    max_ratio: float = 3.0          # pairs whose lengths differ by a larger factor are dropped
    slice_min_seconds: float = 1.0  # s, shortest training slice
    slice_max_seconds: float = 2.0  # s, longest
    validation: float = 0.05        # share of the pairs that selects the best checkpoint
    test: float = 0.05              # share of the pairs held out from all training decisions (unless a list names them)

    # Networks
    base: int = 1                   # 1: the source less its own mean, a linear map and the networks' correction of it;
                                    # 0: the source as it is, the networks alone                               (2017 0)
    attention: str = "local"        # local: around a position that moves forward | global: whole source   (2017 global)
    harmonics: int = 1              # 1: mels are envelopes, the post-net draws harmonics from the pitch; 0: mels have
                                    # harmonics, the post-net uses no pitch, Griffin-Lim starts at zero phase   (2017 0)
    r: int = 5                      # frames per decoder step                 (paper 2, 2017 5)
    width: int = 256                # E                                       (paper 256, 2017 512)
    norm: str = "bn"                # bn | ln | ins, always masked            (paper bn, 2017 ins)
    encoder_stack: int = 5          # source frames per encoder step          (2017 5)
    encoder_banks: int = 8          # K                                       (paper 16, 2017 10)
    postnet_banks: int = 8          # K                                       (paper 8)
    highway_layers: int = 4         #                                         (paper 4, 2017 2)
    dropout: float = 0.02           # of both pre-nets in training            (paper 0.5, 2017 0.5)
    encoder_dropout: float = 0.1    # of the encoder's bank and of its CBHG's output          (paper 0, 2017 0)
    frame_dropout: float = 0.85     # share of decoder steps that do not see the previous frame        (paper 0, 2017 0)
    sigma: float = 1.5              # frames, deviation of the Gaussian of local attention (Luong et al. 2015, eq. 10)
    max_advance: float = 3.0        # source frames per output frame, the fastest pace of the position
    advance_smoothing: float = 0.1  # share of the pace that each decoder step replaces

    # Training
    batch_size: int = 16            #                                         (paper 32, 2017 32)
    postnet_steps: int = 1000       # stage 1: the post-net alone, on the target's own speech
    encoder_steps: int = 1500       # stage 2: the encoder learns to correct the map, loss on mel
    encoder_rate: float = 2e-3      # peak of its learning rate
    weight_decay: float = 0.01      # of the weights of stage 2 (AdamW, Loshchilov & Hutter 2019)
    decoder_steps: int = 400        # stage 3: the decoder learns the pace and what is left to correct, loss on mel
    most_epochs: float = 60.0       # of the slices in stages 2 and 3: more would overfit a minute of speech
    joint_steps: int = 0            # stage 4: all networks, loss on mel and linear, one optimizer      (2017 all steps)
    postnet_window: int = 64        # frames per training window of stage 1
    whole_utterances: float = 0.2   # share of the batches that hold whole utterances instead of slices
    learning_rate: float = 1e-3     # peak; warm-up, then a cosine decay      (paper 1e-3, stepwise decay; 2017 1e-3)
    warmup_steps: int = 100         # steps until the peak of the learning rate
    lowest_rate: float = 0.01       # first and last learning rate as a share of the peak; 1: constant          (2017 1)
    clip_norm: float = 1.0          # global gradient norm
    slice_context: int = 10         # source frames added on each side of a slice's counterpart, at most
    pace_weight: float = 0.1        # of the Huber loss between the pace and the slope of the DTW path
    pitch_weight: float = 0.4       # of the squared error of pitch (octaves)
    voicing_weight: float = 0.1     # of the cross-entropy of voicing; its prediction is used only with base=0
    augment_vtl: float = 0.08       # largest change of the source's pitch and formants, logarithm of the factor
    augment_eq: float = 2.0         # dB, largest random gain or loss at any frequency of the source
    mel_blur_freq: float = 0.12     # share of frequency; the mel of stage 1 averages warps of this deviation at most
    mel_blur_time: float = 2.5      # frames; and shifts of this deviation at most, like an uncertain decoder's output
    seed: int = 2017
    precision: str = "float32"      # float32 | bfloat16 | float16; norms, decoder and losses stay float32; for GPUs
    xla: int = 0                    # 1: compile the training step with XLA; slower on a CPU

    # Adversarial training
    gan_networks: str = "postnet"   # postnet | all: networks that learn from the discriminator               (2017 all)
    dis_pretrain_steps: int = 100   # steps that train the discriminator alone
    gan_steps: int = 400            # steps of one update of the discriminator and `k` of the generator
    k: int = 1                      #                                         (2017 5)
    dis_stack: int = 1              # frames per step of the discriminator    (2017 5)
    dis_frames: int = 32            # frames per window of the discriminator; 0: no windows                     (2017 0)
    gen_learning_rate: float = 1e-4 # peak; warm-up, then a cosine decay
    dis_learning_rate: float = 1e-4 # peak; likewise
    gan_clip_norm: float = 5.0      #                                         (2017 5)
    gan_weight: float = 6.0         # of the adversarial loss relative to L1, see train_gan.py

    # Checks, checkpoints and samples
    log_steps: int = 20             # steps between scalars in TensorBoard
    save_steps: int = 400           # steps between checkpoints, each with a validation in free running
    keep_checkpoints: int = 3       # newest checkpoints to keep beside the best one
    validation_limit: int = 32      # most utterances in a validation
    n_samples: int = 3              # validation utterances that are plotted and played in TensorBoard

    # Synthesis
    griffin_lim_iters: int = 20     #                                         (paper 50, 2017 30)
    correction: float = 1.0         # share of the networks' correction of mel and pitch that is applied
    detail: float = 0.5             # share of the finest detail that is the source's
    postfilter: float = 1.0         # exponent of the gains towards the target's modulation spectrum; 0: no gains
    power: float = 1.0              # sharpening of each frame's magnitude before Griffin-Lim     (paper 1.2)

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

    @property
    def pitch_middle(self) -> float:
        """Pitch in Hz from which octaves are counted."""
        return math.sqrt(self.pitch_min * self.pitch_max)

    def replace(self, **changes) -> "HyperParams":
        return dataclasses.replace(self, **changes)

    def override(self, assignments: list[str]) -> "HyperParams":
        """Apply `name=value` strings; raises ValueError on an unknown name or a value of the wrong type."""
        types = {field.name: field.type for field in dataclasses.fields(self)}
        changes = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise ValueError(f"--set {assignment}: write it as name=value")
            if name not in types:
                close = difflib.get_close_matches(name, types, n=1, cutoff=0.0)
                raise ValueError(f"--set {assignment}: there is no hyperparameter {name!r}; "
                                 f"the closest is {close[0]!r}")
            try:
                changes[name] = types[name](text)
            except ValueError:
                raise ValueError(f"--set {assignment}: {name} is of type {types[name].__name__}, "
                                 f"{text!r} is not") from None
        return self.replace(**changes).check()

    def check(self) -> "HyperParams":
        """Return self; raises ValueError if values contradict each other."""
        if self.norm not in ("bn", "ln", "ins"):
            raise ValueError(f"norm={self.norm}: choose bn, ln or ins")
        if self.attention not in ("local", "global"):
            raise ValueError(f"attention={self.attention}: choose local or global")
        if self.gan_networks not in ("postnet", "all"):
            raise ValueError(f"gan_networks={self.gan_networks}: choose postnet or all")
        if self.precision not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"precision={self.precision}: choose float32, bfloat16 or float16")
        for name in ("base", "harmonics", "xla"):
            if getattr(self, name) not in (0, 1):
                raise ValueError(f"{name}={getattr(self, name)}: choose 0 or 1")
        if self.width % 2:
            raise ValueError(f"width={self.width}: must be even, half of it goes to each direction of a GRU")
        for less, more in (("win_length", "n_fft"), ("hop_length", "win_length"), ("min_seconds", "max_seconds"),
                           ("slice_min_seconds", "slice_max_seconds"), ("pitch_min", "pitch_max")):
            if getattr(self, less) > getattr(self, more):
                raise ValueError(f"{less}={getattr(self, less)} is more than {more}={getattr(self, more)}")
        lowest, highest = self.sample_rate / (self.n_fft - 1), self.sample_rate / 2
        if not lowest < self.pitch_min < self.pitch_max <= highest:
            raise ValueError(f"pitch_min={self.pitch_min} and pitch_max={self.pitch_max}: must lie between "
                             f"{lowest:.1f} Hz, whose period fits into n_fft={self.n_fft}, and {highest:.0f} Hz")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            may_be_zero = field.name in ("base", "harmonics", "postnet_steps", "encoder_steps", "decoder_steps",
                                         "joint_steps", "warmup_steps", "seed", "slice_context", "dis_pretrain_steps",
                                         "gan_steps", "dis_frames", "xla")
            if field.type is int and value < (0 if may_be_zero else 1):
                raise ValueError(f"{field.name}={value}: must be positive")
            if field.type is float and not math.isfinite(value):
                raise ValueError(f"{field.name}={value}: must be a finite number")
            if field.name in ("range_db", "quiet_db", "trim_level", "max_ratio", "min_seconds", "slice_min_seconds",
                              "sigma", "max_advance", "most_epochs", "encoder_rate", "learning_rate", "lowest_rate",
                              "clip_norm", "power", "gen_learning_rate", "dis_learning_rate", "gan_clip_norm",
                              "pitch_min") and value <= 0.0:
                raise ValueError(f"{field.name}={value}: must be positive")
            if field.name in ("validation", "test", "dropout", "encoder_dropout", "frame_dropout", "whole_utterances",
                              "advance_smoothing", "lowest_rate", "augment_vtl", "mel_blur_freq", "detail") and not (
                    0.0 <= value <= 1.0):
                raise ValueError(f"{field.name}={value}: must lie between 0 and 1")
            if field.name in ("postfilter", "gan_weight", "pace_weight", "pitch_weight",
                              "voicing_weight", "weight_decay", "correction") and value < 0.0:
                raise ValueError(f"{field.name}={value}: must not be negative")
        if self.max_advance <= 1.0:
            raise ValueError(f"max_advance={self.max_advance}: must be more than 1, the pace of the source")
        if max(self.dropout, self.encoder_dropout) == 1.0:
            raise ValueError("dropout and encoder_dropout must be less than 1, or the networks put out nothing")
        if self.validation + self.test >= 1.0:
            raise ValueError(f"validation={self.validation} and test={self.test} leave nothing to train on")
        return self

    @classmethod
    def from_json(cls, path: pathlib.Path) -> "HyperParams":
        """Read the hparams.json of a run; raises ValueError if names or types do not fit this version."""
        try:
            values = dict(json.loads(pathlib.Path(path).read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); restore it or train into another folder") from None
        types = {field.name: field.type for field in dataclasses.fields(cls)}
        if set(values) != set(types):
            raise ValueError(f"{path} is of another version of this project: "
                             f"unknown {sorted(set(values) - set(types))}, missing {sorted(set(types) - set(values))}")
        for name, value in values.items():
            if not isinstance(value, (float, int) if types[name] is float else types[name]):
                raise ValueError(f"{path}: {name} is of type {types[name].__name__}, {value!r} is not")
        return cls(**values).check()


def differences(there: HyperParams, here: HyperParams) -> list[str]:
    """Names and both values of the hyperparameters that differ."""
    return [f"{name} ({value} there, {getattr(here, name)} asked for)"
            for name, value in dataclasses.asdict(there).items() if value != getattr(here, name)]


# The system of 2017 as it was described; docs/design.md describes it and what is left out of it on purpose.
SYSTEM_2017 = HyperParams(
    base=0, attention="global", harmonics=0, r=5, encoder_stack=5, width=512, norm="ins", encoder_banks=10,
    highway_layers=2, dropout=0.5, encoder_dropout=0.0, frame_dropout=0.0,
    # Batches of whole utterances, as many as there would be slices, without augmentation
    batch_size=32, whole_utterances=1.0, slice_max_seconds=12.0, augment_vtl=0.0, augment_eq=0.0,
    mel_blur_freq=0.0, mel_blur_time=0.0,
    postnet_steps=0, encoder_steps=0, decoder_steps=0, joint_steps=10000, learning_rate=1e-3, lowest_rate=1.0,
    griffin_lim_iters=30, postfilter=0.0, power=1.2)

PRESETS: dict[str, HyperParams] = {
    "default": HyperParams(),
    "demo": HyperParams(width=128, postnet_steps=800, encoder_steps=800, decoder_steps=300,
                        dis_pretrain_steps=60, gan_steps=60, dis_learning_rate=5e-4),
    "2017": SYSTEM_2017,
    # The same generator, trained from scratch by the discriminator alone
    "2017-gan": SYSTEM_2017.replace(gan_networks="all", dis_pretrain_steps=0, gan_steps=300, k=5, dis_stack=5,
                                    dis_frames=0, gen_learning_rate=1e-3, dis_learning_rate=1e-3, gan_clip_norm=5.0,
                                    log_steps=1, save_steps=20),
}

# Hyperparameters that conversion may change in a trained model.
SYNTHESIS = ("griffin_lim_iters", "correction", "detail", "postfilter", "power")

# Features on disk depend on these values: prepro.py stores them, training and evaluation compare them.
SIGNAL = ("sample_rate", "n_fft", "win_length", "hop_length", "n_mels", "preemphasis", "loudness_db", "top_db",
          "range_db", "quiet_db", "trim_level", "pitch_min", "pitch_max")


def get(preset: str, assignments: list[str]) -> HyperParams:
    """Return a preset with `name=value` overrides applied; raises ValueError that says what to do."""
    if preset not in PRESETS:
        raise ValueError(f"--preset {preset}: choose one of {', '.join(PRESETS)}")
    return PRESETS[preset].override(assignments)
