"""The downloader against a local server that can break off answers, ignore ranges and refuse requests."""
import hashlib
import http.server
import io
import random
import re
import tarfile
import threading

import pytest

from corpus import arctic

WAVS = {f"arctic_a000{i}.wav": random.Random(i).randbytes(40_000) for i in (1, 2, 3)}


def pack(members: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    """A tar.bz2 of files and of symbolic links to /etc/passwd."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return buffer.getvalue()


ARCHIVE = pack({f"cmu_us_bdl_arctic/wav/{name}": content for name, content in WAVS.items()}
               | {"cmu_us_bdl_arctic/etc/txt.done.data": b"text", "cmu_us_bdl_arctic/lab/wav/x.wav": b"label"})
UNPACKED = WAVS | {"txt.done.data": b"text"}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.content`, records the Range header of each request and ends answers after `server.cuts` bytes."""

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers["Range"]))
        if server.status:
            return self.send_error(server.status)
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1]) if self.headers["Range"] else 0
        if not server.ranges:
            start = 0
        if start >= len(server.content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        self.wfile.write(server.content[start:][:server.cuts.pop(0) if server.cuts else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(arctic, "PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.requests, server.cuts, server.ranges, server.status = ARCHIVE, [], [], True, 0
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def download(server, folder, speaker="bdl"):
    return arctic.download(speaker, folder, f"http://127.0.0.1:{server.server_port}/packed/",
                           hashlib.sha256(server.content).hexdigest())


def ranges(server):
    return [header for _, header in server.requests]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_complete_download(server, tmp_path):
    wavs = download(server, tmp_path / "new" / "corpus")
    assert wavs == tmp_path / "new" / "corpus" / "bdl"
    assert content(wavs) == UNPACKED
    assert server.requests == [("/packed/cmu_us_bdl_arctic.tar.bz2", None)]
    assert [path.name for path in wavs.parent.iterdir()] == ["bdl"]  # neither archive nor temporary folder is left


def test_second_call_makes_no_request(server, tmp_path):
    first = download(server, tmp_path)
    server.requests.clear()
    assert download(server, tmp_path) == first
    assert server.requests == []


def test_retry_asks_only_for_the_rest(server, tmp_path):
    server.cuts = [1000, 500]
    assert content(download(server, tmp_path)) == UNPACKED
    assert ranges(server) == [None, "bytes=1000-", "bytes=1500-"]


def test_download_gives_up_after_three_retries_and_the_next_call_resumes_it(server, tmp_path):
    server.cuts = [1000, 0, 0, 0]
    with pytest.raises(arctic.DownloadError, match=r"http://127.*failed 4 times.*1000 of \d+ bytes.*run again"):
        download(server, tmp_path)
    server.requests.clear()
    assert content(download(server, tmp_path)) == UNPACKED
    assert ranges(server) == ["bytes=1000-"]


def test_download_from_a_server_that_ignores_ranges_succeeds(server, tmp_path):
    server.cuts, server.ranges = [1000], False
    assert content(download(server, tmp_path)) == UNPACKED
    assert ranges(server) == [None, "bytes=1000-"]


def test_complete_partial_file_needs_no_request(server, tmp_path):
    (tmp_path / "cmu_us_bdl_arctic.tar.bz2.part").write_bytes(ARCHIVE)
    assert content(download(server, tmp_path)) == UNPACKED
    assert server.requests == []


def test_partial_file_longer_than_the_archive_is_downloaded_again(server, tmp_path):
    (tmp_path / "cmu_us_bdl_arctic.tar.bz2.part").write_bytes(ARCHIVE + b"more")
    assert content(download(server, tmp_path)) == UNPACKED
    assert ranges(server) == [f"bytes={len(ARCHIVE) + 4}-", None]


def test_wrong_checksum_leaves_no_file(server, tmp_path):
    with pytest.raises(arctic.DownloadError, match=r"bdl_arctic\.tar\.bz2 from http://127.*checksum.*run again"):
        # The default checksum is that of the real archive
        arctic.download("bdl", tmp_path, f"http://127.0.0.1:{server.server_port}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status, requests", [(404, 1), (503, 4)])
def test_status_404_is_final_and_status_503_is_retried(server, tmp_path, status, requests):
    server.status = status
    with pytest.raises(arctic.DownloadError, match=rf"http://127.*{status}"):
        download(server, tmp_path)
    assert len(server.requests) == requests


@pytest.mark.parametrize("name", ["../evil.wav", "cmu_us_bdl_arctic/wav/../../../evil.wav",
                                  "../cmu_us_bdl_arctic/wav/evil.wav", "{outside}/evil.wav",
                                  "{outside}/cmu_us_bdl_arctic/wav/evil.wav"])
def test_malicious_path_is_not_unpacked(server, tmp_path, name):
    server.content = pack({name.format(outside=tmp_path): b"evil", "cmu_us_bdl_arctic/wav/good.wav": b"good"})
    assert content(download(server, tmp_path / "a" / "b")) == {"good.wav": b"good"}
    assert not list(tmp_path.rglob("evil.wav"))


def test_symbolic_link_is_not_unpacked(server, tmp_path):
    server.content = pack({"cmu_us_bdl_arctic/wav/good.wav": b"good"}, links=("cmu_us_bdl_arctic/wav/link.wav",))
    assert [path.name for path in download(server, tmp_path).iterdir()] == ["good.wav"]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_member_that_is_not_a_regular_file_is_not_unpacked(server, tmp_path, kind):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as tar:
        for name, content in (("good", b"good"), ("odd", b"")):
            info = tarfile.TarInfo(f"cmu_us_bdl_arctic/wav/{name}.wav")
            info.size = len(content)
            if name == "odd":
                info.type, info.linkname = kind, "cmu_us_bdl_arctic/wav/good.wav"
            tar.addfile(info, io.BytesIO(content))
    server.content = buffer.getvalue()
    assert [path.name for path in download(server, tmp_path).iterdir()] == ["good.wav"]


def test_interrupted_unpacking_is_repeated(server, tmp_path, monkeypatch):
    extract, calls = tarfile.TarFile.extractfile, []

    def interrupted(tar, member):
        calls.append(member)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return extract(tar, member)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tarfile.TarFile, "extractfile", interrupted)
        download(server, tmp_path)
    assert [path.name for path in (tmp_path / ".bdl.tmp").iterdir()] == ["arctic_a0001.wav"]
    assert not (tmp_path / "bdl").exists()
    (tmp_path / ".bdl.tmp" / "stale.wav").touch()
    assert content(download(server, tmp_path)) == UNPACKED
    assert len(server.requests) == 1  # the archive was kept


@pytest.mark.parametrize("name", ["readme.txt", "cmu_us_bdl_arctic/etc/txt.done.data"])
def test_archive_without_recordings_is_refused(server, tmp_path, name):
    server.content = pack({name: b"moved"})
    with pytest.raises(arctic.DownloadError, match="holds no .*choose another mirror"):
        download(server, tmp_path)
    assert not (tmp_path / "bdl").exists()


def test_mirror_that_is_not_an_address_is_refused(tmp_path):
    with pytest.raises(arctic.DownloadError, match="festvox/cmu_us_bdl_arctic.tar.bz2.*must be an address like http"):
        arctic.download("bdl", tmp_path, "festvox")


def test_unknown_speaker_is_refused_with_a_list_of_the_known_speakers(server, tmp_path):
    with pytest.raises(arctic.DownloadError, match="'xyz'.*bdl, slt, rms"):
        download(server, tmp_path, speaker="xyz")
    assert server.requests == []


def test_unwritable_folder_is_named(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(arctic.DownloadError, match="file: cannot be written.*choose another folder"):
        download(server, tmp_path / "file")


def test_checksums_are_sha256():
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in arctic.SPEAKERS.values())
    assert len(set(arctic.SPEAKERS.values())) == len(arctic.SPEAKERS)
