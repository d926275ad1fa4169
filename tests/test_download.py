"""Downloads of PASCAL VOC from a local server: failures are reported and leave nothing behind."""

import hashlib
import io
import os
import tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from refusals import refuses
from torchvision.datasets.voc import DATASET_YEAR_DICT
from voc_files import CAT, DOG, object_xml, write

from ssd_annotated.data.voc import VOCFolder, download_voc, unpacking_stays_inside

SETS = {"trainval": {"train": "a", "val": "b", "trainval": "a\nb"}, "test": {"test": "c"}}


class Server(ThreadingHTTPServer):
    """Serves `files`, by path; `sent` says how much of each body to send before hanging up."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.sent = 1.0
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        body = self.answer()
        self.wfile.write(body[: int(len(body) * self.server.sent)])

    def answer(self) -> bytes:
        body = self.server.files.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        return body or b""

    def log_message(self, *_):
        pass


def archive(folder: Path, year: str, sets: dict[str, str]) -> bytes:
    """A tiny archive in the layout of VOC's; images of all the sets."""
    root = folder / "VOCdevkit" / f"VOC{year}"
    for name in sorted({name for names in sets.values() for name in names.split()}):
        write(root, name, object_xml(*CAT), object_xml(*DOG), suffix=".jpg")
    (root / "ImageSets/Main/train.txt").unlink()
    for image_set, names in sets.items():
        (root / f"ImageSets/Main/{image_set}.txt").write_text(names + "\n")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        # As in the real ones: the lists come before the images.
        for part in ("Annotations", "ImageSets", "JPEGImages"):
            tar.add(root / part, f"VOCdevkit/VOC{year}/{part}")
    return packed.getvalue()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of tiny archives under the names of the real ones, and their checksums."""
    server = Server()
    for key in ("2007", "2007-test", "2012"):
        entry = DATASET_YEAR_DICT[key]
        sets = SETS["test" if key.endswith("test") else "trainval"]
        body = archive(tmp_path / "made" / key, key[:4], sets)
        server.files[f"/{entry['filename']}"] = body
        url, md5 = f"{server.address}/{entry['filename']}", hashlib.md5(body).hexdigest()
        monkeypatch.setitem(DATASET_YEAR_DICT, key, entry | {"url": url, "md5": md5})
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


NAME = "/VOCtrainval_06-Nov-2007.tar"


def works(root: Path) -> None:
    home = download_voc(root)
    assert home == root / "VOCdevkit/VOC2007"
    dataset = VOCFolder([(home, "trainval")])
    dataset.verify()
    assert dataset.report() == "images: 2, objects: 4, problems: 0"
    assert [file.name for file in root.iterdir()] == ["VOCdevkit"]  # the archive is gone


@pytest.mark.usefixtures("server")
def test_what_is_downloaded_is_a_folder_in_vocs_layout(tmp_path, capsys):
    works(tmp_path / "new/data")
    shown = capsys.readouterr()
    assert "100%" in shown.err
    assert not shown.out


@pytest.mark.usefixtures("server")
def test_sets_and_years_lie_side_by_side(tmp_path):
    assert download_voc(tmp_path / "data", "2007", "test") == download_voc(tmp_path / "data")
    other = download_voc(str(tmp_path / "data"), "2012", "train")
    assert other == tmp_path / "data/VOCdevkit/VOC2012"
    home = tmp_path / "data/VOCdevkit/VOC2007"
    dataset = VOCFolder([(home, "trainval"), (home, "test"), (other, "trainval")])
    assert [record.image.stem for record in dataset.records] == ["a", "b", "c", "a", "b"]


def test_what_is_there_is_not_downloaded_again(server, tmp_path):
    home = download_voc(tmp_path / "data")
    server.asked.clear()
    for image_set in ("trainval", "train", "val"):
        assert download_voc(tmp_path / "data", image_set=image_set) == home
    assert server.asked == []
    download_voc(tmp_path / "data", image_set="test")
    assert set(server.asked) == {"/VOCtest_06-Nov-2007.tar"}


def lost(server):
    server.files.clear()


def half(server):
    server.sent = 0.5


def nothing(server):
    server.sent = 0


def another(server):
    server.files[NAME] = server.files[NAME][::-1]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lost, "HTTP Error 404: Not Found"),
        (half, "broken off or changed on the way"),
        (nothing, "broken off or changed on the way"),
        (another, "broken off or changed on the way"),
    ],
)
def test_a_broken_download_is_an_error_and_leaves_nothing(server, tmp_path, spoil, message):
    body = server.files[NAME]
    spoil(server)
    with pytest.raises(OSError, match=rf"cannot download {server.address}{NAME}: {message}") as e:
        download_voc(tmp_path / "data")
    assert f". Try again, or download it by other means and unpack it in {tmp_path}" in str(e.value)
    assert list((tmp_path / "data").iterdir()) == []
    server.files[NAME], server.sent = body, 1.0
    works(tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "link"),
    [("../../../evil.txt", None), ("VOCdevkit/evil", "/etc"), ("VOCdevkit/evil", "../../..")],
)
def test_an_archive_that_reaches_out_of_its_folder_is_refused(
    server, tmp_path, monkeypatch, name, link
):
    # Its checksum is right, as if the server and the list of checksums were both another's.
    packed, member = io.BytesIO(), tarfile.TarInfo(name)
    member.type, member.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(member)
    server.files[NAME] = packed.getvalue()
    md5 = hashlib.md5(packed.getvalue()).hexdigest()
    monkeypatch.setitem(DATASET_YEAR_DICT, "2007", DATASET_YEAR_DICT["2007"] | {"md5": md5})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match=r"cannot download .*(outside the destination|absolute path)"):
        download_voc(tmp_path / "data")
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "data"])


def test_an_old_torchvision_and_an_old_python_unpack_nothing_outside(tmp_path, monkeypatch):
    usual, packed = tarfile.TarFile.extraction_filter, tmp_path / "packed.tar"
    with tarfile.open(packed, "w") as tar:
        tar.addfile(tarfile.TarInfo("../evil.txt"))
    with (
        unpacking_stays_inside(),
        tarfile.open(packed) as tar,
        pytest.raises(tarfile.OutsideDestinationError),
    ):
        tar.extractall(tmp_path / "inside")  # as torchvision 0.25 does
    assert tarfile.TarFile.extraction_filter is usual
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(OSError, match=r"Python 3\.11\.4"), unpacking_stays_inside():
        pass


def test_the_address_is_that_of_the_set(server, tmp_path):
    server.files.clear()
    with pytest.raises(OSError, match=f"{server.address}/VOCtest_06-Nov-2007.tar: HTTP Error 404"):
        download_voc(tmp_path, image_set="test")


@pytest.mark.usefixtures("server")
def test_what_a_killed_process_left_is_overwritten(tmp_path):
    scratch = tmp_path / "data/VOC2007-trainval.download"
    (scratch / "VOCdevkit/VOC2007/JPEGImages").mkdir(parents=True)
    (scratch / NAME[1:]).write_bytes(b"half an archive")
    (scratch / "VOCdevkit/VOC2007/JPEGImages/a.jpg").write_bytes(b"half an image")
    works(tmp_path / "data")


def test_without_a_server_the_address_is_named(tmp_path, monkeypatch):
    closed = Server()
    closed.server_close()
    entry = DATASET_YEAR_DICT["2012"] | {"url": f"{closed.address}/x.tar"}
    monkeypatch.setitem(DATASET_YEAR_DICT, "2012", entry)
    with pytest.raises(OSError, match=rf"cannot download {closed.address}/x\.tar: .*refused"):
        download_voc(tmp_path, "2012")


def test_an_archive_that_ends_early_leaves_nothing(server, tmp_path, monkeypatch):
    """The checksum is right, and unpacking fails half-way, as it does on a full disk."""
    whole, entry = server.files[NAME], DATASET_YEAR_DICT["2007"]
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        server.files[NAME] = whole[: tar.getmembers()[-1].offset_data + 100]
    with monkeypatch.context() as patch:
        md5 = hashlib.md5(server.files[NAME]).hexdigest()
        patch.setitem(DATASET_YEAR_DICT, "2007", entry | {"md5": md5})
        with pytest.raises(OSError, match=f"cannot download .*{NAME}: unexpected end of data"):
            download_voc(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []
    server.files[NAME] = whole
    works(tmp_path / "data")


@pytest.mark.usefixtures("server")
def test_a_set_is_listed_only_when_it_is_complete(tmp_path, monkeypatch):
    """A folder does not pass as complete if the run stops while files move into place."""
    moves = []
    monkeypatch.setattr(os, "replace", lambda old, new: moves.append((old, new)) or old.rename(new))
    works(tmp_path / "all")
    for stop in range(len(moves)):
        root = tmp_path / f"stopped at {stop}"
        done = iter(range(stop))

        def replace(old, new, done=done):
            if next(done, None) is None:
                raise KeyboardInterrupt
            old.rename(new)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            with pytest.raises(KeyboardInterrupt):
                download_voc(root)
        for listing in root.glob("VOCdevkit/VOC2007/ImageSets/Main/*.txt"):
            VOCFolder([(root / "VOCdevkit/VOC2007", listing.stem)]).verify()
        works(root)


@pytest.mark.parametrize(
    ("year", "image_set"), [("2012", "test"), ("2010", "train"), ("2007", "x")]
)
def test_unknown_sets_are_named(tmp_path, year, image_set):
    with refuses(f"no image set '{image_set}' of VOC '{year}'; there are 2007: train, val, trainv"):
        download_voc(tmp_path, year, image_set)
