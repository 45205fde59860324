"""A page to record or upload speech and hear it in another voice, in a browser on this computer.

    pip install -r requirements/record.in
    python -m tools.record [RUN_FOLDER ...]     # prints its address; Ctrl-C ends it

Nobody else on the network reaches it. Recordings of more than a minute are refused. Recordings and conversions are
deleted after ten minutes, and when the command ends.
"""
import functools
import os
import tempfile

from backend import checkpoints
from common import audio_files, cli
from conversion import inference

import numpy as np

LONGEST_SECONDS, DELETED = 60, (60, 600)  # looked for every minute, when ten minutes old
load = functools.lru_cache(inference.load)


def convert(path: str, voice: str, keep_intervals: bool) -> tuple[tuple[int, np.ndarray], str]:
    """Convert a recording; returns sample rate and samples in 16 bits, and remarks. Raises UserError."""
    converter = load(voice)
    wav, sample_rate, odd = audio_files.read_audio(path, converter.hp)
    if len(wav) > LONGEST_SECONDS * sample_rate:
        raise cli.UserError(f"{len(wav) / sample_rate:.0f} s are too long for this page, which takes {LONGEST_SECONDS} "
                            "s; eval.py converts recordings of any length")
    converter.keep_intervals = keep_intervals
    made = converter.convert(wav, sample_rate)
    samples = np.round(32767.0 * made.wav / max(1.0, np.abs(made.wav).max())).astype(np.int16)
    return (converter.hp.sample_rate, samples), "\n".join([*odd, *made.remarks])


def serve(runs: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}  # read when it is imported
        import gradio

        def answer(path: str | None, *settings):
            try:
                made, said = convert(path, *settings) if path else (None, "record something first, or choose a file")
            except cli.UserError as error:
                made, said = None, str(error).replace(path, "the recording")
            return made, said.replace("the array", "the recording")
        with gradio.Blocks(title="Voice conversion", delete_cache=DELETED) as page:
            voices = gradio.Dropdown([*checkpoints.VOICES, *runs], label="voice")
            gradio.Interface(answer, [gradio.Audio(sources=["microphone", "upload"], type="filepath"), voices,
                                      gradio.Checkbox(label="singing")],
                             [gradio.Audio(label="conversion"), gradio.Textbox(label="remarks")], flagging_mode="never")
        page.launch(server_name="127.0.0.1", max_file_size="50mb")


if __name__ == "__main__":
    parser = cli.new_parser(__doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN_FOLDER", help="models of yours")
    raise SystemExit(cli.run_main("tools.record", functools.partial(serve, parser.parse_args().runs)))
