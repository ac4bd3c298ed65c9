"""What every script reports with; no library is needed."""
import sys

failed = []


def check(what, ok, detail="", quiet=False):
    if not ok:
        failed.append(what)
    if not ok or not quiet:
        print(f"{'ok  ' if ok else 'FAIL'} {what}" + (f": {detail}" if detail != "" and not ok else ""), flush=True)


def end():
    """Ends the script: 0 if nothing failed."""
    if failed:
        sys.exit(f"{len(failed)} failed")
