#!/usr/bin/env python3
# README's tables "from .NET": every line of C in them compiles, at most six a row, and no known name is missing.
"""
Usage: check_dotnet.py [HEADER [README]]     prints TAP lines

A table whose head is "| .NET | our lines |". The code between backticks in a row's second cell is one function body,
with the variables of FRAME. A row without code says "not yet" and what it arrives with.
"""
import os, re, subprocess, sys, tempfile

LINES = 6
HEAD = "| .NET | our lines |"
FRAME = """#include "azredis_entra.h"
#include <stdio.h>
#include <stdlib.h>
azredis_status my_token(void *user, const char *scope, azredis_fetched *out);
void my_event(const azredis_event *e, void *user);
"""
ROW = """void row_%d(azredis_options o, azredis_auth_options id, azredis_client *c, azredis_reply r, const azredis_event *e);
void row_%d(azredis_options o, azredis_auth_options id, azredis_client *c, azredis_reply r, const azredis_event *e) {
    (void)o, (void)id, (void)c, (void)r, (void)e;
#line 1 "row %s"
    %s
}
"""
# What Microsoft.Azure.StackExchangeRedis 3.4 and StackExchange.Redis 3 have that a C program can have, too.
NAMES = """ConfigureForAzure ConfigureForAzureAsync ConfigureForAzureWithSystemAssignedManagedIdentityAsync
ConfigureForAzureWithUserAssignedManagedIdentityAsync ConfigureForAzureWithServicePrincipalAsync
ConfigureForAzureWithTokenCredentialAsync ClientId ServicePrincipalTenantId ServicePrincipalSecret
ServicePrincipalCertificate SendX5C Cloud CloudUri Scope GetUserName ShouldTokenBeRefreshed ThrowOnTokenRefreshFailure
TokenCredential AbortOnConnectFail AsyncTimeout BacklogPolicy ClientName ConnectTimeout DefaultDatabase EndPoints
KeepAlive LoggerFactory Parse Password Protocol Ssl SslHost SyncTimeout ToString TrustIssuer User TokenRefreshed
TokenRefreshFailed ConnectionReauthenticated ConnectionReauthenticationFailed ConnectionFailed ConnectionRestored
ErrorMessage InternalError ConfigurationChanged HashSlotMoved ServerMaintenanceEvent""".split()

def rows(text):
    """[(names, code lines, words)] of all the tables."""
    found, inside = [], False
    for line in text.splitlines():
        inside = line == HEAD or (inside and line.startswith("|"))
        if inside and line != HEAD and not line.startswith("|---"):
            left, right = re.split(r"(?<!\\) \| ", line.strip("| "), maxsplit=1)
            found.append((left.replace("`", ""), re.findall(r"`([^`]*)`", right), right))
    return found

def main():
    header = sys.argv[1] if len(sys.argv) > 1 else "azredis_entra.h"
    with open(sys.argv[2] if len(sys.argv) > 2 else "README.md", encoding="utf-8") as f:
        table = rows(f.read())
    code = FRAME + "".join(ROW % (i, i, left.split("(")[0].replace('"', ""), "\n    ".join(lines))
                           for i, (left, lines, _) in enumerate(table) if lines)
    with tempfile.TemporaryDirectory() as directory:
        unit = os.path.join(directory, "unit.c")
        with open(unit, "w") as f:
            f.write(code)
        r = subprocess.run([os.environ.get("CC", "gcc"), "-std=c99", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", unit,
                            "-I" + os.path.dirname(os.path.abspath(header))],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    words = set(re.findall(r"\w+", " ".join(left for left, _, _ in table)))
    results = [(r.stdout.splitlines()[:20], "%d rows compile" % sum(1 for _, lines, _ in table if lines)),
               ([left for left, lines, _ in table if len(lines) > LINES], "no row has more than %d lines" % LINES),
               ([left for left, lines, right in table if not lines and not right.startswith("not yet")],
                "a row without code says \"not yet\""),
               ([n for n in NAMES if n not in words], "each of %d names of .NET has a row" % len(NAMES)),
               ([] if table else ["no table begins with " + HEAD], "there is a table")]
    for i, (complaints, what) in enumerate(results, 1):
        print("%sok %d - %s" % ("not " if complaints else "", i, what))
        for c in complaints:
            print("# " + c)
    sys.exit(any(c for c, _ in results))

main()
