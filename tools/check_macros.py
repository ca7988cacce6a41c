#!/usr/bin/env python3
# Switches of the header and its manual name each other: none is undocumented, none is invented.
"""
Usage: check_macros.py [HEADER]     prints TAP lines

A switch is an AZREDIS_ name that the code tests (#if, #ifdef, #ifndef) or a macro that takes
arguments; it stands in the manual. A constant (#define NAME value) stands in the manual or has a
comment where it is defined. Every AZREDIS_ name in the manual exists in the code.
"""
import re, sys

NAME = re.compile(r"\bAZREDIS_[A-Z0-9_]+\b")
GUARD = "AZREDIS_ENTRA_H"

def split(text):
    """The manual (the first comment) and the code without comments."""
    end = text.index("*/") + 2
    strip = lambda m: "\n" * m.group(0).count("\n") if m.group(0).startswith("/") else m.group(0)
    return text[:end], re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', strip, text[end:], flags=re.S)

def commented(text, name):
    """Is there a comment on the line that defines it, or a comment's end on the line before?"""
    lines = text.splitlines()
    at = [i for i, line in enumerate(lines) if re.match(r"#\s*define\s+%s\b" % name, line)]
    return any("/*" in lines[i] or lines[i - 1].rstrip().endswith("*/") for i in at)

def main():
    with open(sys.argv[1] if len(sys.argv) > 1 else "azredis_entra.h") as f:
        text = f.read()
    manual, code = split(text)
    told = set(NAME.findall(manual))
    switches, constants = set(), set()
    for line in code.replace("\\\n", " ").splitlines():
        if re.match(r"\s*#\s*(el)?if", line):
            switches |= set(NAME.findall(line))
        m = re.match(r"\s*#\s*define\s+(AZREDIS_[A-Z0-9_]+)(\()?", line)
        if m:
            (switches if m.group(2) else constants).add(m.group(1))
    switches.discard(GUARD)
    constants -= switches | {GUARD}
    known = set(NAME.findall(code))
    results = [
        (sorted(switches - told), "each of %d switches and hooks stands in the manual" % len(switches)),
        ([n for n in sorted(constants - told) if not commented(text, n)],
         "each of %d constants stands in the manual or is explained where it is defined" % len(constants)),
        (sorted(told - known), "each of %d names in the manual exists" % len(told)),
        ([] if switches and told else ["nothing was found"], "there was something to check")]
    for i, (complaints, what) in enumerate(results, 1):
        print("%sok %d - %s" % ("not " if complaints else "", i, what))
        for c in complaints:
            print("# " + c)
    sys.exit(any(c for c, _ in results))

main()
