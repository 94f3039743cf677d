"""Which files of a directory are found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runai_model_streamer import list_safetensors, pull_files
from tests.support.servers.listing import serve_directory


def test_a_sorted_list_of_folder_and_name_not_below(folder: Path) -> None:
    found = list_safetensors(str(folder))
    assert type(found) is list
    assert all(type(path) is str for path in found)
    assert found == [os.path.join(str(folder), f"model-{i}.safetensors") for i in (1, 2)]
    found.sort()  # SGLang does


def test_nothing_found_is_an_empty_list(tmp_path: Path) -> None:
    assert list_safetensors(str(tmp_path)) == []


@pytest.mark.parametrize("suffix", ["", "/"])
def test_the_folder_stays_as_it_was_given(folder: Path, suffix: str, monkeypatch) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "link").unlink(missing_ok=True)
    (folder.parent / "link").symlink_to(folder)
    for given in (folder.name, f"../{folder.parent.name}/{folder.name}", "./link"):
        expected = [os.path.join(given + suffix, f"model-{i}.safetensors") for i in (1, 2)]
        assert list_safetensors(given + suffix) == expected


def test_folders_with_pattern_characters(folder: Path) -> None:
    odd = folder.parent / "a[1]*?"
    folder.rename(odd)
    assert len(list_safetensors(str(odd))) == 2


def test_pulling_from_a_local_path_is_not_implemented(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError):
        pull_files(str(folder), str(tmp_path / "dst"), None, None)
    assert not (tmp_path / "dst").exists()


def test_nothing_at_a_remote_path_is_told(tmp_path: Path, caplog) -> None:
    (tmp_path / "empty").mkdir()
    with serve_directory(tmp_path) as url:
        assert list_safetensors(f"{url}/empty/") == []
        pull_files(f"{url}/empty/", str(tmp_path / "copy"))
    listed, pulled = [one.message for one in caplog.records if one.levelname == "WARNING"]
    assert listed == f"{url}/empty/: there are no objects. Check the path"
    assert f"{url}/empty/: no object below it matches, nothing was copied" in pulled
