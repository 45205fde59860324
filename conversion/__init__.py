"""From a recording to the same words in the target's voice: base, inference, new voices, export. Only inference.py
and export.py import networks and data_load.py, and export.py reads a run folder, too."""
