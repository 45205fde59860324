"""From a recording to the same words in the target's voice: base, inference, new voices, export. base.py imports only
corpus/; the others import the networks and data_load.py, too."""
