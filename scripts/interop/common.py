"""What the comparisons share: where things are, how llmc is run, what is counted.

run.sh sets INTEROP_LLAMACPP (the folder of llama.cpp's libraries) and LLMC (the
program). LLMC_SHARED names the folder with test models and texts; without it, a
folder `shared` beside the repository is used, and what needs it is left out
where there is none.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LLMC = os.environ.get("LLMC", str(ROOT / "llmc"))


def shared(name):
    """The path of a file of the shared test data, or None."""
    folder = Path(os.environ.get("LLMC_SHARED", ROOT.parent / "shared"))
    path = folder / name
    return path if path.exists() else None


def llmc(*arguments):
    """Runs llmc and returns what it prints on standard output."""
    command = [LLMC, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} exits with {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


def llmc_json(*arguments):
    return json.loads(llmc(*arguments, "--json"))


def evaluate(models, text, context, chunks=0):
    """The reports of `llmc eval` on models, by llama.cpp's protocol."""
    return llmc_json("eval", *models, "--text", text, "--context", context, "--chunks", chunks,
                     "--protocol", "llama.cpp")["models"]


def llamacpp():
    """llama.cpp's libraries."""
    from llamacpp import Library
    return Library(os.environ["INTEROP_LLAMACPP"], verbose=bool(os.environ.get("INTEROP_VERBOSE")))


def workdir():
    return tempfile.TemporaryDirectory(prefix="llmc-interop-")


class Checks:
    """Counts what held and what did not, and prints a line for each."""

    def __init__(self):
        self.failed = self.passed = 0

    def check(self, name, ok, detail=""):
        if ok:
            self.passed += 1
        else:
            self.failed += 1
        print(f"{'ok  ' if ok else 'FAIL'} {name}{': ' + detail if detail else ''}", flush=True)
        return ok

    def near(self, name, got, want, tolerance):
        """Checks that got differs from want by at most a fraction."""
        off = got / want - 1
        return self.check(name, abs(off) <= tolerance,
                          f"{got:.6g}, reference {want:.6g}, {off:+.2e} (allowed {tolerance:.0e})")

    def same_ids(self, name, got, want):
        """Checks that two lists of token ids are equal, and says where they part."""
        got, want = [int(i) for i in got], [int(i) for i in want]
        if got == want:
            return self.check(name, True, f"{len(want)} tokens")
        at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
        return self.check(name, False, f"{len(got)} tokens, reference {len(want)}, "
                                       f"from token {at}: {got[at:at + 6]}, reference {want[at:at + 6]}")

    def skip(self, name, why):
        print(f"skip {name}: {why}", flush=True)

    def done(self):
        print(f"{self.passed} checks passed, {self.failed} failed", flush=True)
        sys.exit(1 if self.failed else 0)
