#!/usr/bin/env python3
# The code that a user copies compiles and runs: C blocks of README.md, recipes of the manual, shell blocks.
"""
Usage: check_readme.py [HEADER [README]]     prints TAP lines. BUILD (build) has the emulator.

README.md: fenced blocks marked c or sh. Manual: the lines behind one that ends in "recipe: NAME",
as far as they are indented deeper than it. A block with a main() is built as it stands; another is
the body of a function that has a client c and an auth a. Every C block then runs against the
emulator, where the placeholders of the text stand for what the emulator has; it must print what
PRINTS says and end in time with status 0. Shell is read by sh -n.
"""
import os, re, subprocess, sys, tempfile, textwrap, time, urllib.request

LIBS = ["-lmbedtls", "-lmbedx509", "-lmbedcrypto", "-lpthread"]
SECONDS = 20
FRAME = """#include "azredis_entra.h"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
%s
int main(int argc, char **argv) {
    azredis_auth *a = azredis_auth_open(NULL);
    azredis_options frame = {0};
    frame.host = argv[argc - 1], frame.auth = a;
    azredis_client *c = azredis_open(&frame);
    {
%s
    }
    azredis_close(c);
    azredis_auth_release(a);
    return 0;
}
"""
# What stands in the text for something of the reader's own.
PLACEHOLDERS = {"name.region.redis.azure.net": "AZREDIS_ENDPOINT", "11111111-2222-3333-4444-555555555555": "AZURE_TENANT_ID",
                "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee": "AZURE_CLIENT_ID"}
# A word that the block must print. ENDLESS ones run for ever by intent: they are stopped when they have printed it.
PRINTS = {"hello": "PONG", "auth": "AUTH ", "subscribe": "news of today", "README 1": "Hello"}
ENDLESS = {"subscribe"}
# Blocks that cannot run here, each with ": compiled only, " and its reason.
COMPILED_ONLY = {}

def readme_blocks(text):
    counts = {"c": 0, "sh": 0}
    for m in re.finditer(r"^```(c|sh)\n(.*?)^```", text, re.S | re.M):
        counts[m.group(1)] += 1
        yield m.group(1), "README %s%d" % (m.group(1).replace("c", ""), counts[m.group(1)]), m.group(2)

def manual_recipes(text):
    lines = [re.sub(r"^ \* ?", "", line).rstrip() for line in text[:text.index("*/")].splitlines()]
    for i, line in enumerate(lines):
        m = re.search(r"\brecipe: (\w+)$", line)
        if not m:
            continue
        depth, body = len(line) - len(line.lstrip()), []
        for rest in lines[i + 1:]:
            if rest and len(rest) - len(rest.lstrip()) <= depth: break
            body.append(rest)
        yield "c", m.group(1), textwrap.dedent("\n".join(body)).strip() + "\n"

def compile_c(code, include, program, implementation):
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I" + include]
    if not re.search(r"\bmain\s*\(", code):
        at_top = re.findall(r"^\s*#.*\n", code, re.M)
        code = FRAME % ("".join(at_top), re.sub(r"^\s*#.*\n", "", code, flags=re.M))
        flags += ["-Wno-unused-variable", "-Wno-unused-but-set-variable"]
    objects = [] if "AZREDIS_ENTRA_IMPLEMENTATION" in code else [implementation]
    with open(program + ".c", "w") as f:
        f.write(code)
    return run([os.environ.get("CC", "gcc")] + flags + [program + ".c"] + objects + ["-o", program] + LIBS)

def run(command, **more):
    """What the command says; empty if it is content."""
    r = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    return r.stdout + ("" if r.returncode == 0 or r.stdout else "status %d" % r.returncode)

class Emulator:
    """Entra and Redis for the blocks, and the news that somebody publishes."""
    def __init__(self, directory):
        env = os.path.join(directory, "env")
        self.process = subprocess.Popen([os.path.join(os.environ.get("BUILD", "build"), "emulator"), "--port", "0", "--quiet",
                                         "--env-file", env], stdout=subprocess.DEVNULL)
        end = time.monotonic() + SECONDS
        while not os.path.exists(env):
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit("Bail out! the emulator did not start")
            time.sleep(0.05)
        with open(env) as f:
            self.values = dict(re.findall(r"^export (\w+)='(.*)'$", f.read(), re.M))
        self.values["MY_SECRET"] = self.values["AZURE_CLIENT_SECRET"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def publish(self):
        body = b'["PUBLISH","news","news of today"]'
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(self.values["EMULATOR_ADMIN"] + "/redis/command", body, 5).read()

    def runs(self, name, program, output):
        """What was wrong when the block ran; empty if nothing."""
        said, word, end = "", PRINTS.get(name, ""), time.monotonic() + SECONDS
        with open(output, "w") as f:
            p = subprocess.Popen(["stdbuf", "-oL", program, self.values["AZREDIS_ENDPOINT"]], stdin=subprocess.DEVNULL,
                                 stdout=f, stderr=subprocess.STDOUT, env=dict(os.environ, **self.values))
        while p.poll() is None and time.monotonic() < end and not (name in ENDLESS and word in said):
            if name in ENDLESS:
                self.publish()
            time.sleep(0.05)
            said = read(output)
        said, stopped = read(output), p.poll() is None
        p.kill()
        p.wait()
        wrong = "" if word in said else "it did not print '%s'\n" % word
        if stopped and name not in ENDLESS: wrong += "it still ran after %d s\n" % SECONDS
        if not stopped and (p.returncode or name in ENDLESS): wrong += "it ended with status %d\n" % p.returncode
        return wrong and wrong + said

def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()

def main():
    header = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "azredis_entra.h")
    recipes = list(manual_recipes(read(header)))
    blocks = recipes + list(readme_blocks(read(sys.argv[2] if len(sys.argv) > 2 else "README.md")))
    failed = 0
    with tempfile.TemporaryDirectory() as directory, Emulator(directory) as emulator:
        implementation = os.path.join(directory, "implementation.o")
        run([os.environ.get("CC", "gcc"), "-xc", "-DAZREDIS_ENTRA_IMPLEMENTATION", "-c", header, "-o", implementation])
        for i, (kind, name, code) in enumerate(blocks, 1):
            program = os.path.join(directory, "block%d" % i)
            for word, variable in PLACEHOLDERS.items():
                code = code.replace(word, emulator.values[variable])
            wrong = run(["sh", "-n"], input=code) if kind == "sh" else compile_c(code, os.path.dirname(header), program, implementation)
            if not wrong and kind == "c" and name not in COMPILED_ONLY:
                wrong = emulator.runs(name, program, program + ".txt")
            failed += wrong != ""
            print("%sok %d - %s%s" % ("not " if wrong else "", i, name, COMPILED_ONLY.get(name, "")))
            print("".join("# %s\n" % line for line in wrong.splitlines()[:15]), end="", flush=True)
    found = bool(recipes) and len(blocks) > len(recipes)
    print("%sok %d - the manual has recipes and the README has blocks" % ("" if found else "not ", len(blocks) + 1))
    sys.exit(failed > 0 or not found)

main()
