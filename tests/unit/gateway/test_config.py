"""gateway.toml: what is read, what is refused, and where."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest

from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant_gateway.config import SECTIONS, key_lines, load_config, parse_config
from stepgrant_gateway.core.errors import ConfigError

FILE = Path("conf/gateway.toml")
GOOD = """\
[gateway]
issuer = "spiffe://acme.org/stepgrant"
listen = "127.0.0.1:8443"
policy = "policy"

[identity]
source = "workload_api"

[ledger]
path = "ledger.db"

[inputs]
recipients = ["auditor.pem"]
"""


def parsed(text: str):
    return parse_config(text.encode(), FILE)


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as error:
        parsed(text)
    return str(error.value)


def test_a_complete_file_is_read_with_paths_relative_to_it():
    config = parsed(GOOD)

    assert str(config.gateway.issuer) == "spiffe://acme.org/stepgrant"
    assert (config.gateway.listen.host, config.gateway.listen.port) == ("127.0.0.1", 8443)
    assert config.gateway.policy == Path("conf/policy")
    assert config.ledger.path == Path("conf/ledger.db")
    assert config.inputs.recipients == (Path("conf/auditor.pem"),)
    assert config.inputs.keep_days == timedelta(days=90)
    assert config.insecure == ()


def test_nobody_operates_by_default_and_whoever_is_listed_does():
    assert parsed(GOOD).gateway.operators == frozenset()

    listed = parsed(
        GOOD.replace('policy = "policy"', 'policy = "policy"\noperators = ["spiffe://acme.org/operator/jo"]')
    )
    assert listed.gateway.operators == {parse_spiffe_id("spiffe://acme.org/operator/jo")}


@pytest.mark.parametrize("missing", ["issuer", "listen", "policy", "source"])
def test_a_setting_without_a_default_must_be_set(missing):
    """INV-13: unset = refuse to start."""
    text = "\n".join(line for line in GOOD.splitlines() if not line.startswith(missing))

    assert "is not set" in refused(text)
    assert missing in refused(text)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ('[ledger]\npath = "ledger.db"\n', "say where decisions are recorded"),
        ('[inputs]\nrecipients = ["auditor.pem"]\n', "say what becomes of decision inputs"),
    ],
    ids=["ledger", "inputs"],
)
def test_what_secures_is_never_guessed(section, said):
    """INV-13: where decisions are recorded and who can read their inputs is the operator's choice, in writing."""
    assert said in refused(GOOD.replace(section, ""))


def test_choosing_both_is_no_choice():
    assert "not both" in refused(GOOD.replace('path = "ledger.db"', 'path = "ledger.db"\ninsecure_memory = true'))
    assert "not both" in refused(GOOD + "discard = true\n")


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "[::1]:1", "localhost:1"])
def test_an_insecure_choice_is_named_and_allowed_on_loopback(listen):
    """INV-13: insecure choices are named insecure_*, and the configuration says which were made."""
    text = GOOD.replace('path = "ledger.db"', "insecure_memory = true").replace("127.0.0.1:8443", listen)

    assert parsed(text).insecure == ("ledger.insecure_memory",)


@pytest.mark.parametrize("listen", ["0.0.0.0:8443", "[::]:8443", "10.0.0.1:8443", "gateway.acme.org:8443"])
def test_an_insecure_choice_is_refused_where_others_can_connect(listen):
    """INV-13: insecure choices refuse addresses other than loopback."""
    text = GOOD.replace('path = "ledger.db"', "insecure_memory = true").replace("127.0.0.1:8443", listen)

    assert "listens on loopback only" in refused(text)


@pytest.mark.parametrize(
    ("text", "where", "nearest"),
    [
        (GOOD.replace("issuer", "isuer"), ":2: gateway.isuer", "issuer"),
        (GOOD.replace("[inputs]", "[input]"), ":12: input", "inputs"),
        (
            GOOD.replace("[ledger]\n", "[ledger]\n# a comment\ninsecure_memry = true\n"),
            ":11: ledger.insecure_memry",
            "insecure_memory",
        ),
    ],
    ids=["setting", "section", "after a comment"],
)
def test_an_unknown_key_is_an_error_with_its_line_and_the_nearest_name(text, where, nearest):
    said = refused(text)

    assert where in said
    assert f"did you mean {nearest}?" in said


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"spiffe://acme.org/stepgrant"', '"acme.org/stepgrant"'),
        ('"spiffe://acme.org/stepgrant"', '"spiffe://acme.org"'),
        ('"spiffe://acme.org/stepgrant"', "7"),
        ('"127.0.0.1:8443"', '"127.0.0.1"'),
        ('"127.0.0.1:8443"', '"127.0.0.1:70000"'),
        ('"127.0.0.1:8443"', '":8443"'),
        ('"workload_api"', '"vault"'),
        ('"workload_api"', '"workload_api"\nchain = "chain.pem"'),
        ('"workload_api"', '"files"'),
        ('"files"', '"files"'),
        ('["auditor.pem"]', "[]"),
        ('["auditor.pem"]', '["auditor.pem"]\nkeep_days = 0'),
        ('["auditor.pem"]', '["auditor.pem"]\nkeep_days = true'),
        ('path = "ledger.db"', "insecure_memory = 1"),
        ('policy = "policy"', 'policy = "policy"\noperators = "spiffe://acme.org/jo"'),
        ("[ledger]\n", "ledger = 1\n[[ledger.x]]\n"),
    ],
)
def test_a_value_that_is_not_what_it_must_be_is_refused_with_file_and_key(old, new):
    if old == '"files"':
        text = GOOD.replace(
            '"workload_api"', '"files"\nchain="c"\nkey="k"\nbundle="b"\nsocket="unix:/s"\ntrust_domain="t"'
        )
    else:
        text = GOOD.replace(old, new)

    assert "conf/gateway.toml" in refused(text)


def test_identity_from_files_names_each_of_them():
    files = 'source = "files"\nchain = "c.pem"\nkey = "k.pem"\nbundle = "b.pem"\ntrust_domain = "acme.org"\n'
    federated = 'federated = {"other.org" = "o.pem"}\n'

    config = parsed(GOOD.replace('source = "workload_api"\n', files + federated))

    assert config.identity.chain == Path("conf/c.pem")
    assert config.identity.federated == {"other.org": Path("conf/o.pem")}


def test_federated_files_are_for_files_and_never_for_the_own_trust_domain():
    """INV-13: what would be passed over, or take the place of something else, is refused."""
    assert "identity.federated: is for source" in refused(
        GOOD.replace('source = "workload_api"\n', 'source = "workload_api"\nfederated = {"other.org" = "o.pem"}\n')
    )
    files = 'source = "files"\nchain = "c.pem"\nkey = "k.pem"\nbundle = "b.pem"\ntrust_domain = "acme.org"\n'
    own = 'federated = {"acme.org" = "o.pem"}\n'
    assert "acme.org is the own trust domain" in refused(GOOD.replace('source = "workload_api"\n', files + own))


def test_what_is_not_toml_is_refused():
    assert "is not TOML" in refused("[gateway\n")


def test_a_file_that_is_not_there_says_how_to_name_it(tmp_path):
    with pytest.raises(ConfigError, match="--config"):
        load_config(tmp_path / "gateway.toml")


def test_a_file_without_end_is_not_read(tmp_path):
    file = tmp_path / "gateway.toml"
    file.write_text("#" * (257 * 1024))

    with pytest.raises(ConfigError, match="takes more than"):
        load_config(file)


def test_every_setting_says_what_it_is():
    for section in SECTIONS.values():
        for setting in fields(section):
            assert setting.metadata["doc"].endswith("."), setting.name


def test_lines_of_keys_are_found_in_tables_and_dotted_keys():
    lines = key_lines('a = 1\n[b]\nc = 2\n  [b."d"]\ne.f = 3\n')

    assert lines == {"a": 1, "b": 2, "b.c": 3, "b.d": 4, "b.d.e.f": 5}


def test_what_one_workload_may_ask_has_defaults_and_can_be_set():
    assert (parsed(GOOD).limits.declares_per_second, parsed(GOOD).limits.open_tasks) == (200, 2_000)
    assert parsed(GOOD + "[limits]\nopens_per_second = 7\n").limits.opens_per_second == 7
    assert parsed(GOOD + "[limits]\nlinger_seconds = 0\n").limits.linger_seconds == 0


@pytest.mark.parametrize("value", ["0", "-1", "true", '"9"', "1.5", "100001"])
def test_a_limit_that_lets_nobody_or_everybody_through_is_refused_with_its_line(value):
    """INV-13: no value of a limit switches it off."""
    assert "gateway.toml:15: limits.open_tasks: a whole number" in refused(f"{GOOD}[limits]\nopen_tasks = {value}\n")


def test_metrics_are_served_to_this_machine_only_unless_that_is_said():
    """INV-13: plain HTTP, to whoever can connect, does not leave the machine by an oversight."""
    assert parsed(GOOD).metrics.address is None
    assert str(parsed(GOOD + '[metrics]\naddress = "[::1]:9464"\n').metrics.address) == "[::1]:9464"
    assert "conf/gateway.toml:15: metrics.address" in refused(GOOD + '[metrics]\naddress = "0.0.0.0:9464"\n')

    said = parsed(GOOD + '[metrics]\naddress = "0.0.0.0:9464"\ninsecure_anywhere = true\n')
    assert said.insecure == ("metrics.insecure_anywhere",)
