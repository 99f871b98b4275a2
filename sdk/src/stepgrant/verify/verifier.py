"""The verification of a grant: one function of numbered steps (design 4). It returns the verified call or raises."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from stepgrant.calls import Call
from stepgrant.compact import JwsHeaderError, JwsMalformedError, JwsSignatureError
from stepgrant.dpop import ReplayCache, verify_proof
from stepgrant.errors import (
    ArgumentsInvalidError,
    GrantRefusedError,
    InvalidIdError,
    InvalidInputError,
    MisuseError,
    RefusalCode,
)
from stepgrant.grant import GRANT_TYPE, LEEWAY, MAX_CHAIN, MAX_GRANT_BYTES, Binding, GrantClaims, from_payload
from stepgrant.ids import parse_ulid
from stepgrant.intent import Json, digest
from stepgrant.jws import parse_jws, verify_jws
from stepgrant.spiffe.ids import SpiffeId, parse_spiffe_id
from stepgrant.subject import SubjectId
from stepgrant.target import fill_target
from stepgrant.verify.feed import TrustedFeed
from stepgrant.verify.keys import issuer_instance

_HEADER: Final = frozenset({"alg", "kid", "typ"})
_DECLARE: Final = "Declare a step for this very call and use its grant."
_OWN: Final = "A grant is good only for the workload and instance that declared the step."


@dataclass(frozen=True, slots=True)
class Expected:
    """What a verifier is configured with: whose grants it takes, and for which audience. Neither has a default."""

    issuer: SpiffeId
    audience: str

    @classmethod
    def of(cls, issuer: str | None, audience: str | None) -> Expected:
        """The checked configuration.

        Raises:
            MisuseError: one of them is unset, or the issuer is no SPIFFE ID (INV-13).
        """
        if not issuer or not audience:
            raise MisuseError("a verifier needs the issuer (the gateway's SPIFFE ID) and its own audience; set both")
        try:
            return cls(parse_spiffe_id(issuer, what="the issuer"), audience)
        except InvalidIdError as error:
            raise MisuseError(str(error)) from error


@dataclass(frozen=True, slots=True)
class TlsHolder:
    """The call came over TLS with this client certificate, verified as X.509-SVID: its ID and its SHA-256 (32 bytes)."""

    spiffe_id: SpiffeId
    certificate_sha256: bytes


@dataclass(frozen=True, slots=True)
class DpopHolder:
    """The call came with this DPoP proof; `htm` and `htu` are of the call as this resource sees it."""

    proof: str = field(repr=False)
    htm: str
    htu: str


Holder = TlsHolder | DpopHolder


@dataclass(frozen=True, slots=True)
class VerifiedCall:
    """A call that a live grant covers. Handlers take tool and arguments from here and nowhere else (INV-10)."""

    tool: str
    arguments: Mapping[str, Json] = field(repr=False)
    target: str
    claims: GrantClaims
    issuer_instance: str

    @property
    def chain(self) -> tuple[str, ...]:
        """SPIFFE IDs of the workloads that the task came through, from the one that opened it to the caller, who is last."""
        return self.claims.chain

    @property
    def on_behalf_of(self) -> SubjectId | None:
        """The user on whose behalf the caller's task runs, proven to the gateway by an OIDC token; None = nobody's."""
        return self.claims.on_behalf_of


def verify_grant(
    token: str,
    call: Call,
    holder: Holder,
    *,
    expected: Expected,
    feed: TrustedFeed,
    replay: ReplayCache,
    now: datetime,
    monotonic: timedelta,
) -> VerifiedCall:
    """The verified call, if `token` is a live grant for exactly this call by exactly this holder (INV-08).

    Uses are not taken here: when `claims.must_be_redeemed`, the caller redeems before it acts.

    Raises:
        GrantRefusedError: the first step that failed, why, and what to do.
    """
    # 1. Size and shape; 2. header: ES256, our type, and nothing but alg, kid and typ (RFC 7515; RFC 8725, 3.1 and 3.11).
    try:
        jws = parse_jws(token, typ=GRANT_TYPE, members=_HEADER, max_bytes=MAX_GRANT_BYTES)
    except JwsMalformedError as error:
        raise GrantRefusedError(RefusalCode.GRANT_MALFORMED, f"the grant is not a token: {error}.", _DECLARE) from error
    except JwsHeaderError as error:
        raise GrantRefusedError(RefusalCode.GRANT_HEADER, f"this token is no grant: {error}.", _DECLARE) from error
    # 3. A key that the gateway's SVID vouches for, known by its id only (RFC 8725, 3.8).
    kid = jws.header["kid"]
    instance = issuer_instance(kid) if isinstance(kid, str) else None
    if instance is None:
        raise GrantRefusedError(RefusalCode.GRANT_HEADER, "the grant's `kid` is not a key id.", _DECLARE)
    key = feed.key(kid, now)
    if key is None:
        feed.view.refuse_lost()  # While the feed is away no key is known, and that is not the grant's fault.
        raise GrantRefusedError(RefusalCode.UNKNOWN_KEY, "no gateway vouches for the key of this grant.", _DECLARE)
    # 4. The signature.
    try:
        payload = verify_jws(jws, key.public_key)
    except JwsSignatureError as error:
        raise GrantRefusedError(RefusalCode.SIGNATURE, f"the grant is not genuine: {error}.", _DECLARE) from error
    # 5. The claims: each there, each of its type, none else, `ver`; then whose, and for whom, compared whole.
    claims = from_payload(payload)
    _check_ids(claims)
    if claims.issuer != str(expected.issuer):
        raise GrantRefusedError(RefusalCode.ISSUER, "the grant is of another installation's gateway.", _DECLARE)
    if claims.audience != expected.audience:
        raise GrantRefusedError(RefusalCode.AUDIENCE, "the grant is for another resource than this one.", _DECLARE)
    # 6. The chain: how the task came to whoever calls, in the one form that hand-offs give it (design 4).
    _check_chain(claims)
    # 7. The times. `exp` has no leeway, and the later of both clocks counts.
    _check_times(claims, now, feed.view.gateway_time(monotonic))
    # 8. The holder: the proof that this audience asks for, and no other.
    audience = feed.view.audience(expected.audience)
    if audience is None:
        raise GrantRefusedError(
            RefusalCode.FEED_STALE, "the catalog of this resource is not known.", "Try again in a moment."
        )
    if claims.binding is not audience.binding:
        raise GrantRefusedError(
            RefusalCode.HOLDER, "the grant is bound in another way than this resource asks for.", _OWN
        )
    _check_holder(claims, holder, token, replay, now)
    # 9. The call at hand: tool, its digest, the target that follows, the arguments.
    if call.tool != claims.tool:
        raise GrantRefusedError(RefusalCode.TOOL, f"the grant is for another tool than {call.tool}.", _DECLARE)
    tool = audience.tools.get(call.tool)
    if tool is None:
        raise GrantRefusedError(RefusalCode.TOOL, f"{call.tool} is not a tool of this resource.", _DECLARE)
    if not hmac.compare_digest(tool.digest, claims.tool_digest):
        raise GrantRefusedError(RefusalCode.TOOL_CHANGED, f"{call.tool} has changed since the grant.", _DECLARE)
    try:
        arguments_digest, target = digest(call.arguments), fill_target(tool.target_template, call.arguments)
    except ArgumentsInvalidError as error:
        raise GrantRefusedError(RefusalCode.CALL_MALFORMED, f"{error.reason}.", "Mend the call.") from error
    if target != claims.target:
        raise GrantRefusedError(RefusalCode.TARGET, "the call acts on another target than the grant is for.", _DECLARE)
    if not hmac.compare_digest(arguments_digest, claims.args_sha256):
        raise GrantRefusedError(RefusalCode.ARGUMENTS, "the call has other arguments than the grant is for.", _DECLARE)
    # 10. Nothing ended it since, as far as a fresh view of its issuer knows.
    feed.view.refuse_dead(claims, instance, now, monotonic)
    return VerifiedCall(call.tool, dict(call.arguments), target, claims, instance)


def _check_ids(claims: GrantClaims) -> None:
    try:
        for text, what in ((claims.grant_id, "jti"), (claims.task_id, "txn"), (claims.step_id, "step")):
            parse_ulid(text, f"`{what}`")
        for text in (claims.subject, *claims.chain):
            parse_spiffe_id(text, what="a workload of the grant")
    except InvalidInputError as error:
        raise GrantRefusedError(RefusalCode.CLAIMS, f"the grant's claims are not valid: {error}.", _DECLARE) from error


def _check_chain(claims: GrantClaims) -> None:
    chain = claims.chain
    if len(chain) > MAX_CHAIN:
        reason = f"`chain` has {len(chain)} members, more than {MAX_CHAIN}"
    elif len(set(chain)) != len(chain):
        reason = "`chain` names a workload twice"
    elif chain[-1] != claims.subject:
        reason = "`chain` does not end with `sub`"
    else:
        return
    raise GrantRefusedError(RefusalCode.CLAIMS, f"the grant's claims are not valid: {reason}.", _DECLARE)


def _check_times(claims: GrantClaims, now: datetime, gateway_now: datetime | None) -> None:
    latest = now if gateway_now is None else max(now, gateway_now)
    if latest >= claims.expires_at:
        raise GrantRefusedError(
            RefusalCode.EXPIRED,
            f"the grant expired at {claims.expires_at:%H:%M:%S}Z.",
            "Renew the step, or declare anew.",
        )
    if claims.not_before > now + LEEWAY or claims.issued_at > now + LEEWAY:
        raise GrantRefusedError(
            RefusalCode.NOT_YET_VALID, "the grant is not valid yet by this resource's clock.", "Look at the clocks."
        )


def _check_holder(claims: GrantClaims, holder: Holder, token: str, replay: ReplayCache, now: datetime) -> None:
    match claims.binding, holder:
        case Binding.MTLS, TlsHolder():
            if str(holder.spiffe_id) != claims.subject or not hmac.compare_digest(
                holder.certificate_sha256, claims.confirmation
            ):
                raise GrantRefusedError(
                    RefusalCode.HOLDER, "the call's certificate is not the one that the grant is bound to.", _OWN
                )
        case Binding.KEY, DpopHolder():
            verify_proof(
                holder.proof,
                htm=holder.htm,
                htu=holder.htu,
                grant=token,
                now=now,
                jkt=claims.confirmation,
                replay=replay,
            )
        case _:
            raise GrantRefusedError(RefusalCode.HOLDER, "the call does not prove who makes it.", _OWN)
