"""What the papers claim, what was measured here, and the verdict."""

from __future__ import annotations

import argparse

from denoisezoo.commands.output import add_output_arguments, print_table, write_rows
from denoisezoo.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="shell pattern of names: 'ddsm/*'")
    parser.add_argument(
        "--check", action="store_true", help="compute each figure from its rows again; fail where one differs"
    )
    parser.add_argument("--results", metavar="DIR", default="results", help="folder of the rows (default: results)")
    parser.add_argument("--html", metavar="FILE", help="write a page")
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the claims; with --check, what is wrong with them."""
    from denoisezoo.compare.claims import claims

    ledger = claims(args.pattern)
    if args.check:
        if wrong := ledger.check(args.results):
            raise UserError("; ".join(wrong), "mend the ledger, or the rows")
        figures = sum(len(claim.figures or {}) for claim in ledger.claims)
        print(f"{len(ledger.claims)} claims and {figures} figures agree with the rows in {args.results}")
        return 0
    write_rows(ledger.rows(), args)
    if args.html:
        from denoisezoo.report.claims_page import write_claims

        write_claims(ledger, args.html, args.results)
    if len(ledger.claims) == 1:
        print(ledger)
    else:
        print_table(ledger.rows(), ledger.summary().columns)
    return 0
