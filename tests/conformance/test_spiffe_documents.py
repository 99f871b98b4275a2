"""The machine-readable documents of SPIFFE: the Workload API as it is spoken here, and the shape of a JWT-SVID."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from spiffe._proto import workload_pb2

from stepgrant.jose import ALGORITHMS

VECTORS = Path(os.environ.get("STEPGRANT_VECTORS", Path(__file__).parents[3] / "shared" / "data" / "vectors"))
FOLDER = VECTORS / "spiffe-spec"

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="no SPIFFE documents: set STEPGRANT_VECTORS to the folder that holds spiffe-spec/"
)


def specified() -> dict[str, dict[str, int]]:
    """The messages of workloadapi.proto: name and number of each field."""
    text = re.sub(r"//.*", "", (FOLDER / "workloadapi.proto").read_text())
    bodies = re.findall(r"^message (\w+) \{(.*?)\}", text, flags=re.MULTILINE | re.DOTALL)
    return {
        name: {field: int(number) for field, number in re.findall(r"(\w+) = (\d+);", body)} for name, body in bodies
    }


def test_every_message_of_the_workload_api_has_the_fields_of_the_specification() -> None:
    """WIT-SVIDs are newer than what carries the bytes here, and are refused wherever they turn up."""
    spoken = workload_pb2.DESCRIPTOR.message_types_by_name
    messages = {name: fields for name, fields in specified().items() if not name.startswith("WIT")}
    assert len(messages) >= 12
    for name, fields in messages.items():
        assert {field.name: field.number for field in spoken[name].fields} == fields, name


def test_the_workload_api_has_the_methods_of_the_specification() -> None:
    text = (FOLDER / "workloadapi.proto").read_text()
    methods = {name for name in re.findall(r"rpc (\w+)\(", text) if "WIT" not in name}
    assert methods == {method.name for method in workload_pb2.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"].methods}


def test_the_algorithms_are_those_of_the_schema_of_a_jwt_svid() -> None:
    schema = (FOLDER / "JWT-SVID.schema").read_text()
    alg = schema[schema.index("alg:") : schema.index("kid:")]
    assert set(re.findall(r'- "(\w+)"', alg)) == ALGORITHMS
