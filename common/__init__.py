"""What all commands share: how they end, files, recordings on disk. It imports nothing of the project but
hyperparams.py."""
