"""Bounds of the gRPC face: what is refused before it costs anything."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from stepgrant_gateway.core.buckets import Rate

MAX_MESSAGE_BYTES: Final = 256 * 1024
"""One message: 64 KiB of arguments, an envelope, and room for escapes in both."""
MAX_METADATA_BYTES: Final = 16 * 1024
"""Metadata of one call. A grant takes at most 4 KiB; nothing that the gateway reads takes more."""
SPARE_STREAMS: Final = 256
"""Short calls that one connection may have open beside all its task streams and subscriptions."""
MAX_CONNECTIONS: Final = 16_384
"""Of everybody together: one for each identity that is counted apart. Who comes then is not answered."""
MAX_TEXT: Final = 1024
"""Characters of a purpose or a reason."""
MAX_ERROR_CLASS: Final = 256
MAX_INSTANCE_KEY_BYTES: Final = 256
SIGNATURE_BYTES: Final = 64
DIGEST_BYTES: Final = 32
NONCE_BYTES: Final = 32
RESUME_TOKEN_BYTES: Final = 32
MAX_ID: Final = 2048
"""Characters of a SPIFFE ID, an audience or a target."""
MAX_TOOL: Final = 256
MAX_ENVELOPE_TOOLS: Final = 32
MAX_ENVELOPE_ARGUMENTS: Final = 64
MAX_CONSTRAINT_BYTES: Final = 8 * 1024
MAX_DECIMAL: Final = 32
MAX_AUDIENCES: Final = 64
MAX_WANTED_TTL: Final = timedelta(days=1)
"""No tier gives more than a minute; a day keeps the arithmetic far from overflow."""
MAX_WAITING: Final = 64
"""Requests of one stream that wait for an answer; a further Declare or Renew is denied as `overloaded`."""
MAX_OUTBOX: Final = 1024
"""Messages that wait for a slow agent; one more ends the stream."""
MAX_LISTED_TASKS: Final = 10_000
MAX_LISTED_FINDINGS: Final = 256
OPEN_WITHIN: Final = timedelta(seconds=10)
"""From Challenge to Open. An agent answers in a round trip; a stream without a task must not stay."""
RETRY_AFTER: Final = timedelta(milliseconds=50)
"""When an overloaded stream may try again: a few commits of the ledger later."""

AT_ONCE: Final = 32
"""Declares and renewals of one identity that are worked on at once: as many as fill a group of the ledger's."""
STANDS_BACK: Final = timedelta(milliseconds=50)
"""How long at most a stream is not read that was told when to come back, and asks again before: its reports wait as well."""
AT_WORK: Final = timedelta(seconds=1)
"""For how long after its last Declare an identity counts among those that share."""
MAX_IDENTITIES: Final = 16_384
"""Identities whose askings are counted apart, per errand; further ones share one bucket."""
DECLARE_RATE: Final = Rate(per_second=200, burst=1_000)
"""Declares and renewals of one identity, over all its streams: several times what an agent with a model in it does."""
OPEN_RATE: Final = Rate(per_second=50, burst=500)
"""Streams, each of which brings a task: a signature to check, a decision and a record."""
ASSIGN_RATE: Final = Rate(per_second=50, burst=500)
"""Assignments and withdrawals of one dispatcher: each is a decision and a record, like the opening that it is for."""
ENFORCE_RATE: Final = Rate(per_second=1_000, burst=5_000)
"""Redemptions and attestations: one resource serves many agents, and each of its calls may need both."""
WATCH_RATE: Final = Rate(per_second=10, burst=100)
"""Subscriptions, each of which gets a snapshot of all that is revoked."""
OPERATE_RATE: Final = Rate(per_second=20, burst=200)
LOCK_RATE: Final = Rate(per_second=20, burst=200)
MAX_TASKS_PER_IDENTITY: Final = 2_000
"""Open task streams of one identity: a tenth of what the gateway holds."""
MAX_WATCHES_PER_IDENTITY: Final = 64
"""Subscriptions of one identity: the replicas of one resource."""
MAX_TAILS_PER_IDENTITY: Final = 16
"""Open tails of the ledger of one operator: each reads the file, and holds what its reader has not taken yet."""
PLACE_RETRY_AFTER: Final = timedelta(seconds=1)
"""When to look for a free place: they come free as calls end, which nobody can foretell."""
