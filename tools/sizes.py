#!/usr/bin/env python3
# Measures text, data, stack and heap of the header, and compares them with the table that README shows.
"""
sizes.py [-B build] [--here] [--compare | --update]      prints the table
    --here     only what this machine has: x86-64 and the heap with its own mbedTLS; no packages, no arm compiler
    --compare  TAP: each number within 5 % (stack and heap: and 64 bytes) of README's
    --update   writes the table into README, between its markers
Cortex-M4 rows: tools/sizes/edge.c linked with the header minus the same TLS and X.509 work with mbedTLS alone, both by
arm-none-eabi-gcc -Os, newlib-nano, --gc-sections, Debian's mbedTLS sources, tools/sizes/mbedtls_config.h. Stack is the
compiler's word (-fcallgraph-info): the largest frame, and the deepest path of ours that the program has, with the
callbacks that mbedTLS makes and without mbedTLS's own frames. Heap: tools/sizes/heap.c against a redis-server.
"""
import argparse, glob, os, re, subprocess, sys, tempfile
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from bench import Programs, Server, sh

BEGIN, END = "<!-- sizes: written by make sizes-update -->\n", "<!-- /sizes -->\n"
ARM = ["arm-none-eabi-gcc", "-std=c99", "-Os", "-mcpu=cortex-m4", "-mthumb", "-ffunction-sections", "-fdata-sections", "-DNDEBUG",
       "--specs=nano.specs", "-DMBEDTLS_CONFIG_FILE=<mbedtls_config.h>", "-Itools/sizes", "-I."]
MBEDTLS = {"2.28": ("bookworm", []), "3.6": ("trixie", ["-DSIZES_TLS13"])}
PROFILES = {"edge-callback": [], "edge-secret": ["-DSECRET"], "edge-cert": ["-DCERTIFICATE"]}
# What leaves out an identity, or the proxy before one, and where edge-secret can have it: the flag by which it differs.
SWITCHES = {"WORKLOAD": "", "MANAGED": "", "TOKEN_FILE": "", "EXEC": "", "DEVTOOLS": "", "DEVICE_CODE": "", "CERTIFICATE": "-DWITH_CERTIFICATE", "ASSERTION": "-DWITH_ASSERTION", "PROXY": "-DWITH_PROXY",
            "HTTP": "-USECRET"}
# Calls that the compiler cannot follow: back from mbedTLS, and through pointers (who makes them: whom they reach).
CALLBACKS = {"mbedtls_ssl_handshake": ["azri_tls_verify", "azri_tls_bio_recv"], "mbedtls_x509_crt_verify": ["azri_tls_each"],
             "mbedtls_ssl_read": ["azri_tls_bio_recv"], "mbedtls_ssl_write": ["azri_tls_bio_send"]}
POINTERS = [(r"azri_fetch_read|azri_http_\w+", r"azri_flow_body"), (r"azri_flow_value", r"azri_(managed|device)_value"),
            (r"azri_app_post", r"azri_(app|device)_form"),
            (r"azri_json_\w+|azri_jwt_claims|azri_flow_accept", r"azri_(flow|jwt)_value"),
            (r"azri_fetch_call|azri_flow_call\w*", r"azri_(assertion|callback|managed|device)_call"),
            (r"azri_fetch_step|azri_flow_(next|ask|begin|http|net)\w*",
             r"azri_(secret|app|assertion|callback|environment|source|federated|managed|file|exec|tool|device)_\w+|azri_flow_judge\w*")]

def size(path, tool="size"):
    """text, data, bss; constants that only the loader writes to count as text."""
    text = data = bss = 0
    for line in sh(tool, "-A", path).splitlines():
        m = re.match(r"\.(\S+)\s+(\d+)", line)
        if m and m.group(1).startswith("bss"): bss += int(m.group(2))
        elif m and m.group(1).startswith("data") and "rel.ro" not in m.group(1): data += int(m.group(2))
        elif m and re.match(r"(text|rodata|data\.rel\.ro|ARM\.ex|init|fini|isr)", m.group(1)): text += int(m.group(2))
    return text, data, bss

def stack(info):
    """The largest frame of ours, and the deepest path."""
    short = lambda title: re.sub(r"\.(isra|constprop|part|cold).*", "", title.split(":")[-1])
    text, frames, calls = open(info).read(), {}, {k: set(v) for k, v in CALLBACKS.items()}
    for m in re.finditer(r'node: \{ title: "([^"]+)"[^\n]*?(\d+) bytes \(', text):
        frames[short(m.group(1))] = max(int(m.group(2)), frames.get(short(m.group(1)), 0))
    for m in re.finditer(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', text):
        calls.setdefault(short(m.group(1)), set()).add(short(m.group(2)))
    ours = {name: n for name, n in frames.items() if name.startswith("az")}
    for caller, called in POINTERS:
        for name in ours:
            if "__indirect_call" in calls.get(name, ()) and re.fullmatch(caller, name):     # the first that fits
                calls[name] = calls[name] - {"__indirect_call"} | {n for n in ours if re.fullmatch(called, n)}
    deep = {}
    def depth(name, above=()):
        if name in above: return 0
        if name not in deep:
            deep[name] = ours.get(name, 0) + max([depth(c, above + (name,)) for c in calls.get(name, ())] + [0])
        return deep[name]
    path = max(depth(name) for name in (["main"] if "main" in frames else ours))
    return max(ours[name] for name in deep if name in ours), path          # deep: what was reached

def here(build, *flags):
    out = build + "/sizes/x86-64"
    sh("gcc", "-std=gnu11", "-O2", "-DNDEBUG", "-I.", *flags, "-fcallgraph-info=su,da", "-c", "tests/build/whole.c", "-o", out + ".o")
    return ["x86-64 -O2, everything", *size(out + ".o"), *stack(out + ".ci")]

def library(build, version):
    """The arm library; returns it with the flags of its headers."""
    suite, flags = MBEDTLS[version]
    source, out = "%s/pkg/src-%s" % (build, suite), "%s/sizes/mbedtls-%s" % (build, version)
    sh("sh", "tools/pkg/debian.sh", suite, source, "src:mbedtls")
    source = glob.glob(source + "/src/mbedtls-*/")[0]
    flags = flags + ["-I" + source + "include"]
    os.makedirs(out, exist_ok=True)
    objects, config = [], os.path.getmtime("tools/sizes/mbedtls_config.h")
    for c in sorted(glob.glob(source + "library/*.c")):
        objects.append("%s/%s.o" % (out, os.path.basename(c)[:-2]))
        if not os.path.exists(objects[-1]) or os.path.getmtime(objects[-1]) < config:
            sh(*ARM, *flags, "-w", "-c", c, "-o", objects[-1])
    sh("arm-none-eabi-ar", "rcs", out + "/lib.a", *objects)
    return out + "/lib.a", flags

def cortex(build, profile, version, *flags):
    lib, headers = library(build, version)
    both = []
    for name, more in ("with", ["-DWITH_US", *PROFILES[profile], *flags]), ("without", PROFILES[profile]):
        out = "%s/sizes/%s-%s-%s" % (build, profile, version, name)
        sh(*ARM, *headers, *more, "-Wall", "-Wextra", "-Werror", "-fcallgraph-info=su,da", "-c", "tools/sizes/edge.c", "-o", out + ".o")
        sh(*ARM, out + ".o", lib, "--specs=nosys.specs", "-Wl,--gc-sections", "-o", out + ".elf")
        both.append((size(out + ".elf", "arm-none-eabi-size"), out))
    ours = [a - b for a, b in zip(both[0][0], both[1][0])]
    return ["Cortex-M4 -Os, %s, mbedTLS %s" % (profile, version), *ours, *stack(both[0][1] + ".ci")]

def identities(build):
    whole, secret = here(build)[1], cortex(build, "edge-secret", "2.28")[1]
    return [["`AZREDIS_NO_%s`" % s, whole - here(build, "-DAZREDIS_NO_" + s)[1],
             abs(cortex(build, "edge-secret", "2.28", flag)[1] - secret) if flag else "-"] for s, flag in SWITCHES.items()]

def heap(programs, lane, what):
    program = programs.ours(lane, source="tools/sizes/heap.c", name="heap-")
    with tempfile.TemporaryDirectory() as d, Server(programs.server, lane, d) as server:
        words = sh(program, str(server.port), server.ca).split()
    return [what] + [int(w) for w in words[-4:]]

def rows(a):
    """Tables: a head and its rows, each a name and numbers."""
    os.makedirs(a.B + "/sizes", exist_ok=True)
    programs = Programs(a.B)
    code = [here(a.B)]
    if not a.here: code += [cortex(a.B, p, v) for v in MBEDTLS for p in PROFILES]
    apart = [] if a.here else [[("left out alone, bytes of text", "x86-64", "Cortex-M4")] + identities(a.B)]
    held = [heap(programs, "plain", "plain TCP"), heap(programs, "cbc", "TLS 1.2, mbedTLS 2.28")]
    if not a.here: held.append(heap(programs, "gcm", "TLS 1.3, mbedTLS 3.6"))
    return [[("code, bytes", "text", "data", "bss", "largest frame", "deepest path")] + code, *apart,
            [("heap, x86-64, bytes", "client", "idle connection", "with mbedTLS", "peak, connecting")] + held]

def markdown(tables):
    line = lambda row: "| %s |\n" % " | ".join(map(str, row))
    return "\n".join(line(t[0]) + "|---" + "|--:" * (len(t[0]) - 1) + "|\n" + "".join(map(line, t[1:])) for t in tables)

def compare(tables, readme):
    old = {w[1]: w[2:-1] for w in (re.split(r"\s*\|\s*", l) for l in readme.splitlines()) if len(w) > 4 and w[2].isdigit()}
    bad = count = 0
    for row in sum([t[1:] for t in tables], []):
        far = [(x, int(y)) for x, y in zip(row[1:], old.get(row[0], [])) if x != "-" and abs(x - int(y)) > int(y) * 0.05 + 64]
        count += 1
        bad += bool(far) or row[0] not in old
        print("%sok %d - %s: %s" % ("not " if far or row[0] not in old else "", count, row[0],
              ", ".join("%d is %d in README; run make sizes-update" % f for f in far) or "as README says"))
    return bad

def main():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("-B", default="build")
    for flag in ("here", "compare", "update"): p.add_argument("--" + flag, action="store_true")
    a = p.parse_args()
    tables, readme = rows(a), open("README.md").read()
    if a.compare: sys.exit(compare(tables, readme) != 0)
    print(markdown(tables), end="")
    if not a.update: return
    head, rest = readme.split(BEGIN)
    with open("README.md", "w") as f:
        f.write(head + BEGIN + markdown(tables) + END + rest.split(END)[1])

if __name__ == "__main__":
    main()
