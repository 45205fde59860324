"""CMU Arctic (Kominek and Black 2004): download, check and unpack a speaker.

A speaker has about 1,130 sentences of 16 kHz mono speech, 70 to 100 MB packed; all speakers read the same sentences.
"""
import pathlib
import re
import shutil
import tarfile

from common.cli import UserError

import pooch

MIRROR = "http://www.festvox.org/cmu_arctic/packed"  # plain http is safe here, because checksums are compared

# sha256 of cmu_us_{speaker}_arctic.tar.bz2
SPEAKERS: dict[str, str] = {
    "bdl": "26b91aaf48b2799b2956792b4632c2f926cd0542f402b5452d5adecb60942904",  # US, male
    "slt": "7c173297916acf3cc7fcab2713be4c60b27312316765a90934651d367226b4ea",  # US, female
    "rms": "c6dc11235629c58441c071a7ba8a2d067903dfefbaabc4056d87da35b72ecda4",  # US, male
    "clb": "3f16dc3f3b97955ea22623efb33b444341013fc660677b2e170efdcc959fa7c6",  # US, female
    "jmk": "3a37c0e1dfc91e734fdbc88b562d9e2ebca621772402cdc693bbc9b09b211d73",  # Canadian, male
    "awb": "d74a950c9739a65f7bfc4dfa6187f2730fa03de5b8eb3f2da97a51b74df64d3c",  # Scottish, male
    "ksp": "8029cafce8296f9bed3022c44ef1e7953332b6bf6943c14b929f468122532717",  # Indian, male
    "aew": "645cb33c0f0b2ce41384fdd8d3db2c3f5fc15c1e688baeb74d2e08cab18ab406",
    "ahw": "024664adeb892809d646a3efd043625b46b5bfa3e6189b3500b2d0d59dfab06c",
    "aup": "2c55bc3050caa996758869126ad10cf42e1441212111db034b3a45189c18b6fc",
    "axb": "dd65c3d2907d1ee52f86e44f578319159e60f4bf722a9142be01161d84e330ff",
    "eey": "8a0ee4e5acbd4b2f61a4fb947c1730ab3adcc9dc50b195981d99391d29928e8a",
    "fem": "3fcff629412b57233589cdb058f730594a62c4f3a75c20de14afe06621ef45e2",
    "gka": "dc82e7967cbd5eddbed33074b0699128dbd4482b41711916d58103707e38c67f",
    "ljm": "b23993765cbf2b9e7bbc3c85b6c56eaf292ac81ee4bb887b638a24d104f921a0",
    "lnh": "4faf34d71aa7112813252fb20c5433e2fdd9a9de55a00701ffcbf05f24a5991a",
    "rxr": "1fa4271c393e5998d200e56c102ff46fcfea169aaa2148ad9e9469616fbfdd9b",
    "slp": "54345ed55e45c23d419e9a823eef427f1cc93c83a710735ec667d068c916abf1",
}

TRANSCRIPTS = "txt.done.data"  # the texts, one line for each sentence
KEPT = re.compile(r"(?:\./)?cmu_us_\w+_arctic/(?:wav/(\w+\.wav)|etc/(txt\.done\.data))", re.ASCII)
RETRIES, TIMEOUT = 3, 30.0  # -, s


def download(speaker: str, folder: pathlib.Path, mirror: str = MIRROR) -> pathlib.Path:
    """Return `folder / speaker` with the wav files of a speaker and TRANSCRIPTS, fetched from `mirror` unless they, or
    the archive in `folder`, are there already. Raises UserError."""
    if speaker not in SPEAKERS:
        raise UserError(f"CMU Arctic has no speaker {speaker!r}; choose one of {', '.join(SPEAKERS)}")
    wavs, name = folder / speaker, f"cmu_us_{speaker}_arctic.tar.bz2"
    if wavs.exists():
        if not any(wavs.glob("*.wav")):
            raise UserError(f"{wavs} exists but holds no wav files; remove it and run again")
        return wavs
    archives = pooch.create(folder, f"{mirror.rstrip('/')}/", registry={name: f"sha256:{SPEAKERS[speaker]}"},
                            retry_if_failed=RETRIES)
    try:
        archive = pathlib.Path(archives.fetch(name, downloader=pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)))
        unpack(archive, wavs)
        archive.unlink()
    except (ValueError, OSError) as error:  # ValueError: a wrong checksum, or no address
        raise UserError(f"{archives.get_url(name)} cannot be fetched into {folder} ({error}): check the network and "
                        "the room on the disk (300 MB) and run again, or put the file there by hand") from error
    return wavs


def unpack(archive: pathlib.Path, wavs: pathlib.Path) -> None:
    """Write the wav files of an archive and TRANSCRIPTS into the folder `wavs`, which appears when it is complete."""
    temporary = wavs.with_name(f".{wavs.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    with tarfile.open(archive, mode="r:bz2") as tar:
        for member in tar:
            match = KEPT.fullmatch(member.name)
            if match and member.isreg():
                # Only the base name is used, so that no path in the archive can lead out of the folder
                with tar.extractfile(member) as source, (temporary / match[match.lastindex]).open("wb") as target:
                    shutil.copyfileobj(source, target)
    if not any(temporary.glob("*.wav")):
        raise UserError(f"{archive}: holds no cmu_us_*_arctic/wav/*.wav; remove it and get it elsewhere")
    temporary.rename(wavs)
