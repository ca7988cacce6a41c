#!/usr/bin/env python3
# Runs a suite of test programs and counts their cases; sums up what several suites counted.
"""
tests.py run -B build SUITE [-j N] [-t S] [--wrap CMD] [--plain] [--first] [--in-turn NAME] [--arg A] [--sh-arg A] PROGRAM...
    Cases are TAP lines ("ok 1 - name", "not ok 2 - name", "... # SKIP"), as cmocka prints them. With
    --plain a program is one case; --first stops a program at its first failed case; those named by --in-turn
    run one after another beside all others. A program that is missing, dies, hangs, leaves processes behind,
    or tells of fewer cases than it announced is a failed case. Output: build/log/SUITE/PROGRAM.log
tests.py time -B build SUITE COMMAND...     runs a command that has no cases of its own
tests.py sum -B build SUITE...              prints failures, skips, and last "N passed, N failed"
"""
import argparse, concurrent.futures, getopt, json, os, re, shlex, signal, subprocess, sys, time

RESULT = re.compile(r"(not )?ok\s+\d+\s*(?:-\s*)?(.*)$")
SKIP = re.compile(r"#\s*skip\b[\s:]*(.*)", re.I)

def read_tap(text):
    """Cases as [outcome, name, what was printed before or about it], and the number announced."""
    cases, said, plan = [], [], None
    for line in text.splitlines():
        m = RESULT.match(line)
        if re.match(r"1\.\.\d+\s*$", line):
            plan = (plan or 0) + int(line[3:])
        elif not m:
            said.append(line)
            if line.startswith("#") and cases and cases[-1][0] == "failed":
                cases[-1][2].append(line)
        else:
            skip = SKIP.search(m.group(2))
            if skip:                    # cmocka says "not ok 3 # SKIP name" and prints the reason before
                name = m.group(2)[:skip.start()].strip(" -") or skip.group(1)
                reason = skip.group(1) if skip.group(1) != name else " ".join(said[-2:])
                cases.append(["skipped", name, [reason or "no reason given"]])
            else:
                cases.append(["failed" if m.group(1) else "passed", m.group(2), said[-40:] if m.group(1) else []])
            said = []
    return cases, plan, said

def group_ends(pgid, seconds):
    """True when no process of the group is left."""
    end = time.monotonic() + seconds
    while True:
        try:
            os.killpg(pgid, 0)
        except ProcessLookupError:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.05)

def group_stop(pgid):
    for sig, seconds in ((signal.SIGTERM, 3), (signal.SIGKILL, 3)):
        try:
            os.killpg(pgid, sig)
        except ProcessLookupError:
            return
        if group_ends(pgid, seconds):
            return

def give_way(pid):
    """Who is nice is nice in a session of its own, too: where Linux weighs sessions, nice counts only within one."""
    if os.nice(0) > 0:
        try:
            with open("/proc/%d/autogroup" % pid, "w") as f:
                f.write(str(os.nice(0)))
        except OSError:
            pass

def watch(o, p, log):
    """Waits for the program to end; returns what was wrong with that, or None."""
    end = time.monotonic() + o.timeout
    while True:
        try:
            p.wait(0.5)
            return None if group_ends(p.pid, 3) else "left processes behind"
        except subprocess.TimeoutExpired:
            if time.monotonic() > end:
                return "still ran after %d s" % o.timeout
            if o.first and any(c[0] == "failed" for c in read_tap(read_log(log))[0]):
                return "stopped at the first failed case"

def read_log(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()

def command_of(o, program):
    argv = ["sh", program] if program.endswith(".sh") else \
           [sys.executable, program] if program.endswith(".py") else shlex.split(o.wrap) + [os.path.abspath(program)]
    return argv + (o.sh_arg if program.endswith(".sh") else []) + o.arg

def run_program(o, program):
    """All cases of one program."""
    name = os.path.splitext(os.path.basename(program))[0]
    if sum(os.path.basename(q) == os.path.basename(program) for q in o.programs) > 1:
        name = os.path.basename(os.path.dirname(program)) + "-" + name
    log = os.path.join(o.build, "log", o.suite, name + ".log")
    if not os.path.exists(program):
        return [["failed", name + ": was not built", []]]
    env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT="tap", UBSAN_OPTIONS="print_stacktrace=1",
               ASAN_OPTIONS="detect_stack_use_after_return=1:strict_string_checks=1:handle_abort=1")
    begin = time.monotonic()
    with open(log, "wb") as f:
        p = subprocess.Popen(command_of(o, program), stdin=subprocess.DEVNULL, stdout=f,
                             stderr=subprocess.STDOUT, env=env, start_new_session=True)
        give_way(p.pid)
        trouble = watch(o, p, log)
        group_stop(p.pid)
        p.wait()
    text = read_log(log)
    cases, plan, rest = ([], None, text.splitlines()) if o.plain else read_tap(text)
    if not trouble and p.returncode and not any(c[0] == "failed" for c in cases):
        trouble = "ended by signal %d" % -p.returncode if p.returncode < 0 else "exit status %d" % p.returncode
    if not trouble and p.returncode < 0:
        trouble = "ended by signal %d" % -p.returncode
    if not trouble and plan is not None and plan != len(cases):
        trouble = "announced %d cases and told of %d" % (plan, len(cases))
    if o.plain and not trouble:
        cases.append(["passed", name, []])
    elif trouble or not cases:
        cases.append(["failed", trouble or "told of no case", rest[-60:]])
    took = time.monotonic() - begin
    return [[outcome, "%s: %s" % (name, case), said, took] for outcome, case, said in cases]

def chains(o):
    """Lists of programs; each list runs in its order, all of them side by side."""
    busy = [p for p in o.programs if os.path.basename(p) in o.in_turn]
    return ([busy] if busy else []) + [[p] for p in o.programs if p not in busy]

def results_path(build, suite):
    return os.path.join(build, "log", "results", suite + ".json")

def save(build, suite, seconds, cases):
    os.makedirs(os.path.dirname(results_path(build, suite)), exist_ok=True)
    with open(results_path(build, suite), "w") as f:
        json.dump({"begin": time.time() - seconds, "cases": cases}, f, indent=1)
    print("%-16s %5d passed, %d failed %8.1f s" % (suite, sum(c[0] == "passed" for c in cases),
          sum(c[0] == "failed" for c in cases), seconds), flush=True)

def total(build, suites):
    """Prints what failed and was skipped, then the last line. Returns the exit status."""
    cases, begin = [], time.time()
    for suite in suites:
        try:
            with open(results_path(build, suite)) as f:
                one = json.load(f)
        except (OSError, ValueError):
            one = {"begin": begin, "cases": [["failed", "the suite did not run", []]]}
        begin = min(begin, one["begin"])
        cases += [[c[0], suite + "/" + c[1], c[2]] for c in one["cases"]]
    count = {k: sum(c[0] == k for c in cases) for k in ("passed", "failed", "skipped")}
    for outcome, name, said in cases:
        if outcome == "failed":
            print("\nFAILED %s" % name + "".join("\n    " + line for line in said))
    for outcome, name, said in cases:
        if outcome == "skipped":
            print("skipped %s: %s" % (name, " ".join(said)))
    print("%.0f seconds in all" % (time.time() - begin))
    print("%d passed, %d failed" % (count["passed"], count["failed"])
          + (", %d skipped" % count["skipped"] if count["skipped"] else ""), flush=True)
    return bool(count["failed"] or not count["passed"] or (count["skipped"] and os.environ.get("AZREDIS_NO_SKIP")))

def main():
    what, args = (sys.argv + [""])[1], sys.argv[2:]
    o = argparse.Namespace(build="build", jobs=1, timeout=120.0, wrap="", plain=False, first=False, arg=[], sh_arg=[], in_turn=[])
    parse = getopt.getopt if what == "time" else getopt.gnu_getopt
    try:
        options, rest = parse(args, "B:j:t:", ["wrap=", "plain", "first", "in-turn=", "arg=", "sh-arg="])
        if what not in ("run", "time", "sum") or not rest:
            raise getopt.GetoptError("run, time or sum, and a suite")
    except getopt.GetoptError as e:
        sys.exit("%s\n%s" % (e, __doc__))
    for k, v in options:
        if k in ("--arg", "--sh-arg", "--in-turn"):
            getattr(o, k[2:].replace("-", "_")).append(v)
        elif k in ("--plain", "--first"):
            setattr(o, k[2:], True)
        else:
            setattr(o, {"-B": "build", "-j": "jobs", "-t": "timeout", "--wrap": "wrap"}[k],
                    {"-j": int, "-t": float}.get(k, str)(v))
    if what == "sum":
        sys.exit(total(o.build, rest))
    o.suite, o.programs, begin = rest[0], rest[1:], time.monotonic()
    if what == "time":
        p = subprocess.Popen(o.programs, close_fds=False, start_new_session=True)     # open files: make's job slots
        give_way(p.pid)
        try:
            status = p.wait()
        finally:
            group_stop(p.pid)
        save(o.build, o.suite, time.monotonic() - begin, [["failed", "exit status %d" % status, []]] if status else [])
        sys.exit(status != 0 and not os.environ.get("AZREDIS_SUMMARY"))
    os.makedirs(os.path.join(o.build, "log", o.suite), exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(o.jobs) as pool:
        cases = [c for some in pool.map(lambda chain: [c for p in chain for c in run_program(o, p)], chains(o)) for c in some]
    cases = cases or [["failed", "the suite has no program", []]]
    save(o.build, o.suite, time.monotonic() - begin, cases)
    if os.environ.get("AZREDIS_SUMMARY") != "later":
        sys.exit(total(o.build, [o.suite]))

if __name__ == "__main__":
    main()
