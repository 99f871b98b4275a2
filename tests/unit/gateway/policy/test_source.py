import shutil
from pathlib import Path

import pytest

from stepgrant_gateway.core.errors import PolicyRefusedError
from stepgrant_gateway.policy.source import DirectorySource
from tests.kit.policy import SUPPORT, opening


def test_each_load_is_of_what_the_directory_holds_then(tmp_path: Path):
    directory = shutil.copytree(SUPPORT, tmp_path / "policy")
    source = DirectorySource(directory)
    first = source.load()
    (directory / "more.cedar").write_text('@id("shut") forbid (principal, action == Action::"task.open", resource);')
    with pytest.raises(PolicyRefusedError, match="expected granted"):
        source.load()  # the golden cases say otherwise
    shutil.rmtree(directory / "tests")
    second = source.load()
    assert first.digest != second.digest
    assert type(first.evaluate(opening())).__name__ == "Permitted"
    assert type(second.evaluate(opening())).__name__ == "Refused"
