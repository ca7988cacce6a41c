#!/usr/bin/env python3
# README's tables of recipes, "from .NET" and one for each identity: they compile, at most six lines each; no name is missing.
"""
Usage: check_dotnet.py [HEADER [README]]     prints TAP lines

Tables with one of HEADS. The code between backticks in a row's last cell is one function body, with the variables of
FRAME and ROW. A row without code says "not yet" and what it arrives with.
"""
import os, re, subprocess, sys, tempfile

LINES = 6
HEADS = {"| .NET | our lines |", "| identity | when | it needs | recipe |"}
FRAME = """#include "azredis_entra.h"
#include <stdio.h>
#include <stdlib.h>
azredis_status my_token(void *user, const char *scope, azredis_fetched *out);
void my_event(const azredis_event *e, void *user);
extern const char *tenant, *application;
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
        inside = line in HEADS or (inside and line.startswith("|"))
        if inside and line not in HEADS and not line.startswith("|---"):
            cells = re.split(r"(?<!\\) \| ", line.strip("| "))
            found.append((cells[0].replace("`", ""), re.findall(r"`([^`]*)`", cells[-1]), cells[-1]))
    return found

def main():
    header = sys.argv[1] if len(sys.argv) > 1 else "azredis_entra.h"
    with open(sys.argv[2] if len(sys.argv) > 2 else "README.md", encoding="utf-8") as f:
        readme = f.read()
    table = rows(readme)
    code = FRAME + "".join(ROW % (i, i, left.split("(")[0].replace('"', ""), "\n    ".join(lines))
                           for i, (left, lines, _) in enumerate(table) if lines)
    with tempfile.TemporaryDirectory() as directory:
        unit = os.path.join(directory, "unit.c")
        with open(unit, "w") as f:
            f.write(code)
        r = subprocess.run([os.environ.get("CC", "gcc"), "-std=c99", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", unit,
                            "-I" + os.path.dirname(os.path.abspath(header))],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    words = set(re.findall(r"[\w-]+", " ".join(left for left, _, _ in table)))
    with open(header, encoding="utf-8") as f:
        kinds = re.search(r"azri_identity_kinds\[\] = \{(.*?)\n\};", f.read(), re.S).group(1)
    identities = re.findall(r'\{ "([a-z-]+)"', kinds)
    results = [(r.stdout.splitlines()[:20], "%d rows compile" % sum(1 for _, lines, _ in table if lines)),
               ([left for left, lines, _ in table if len(lines) > LINES], "no row has more than %d lines" % LINES),
               ([left for left, lines, right in table if not lines and not right.startswith("not yet")],
                "a row without code says \"not yet\""),
               ([n for n in NAMES if n not in words], "each of %d names of .NET has a row" % len(NAMES)),
               ([n for n in identities if n not in words], "each of %d identities has a row" % len(identities)),
               (["no table begins with %s" % h for h in HEADS if h not in readme], "there is a table")]
    for i, (complaints, what) in enumerate(results, 1):
        print("%sok %d - %s" % ("not " if complaints else "", i, what))
        for c in complaints:
            print("# " + c)
    sys.exit(any(c for c, _ in results))

main()
