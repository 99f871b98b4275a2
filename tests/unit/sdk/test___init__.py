"""`import stepgrant` is cheap: what is heavy is loaded when it is first used."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import stepgrant

HEAVY = ("grpc", "google.protobuf", "cryptography", "jwt", "spiffe", "httpx", "asyncio", "stepgrant.client")
ROOT = Path(__file__).parents[3]


def run(program):
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_importing_stepgrant_loads_nothing_heavy():
    loaded = run(f"import sys, stepgrant; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert loaded.strip() == "[]"


def test_naming_an_error_loads_no_more_than_the_errors():
    loaded = run(f"import sys, stepgrant; stepgrant.Denied; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert loaded.strip() == "[]"


def test_every_public_name_is_there():
    for name in stepgrant.__all__:
        assert getattr(stepgrant, name) is not None, name
    assert set(stepgrant.__all__) <= set(dir(stepgrant))
    assert stepgrant.blocking.tool is stepgrant.tool
    assert stepgrant.testing.ScriptedGateway


def test_public_names_stay_what_they_are_when_submodules_are_loaded():
    assert run("import stepgrant, stepgrant.outgoing.grpc; print(callable(stepgrant.channel))").strip() == "True"


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'tools'"):
        _ = stepgrant.tools
    with pytest.raises(AttributeError):
        _ = stepgrant.InventedError


def test_httpx_is_asked_for_only_where_it_is_used():
    program = "import sys; sys.modules['httpx'] = None\nimport stepgrant\ntry:\n    stepgrant.HttpAuth\n"
    program += "except stepgrant.MisuseError as error:\n    print(error)\nstepgrant.channel\n"
    assert "pip install 'stepgrant[http]'" in run(program)


@pytest.mark.slow
def test_the_distribution_brings_nothing_of_the_gateway(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([*build, str(ROOT / "sdk")], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("stepgrant-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if not name.startswith("stepgrant-")} == {"stepgrant"}
    target = tmp_path / "alone"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # -S: without site-packages' own editable installs, then with its dependencies only.
    program = (
        f"import sys; sys.path[:0] = [{str(target)!r}]\nimport importlib.util\n"
        "print(importlib.util.find_spec('stepgrant_gateway'), importlib.util.find_spec('stepgrant').origin)"
    )
    found = subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.split()[0] == "None"
    assert str(target) in found.stdout
