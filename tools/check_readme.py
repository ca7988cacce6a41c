#!/usr/bin/env python3
# The code that a user copies compiles: C blocks of README.md, recipes of the manual, shell blocks.
"""
Usage: check_readme.py [HEADER [README]]     prints TAP lines

README.md: fenced blocks marked c or sh. Manual: the lines behind one that ends in "recipe: NAME",
as far as they are indented deeper than it. A block with a main() is linked as it stands; another is
compiled as the body of a function that has a client c and an auth a. Shell is read by sh -n.
"""
import os, re, subprocess, sys, tempfile, textwrap

LIBS = ["-lmbedtls", "-lmbedx509", "-lmbedcrypto", "-lpthread"]
FRAME = """#include "azredis_entra.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
%s
void fragment(azredis_client *c, azredis_auth *a);
void fragment(azredis_client *c, azredis_auth *a) { (void)c; (void)a; {
%s
} }
"""

def readme_blocks(text):
    for m in re.finditer(r"^```(c|sh)\n(.*?)^```", text, re.S | re.M):
        yield m.group(1), "README line %d" % (text[:m.start()].count("\n") + 1), m.group(2)

def manual_recipes(text):
    lines = [re.sub(r"^ \* ?", "", line).rstrip() for line in text[:text.index("*/")].splitlines()]
    for i, line in enumerate(lines):
        m = re.search(r"\brecipe: (\w+)$", line)
        if not m:
            continue
        depth, body = len(line) - len(line.lstrip()), []
        for rest in lines[i + 1:]:
            if rest and len(rest) - len(rest.lstrip()) <= depth:
                break
            body.append(rest)
        yield "c", "recipe " + m.group(1), textwrap.dedent("\n".join(body)).strip() + "\n"

def compile_c(code, include, directory):
    """What the compiler says; empty if it is content."""
    unit = os.path.join(directory, "unit.c")
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I" + include, unit]
    if re.search(r"\bmain\s*\(", code):
        flags += ["-o", os.path.join(directory, "unit")] + LIBS
    else:
        at_top = re.findall(r"^\s*#.*\n", code, re.M)
        code = FRAME % ("".join(at_top), re.sub(r"^\s*#.*\n", "", code, flags=re.M))
        flags = flags[:-1] + ["-Wno-unused-variable", "-Wno-unused-but-set-variable", "-fsyntax-only", unit]
    with open(unit, "w") as f:
        f.write(code)
    return subprocess.run([os.environ.get("CC", "gcc")] + flags, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)

def main():
    header = sys.argv[1] if len(sys.argv) > 1 else "azredis_entra.h"
    readme = sys.argv[2] if len(sys.argv) > 2 else "README.md"
    with open(header) as f:
        blocks = list(manual_recipes(f.read()))
    recipes = len(blocks)
    with open(readme, encoding="utf-8") as f:
        blocks += readme_blocks(f.read())
    failed = 0
    with tempfile.TemporaryDirectory() as directory:
        for i, (kind, name, code) in enumerate(blocks, 1):
            if kind == "sh":
                r = subprocess.run(["sh", "-n"], input=code, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            else:
                r = compile_c(code, os.path.dirname(os.path.abspath(header)), directory)
            failed += r.returncode != 0
            print("%sok %d - %s" % ("not " if r.returncode else "", i, name))
            if r.returncode:
                print("".join("# %s\n" % line for line in r.stdout.splitlines()[:15]), end="")
    found = recipes > 0 and len(blocks) > recipes
    print("%sok %d - the manual has recipes and the README has blocks" % ("" if found else "not ", len(blocks) + 1))
    sys.exit(failed > 0 or not found)

main()
