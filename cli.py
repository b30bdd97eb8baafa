"""`python cli.py ...` from a checkout is the installed `stlsearch ...`."""

from stlsearch.commands import run

if __name__ == "__main__":
    run()
