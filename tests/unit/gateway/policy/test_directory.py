from pathlib import Path

import pytest

from stepgrant_gateway.core.errors import PolicyRefusedError
from stepgrant_gateway.policy import directory
from stepgrant_gateway.policy.directory import directory_digest, read_directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "catalog.yaml").write_text("version: 1")
    (tmp_path / "tools" / "orders.json").write_text("{}")
    (tmp_path / "tests" / "refund.yaml").write_text("[]")
    (tmp_path / "a.cedar").write_text("")
    return tmp_path


def refused(root: Path) -> list[str]:
    with pytest.raises(PolicyRefusedError) as caught:
        read_directory(root)
    return [str(finding) for finding in caught.value.findings]


def test_every_file_that_takes_part_is_read_by_its_relative_name(root: Path):
    (root / "README.md").write_text("for people")
    (root / ".git").mkdir()
    (root / "tools" / ".orders.json.swp").write_text("")
    assert list(read_directory(root)) == ["a.cedar", "catalog.yaml", "tests/refund.yaml", "tools/orders.json"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("catalog.yml", "catalog.yml: does not belong here"),
        ("a.ceder", "a.ceder: does not belong here"),
        ("tools/orders.yaml", "tools/orders.yaml: does not belong here"),
        ("tests/refund.yml", "tests/refund.yml: does not belong here"),
        ("tool", "Did you mean tools?"),
    ],
)
def test_a_file_that_would_silently_not_be_loaded_is_refused(root: Path, name: str, says: str):
    (root / name).write_text("")
    assert says in "\n".join(refused(root))


def test_a_folder_below_tools_is_refused(root: Path):
    (root / "tools" / "old.json").mkdir()
    assert refused(root)[0].startswith("tools/old.json: does not belong here")


@pytest.mark.parametrize("name", ["a.cedar", "tools", "catalog.yaml"])
def test_a_symbolic_link_is_refused_whatever_it_points_at(root: Path, name: str):
    (root / name).rename(root.parent / f"elsewhere-{root.name}")
    (root / name).symlink_to(root.parent / f"elsewhere-{root.name}")
    assert refused(root)[0].startswith(f"{name}: is a symbolic link")


def test_a_directory_without_a_catalog_is_refused(root: Path):
    (root / "catalog.yaml").unlink()
    assert refused(root) == ["catalog.yaml: is missing: a policy directory needs a catalog.yaml."]


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path):
    assert any("cannot be read" in finding for finding in refused(tmp_path / "nowhere"))


def test_files_are_bounded_in_count_and_size(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(directory, "MAX_FILE_BYTES", 4)
    assert "is too large" in "\n".join(refused(root))
    monkeypatch.setattr(directory, "MAX_FILES", 2)
    assert "one file more than the 2" in "\n".join(refused(root))


def test_the_digest_covers_names_and_bytes_and_their_boundaries():
    files = {"a.cedar": b"xy", "b.cedar": b"z"}
    digest = directory_digest(files)
    assert digest.startswith("sha256:")
    assert len(digest) == 71
    assert digest == directory_digest(dict(reversed(files.items())))
    others = [
        {"a.cedar": b"x", "b.cedar": b"yz"},
        {"a.cedar": b"xy", "c.cedar": b"z"},
        {"a.cedar": b"xy"},
    ]
    assert digest not in {directory_digest(other) for other in others}
