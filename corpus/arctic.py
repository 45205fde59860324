"""CMU Arctic (Kominek and Black 2004): download, check and unpack a speaker; every step can be interrupted and resumed.

A speaker has about 1,130 sentences of 16 kHz mono speech, 70 to 100 MB packed; all speakers read the same sentences.
"""
import hashlib
import http.client
import pathlib
import re
import shutil
import ssl
import tarfile
import time
import urllib.error
import urllib.request

from tqdm import tqdm

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
RETRIES, PAUSE, TIMEOUT = 3, 2.0, 30.0  # -, s, s
DROPPED = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class DownloadError(ValueError):
    """A speaker cannot be downloaded; the message names the address or file, what is wrong and the cure."""


def download(speaker: str, folder: pathlib.Path, mirror: str = MIRROR, sha256: str | None = None) -> pathlib.Path:
    """Return `folder / speaker` with the wav files of a speaker, fetched from `mirror` unless they are there already.

    TRANSCRIPTS is put beside them. An archive that is already in `folder` is used instead of the network, and removed
    once it is unpacked. `sha256` replaces the known checksum, for a mirror that packs its own archives. Raises
    DownloadError.
    """
    if speaker not in SPEAKERS:
        raise DownloadError(f"CMU Arctic has no speaker {speaker!r}; choose one of {', '.join(SPEAKERS)}")
    wavs = folder / speaker
    if wavs.exists():
        if not any(wavs.glob("*.wav")):
            raise DownloadError(f"{wavs} exists but holds no wav files; remove it and run again")
        return wavs
    archive = folder / f"cmu_us_{speaker}_arctic.tar.bz2"
    part = archive.with_name(archive.name + ".part")
    url = f"{mirror.rstrip('/')}/{archive.name}"
    expected = (sha256 or SPEAKERS[speaker]).lower()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not archive.exists():
            # An earlier download may have been stopped between the last byte and the renaming: `part` is complete then
            if not part.exists() or checksum(part) != expected:
                fetch(url, part)
            part.replace(archive)
        found, size = checksum(archive), archive.stat().st_size
        if found != expected:
            archive.unlink()
            raise DownloadError(f"{archive} from {url} had the wrong checksum and was deleted ({size} bytes, sha256 "
                                f"{found}, expected {expected}); run again, or choose another mirror if it persists")
        unpack(archive, wavs)
        archive.unlink()
    except OSError as error:
        raise DownloadError(f"{folder}: cannot be written ({error}); it needs about 300 MB for a speaker, free some "
                            "space or choose another folder") from error
    return wavs


def checksum(path: pathlib.Path) -> str:
    """sha256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2 ** 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(url: str, part: pathlib.Path) -> None:
    """Complete `part` from `url`, with up to RETRIES further tries after dropped connections; raises DownloadError."""
    for retry in range(RETRIES + 1):
        time.sleep(PAUSE if retry else 0.0)
        try:
            return receive(url, part)
        except ValueError as error:
            raise DownloadError(f"{url}: {error}; the mirror must be an address like {MIRROR}") from error
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # the server has no such bytes, so `part` is not the beginning of this file
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise DownloadError(f"{url}: {error}; check the address or choose another mirror") from error
            reason = error
        except DROPPED as error:
            reason = error
    raise DownloadError(f"{url}: the connection failed {RETRIES + 1} times ({reason}); check the network and run again "
                        f"to go on from where it stopped, or put {part.stem} into {part.parent} by hand") from reason


def receive(url: str, part: pathlib.Path) -> None:
    """Request the bytes missing in `part` once and append them; raises one of DROPPED if some do not arrive."""
    have = part.stat().st_size if part.exists() else 0  # bytes
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if response.status != 206:  # the server ignored the range and sends everything
            have = 0
        length = response.headers["Content-Length"]
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file, \
                tqdm.wrapattr(response, "read", total=total, initial=have, desc=part.stem, disable=None) as body:
            shutil.copyfileobj(body, file)
    # If the connection closes early, http.client treats this as the end of the file
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"{part.stat().st_size} of {total} bytes arrived")


def unpack(archive: pathlib.Path, wavs: pathlib.Path) -> None:
    """Write the wav files of an archive and TRANSCRIPTS into the new folder `wavs`, which appears only when it is
    complete."""
    temporary = wavs.with_name(f".{wavs.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    size = archive.stat().st_size
    with archive.open("rb") as file, \
            tqdm.wrapattr(file, "read", total=size, desc=f"unpacking {wavs.name}", disable=None) as packed, \
            tarfile.open(fileobj=packed, mode="r:bz2") as tar:
        for member in tar:
            match = KEPT.fullmatch(member.name)
            if match and member.isreg():
                # Only the base name is used, so that no path in the archive can lead out of the folder
                with tar.extractfile(member) as source, (temporary / match[match.lastindex]).open("wb") as target:
                    shutil.copyfileobj(source, target)
    if not any(temporary.glob("*.wav")):
        raise DownloadError(f"{archive}: holds no cmu_us_*_arctic/wav/*.wav; remove it and choose another mirror")
    temporary.rename(wavs)
