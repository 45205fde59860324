"""What TensorFlow needs: devices, loops over time, checkpoints. It imports common/ and hyperparams.py."""
