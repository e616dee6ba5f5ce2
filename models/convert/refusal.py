"""What the scripts say when a model cannot be converted: one sentence with the way out, never a traceback.

It keeps one invariant: a script ends with 0 if it wrote its file, with 1 if the model or its description was refused,
and with 2 if its options were wrong.
"""

import argparse
import importlib.util
import os
import re
import sys


class Refused(Exception):
    """The model cannot be used as described; the message says what was found, what was expected and the way out."""


def needs(requirements: str, *modules: str) -> None:
    """Ends the script if this Python has not what `requirements` lists."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"{', '.join(missing)} is not installed in this Python ({sys.executable}): pip install -r "
                         f"models/convert/{requirements}")


def run(parser: argparse.ArgumentParser, work) -> None:
    """Parses the options and calls `work` with them; `model` of the options names the file in messages."""
    words = sys.argv[1:]
    for at in range(len(words) - 1, 0, -1):
        # A value that begins with a minus sign looks like an option.
        if words[at - 1] == "--pixels":
            words[at - 1 : at + 1] = [f"--pixels={words[at]}"]
    args = parser.parse_args(words)
    try:
        work(args)
    except Refused as problem:
        raise SystemExit(f"{args.model}: {problem}") from None
    except OSError as error:
        raise SystemExit(f"{error.filename or args.model}: {error.strerror or error}; expected a file that can be read, "
                         f"or a folder that can be written to") from None
    except MemoryError:
        raise SystemExit(f"{args.model}: this machine's memory is too small for the conversion; close other programs, "
                         f"or convert on a larger machine") from None
    except Exception as error:
        if os.environ.get("GIEMSA_TRACEBACK"):
            raise
        raise SystemExit(f"{args.model}: the conversion failed, {type(error).__name__}: {reason(error)}\n"
                         f"No file was written. With GIEMSA_TRACEBACK=1 the script shows where it failed: please report "
                         f"that with the model's architecture") from None


def reason(error, limit: int = 300) -> str:
    """Why a framework refuses, without the configurations that Keras prints before and after it."""
    text = str(error)
    text = text.rsplit("Exception encountered:", 1)[-1]
    text = re.split(r"(?:Full object config|Received: config|config)\s*[:=]\s*[{\[]", text)[0]
    # Of a stack of causes the first paragraph is the reason, what follows repeats arguments.
    text = re.split(r"\n\s*Arguments received by|\nCall arguments received", text)[0]
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + " …"
