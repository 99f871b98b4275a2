"""The command line, put together. Each command lives in its own file and imports what it needs when it runs."""

from __future__ import annotations

import typer

from stepgrant_gateway.cli import audit, dev, doctor, locks, policy, serve, tasks
from stepgrant_gateway.cli.exits import EPILOG

program = typer.Typer(
    name="stepgrant",
    help="Just-in-time grants for the steps of AI agents.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
program.add_typer(dev.program, name="dev")
program.command("serve", epilog=EPILOG)(serve.serve)
program.command("doctor", epilog=EPILOG)(doctor.doctor)
program.add_typer(policy.program, name="policy")
program.command("lock", epilog=EPILOG)(locks.lock)
program.command("unlock", epilog=EPILOG)(locks.unlock)
program.command("locks", epilog=EPILOG)(locks.list_locks)
program.command("tasks", epilog=EPILOG)(tasks.tasks)
program.add_typer(audit.program, name="audit")
