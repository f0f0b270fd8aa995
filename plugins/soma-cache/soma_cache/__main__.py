"""``python -m soma_cache``: what is kept, and how to keep less of it."""

from __future__ import annotations

import argparse
import os
import sys

import typer

from soma_cache.settings import settings_from
from soma_cache.store import Store


def main() -> None:
    """Print what the cache holds; clear or repair it if asked to."""
    parser = argparse.ArgumentParser("python -m soma_cache", description=__doc__)
    parser.add_argument("--clear", action="store_true", help="remove all results")
    parser.add_argument(
        "--repair", action="store_true", help="remove files that a killed worker left behind"
    )
    options = parser.parse_args()
    settings = settings_from(os.environ)
    if settings is None:
        sys.exit("SOMA_CACHE_DIR is not set: no results are kept")
    store = Store(settings)
    try:
        if options.clear:
            typer.echo(f"removed {store.clear():,} results")
        if options.repair:
            typer.echo(f"repaired {store.repair():,} things")
        count, size = store.content()
    except OSError as error:  # the directory is a file, or others may write to it
        sys.exit(f"error: {error}")
    typer.echo(f"{settings.directory}: {count:,} results, {size:,} of {settings.size:,} bytes")


if __name__ == "__main__":
    main()
