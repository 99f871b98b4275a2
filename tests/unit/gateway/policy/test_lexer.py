import pytest

from stepgrant_gateway.policy.lexer import split

ONE = '@id("a")\npermit (principal, action, resource);'


def test_policies_are_cut_at_their_semicolons_and_know_their_lines():
    text = f"// first ; a comment\n\n{ONE}\n\n  // another\n{ONE} {ONE}\n"
    pieces, findings = split("a.cedar", text)
    assert findings == ()
    assert [(piece.line, piece.text) for piece in pieces] == [(3, ONE), (7, ONE), (8, ONE)]


@pytest.mark.parametrize(
    "text",
    [
        'permit (principal, action, resource) when { "a;b" == "c" };',
        'permit (principal, action, resource) when { "a\\";b" == "//" };',
        'permit (principal, action, resource) // no ; here\nwhen { "\n;" == "\\\\" };',
    ],
)
def test_a_semicolon_in_a_string_or_a_comment_ends_nothing(text: str):
    pieces, findings = split("a.cedar", text)
    assert findings == ()
    assert [piece.text for piece in pieces] == [text]


def test_a_quote_in_a_comment_opens_no_string():
    pieces, findings = split("a.cedar", f'// it\'s " here\n{ONE}\n// and "\n')
    assert findings == ()
    assert len(pieces) == 1


def test_an_unfinished_policy_is_found_at_its_first_line():
    pieces, findings = split("a.cedar", f"{ONE}\n\npermit (principal,\n action)")
    assert len(pieces) == 1
    assert [str(finding) for finding in findings] == ["a.cedar:4: This policy does not end with `;`."]


def test_an_unfinished_string_is_found_at_the_first_line_of_its_policy():
    _, findings = split("a.cedar", f'{ONE}\n// c\nforbid (principal, action, resource)\nwhen {{ "a == 1 }};')
    assert [str(finding) for finding in findings] == ["a.cedar:4: A string in this policy is never closed."]


def test_an_empty_file_has_no_policies():
    assert split("a.cedar", " // nothing\n\n") == ((), ())
