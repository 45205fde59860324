"""From a recording to the same words in the target's voice: base, inference, new voices, export. base.py imports
neither networks nor data_load.py; the others do, and export.py reads a run folder, too."""
