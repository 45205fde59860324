"""The downloader against a local server that can break off answers and refuse requests."""
import hashlib
import http.server
import io
import random
import re
import tarfile
import threading
import time

from common.cli import UserError
from corpus import arctic

import pytest

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
    """Serves `server.content`, counts requests and ends answers after `server.cuts` bytes."""

    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        if server.status:
            return self.send_error(server.status)
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        self.wfile.write(server.content[:server.cuts.pop(0) if server.cuts else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between tries
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.requests, server.cuts, server.status = ARCHIVE, [], [], 0
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def download(server, folder, speaker="bdl"):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(arctic.SPEAKERS, "bdl", hashlib.sha256(server.content).hexdigest())
        return arctic.download(speaker, folder, f"http://127.0.0.1:{server.server_port}/packed/")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_complete_download(server, tmp_path):
    wavs = download(server, tmp_path / "new" / "corpus")
    assert wavs == tmp_path / "new" / "corpus" / "bdl"
    assert content(wavs) == UNPACKED
    assert server.requests == ["/packed/cmu_us_bdl_arctic.tar.bz2"]
    assert [path.name for path in wavs.parent.iterdir()] == ["bdl"]  # neither archive nor temporary folder is left


def test_second_call_makes_no_request(server, tmp_path):
    first = download(server, tmp_path)
    server.requests.clear()
    assert download(server, tmp_path) == first
    assert server.requests == []


def test_archive_that_is_there_is_used_without_the_network(server, tmp_path):
    (tmp_path / "cmu_us_bdl_arctic.tar.bz2").write_bytes(ARCHIVE)
    assert content(download(server, tmp_path)) == UNPACKED
    assert server.requests == [] and [path.name for path in tmp_path.iterdir()] == ["bdl"]


def test_damaged_archive_is_downloaded_again(server, tmp_path):
    (tmp_path / "cmu_us_bdl_arctic.tar.bz2").write_bytes(ARCHIVE[:1000])
    assert content(download(server, tmp_path)) == UNPACKED


def test_broken_connections_are_tried_again(server, tmp_path):
    server.cuts = [1000, 0, 500]
    assert content(download(server, tmp_path)) == UNPACKED
    assert len(server.requests) == 4


@pytest.mark.parametrize("cuts, status, reason", [([1000, 0, 0, 0], 0, "IncompleteRead"), ([], 404, "404"),
                                                  ([], 503, "503")])
def test_download_gives_up_after_three_retries_and_leaves_no_file(server, tmp_path, cuts, status, reason):
    server.cuts, server.status = cuts, status
    with pytest.raises(UserError, match=rf"http://127.*bdl_arctic\.tar\.bz2 cannot be fetched .*{reason}.*run again"):
        download(server, tmp_path)
    assert len(server.requests) == 4 and list(tmp_path.iterdir()) == []


def test_wrong_checksum_leaves_no_file(server, tmp_path):
    with pytest.raises(UserError, match=r"bdl_arctic\.tar\.bz2 cannot be fetched .*hash.*put the file there by hand"):
        # The default checksum is that of the real archive
        arctic.download("bdl", tmp_path, f"http://127.0.0.1:{server.server_port}")
    assert list(tmp_path.iterdir()) == []


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
    with pytest.raises(UserError, match="holds no .*get it elsewhere"):
        download(server, tmp_path)
    assert not (tmp_path / "bdl").exists()


def test_mirror_that_is_not_an_address_is_refused(server, tmp_path):
    with pytest.raises(UserError, match="festvox/cmu_us_bdl_arctic.tar.bz2 cannot be fetched.*by hand"):
        arctic.download("bdl", tmp_path, "festvox")


def test_unknown_speaker_is_refused_with_a_list_of_the_known_speakers(server, tmp_path):
    with pytest.raises(UserError, match="'xyz'.*bdl, slt, rms"):
        download(server, tmp_path, speaker="xyz")
    assert server.requests == []


def test_unwritable_folder_is_named(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be fetched into .*file .*room on the disk"):
        download(server, tmp_path / "file")


def test_checksums_are_sha256():
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in arctic.SPEAKERS.values())
    assert len(set(arctic.SPEAKERS.values())) == len(arctic.SPEAKERS)
