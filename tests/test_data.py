"""skipway.data: the digits in the package, files on the disk, and the net at its worst (a real server on localhost)."""

from __future__ import annotations

import errno
import gzip
import hashlib
import importlib.util
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from skipway import data
from skipway.data import download, files, sources
from skipway.data.sources import File, Source
from skipway.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "src" / "skipway" / "assets"
IDX_NAMES = [file.name for file in sources.MNIST.files]


def md5(blob: bytes) -> str:
    return hashlib.md5(blob).hexdigest()


def left_in(folder: Path) -> list[str]:
    """Every file under ``folder``, hidden ones too."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# --- a server that can do everything wrong ----------------------------------------------------------------------------


class Server:
    """A web server on localhost whose every answer is a function; ``asked`` are the paths it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                outer.asked.append(self.path)
                answer = outer.answers.get(self.path)
                if answer is None:
                    self.send_error(404)
                else:
                    answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def at(self, folder: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{folder}"

    def serve(self, path: str, body: bytes, **how: Any) -> None:
        self.answers["/" + path] = lambda handler: send(handler, body, **how)

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join(5)


def send(
    handler: BaseHTTPRequestHandler,
    body: bytes,
    *,
    cut: int | None = None,
    length: bool = True,
    pieces: int = 1,
    pause: float = 0.0,
    gate: threading.Event | None = None,
) -> None:
    """Answer with ``body``: its first ``cut`` bytes, or in pieces with a pause after each, or until the gate opens."""
    handler.send_response(200)
    if length:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    body = body[:cut]
    step = max(1, -(-len(body) // pieces))
    try:
        for i in range(0, len(body), step):
            handler.wfile.write(body[i : i + step])
            handler.wfile.flush()
            if gate is not None:
                gate.wait(5)
            time.sleep(pause)
    except ConnectionError:  # the client gave up, as it should
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    s = Server()
    yield s
    s.close()


@pytest.fixture
def nobody(server: Server) -> str:
    """A mirror where nothing listens (any more)."""
    gone = Server()
    address = gone.at("")
    gone.close()
    return address


BODY = np.random.RandomState(0).bytes(200_000)
OTHERWISE = "Do it yourself."


def fetch(path: Path, *mirrors: str, digest: str = md5(BODY)) -> None:
    download.fetch(path, digest, mirrors, OTHERWISE)


# --- download ---------------------------------------------------------------------------------------------------------


def test_the_first_good_mirror_serves_the_file_and_no_other_is_asked(server: Server, tmp_path: Path) -> None:
    server.serve("a/f.gz", BODY)
    server.serve("b/f.gz", BODY)
    fetch(tmp_path / "new" / "folder" / "f.gz", server.at("a"), server.at("b/"))
    assert (tmp_path / "new/folder/f.gz").read_bytes() == BODY
    assert left_in(tmp_path) == ["new/folder/f.gz"]
    assert server.asked == ["/a/f.gz"]


def test_a_length_is_not_needed(server: Server, tmp_path: Path) -> None:
    server.serve("a/f.gz", BODY, length=False)
    fetch(tmp_path / "f.gz", server.at("a"))
    assert (tmp_path / "f.gz").read_bytes() == BODY


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "cut off": ({"body": BODY, "cut": 70_000}, "cut off: 70,000 of 200,000 bytes"),
    "cut off unknown length": (
        {"body": BODY, "cut": 70_000, "length": False},
        f"wrong bytes: md5 {md5(BODY[:70_000])}, not {md5(BODY)}, of 70,000 bytes",
    ),
    "corrupt": (
        {"body": BODY[:-1] + b"?"},
        f"wrong bytes: md5 {md5(BODY[:-1] + b'?')}, not {md5(BODY)}, of 200,000 bytes",
    ),
    "empty": ({"body": b""}, f"wrong bytes: md5 {md5(b'')}, not {md5(BODY)}, of 0 bytes"),
}


@pytest.mark.parametrize("kind", [*BAD, "404", "500", "down", "not http", "not an address", "no address either"])
def test_a_bad_mirror_is_passed_over_and_named_with_its_reason(
    kind: str, server: Server, nobody: str, tmp_path: Path
) -> None:
    bad, reason = server.at("bad"), ""
    if kind in BAD:
        how, reason = BAD[kind]
        server.serve("bad/f.gz", **how)
    elif kind == "404":
        reason = "404 Not Found"
    elif kind == "500":
        server.answers["/bad/f.gz"] = lambda handler: handler.send_error(500)
        reason = "500 Internal Server Error"
    elif kind == "down":
        bad, reason = nobody, os.strerror(errno.ECONNREFUSED)
    elif kind == "not http":
        server.answers["/bad/f.gz"] = lambda handler: handler.wfile.write(b"\x1b[31mnonsense\r\n\r\n")
        reason = "BadStatusLine: [31mnonsense\n"
    elif kind == "not an address":
        bad, reason = "nowhere", "unknown url type: 'nowhere/f.gz'"
    elif kind == "no address either":
        bad, reason = "http://no such host", "InvalidURL: URL can't contain control characters"
    with pytest.raises(DataError) as failed:
        fetch(tmp_path / "f.gz", bad)
    said = str(failed.value)
    assert said.startswith(f"f.gz could not be downloaded from any mirror:\n  {bad.rstrip('/')}/f.gz: {reason}")
    assert said.endswith(f"\n{OTHERWISE}")
    assert said.count("\n") == 2
    assert left_in(tmp_path) == []

    server.serve("good/f.gz", BODY)
    fetch(tmp_path / "f.gz", bad, server.at("good"))
    assert (tmp_path / "f.gz").read_bytes() == BODY
    assert left_in(tmp_path) == ["f.gz"]


def test_when_all_mirrors_fail_one_error_names_each_in_order(server: Server, nobody: str, tmp_path: Path) -> None:
    server.serve("cut/f.gz", BODY, cut=1)
    with pytest.raises(DataError) as failed:
        fetch(tmp_path / "f.gz", nobody, server.at("none"), server.at("cut"))
    assert str(failed.value).split("\n") == [
        "f.gz could not be downloaded from any mirror:",
        f"  {nobody}f.gz: {os.strerror(errno.ECONNREFUSED)}",
        f"  {server.at('none')}/f.gz: 404 Not Found",
        f"  {server.at('cut')}/f.gz: cut off: 1 of 200,000 bytes",
        OTHERWISE,
    ]


def test_no_mirror_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^f.gz could not be downloaded because no mirror is given\.\nDo it yourself\.$"
    ):
        fetch(tmp_path / "f.gz")


@pytest.mark.parametrize("half", [False, True], ids=["before it answers", "in the middle"])
def test_a_mirror_that_falls_silent_is_given_up(
    half: bool, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    gate = threading.Event()
    if half:
        server.serve("a/f.gz", BODY, pieces=2, gate=gate)
    else:
        server.answers["/a/f.gz"] = lambda handler: gate.wait(5) and None
    began = time.monotonic()
    with pytest.raises(DataError) as failed:
        fetch(tmp_path / "f.gz", server.at("a"))
    gate.set()
    said = "no answer for 0.2 s" + (", after 100,000 bytes" if half else "")
    assert f"/a/f.gz: {said}\n" in str(failed.value)
    assert time.monotonic() - began < 4
    assert left_in(tmp_path) == []


def test_a_mirror_that_drips_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "GRACE", 0.2)
    server.serve("a/f.gz", BODY[:1000], pieces=1000, pause=0.02)  # whole after 20 s; no pause is near the timeout
    began = time.monotonic()
    with pytest.raises(DataError, match=r"/a/f.gz: too slow: \d+ bytes in 0 s\n"):
        fetch(tmp_path / "f.gz", server.at("a"), digest=md5(BODY[:1000]))
    assert time.monotonic() - began < 4
    assert left_in(tmp_path) == []


def test_a_mirror_that_never_ends_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "LARGEST", 100_000)
    server.serve("a/f.gz", BODY, length=False)
    with pytest.raises(DataError, match=r"/a/f.gz: does not end: more than 100,000 bytes\n"):
        fetch(tmp_path / "f.gz", server.at("a"))
    assert left_in(tmp_path) == []


def test_nothing_is_under_the_final_name_before_it_is_whole(server: Server, tmp_path: Path) -> None:
    gate = threading.Event()
    server.serve("a/f.gz", BODY, pieces=2, gate=gate)
    (tmp_path / "f.gz").write_bytes(b"old")
    worker = threading.Thread(target=fetch, args=(tmp_path / "f.gz", server.at("a")))
    worker.start()
    try:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and sum(p.stat().st_size for p in tmp_path.iterdir()) < 50_000:
            time.sleep(0.01)
        names = left_in(tmp_path)
        assert len(names) == 2
        assert names[0].startswith(".f.gz.")
        assert names[0].endswith(".part")
        assert 50_000 <= (tmp_path / names[0]).stat().st_size <= 100_000
        assert (tmp_path / "f.gz").read_bytes() == b"old"
    finally:
        gate.set()
        worker.join(5)
    assert (tmp_path / "f.gz").read_bytes() == BODY
    assert left_in(tmp_path) == ["f.gz"]


def test_an_interrupt_leaves_nothing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    server.serve("a/f.gz", BODY)
    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path / "f.gz", server.at("a"))
    assert left_in(tmp_path) == []


def test_a_disk_that_fills_up_is_not_blamed_on_the_mirror(server: Server, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    server.serve("a/f.gz", BODY)
    (tmp_path / "f.gz").write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the system refuses the rest of the file
    try:
        with pytest.raises(DataError) as failed:
            fetch(tmp_path / "f.gz", server.at("a"), server.at("b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(failed.value) == (
        f"cannot write {tmp_path / 'f.gz'}: {os.strerror(errno.EFBIG)}; free some space there, "
        "or choose another folder (root=, or the environment variable SKIPWAY_DATA)"
    )
    assert server.asked == ["/a/f.gz"]
    assert left_in(tmp_path) == ["f.gz"]
    assert (tmp_path / "f.gz").read_bytes() == b"old"


def test_a_disk_found_full_at_the_end_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    server.serve("a/f.gz", BODY)
    with pytest.raises(DataError, match=f"^cannot write .*: {os.strerror(errno.ENOSPC)}; free some space"):
        fetch(tmp_path / "f.gz", server.at("a"))
    assert left_in(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"^cannot write .*file/sub/f.gz: .*choose another folder"):
        fetch(tmp_path / "file" / "sub" / "f.gz", server.at("a"))
    assert server.asked == []
    assert left_in(tmp_path) == ["file"]


def test_a_folder_without_leave_to_write_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(DataError, match=f"^cannot write .*locked/f.gz: {os.strerror(errno.EACCES)}"):
        fetch(tmp_path / "locked" / "f.gz", server.at("a"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_slow_server_shows_progress_on_a_terminal(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    server.serve("a/f.gz", BODY, pieces=4, pause=0.15)
    fetch(tmp_path / "f.gz", server.at("a"))
    shown = terminal.getvalue()
    assert "f.gz" in shown
    assert "200.0/200.0 kB" in shown
    assert any(f"{part}/200.0 kB" in shown for part in ("50.0", "100.0", "150.0"))  # and not only at the end


def test_there_is_silence_where_stderr_is_no_terminal(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.serve("a/f.gz", BODY)
    fetch(tmp_path / "f.gz", server.at("a"))
    assert capfd.readouterr() == ("", "")


def test_no_stderr_at_all_is_fine(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as in a Windows program without a console
    server.serve("a/f.gz", BODY)
    fetch(tmp_path / "f.gz", server.at("a"))
    assert (tmp_path / "f.gz").read_bytes() == BODY


# --- IDX files: a small dataset of our own ----------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def tiny_arrays() -> list[np.ndarray]:
    random = np.random.RandomState(7)
    return [
        random.randint(0, 256, (20, 28, 28)).astype(np.uint8),
        np.arange(20, dtype=np.uint8) % 10,
        random.randint(0, 256, (10, 28, 28)).astype(np.uint8),
        np.arange(10, dtype=np.uint8)[::-1].copy(),
    ]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """MNIST and Fashion-MNIST are a tiny dataset now; its packed files by name."""
    unpacked = [idx(array) for array in tiny_arrays()]
    packed = [gzip.compress(blob, mtime=0) for blob in unpacked]
    pairs = [(md5(p), md5(u)) for p, u in zip(packed, unpacked, strict=True)]
    for name in ("MNIST", "FASHION_MNIST"):
        monkeypatch.setattr(sources, name, replace(getattr(sources, name), files=sources.idx_files(*pairs)))
    return dict(zip(IDX_NAMES, packed, strict=True))


def put(folder: Path, blobs: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, blob in blobs.items():
        (folder / name).write_bytes(blob)
    return folder


def unpack(blobs: dict[str, bytes]) -> dict[str, bytes]:
    return {name.removesuffix(".gz"): gzip.decompress(blob) for name, blob in blobs.items()}


def check_tiny(dataset: data.Dataset, name: str = "mnist") -> None:
    train_x, train_y, test_x, test_y = (torch.from_numpy(array) for array in tiny_arrays())
    for split, part, x, y in ((dataset.train, "train", train_x, train_y), (dataset.test, "test", test_x, test_y)):
        assert split.name == f"{name}/{part}"
        assert (split.x.dtype, split.y.dtype) == (torch.float32, torch.int64)
        assert torch.equal(split.x, x[:, None].to(torch.float32) / 255)
        assert torch.equal(split.y, y.to(torch.int64))


@pytest.mark.parametrize(
    ("function", "name", "folder"),
    [(data.mnist, "mnist", "MNIST/raw"), (data.fashion_mnist, "fashion-mnist", "FashionMNIST/raw")],
)
def test_it_is_downloaded_once_into_torchvisions_layout(
    function: Callable[..., data.Dataset],
    name: str,
    folder: str,
    tiny: dict[str, bytes],
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for file, blob in tiny.items():
        server.serve(f"m/{file}", blob)
    monkeypatch.setenv("SKIPWAY_DATA", str(tmp_path / "here"))
    check_tiny(function(mirrors=server.at("m")), name)
    assert left_in(tmp_path) == sorted(f"here/{folder}/{file}" for file in IDX_NAMES)
    assert server.asked == [f"/m/{file}" for file in IDX_NAMES]
    check_tiny(function(mirrors=[]), name)
    check_tiny(function(download=False), name)
    assert len(server.asked) == 4


def test_only_what_is_missing_is_downloaded(tiny: dict[str, bytes], server: Server, tmp_path: Path) -> None:
    put(tmp_path / "MNIST/raw", {name: tiny[name] for name in IDX_NAMES[:3]})
    server.serve(f"m/{IDX_NAMES[3]}", tiny[IDX_NAMES[3]])
    check_tiny(data.mnist(tmp_path, mirrors=[server.at("m")]))
    assert server.asked == [f"/m/{IDX_NAMES[3]}"]


@pytest.mark.parametrize("how", ["packed", "unpacked", "both", "mixed", "packed by another gzip"])
def test_a_torchvision_download_is_used_as_it_is(how: str, tiny: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    plain = unpack(tiny)
    if how == "packed":
        put(folder, tiny)
    elif how == "unpacked":
        put(folder, plain)
    elif how == "both":
        put(folder, tiny | plain)
    elif how == "mixed":
        put(
            folder,
            {IDX_NAMES[0]: tiny[IDX_NAMES[0]]} | {k: v for k, v in plain.items() if not k.startswith("train-im")},
        )
    else:
        put(folder, {f"{name}.gz": gzip.compress(blob, 1, mtime=99) for name, blob in plain.items()})
    before = left_in(tmp_path)
    check_tiny(data.mnist(str(tmp_path), download=False))
    assert left_in(tmp_path) == before


def test_the_mirrors_of_the_table_are_used(
    tiny: dict[str, bytes], server: Server, nobody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file, blob in tiny.items():
        server.serve(f"m/{file}", blob)
    monkeypatch.setattr(sources, "MNIST", replace(sources.MNIST, mirrors=(nobody, server.at("m"))))
    check_tiny(data.mnist(tmp_path))


def test_offline_it_says_which_files_to_put_where(tiny: dict[str, bytes], nobody: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "MNIST/raw", {IDX_NAMES[1]: tiny[IDX_NAMES[1]]})
    sentence = (
        "Without a network, put train-images-idx3-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz "
        f"into {folder}, or set SKIPWAY_DATA to the root of a torchvision download."
    )
    with pytest.raises(DataError) as failed:
        data.mnist(tmp_path, mirrors=nobody)
    assert str(failed.value).split("\n") == [
        "train-images-idx3-ubyte.gz could not be downloaded from any mirror:",
        f"  {nobody}train-images-idx3-ubyte.gz: {os.strerror(errno.ECONNREFUSED)}",
        sentence,
    ]
    with pytest.raises(DataError) as failed:
        data.mnist(tmp_path, download=False)
    assert str(failed.value) == f"mnist is not all there. {sentence}"
    assert left_in(tmp_path) == [f"MNIST/raw/{IDX_NAMES[1]}"]


AGAIN = "delete it and it is downloaded again, or put a good copy in its place"


def damaged(blobs: dict[str, bytes], name: str, change: Callable[[bytes], bytes], tmp_path: Path) -> tuple[Path, str]:
    """The path of a file that was changed in the root, and what reading the dataset says."""
    folder = put(tmp_path / "MNIST/raw", blobs | {name: change(blobs[name])})
    with pytest.raises(DataError) as failed:
        data.mnist(tmp_path, mirrors=[])
    return folder / name, str(failed.value)


def test_a_truncated_packed_file_is_named(tiny: dict[str, bytes], tmp_path: Path) -> None:
    path, said = damaged(tiny, IDX_NAMES[2], lambda blob: blob[:-100], tmp_path)
    assert said.startswith(f"{path} is truncated or damaged (")
    assert said.endswith(AGAIN)


@pytest.mark.parametrize("at", [3, 500, -2], ids=["header", "middle", "checksum"])
def test_a_damaged_packed_file_is_named(at: int, tiny: dict[str, bytes], tmp_path: Path) -> None:
    def flip(blob: bytes) -> bytes:
        changed = bytearray(blob)
        changed[at] ^= 0xFF
        return bytes(changed)

    path, said = damaged(tiny, IDX_NAMES[0], flip, tmp_path)
    assert said.startswith(f"{path} is truncated or damaged (")
    assert said.endswith(AGAIN)


def test_a_page_in_place_of_the_file_is_named(tiny: dict[str, bytes], tmp_path: Path) -> None:
    path, said = damaged(tiny, IDX_NAMES[1], lambda _: b"<html>", tmp_path)
    assert said == f"{path} is truncated or damaged (Not a gzipped file (b'<h')): {AGAIN}"


def test_another_datasets_file_is_named(tiny: dict[str, bytes], tmp_path: Path) -> None:
    other = idx(tiny_arrays()[0] ^ 1)
    path, said = damaged(tiny, IDX_NAMES[0], lambda _: gzip.compress(other), tmp_path)
    right = md5(gzip.decompress(tiny[IDX_NAMES[0]]))
    assert said == f"{path} is damaged: the md5 of what it holds is {md5(other)}, not {right}; {AGAIN}"


def test_a_truncated_unpacked_file_is_named(tiny: dict[str, bytes], tmp_path: Path) -> None:
    path, said = damaged(unpack(tiny), "train-images-idx3-ubyte", lambda blob: blob[:5000], tmp_path)
    assert said == f"{path} is truncated: its header says 15,696 bytes and there are 5,000; {AGAIN}"


@pytest.mark.parametrize("junk", [b"", b"\0\0\x08", b"\0\0\x08\x03\0\0", b"<html>", b"\0\0\x0d\x01\0\0\0\0"])
def test_an_unpacked_file_of_another_kind_is_named(junk: bytes, tiny: dict[str, bytes], tmp_path: Path) -> None:
    path, said = damaged(unpack(tiny), "t10k-images-idx3-ubyte", lambda _: junk, tmp_path)
    assert said == f"{path} is not an IDX file of bytes, as the dataset's is: {AGAIN}"


def test_an_unpacked_file_with_other_or_more_bytes_is_named(tiny: dict[str, bytes], tmp_path: Path) -> None:
    for i, change in enumerate((lambda blob: blob + b"\0", lambda blob: blob[:-1] + b"\x05")):
        path, said = damaged(unpack(tiny), "t10k-labels-idx1-ubyte", change, tmp_path / str(i))
        assert said.startswith(f"{path} is damaged: the md5 of what it holds is ")
        assert said.endswith(AGAIN)


def test_a_file_that_cannot_be_read_is_named(tiny: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "MNIST/raw" / IDX_NAMES[0]
    put(path.parent, {name: tiny[name] for name in IDX_NAMES[1:]})
    path.mkdir()
    with pytest.raises(DataError, match=f"^{path} cannot be read: "):
        data.mnist(tmp_path, mirrors=[])


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "MNIST").symlink_to(tmp_path / "MNIST")  # a loop: no user may look through it
    with pytest.raises(
        DataError, match=f"MNIST/raw/train-images-idx3-ubyte cannot be read: {os.strerror(errno.ELOOP)}"
    ):
        data.mnist(tmp_path, mirrors=[])


def test_a_folder_without_leave_to_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "MNIST").mkdir(mode=0)
    if os.access(tmp_path / "MNIST", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(DataError, match=f"MNIST/raw/.* cannot be read: {os.strerror(errno.EACCES)}"):
        data.mnist(tmp_path, mirrors=[])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^there is no {IDX_NAMES[0]} in {tmp_path}, packed or unpacked$"):
        files.read_idx(tmp_path, sources.MNIST.files[0])


# --- CIFAR-10: pickles as Python 2 wrote them -------------------------------------------------------------------------


def old_pickle(images: np.ndarray, labels: list[int]) -> bytes:
    """A batch as in the archive: protocol 2, byte strings, and the names that numpy had then."""

    def word(text: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(text)) + text  # BINSTRING

    def number(n: int) -> bytes:
        return b"J" + struct.pack("<i", n)  # BININT

    shape = number(images.shape[0]) + number(images.shape[1]) + b"\x86"
    dtype = b"cnumpy\ndtype\n" + word(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + word(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + word(b"b") + b"\x87R"
    array += b"(" + number(1) + shape + dtype + b"\x89" + word(images.tobytes()) + b"tb"
    listed = b"](" + b"".join(number(n) for n in labels) + b"e"
    return b"\x80\x02}(" + word(b"batch_label") + word(b"x") + word(b"labels") + listed + word(b"data") + array + b"u."


CIFAR_NAMES = [file.name for file in sources.CIFAR10.files]


def cifar_batches() -> list[tuple[np.ndarray, list[int]]]:
    random = np.random.RandomState(3)
    return [(random.randint(0, 256, (4, 3072)).astype(np.uint8), random.randint(0, 10, 4).tolist()) for _ in range(6)]


def tar_of(blobs: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, blob in blobs.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(blob)
            tar.addfile(info, io.BytesIO(blob))
    return out.getvalue()


def as_cifar(blobs: dict[str, bytes], archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tuple(File(name, md5(blob), md5(blob)) for name, blob in blobs.items())
    source: Source = replace(sources.CIFAR10, files=known, archive=("cifar-10-python.tar.gz", md5(archive)))
    monkeypatch.setattr(sources, "CIFAR10", source)


@pytest.fixture
def tiny_cifar(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, bytes], bytes]:
    """CIFAR-10 is a tiny dataset now; its files and its archive."""
    blobs = dict(zip(CIFAR_NAMES, [old_pickle(*batch) for batch in cifar_batches()] + [b"names"], strict=True))
    archive = tar_of(blobs)
    as_cifar(blobs, archive, monkeypatch)
    return blobs, archive


def check_cifar(dataset: data.Dataset) -> None:
    batches = cifar_batches()
    images = torch.from_numpy(np.concatenate([x for x, _ in batches])).view(24, 3, 32, 32)
    labels = torch.tensor([n for _, y in batches for n in y])
    assert torch.equal(torch.cat([dataset.train.x, dataset.test.x]), images.to(torch.float32) / 255)
    assert torch.equal(torch.cat([dataset.train.y, dataset.test.y]), labels)
    assert (len(dataset.train), len(dataset.test)) == (20, 4)
    assert dataset.train.y.dtype == torch.int64
    assert dataset.test.name == "cifar10/test"


def test_cifar_is_downloaded_once_and_unpacked(
    tiny_cifar: tuple[dict[str, bytes], bytes], server: Server, tmp_path: Path
) -> None:
    blobs, archive = tiny_cifar
    server.serve("m/cifar-10-python.tar.gz", archive)
    check_cifar(data.cifar10(tmp_path, mirrors=server.at("m")))
    assert left_in(tmp_path) == sorted([*(f"cifar-10-batches-py/{name}" for name in blobs), "cifar-10-python.tar.gz"])
    assert all((tmp_path / "cifar-10-batches-py" / name).read_bytes() == blob for name, blob in blobs.items())
    check_cifar(data.cifar10(tmp_path, mirrors=[]))
    assert server.asked == ["/m/cifar-10-python.tar.gz"]


@pytest.mark.parametrize("how", ["unpacked", "archive", "archive and a half-unpacked folder"])
def test_a_torchvision_download_of_cifar_is_used_as_it_is(
    how: str, tiny_cifar: tuple[dict[str, bytes], bytes], tmp_path: Path
) -> None:
    blobs, archive = tiny_cifar
    if how != "unpacked":
        put(tmp_path, {"cifar-10-python.tar.gz": archive})
    if how == "unpacked":
        put(tmp_path / "cifar-10-batches-py", blobs)
    elif how != "archive":
        put(tmp_path / "cifar-10-batches-py", {"data_batch_1": b"half"})
    before = left_in(tmp_path)
    check_cifar(data.cifar10(tmp_path, download=False))
    assert left_in(tmp_path) == before


def test_offline_cifar_says_which_file_to_put_where(
    tiny_cifar: tuple[dict[str, bytes], bytes], nobody: str, tmp_path: Path
) -> None:
    sentence = (
        f"Without a network, put cifar-10-python.tar.gz into {tmp_path}, "
        "or set SKIPWAY_DATA to the root of a torchvision download."
    )
    with pytest.raises(DataError) as failed:
        data.cifar10(tmp_path, download=False)
    assert str(failed.value) == f"cifar10 is not there. {sentence}"
    with pytest.raises(DataError) as failed:
        data.cifar10(tmp_path, mirrors=nobody)
    assert str(failed.value).endswith(f"\n{sentence}")


@pytest.mark.parametrize("how", ["truncated", "not packed", "without a batch"])
def test_a_bad_cifar_archive_is_named(how: str, tiny_cifar: tuple[dict[str, bytes], bytes], tmp_path: Path) -> None:
    blobs, archive = tiny_cifar
    without = tar_of({name: blob for name, blob in blobs.items() if name != "data_batch_4"})
    bad = {"truncated": archive[:-3000], "not packed": b"<html>", "without a batch": without}[how]
    put(tmp_path, {"cifar-10-python.tar.gz": bad})
    with pytest.raises(DataError) as failed:
        data.cifar10(tmp_path, mirrors=[])
    assert str(failed.value).startswith(f"{tmp_path / 'cifar-10-python.tar.gz'} is truncated or damaged (")
    assert str(failed.value).endswith(AGAIN)


def test_a_damaged_cifar_batch_is_named(tiny_cifar: tuple[dict[str, bytes], bytes], tmp_path: Path) -> None:
    blobs, _ = tiny_cifar
    changed = blobs | {"data_batch_3": blobs["data_batch_3"][:-1]}
    path = put(tmp_path / "a" / "cifar-10-batches-py", changed) / "data_batch_3"
    with pytest.raises(DataError, match=f"^{path} is damaged: the md5 of what it holds is "):
        data.cifar10(tmp_path / "a", mirrors=[])
    path = put(tmp_path / "b", {"cifar-10-python.tar.gz": tar_of(changed)}) / "cifar-10-python.tar.gz"
    with pytest.raises(DataError, match=f"^data_batch_3 in {path} is damaged: the md5 of what it holds is "):
        data.cifar10(tmp_path / "b", mirrors=[])


def test_a_cifar_batch_cannot_run_code(
    tiny_cifar: tuple[dict[str, bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "boom"),)

    blobs = tiny_cifar[0] | {"data_batch_1": pickle.dumps(Bomb(), protocol=2)}
    as_cifar(blobs, b"", monkeypatch)  # even where its md5 is right
    put(tmp_path / "cifar-10-batches-py", blobs)
    with pytest.raises(DataError, match=r"asks for \w+.mkdir, which is not data"):
        data.cifar10(tmp_path, mirrors=[])
    assert not (tmp_path / "boom").exists()


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> data.Dataset:
    return data.mnist(small=True)


def test_the_shipped_digits(small: data.Dataset) -> None:
    for split, part, a_class in ((small.train, "train", 500), (small.test, "test", 100)):
        assert split.x.shape == (10 * a_class, 1, 28, 28)
        assert (split.x.dtype, split.y.dtype) == (torch.float32, torch.int64)
        assert (split.x.min(), split.x.max()) == (0, 1)
        assert split.y.bincount().tolist() == [a_class] * 10
        assert split.y[:20].unique().numel() > 5  # mixed, as in the original: the first n are a fair sample
        assert split.classes == tuple("0123456789")
        assert split.name == f"mnist-small/{part}"


def test_the_shipped_digits_are_digits(small: data.Dataset) -> None:
    train, test = small
    means = torch.stack([train.x[train.y == c].mean(0) for c in range(10)]).flatten(1)
    right = (torch.cdist(test.x.flatten(1), means).argmin(1) == test.y).double().mean()
    assert right > 0.75  # of images and labels that do not belong together, a tenth


def test_the_shipped_file_is_small_and_comes_with_its_licence() -> None:
    asset, licence = ASSETS / "mnist-small.npz", (ASSETS / "LICENSE-mnist.txt").read_text()
    assert asset.stat().st_size < 1_500_000
    for said in (
        "Yann LeCun",
        "Corinna Cortes",
        "CC BY-SA 3.0",
        "The original work has been modified",
        "1. Definitions",
    ):
        assert said in licence


def test_a_damaged_shipped_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = bytearray((ASSETS / "mnist-small.npz").read_bytes())
    blob[300_000] ^= 0xFF
    for name, bad in (("flipped", bytes(blob)), ("cut", bytes(blob[:500_000])), ("gone", None)):
        if bad is not None:
            (tmp_path / name).write_bytes(bad)
        monkeypatch.setattr(data, "_SMALL", tmp_path / name)
        with pytest.raises(DataError, match=f"^{tmp_path / name}, which comes with skipway, is missing or damaged"):
            data.mnist(small=True)


def test_flat_raw_and_normalize(
    small: data.Dataset, tiny_cifar: tuple[dict[str, bytes], bytes], tmp_path: Path
) -> None:
    raw = data.mnist(small=True, raw=True)
    assert raw.train.x.dtype == torch.uint8
    assert raw.train.y.dtype == torch.int64
    assert torch.equal(raw.train.x.to(torch.float32) / 255, small.train.x)
    flat = data.mnist(small=True, flat=True)
    assert torch.equal(flat.test.x, small.test.x.view(1000, 784))
    assert torch.equal(data.mnist(small=True, flat=True, raw=True).test.x, raw.test.x.view(1000, 784))
    normal = data.mnist(small=True, normalize=True)
    assert torch.equal(normal.train.x, (small.train.x - 0.1307) / 0.3081)
    put(tmp_path / "cifar-10-batches-py", tiny_cifar[0])
    plain, normal = data.cifar10(tmp_path), data.cifar10(tmp_path, normalize=True)
    for c, (mean, std) in enumerate(((0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616))):
        assert torch.equal(normal.train.x[:, c], (plain.train.x[:, c] - mean) / std)
    assert torch.equal(data.cifar10(tmp_path, flat=True, normalize=True).test.x, normal.test.x.view(4, 3072))
    with pytest.raises(DataError, match="choose one"):
        data.mnist(small=True, raw=True, normalize=True)


def test_a_dataset_is_a_pair_and_its_memory_is_its_own(small: data.Dataset) -> None:
    assert small == (small.train, small.test)
    changed = data.mnist(small=True)
    changed.train.x.zero_()
    changed.train.y.zero_()
    again = data.mnist(small=True)
    assert torch.equal(again.train.x, small.train.x)
    assert torch.equal(again.train.y, small.train.y)


def test_a_split_is_a_map_dataset(small: data.Dataset) -> None:
    test = small.test
    x, y = test[3]
    assert torch.equal(x, test.x[3])
    assert y == test.y[3]
    for i in (slice(2, 9), [5, 1], torch.tensor([0, 999])):
        x, y = test[i]
        assert torch.equal(x, test.x[i])
        assert torch.equal(y, test.y[i])
    with pytest.raises(IndexError):
        test[1000]
    assert sum(1 for _ in test.take(7)) == 7
    batches = list(DataLoader(test, batch_size=300))
    assert torch.equal(torch.cat([x for x, _ in batches]), test.x)
    assert torch.equal(torch.cat([y for _, y in batches]), test.y)


def test_take_is_the_first_n_without_a_copy(small: data.Dataset) -> None:
    few = small.train.take(32)
    assert torch.equal(few.x, small.train.x[:32])
    assert torch.equal(few.y, small.train.y[:32])
    assert few.x.data_ptr() == small.train.x.data_ptr()
    assert (few.name, few.classes) == (small.train.name, small.train.classes)
    assert len(small.train.take(0)) == 0
    assert len(small.train.take(5000)) == 5000
    for n in (-1, 5001):
        with pytest.raises(DataError, match=f"^mnist-small/train has 5000 examples, and {n} are asked for$"):
            small.train.take(n)


def test_a_split_needs_a_class_for_every_input() -> None:
    with pytest.raises(DataError, match=r"^mine: 3 inputs and 2 classes; every input needs one$"):
        data.Split(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), ("a",), "mine")


def test_a_split_prints_in_one_line(small: data.Dataset) -> None:
    assert repr(small.train) == "Split 'mnist-small/train': 5000 examples, x float32 (1, 28, 28), 10 classes"


# --- by name, and where -----------------------------------------------------------------------------------------------


def test_load_knows_every_name(
    tiny: dict[str, bytes], tiny_cifar: tuple[dict[str, bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "MNIST/raw", tiny)
    put(tmp_path / "FashionMNIST/raw", tiny)
    put(tmp_path / "cifar-10-batches-py", tiny_cifar[0])
    monkeypatch.setenv("SKIPWAY_DATA", str(tmp_path))
    assert data.names() == ("mnist-small", "mnist", "fashion-mnist", "cifar10")
    for name in data.names():
        train, test = data.load(name, flat=True)
        assert (train.name, test.name) == (f"{name}/train", f"{name}/test")
        assert train.x.dim() == 2
    assert data.load("fashion-mnist").train.classes[9] == "Ankle boot"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: data.load("minst"), "no dataset is named 'minst': did you mean 'mnist'?"),
        (lambda: data.load("fashion_mnist"), "no dataset is named 'fashion_mnist': did you mean 'fashion-mnist'?"),
        (
            lambda: data.load("?"),
            "no dataset is named '?': there is 'mnist-small', 'mnist', 'fashion-mnist', 'cifar10'",
        ),
        (lambda: data.load("cifar10", flatten=True), "cifar10 has no option 'flatten': did you mean 'flat'?"),
        (lambda: data.load("cifar10", small=True), "cifar10 has no option 'small': "),
        (lambda: data.load("mnist-small", small=False), "mnist-small has no option 'small': "),
    ],
)
def test_an_unknown_name_or_option_is_told_the_nearest(call: Callable[[], object], said: str) -> None:
    with pytest.raises(DataError) as failed:
        call()
    assert str(failed.value).startswith(said)


def test_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("SKIPWAY_DATA", "~/sets")
    assert data.default_root() == tmp_path / "sets"
    monkeypatch.setenv("SKIPWAY_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert data.default_root() == tmp_path / "xdg" / "skipway"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("SKIPWAY_DATA")
    assert data.default_root() == tmp_path / ".cache" / "skipway"
    with pytest.raises(DataError, match=f"into {tmp_path}/mine/MNIST/raw, or set"):
        data.mnist("~/mine", download=False)


def test_the_tables_say_what_torchvision_says() -> None:
    assert [file.md5 for file in sources.MNIST.files] == [
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ]
    assert [file.md5 for file in sources.FASHION_MNIST.files] == [
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ]
    assert sources.CIFAR10.archive == ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")
    assert len(sources.MNIST.mirrors) == len(sources.FASHION_MNIST.mirrors) == 2


def test_importing_it_imports_nothing_heavy() -> None:
    # torch itself may have brought some of them: they are taken out first, and must not come back.
    code = f"""
import importlib.machinery, sys, types
import torch, numpy
package = types.ModuleType("skipway")
package.__path__ = [{str(ROOT / "src" / "skipway")!r}]
sys.modules["skipway"] = package
heavy = ["rich", "urllib.request", "http.client", "tarfile", "lzma", "gzip", "pickle", "zipfile"]
for name in list(sys.modules):
    if name in heavy or name.startswith("rich."):
        del sys.modules[name]
import skipway.data
print([name for name in heavy if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "[]\n"


# --- the script that makes the shipped file, and the real thing -------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "scripts" / "make_mnist_small.py"
    if not path.exists():
        pytest.skip("scripts/ is not here")
    spec = importlib.util.spec_from_file_location("make_mnist_small", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shipped() -> dict[str, np.ndarray]:
    with np.load(ASSETS / "mnist-small.npz") as stored:
        return dict(stored)


def test_the_script_packs_the_shipped_file_byte_for_byte(script: ModuleType) -> None:
    packed = script.pack(shipped())
    with np.load(io.BytesIO(packed)) as again:
        assert all(np.array_equal(again[name], array) for name, array in shipped().items())
    if "zlib-ng" not in zlib.ZLIB_RUNTIME_VERSION:
        assert packed == (ASSETS / "mnist-small.npz").read_bytes()
    with zipfile.ZipFile(ASSETS / "mnist-small.npz") as z:
        assert {info.date_time for info in z.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_script_draws_every_class_equally_and_once(script: ModuleType) -> None:
    labels = np.random.RandomState(1).randint(0, 10, 3000).astype(np.uint8)
    drawn = script.draw(labels, 50, seed=3)
    assert np.array_equal(drawn, np.unique(drawn))
    assert np.bincount(labels[drawn]).tolist() == [50] * 10
    assert np.array_equal(drawn, script.draw(labels, 50, seed=3))
    assert not np.array_equal(drawn, script.draw(labels, 50, seed=4))


@pytest.fixture(scope="module")
def full_mnist() -> Path:
    """The root of a full MNIST, where SKIPWAY_DATA leads to one."""
    if not os.environ.get("SKIPWAY_DATA") or not (data.default_root() / "MNIST" / "raw").is_dir():
        pytest.skip("needs the full MNIST under SKIPWAY_DATA")
    return data.default_root()


def test_the_script_makes_the_shipped_file(full_mnist: Path, script: ModuleType) -> None:
    made = script.subset(full_mnist / "MNIST" / "raw")
    assert list(made) == list(shipped())
    for name, array in shipped().items():
        assert made[name].dtype == array.dtype
        assert np.array_equal(made[name], array)


def test_the_full_mnist(full_mnist: Path) -> None:
    train, test = data.mnist(download=False, raw=True)
    assert (train.x.shape, test.x.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert train.y.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    pixels = train.x.to(torch.float32) / 255
    assert (round(pixels.mean().item(), 4), round(pixels.std().item(), 4)) == (0.1307, 0.3081)
    for split, part in ((train, "train"), (test, "test")):
        index = torch.from_numpy(shipped()[f"{part}_index"].astype(np.int64))
        assert torch.equal(split.x[index, 0], torch.from_numpy(shipped()[f"{part}_x"]))
        assert torch.equal(split.y[index], torch.from_numpy(shipped()[f"{part}_y"]).to(torch.int64))
