"""From recordings to features, alignments and pairs. It imports common/, utils.py and hyperparams.py, and needs no
TensorFlow."""
