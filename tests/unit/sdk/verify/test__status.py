"""Refusals on the wire."""

import grpc
import pytest

from stepgrant.errors import Refusal, RefusalCode
from stepgrant.verify._status import ANSWERS, MAX_DETAILS, details


@pytest.mark.parametrize("code", list(RefusalCode))
def test_each_refusal_has_its_answer_and_none_is_a_success(code):
    name, status = ANSWERS[code].value
    assert grpc.StatusCode[name] is not grpc.StatusCode.OK
    assert status >= 400


def test_details_say_code_reason_and_what_to_do_within_bounds():
    assert details(Refusal(RefusalCode.TOOL, "Because.", "Do this.")) == "tool: Because. Do this."
    assert len(details(Refusal(RefusalCode.TOOL, "x" * 5000))) == MAX_DETAILS
