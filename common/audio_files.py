"""Recordings on disk: find them in folders, read and write them."""
import contextlib
import io
import math
import numbers
import os
import pathlib
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import zlib
from typing import NamedTuple

from common import channels
from common.cli import UserError
from common.storage import printable, replacing
from hyperparams import HyperParams

import numpy as np
import soundfile
from numpy.typing import ArrayLike

AUDIO_SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".aiff", ".aif", ".aifc", ".mp3", ".mp2", ".opus", ".au",
                  ".caf", ".w64", ".rf64", ".sph", ".snd", ".voc", ".mpga", ".ogx")
# libsndfile does not read these
FFMPEG_SUFFIXES = (".m4a", ".m4b", ".m4r", ".m4v", ".aac", ".mp4", ".mp4a", ".mov", ".qta", ".mkv", ".mka", ".webm",
                   ".weba", ".amr", ".awb", ".3gp", ".3gpp", ".3g2", ".wma", ".wmv", ".ac3", ".eac3", ".dts", ".dss",
                   ".spx", ".ape", ".tta", ".wv", ".mpc", ".avi", ".flv", ".mpg", ".mpeg", ".mts", ".m2ts", ".rm")
ALL_SUFFIXES = ", ".join(AUDIO_SUFFIXES + FFMPEG_SUFFIXES)  # for messages
# What recordings begin with, whatever they are called; Speex is in ogg files, too, but only ffmpeg reads it
MAGIC = re.compile(rb"(RIFF|RF64)....WAVE|FORM....AIF[FC]|fLaC|caff\0|riff\x2e\x91|NIST_1A|\.snd\0|OggS(?!.{24}Speex)"
                   rb"|Creative Voice File", re.DOTALL)
UNKNOWN_CODE = 4, 64  # libsndfile's errors for a code that it does not know in a container that it does; others: damage
FFMPEG_MAGIC = re.compile(rb"....ftyp|\x1a\x45\xdf\xa3|#!AMR|\x30\x26\xb2\x75|\xff[\xf0\xf1\xf8\xf9]",
                          re.DOTALL)  # m4a, webm, amr, wma, aac
# What a web page begins with, or what Git LFS leaves in the place of a file
TEXT = re.compile(rb"(\xef\xbb\xbf)?[\t\n\r -~]{16}")
MOST_SAMPLES = 2 ** 28  # longest recording: 1 GiB in memory, 4.6 hours at 16 kHz or 1.5 hours at 48 kHz


def list_audio(folder: pathlib.Path) -> list[pathlib.Path]:
    """List all files below a folder that end as recordings do, or have no ending but begin as recordings do, and all
    folders that cannot be read, and links without an ending that lead nowhere. Links to folders are followed; they may
    lead in circles."""
    unreadable: list[OSError] = []
    found, seen = [], set()
    for parent, folders, names in os.walk(folder, onerror=unreadable.append, followlinks=True):
        if os.path.realpath(parent) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        found += [pathlib.Path(parent, name) for name in names if not name.startswith(".")
                  and (pathlib.Path(name).suffix.lower() in AUDIO_SUFFIXES + FFMPEG_SUFFIXES
                       or "." not in name and (not os.path.exists(full := os.path.join(parent, name))
                                               or begins_as(MAGIC, full) or begins_as(FFMPEG_MAGIC, full)))]
    return sorted(found + [pathlib.Path(error.filename) for error in unreadable])


def begins_as(magic: re.Pattern, path: str | os.PathLike) -> bool:
    """Whether a file can be read and begins as `magic` says; an mp3 file has no such beginning."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe could wait for ever
            with open(path, "rb") as file:
                return bool(magic.match(file.read(64)))
    return False


class BadAudio(UserError):
    """A recording cannot be used; the message names the file, what is wrong and the cure."""


class Recording(NamedTuple):
    """A recording as it was read."""
    wav: np.ndarray      # (samples,)
    sample_rate: int     # Hz
    warnings: list[str]  # what looks odd in it and the cure, for the user


def read_audio(path: str | os.PathLike, hp: HyperParams, channel: int | None = None,
               name: str | None = None) -> Recording:
    """Read a recording block by block; `channel`, counted from 1, chooses among several (default: see channels.py).
    `name` is what errors and warnings call it. Raises BadAudio."""
    name, blocks, warning = name or printable(path), [], ""
    try:
        if os.path.isdir(path):
            raise BadAudio(f"{name}: is a folder that cannot be looked into; check its permissions")
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe could wait for ever
            raise BadAudio(f"{name}: is a pipe or a device; save the recording to a file")
        is_known, is_ffmpegs = (begins_as(magic, path) for magic in (MAGIC, FFMPEG_MAGIC))
        if not (is_known or is_ffmpegs) and begins_as(TEXT, path):
            raise BadAudio(f"{name}: is a text, for instance a web page or what Git LFS leaves in the place of a file; "
                           "get the recording itself")
        if is_ffmpegs or pathlib.Path(path).suffix.lower() in FFMPEG_SUFFIXES and not is_known:
            return read_by_ffmpeg(path, hp, channel, name)
        with open(path, "rb") as opened, soundfile.SoundFile(opened) as file:
            sample_rate, promised = file.samplerate, file.frames % (2 ** 63 - 1)  # this number: not known
            if promised * max(1.0, hp.sample_rate / sample_rate) > MOST_SAMPLES and not missing_bytes(path):
                raise BadAudio(f"{name}: is too long for the memory, {promised / sample_rate / 60:.0f} minutes at "
                               f"{sample_rate} Hz; cut it into parts or save it at {hp.sample_rate} Hz")
            if channel is None or file.channels == 1:
                weights = np.ones(1)
                if channel and channel > 1:
                    warning = f"has one channel: --channel {channel} chooses nothing in it"
                if file.channels > 1:
                    weights, warning = channels.choose(file)
                    file.seek(0)  # not in a file of one channel: a GSM file cannot
            elif channel <= file.channels:
                weights = np.eye(file.channels)[channel - 1]
            else:
                raise BadAudio(f"{name}: has {file.channels} channels, --channel {channel} is not one of them")
            while len(block := file.read(2 ** 20 // file.channels, dtype="float32", always_2d=True)):
                if not np.abs(block).max() < 1e10:  # squares of larger values overflow; NaN fails the comparison, too
                    raise BadAudio(f"{name}: holds samples that are not numbers, or far too large; export it again")
                blocks.append(block @ weights.astype(np.float32))
            rest = opened.read(4096)
    except FileNotFoundError:
        raise BadAudio(f"{name}: does not exist; if it was moved, name its new place") from None
    except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: without a header, no sample rate
        if os.path.exists(path) and not os.path.getsize(path):
            raise BadAudio(f"{name}: is empty; copy or record it again") from None
        if getattr(error, "code", 0) in UNKNOWN_CODE and is_known:
            check_whole(path, name)
            if shutil.which("ffmpeg"):
                return read_by_ffmpeg(path, hp, channel, name)
        stem, suffix = os.path.splitext(path)
        tool = "sph2pipe -f wav" if suffix.lower() == ".sph" else "ffmpeg -i"  # speech corpora are compressed otherwise
        command = f": {tool} {shlex.quote(name)} {shlex.quote(f'{printable(stem)}.wav')}" * (suffix.lower() != ".wav")
        raise BadAudio(f"{name}: cannot be read as audio ({reason(error)}); check its permissions, or convert it to wav"
                       f"{command}") from None
    check_whole(path, name)
    if sum(map(len, blocks)) * hp.sample_rate < sample_rate:
        raise BadAudio(f"{name}: " + ("holds no samples; record it again or remove it" if os.path.getsize(path) < 4096
                                      else "its header counts no samples, as after a recording that was interrupted; "
                                      f"ffmpeg -ignore_length 1 -i {shlex.quote(name)} mended.wav may find them"))
    wav = np.concatenate(blocks)
    warnings = [warning, *unread(path, rest, len(wav) / sample_rate, promised / sample_rate)]
    return Recording(wav, sample_rate, [f"{name}: {text}" for text in warnings if text])


def check_whole(path: str | os.PathLike, name: str) -> None:
    """Raise BadAudio if a file is shorter than its header says."""
    if missing := missing_bytes(path):
        raise BadAudio(f"{name}: is cut off, {missing} bytes that its header promises are missing; copy or record it "
                       "again")


def unread(path: str | os.PathLike, rest: bytes, seconds: float, promised: float) -> list[str]:
    """What is to be said of a file of which libsndfile read so many `seconds` of those that it `promised`; `rest` is
    what follows there."""
    with open(path, "rb") as file:
        head = file.read(10)
        kind = head[:4]
        # Behind a title, the first frame of an mp3 file may say how many follow: otherwise its promise is a guess
        file.seek(10 + sum((byte & 127) << 7 * i for i, byte in enumerate(head[:5:-1])) if kind[:3] == b"ID3" else 0)
        is_counted = re.search(rb"Xing|Info", file.read(200))
    # Titles may follow, and a frame of an mp3 file that its tag does not count: 1,441 bytes at most
    if len(rest) == 4096 and (
            kind in (b"OggS", b"fLaC") or rest[:3] == b"ID3" or rest[0] == 0xff and rest[1] >= 0xe0):
        return ["holds several recordings, one after the other, of which only the first is read; decode it by ffmpeg, "
                "or save each in a file of its own"]
    if kind == b"RIFF" and len(rest) == 4096 and not re.match(rb"[\w ]{4}", rest):  # otherwise the name of a chunk
        return [f"goes on after the {seconds:.1f} s that its header counts, as after a recording that was interrupted; "
                f"ffmpeg -ignore_length 1 -i {shlex.quote(printable(path))} mended.wav may find the rest"]
    if kind == b"OggS" and not is_whole_ogg(path) or seconds < (promised - 0.5 if is_counted else 0.95 * promised):
        return [f"seems to be damaged or cut off: {seconds:.1f} s are read; if some is missing, copy or record it anew"]
    return []


def is_whole_ogg(path: str | os.PathLike) -> bool:
    """Whether the pages of an ogg file are as they were written, up to one that is marked as the last (RFC 3533,
    section 6). libsndfile leaves out those that are damaged."""
    content, start, kind = pathlib.Path(path).read_bytes(), 0, 0
    # The checksum is that of zlib with the bits of each byte in the other order, and another beginning and end
    mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    while (header := content[start:start + 27])[:4] == b"OggS" and len(header) == 27:
        end = start + 27 + header[26] + sum(content[start + 27:start + 27 + header[26]])
        page = header[:22] + bytes(4) + content[start + 26:end]
        checksum = (zlib.crc32(page.translate(mirrored), 0xffffffff) ^ 0xffffffff).to_bytes(4, "big")
        if checksum.translate(mirrored) != header[22:26]:
            return False
        start, kind = end, header[5]
    return kind & 4 > 0 and content.find(b"OggS", start) < 0  # behind the pages, titles may follow


def from_array(samples: ArrayLike, sample_rate: int, hp: HyperParams) -> Recording:
    """Samples (samples,) of any scale and type as a recording; raises BadAudio."""
    try:
        wav = np.array(samples)
        if wav.dtype.kind not in "iufbO":
            raise ValueError(f"its type is {wav.dtype}")
        is_float, wav = wav.dtype.kind not in "iub", wav.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise BadAudio(f"the array holds no samples ({error})") from None
    if wav.ndim != 1:
        raise BadAudio(f"the array has the shape {wav.shape}: give one channel, (samples,)")
    if not isinstance(sample_rate, numbers.Real) or not 1000 <= sample_rate <= 1e6:
        raise BadAudio(f"the array's sample_rate is {sample_rate!r}: give it in Hz, for instance 16000")
    resampled = len(wav) * hp.sample_rate / sample_rate
    if not 1 <= resampled < MOST_SAMPLES:
        raise BadAudio(f"the array holds {len(wav)} samples at {sample_rate} Hz, which is "
                       + ("no sound" if resampled < 1 else "too long for the memory: cut it into parts"))
    if is_float and not np.abs(wav).max() < 1e10:  # squares of larger values overflow; NaN fails the comparison, too
        raise BadAudio("the array holds samples that are not numbers, or far too large")
    exponent = np.frexp(np.abs(wav).max())[1]  # by a power of 2 no sample is rounded
    return Recording(np.ldexp(wav, -exponent).astype(np.float32), sample_rate, [])


def read_by_ffmpeg(path: str | os.PathLike, hp: HyperParams, channel: int | None, name: str) -> Recording:
    """Read a recording that only ffmpeg reads, with a warning if it is damaged; raises BadAudio."""
    (stem, ending), command = os.path.splitext(path), shutil.which("ffmpeg")
    # A recording that is called .wav must not be told to replace itself
    made = printable(f"{stem}{'_2' * (ending.lower() == '.wav')}.wav")
    if not command:
        raise BadAudio(f"{name}: only ffmpeg reads such files, and it is not installed; install it, or convert the "
                       f"file elsewhere: ffmpeg -i {shlex.quote(name)} {shlex.quote(made)}")
    with tempfile.TemporaryDirectory() as folder:
        wav = pathlib.Path(folder, "decoded.wav")
        # Sound that begins late gets silence before it, and no other time stamp is believed: in joined files they begin
        # anew. 16 bits would cut peaks and lose what is quiet
        late = "aresample=min_comp=0.001:min_hard_comp=1e9:first_pts=0"
        done = subprocess.run([command, "-nostdin", "-v", "error", "-i", f"file:{os.fspath(path)}", "-af", late, "-c:a",
                               "pcm_f32le", "-rf64", "auto", wav], capture_output=True, text=True, errors="replace")
        said = done.stderr.strip()[-200:]
        if done.returncode or not wav.exists():
            raise BadAudio(f"{name}: cannot be decoded by ffmpeg ({said}); record it again or convert it to wav")
        found = read_audio(wav, hp, channel, name)
    damage = f"{name}: ffmpeg found it damaged or cut off ({said}), so some may be missing; copy or record it again"
    return found._replace(warnings=[damage] * bool(said) + found.warnings)


def reason(error: Exception) -> str:
    """The message of an error, without the name of the file."""
    return getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)


def missing_bytes(path: str | os.PathLike) -> int:
    """How many bytes a wav, aiff, au, w64, rf64 or sph file is shorter than its header says; libsndfile does not
    tell."""
    with open(path, "rb") as file:
        header = file.read(1024)

    def number(order: str, start: int, size: int = 4) -> int:
        return int.from_bytes(header[start:start + size], order)
    promised = {b"RIFF": 8 + number("little", 4), b"FORM": 8 + number("big", 4), b"RF64": 8 + number("little", 20, 8),
                b".snd": number("big", 4) + number("big", 8), b"riff": number("little", 16, 8),
                b"NIST": 1024 + math.prod(int(each) for each in re.findall(
                    rb"(?:sample_count|channel_count|sample_n_bytes) -i (\d+)", header))}.get(header[:4], 0)
    missing = promised - os.path.getsize(path)
    # Programs that write to a pipe do not know the size and write 2 or 4 GiB; other programs are a few bytes wrong
    return missing if missing > 4096 and promised < 0x7FFFF000 else 0


def encode_wav(wav: np.ndarray, hp: HyperParams) -> bytes:
    """(samples,) as the content of a 16-bit wav file; a signal above full scale is turned down, not clipped."""
    content = io.BytesIO()
    soundfile.write(content, wav / max(1.0, np.abs(wav).max(initial=0.0) / 0.99), hp.sample_rate, format="WAV",
                    subtype="PCM_16")
    return content.getvalue()


def is_whole(path: str | os.PathLike) -> bool:
    """Whether a wav file that `save_wav` wrote is as long as its header says."""
    with open(path, "rb") as file:
        return int.from_bytes(file.read(8)[4:], "little") + 8 == os.path.getsize(path)


def save_wav(path: str | os.PathLike, wav: np.ndarray, hp: HyperParams) -> None:
    """Write (samples,) as a 16-bit wav file."""
    with replacing(path) as temporary:  # not by soundfile, which does not say why it cannot write a file
        temporary.write_bytes(encode_wav(wav, hp))
