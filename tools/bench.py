#!/usr/bin/env python3
# Counts what an operation costs over real servers, by callgrind and by interposed calls, and compares with limits.
"""
bench.py [-B build] [--short | --selftest]
    Lanes: plain (TCP), cbc (TLS 1.2, AES-256-CBC-SHA384, the installed mbedTLS), gcm (TLS 1.3, AES-128-GCM, Debian
    trixie's mbedTLS 3.6). Each is a redis-server of its own on loopback; "ratio" is the header's instructions over
    those of hiredis with OpenSSL, in the same run on the same server. Limits: tools/bench-limits.txt.
    --short     plain and cbc, without hiredis: nothing is fetched
    --selftest  a header with one extra malloc per reply, and one with one extra send per batch, must be caught
"""
import argparse, glob, os, re, socket, subprocess, sys, tempfile, time

WORKLOADS = ["ping-pong", "pipeline-64", "set-64k", "get-64k", "mget-1000", "publish-64", "parse-bulk", "parse-array", "connect"]
TLS = {"plain": None,
       "cbc": ["--tls-protocols", "TLSv1.2", "--tls-ciphers", "ECDHE-RSA-AES256-SHA384"],
       "gcm": ["--tls-protocols", "TLSv1.3", "--tls-ciphersuites", "TLS_AES_128_GCM_SHA256"]}
# What the self-test puts at the beginning of a function, and the metric that has to notice.
BAD = {"mallocs": ("azri_session_user_answer", "{ void *volatile extra = malloc(1); free((void *)extra); }"),
       "sends": ("azri_posix_send", "(void)send((int)sock, p, 0, AZRI_SEND_FLAGS);")}

def sh(*words):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode: sys.exit("bench.py: %s\n%s" % (" ".join(words), done.stdout))
    return done.stdout

class Programs:
    def __init__(self, build):
        self.dir, self.pkg, self.server = build + "/bench", build + "/pkg/trixie", build + "/redis-server"
        os.makedirs(self.dir, exist_ok=True)
        self.made = set()

    def make(self, name, words, source="tools/bench.c"):
        if (name, *words) not in self.made:
            sh(os.environ.get("CC", "gcc"), "-std=gnu11", "-O2", "-g", source, "-o", self.dir + "/" + name, *words)
        self.made.add((name, *words))
        return self.dir + "/" + name

    def ours(self, lane, header=".", count=False, source="tools/bench.c", name="ours-"):
        words = ["-Wall", "-Wextra", "-Werror", "-I" + header] + (["-DBENCH_COUNT"] if count else [])
        libs = "-lmbedtls -lmbedx509 -lmbedcrypto".split()
        if lane == "gcm":
            sh("sh", "tools/pkg/debian.sh", "trixie", self.pkg, "libmbedtls-dev")
            words.append("-I%s/usr/include" % self.pkg)
            libs = [glob.glob("%s/usr/lib/*/lib%s.a" % (self.pkg, lib[2:]))[0] for lib in libs]
        else: lane = "system"                                   # plain and cbc are one program
        return self.make(name + lane + ("-count" if count else ""), words + libs + ["-lpthread"], source)

    def hiredis(self):
        sh("sh", "tools/pkg/debian.sh", "trixie", self.pkg, "src:hiredis")
        source = sorted(glob.glob(self.pkg + "/src/hiredis-[0-9]*/"))[-1]
        sh("ln", "-sfn", os.path.abspath(source), self.dir + "/hiredis")
        files = [source + f + ".c" for f in ("alloc", "async", "hiredis", "net", "read", "sds", "ssl")]
        return self.make("peer", ["-w", "-DBENCH_HIREDIS", "-I" + self.dir] + files + ["-lssl", "-lcrypto"])

class Server:
    def __init__(self, program, lane, directory):
        self.program, self.tls, self.dir, self.ca = program, TLS[lane], directory, "-"

    def __enter__(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        words = [self.program, "--bind", "127.0.0.1", "--save", "", "--dir", self.dir]
        words += ["--port", "0" if self.tls else str(self.port)]
        if self.tls:
            self.ca, key = self.dir + "/cert.pem", self.dir + "/key.pem"
            sh("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
               "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", self.ca)
            words += ["--tls-port", str(self.port), "--tls-cert-file", self.ca, "--tls-key-file", key,
                      "--tls-ca-cert-file", self.ca, "--tls-auth-clients", "no"] + self.tls
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        for _ in range(600):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", self.port)) == 0: return self
            time.sleep(0.05)
        sys.exit("bench.py: the redis-server did not begin to listen")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def instructions(self, program):
        out = os.path.join(self.dir, "callgrind")
        sh("valgrind", "-q", "--tool=callgrind", "--toggle-collect=bench_run", "--callgrind-out-file=" + out,
           program, str(self.port), self.ca, *WORKLOADS)
        found = {}
        for path in glob.glob(out + ".*"):
            text = open(path).read()
            for m in re.finditer(r"^desc: Trigger: Client Request: (\S+) (\d+)$", text, re.M):
                found[m.group(1)] = int(re.search(r"^totals: (\d+)", text, re.M).group(1)) / int(m.group(2))
            os.remove(path)
        return found

    def counts(self, program):
        lines = sh(program, str(self.port), self.ca, *WORKLOADS).splitlines()
        return {w[0]: dict(zip(w[1::2], map(float, w[2::2]))) for w in (line.split() for line in lines)}

def measure(programs, lane, peer, header="."):
    with tempfile.TemporaryDirectory() as d, Server(programs.server, lane, d) as server:
        ours = server.instructions(programs.ours(lane, header))
        counts = server.counts(programs.ours(lane, header, True))
        found = {(w, "instructions"): ours[w] for w in WORKLOADS}
        found.update({(w, metric): v for w in WORKLOADS for metric, v in counts[w].items()})
        if peer:
            theirs = server.instructions(peer)
            found.update({(w, "ratio"): ours[w] / theirs[w] for w in WORKLOADS})
    return found

def limits():
    rows = [line.split() for line in open("tools/bench-limits.txt") if line.strip() and not line.startswith("#")]
    return {tuple(r[:3]): (float(r[3]), float(r[4])) for r in rows}

def judge(lane, found, bounds, complete, say):
    """One line for each limit of the lane; the metrics that are over theirs."""
    bad = set()
    for (of, workload, metric), (limit, target) in sorted(bounds.items()):
        value = found.get((workload, metric))
        if of != lane or (value is None and metric == "ratio" and not complete):
            continue
        ok = value is not None and value <= limit
        missed = "" if value is None or value <= target or not ok else "; the design's %g is missed" % target
        number = "no" if value is None else "%.4g" % value
        say(ok, "%s %s: %s %s, limit %g%s" % (lane, workload, number, metric, limit, missed))
        bad.update([] if ok else [metric])
    return bad

def selftest(programs, say):
    text = open("azredis_entra.h").read()
    for metric, (function, extra) in BAD.items():
        worse, n = re.subn(r"(?m)^(static (?:inline |AZRI_ALONG )?\w+ %s\([^{;]*\) \{)$" % function, lambda m: m.group(1) + " " + extra, text)
        with tempfile.TemporaryDirectory() as d:
            with open(d + "/azredis_entra.h", "w") as f:
                f.write(worse)
            bad = judge("plain", measure(programs, "plain", None, d), limits(), False, lambda ok, what: None)
        say(n == 1 and metric in bad, "self-test: extra %s in %s are noticed" % (metric, function))

def main():
    p = argparse.ArgumentParser(usage=__doc__)
    p.add_argument("-B", default="build")
    for flag in ("short", "selftest"): p.add_argument("--" + flag, action="store_true")
    a = p.parse_args()
    programs, said = Programs(a.B), []
    def say(ok, what):
        said.append(ok)
        print("%sok %d - %s" % ("" if ok else "not ", len(said), what), flush=True)
    if a.selftest:
        selftest(programs, say)
    else:
        peer = None if a.short else programs.hiredis()
        for lane in [lane for lane in TLS if lane != "gcm" or not a.short]:
            judge(lane, measure(programs, lane, peer), limits(), peer, say)
    sys.exit(not all(said))

if __name__ == "__main__": main()
