"""Opinion scores tell clean speech from noise; skipped where the library is missing."""
import numpy as np
import pytest

from evaluation import listening
from conftest import demo_wav
from hyperparams import HyperParams

pytestmark = pytest.mark.skipif(not listening.mos_available(), reason="speechmos is optional")
HP = HyperParams()


def test_noise_lowers_the_score_and_a_level_above_full_scale_does_not():
    wav = demo_wav("slt", "demo_003", HP)
    clean = listening.estimate_mos(wav, HP)
    noisy = listening.estimate_mos(wav + 0.05 * np.random.default_rng(0).normal(size=len(wav)), HP)
    assert list(clean) == ["DNSMOS OVRL", "DNSMOS P.808"]
    for name, score in clean.items():
        assert 1.0 < noisy[name] < score - 0.3 and score < 5.0
    full = wav / np.abs(wav).max()
    assert listening.estimate_mos(2.0 * full, HP) == pytest.approx(listening.estimate_mos(full, HP))


def test_score_hardly_depends_on_the_sample_rate():
    wav = demo_wav("slt", "demo_003", HP)
    other = HP.replace(sample_rate=22050)
    assert listening.estimate_mos(demo_wav("slt", "demo_003", other), other)["DNSMOS OVRL"] == pytest.approx(
        listening.estimate_mos(wav, HP)["DNSMOS OVRL"], abs=0.3)


def test_empty_recording_has_no_score():
    assert all(map(np.isnan, listening.estimate_mos(np.zeros(0), HP).values()))
