"""Everything that a gateway, an agent and a resource let out, gathered in one place and searched for secrets."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stepgrant_gateway.cli.logs import JsonLines, TextLines


@dataclass
class Outputs:
    """What came out, by name, and the secrets that must be in none of it."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)
    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    provider: TracerProvider = field(default_factory=TracerProvider)

    def add(self, name: str, text: object) -> None:
        """Something came out."""
        self.texts.setdefault(name, []).append(str(text))

    def hide(self, name: str, secret: str | bytes) -> None:
        """Something must not come out."""
        assert len(secret) > 10
        self.secrets[name] = secret.encode() if isinstance(secret, str) else secret

    def leaks(self) -> list[str]:
        """Where a secret is in clear, in base64 or in hexadecimal."""
        for span in self.exporter.get_finished_spans():
            self.add("spans", span.to_json())
        whole = {name: "\n".join(texts) for name, texts in self.texts.items()}
        return [
            f"{secret} is in: {name}"
            for secret, value in self.secrets.items()
            for name, text in whole.items()
            if any(form in text for form in _forms(value))
        ]


def _forms(secret: bytes) -> Iterator[str]:
    with suppress(UnicodeDecodeError):
        yield secret.decode()
    yield secret.hex()
    for before in range(3):
        # Wherever it begins: without the characters that its neighbours have a part in.
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(b"\0" * before + secret).decode().rstrip("=")[4 if before else 0 : -1]


@contextmanager
def gathered_outputs() -> Iterator[Outputs]:
    """Logs at DEBUG in each of the gateway's forms, the SDK's as its user would format them, and a provider of spans."""
    outputs = Outputs()
    outputs.provider.add_span_processor(SimpleSpanProcessor(outputs.exporter))
    root = logging.getLogger()
    level, handlers = root.level, {}
    for name, formatter in (("JSON log", JsonLines()), ("text log", TextLines()), ("log of the SDK", None)):
        handlers[name] = handler = logging.StreamHandler(io.StringIO())
        handler.setFormatter(formatter)
        if formatter is None:
            handler.addFilter(lambda record: record.name.partition(".")[0] == "stepgrant")
        root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield outputs
    finally:
        root.setLevel(level)
        for name, handler in handlers.items():
            root.removeHandler(handler)
            outputs.add(name, handler.stream.getvalue())
