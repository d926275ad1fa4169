"""Files: complete or absent."""

import io

import pytest
import torch
from refusals import refuses

from ssd_annotated.support.files import system_errors, whole


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "new" / "a.json"
    with refuses("Ctrl-C", KeyboardInterrupt), whole(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt("Ctrl-C")
    assert list(path.parent.iterdir()) == []
    with whole(path) as partial:
        partial.write_text("first")
        assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]
    with refuses("disk full", OSError), whole(path) as partial:
        partial.write_text("second")
        raise OSError("disk full")
    assert path.read_text() == "first"
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_a_full_disk_is_not_hidden_by_torch():
    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() + len(data) > 10_000:
                raise OSError(28, "No space left on device")
            return super().write(data)

    with pytest.raises(OSError, match="No space left"), system_errors():
        torch.save({"weights": torch.zeros(10_000)}, Full())
    with pytest.raises(RuntimeError, match="a bug"), system_errors():
        raise RuntimeError("a bug")


@pytest.mark.parametrize("name", ["x" * 251 + ".png", "ä" * 125 + ".png"])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path, name):
    for text in ("before", "after"):
        with whole(tmp_path / name) as partial:
            partial.write_text(text)
            assert partial.suffix == ".png"
        assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, text)]
