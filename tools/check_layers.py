#!/usr/bin/env python3
# Sections of the header call only sections that stand above them and that their banner declares.
"""
Usage: check_layers.py [HEADER]     prints TAP lines, then the largest stack frames as comments

The compiler says who calls whom (gcc -fcallgraph-info); the banners say which line is whose:
    /* ==== >>name ===== uses: core mem ====      "-": none, "above": all sections before it
A call through a pointer is not seen: that is how a lower section may reach a higher one, and it is
visible in the code. One configuration is looked at, the default of this machine.
"""
import os, re, subprocess, sys, tempfile

SECTION_LINES = 900
FUNCTION_LINES = 80
BANNER = re.compile(r"/\* ==== >>([a-z0-9]+) =*\s+uses: ([a-z0-9 -]*[a-z0-9-])")

def read_sections(lines):
    """[(name, first line, uses)] in order."""
    found = []
    for number, line in enumerate(lines, 1):
        m = BANNER.match(line)
        if m:
            found.append((m.group(1), number, m.group(2).split()))
        elif ">>" in line and "====" in line:
            sys.exit("%d: a banner that cannot be read: %s" % (number, line.strip()))
    return found

def call_graph(header):
    """{function: (line, frame bytes)} and [(caller, callee)] of what the header defines."""
    with tempfile.TemporaryDirectory() as d:
        unit = os.path.join(d, "unit.c")
        with open(unit, "w") as f:
            f.write('#define AZREDIS_ENTRA_IMPLEMENTATION\n#include "%s"\n' % os.path.abspath(header))
        subprocess.run([os.environ.get("GCC", "gcc"), "-std=gnu11", "-O0", "-fkeep-static-functions",
                        "-fcallgraph-info=su,da", "-c", unit, "-o", os.path.join(d, "unit.o")], check=True)
        with open(os.path.join(d, "unit.ci")) as f:
            text = f.read()
    places, edges = {}, []
    base = re.escape(os.path.basename(header))
    short = lambda title: title.split(":")[-1]
    for m in re.finditer(r'node: \{ title: "([^"]+)" label: "[^"\\]+\\n[^"]*?%s:(\d+):\d+\\n(\d+) bytes' % base, text):
        places[short(m.group(1))] = (int(m.group(2)), int(m.group(3)))
    for m in re.finditer(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', text):
        edges.append((short(m.group(1)), short(m.group(2))))
    return places, edges

def long_functions(lines):
    """[(lines, first line)] of functions over the cap. A function ends at a brace in column 1."""
    start, out = None, []
    for number, line in enumerate(lines, 1):
        if re.match(r"[A-Za-z_].*\)\s*\{\s*$", line):
            start = number
        elif line.startswith("}"):
            if start and number - start + 1 > FUNCTION_LINES:
                out.append((number - start + 1, start))
            start = None
    return out

def check_calls(sections, places, edges):
    """Complaints about calls between sections, and the number of calls looked at."""
    names = [s[0] for s in sections]
    def section_of(function):
        line = places[function][0]
        return max((i for i, s in enumerate(sections) if s[1] <= line), default=None)
    bad, looked = set(), 0
    for caller, callee in edges:
        if caller not in places or callee not in places:
            continue
        a, b = section_of(caller), section_of(callee)
        if a is None:                   # the inline functions of the declarations call the API
            continue
        looked += 1
        where = "%s (>>%s) calls %s (>>%s)" % (caller, names[a], callee, names[b] if b is not None else "declarations")
        if b is None or a == b:
            continue
        if b > a:
            bad.add(where + ", which comes later")
        elif names[b] not in sections[a][2] and "above" not in sections[a][2]:
            bad.add(where + ", which its banner does not declare")
    return sorted(bad), looked

def main():
    header = sys.argv[1] if len(sys.argv) > 1 else "azredis_entra.h"
    with open(header) as f:
        lines = f.read().splitlines()
    sections = read_sections(lines)
    places, edges = call_graph(header)
    bad, looked = check_calls(sections, places, edges)
    names, banners = [s[0] for s in sections], []
    for i, (name, _, uses) in enumerate(sections):
        if names.count(name) > 1:
            banners.append(">>%s stands twice" % name)
        banners += [">>%s declares >>%s, which is not above it" % (name, u)
                    for u in uses if u not in ("-", "above") and u not in names[:i]]
    ends = [s[1] for s in sections[1:]] + [len(lines) + 1]
    longest = ["%d lines: >>%s" % (end - s[1], s[0]) for s, end in zip(sections, ends) if end - s[1] > SECTION_LINES]
    functions = ["%d lines: %s" % (n, lines[at - 1]) for n, at in long_functions(lines)]
    results = [(bad, "%d calls between %d functions go down, as the banners of %d sections declare"
                % (looked, len(places), len(sections))),
               (banners, "banners declare sections above them"),
               (longest, "no section is longer than %d lines" % SECTION_LINES),
               (functions, "no function is longer than %d lines" % FUNCTION_LINES),
               ([] if looked and len(sections) > 1 else ["nothing was found to look at"], "there was something to check")]
    for i, (complaints, what) in enumerate(results, 1):
        print("%sok %d - %s" % ("not " if complaints else "", i, what))
        for c in complaints:
            print("# " + c)
    for name in sorted(places, key=lambda n: -places[n][1])[:5]:
        print("# stack %5d bytes (-O0): %s" % (places[name][1], name))
    sys.exit(any(c for c, _ in results))

main()
