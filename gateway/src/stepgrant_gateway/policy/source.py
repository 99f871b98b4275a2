"""Where a running gateway gets its policy from, again at each reload."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stepgrant_gateway.policy.load import load_policy
from stepgrant_gateway.policy.sets import LoadedPolicySet


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """A policy directory. It holds no set: who activates one keeps it while the next is refused."""

    path: Path

    def load(self) -> LoadedPolicySet:
        """The set that the directory holds now, checked as a whole. Blocking: it reads files and runs golden cases.

        Raises:
            PolicyRefusedError: with everything that is wrong; whatever ran before stays as it is.
        """
        return load_policy(self.path)
