"""Files: complete or absent."""

from refusals import refuses

from ssd_annotated.support.files import whole


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
