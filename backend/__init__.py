"""What TensorFlow needs: devices, checkpoints. It imports common/ and hyperparams.py."""
