// Microsoft's and Redis's own clients against the emulator: what they accept, ours may rely on.
// Run by run.sh, which sets the environment that the emulator's --env-file gives, with tokens of
// about twelve seconds. Prints "ok N - text" lines; exit status 1 if one is "not ok".
import { ClientSecretCredential } from "@azure/identity";
import { createClient } from "@redis/client";
import { EntraIdCredentialsProviderFactory, REDIS_SCOPE_DEFAULT } from "@redis/entraid";

const env = process.env;
const ROTATIONS = 3;
const DEADLINE_MS = 55_000;
let lines = 0;
let failures = 0;

function check(good, text) {
    lines++;
    if (!good) failures++;
    console.log(`${good ? "ok" : "not ok"} ${lines} - ${text}`);
}

const counters = async () => (await fetch(`${env.EMULATOR_ADMIN}/counters`)).json();

function credential(secret) {
    return new ClientSecretCredential(env.AZURE_TENANT_ID, env.AZURE_CLIENT_ID, secret, {
        authorityHost: env.AZURE_AUTHORITY_HOST,
        disableInstanceDiscovery: true, // it would ask Microsoft who this authority is
    });
}

async function tokenOfTheSdk() {
    const token = await credential(env.AZURE_CLIENT_SECRET).getToken(REDIS_SCOPE_DEFAULT);
    const claims = JSON.parse(Buffer.from(token.token.split(".")[1], "base64url"));
    check(claims.oid === env.EMULATOR_OID, "@azure/identity gets a token of the right object id");
    const left = (token.expiresOnTimestamp - Date.now()) / 1000;
    check(left > 5 && left <= 13,
          `@azure/identity takes its life from the answer (${left.toFixed(1)} s)`);
}

async function wrongSecret() {
    try {
        await credential("wrong~secret").getToken(REDIS_SCOPE_DEFAULT);
        check(false, "a wrong secret is an error");
    } catch (error) {
        check(error.name === "AuthenticationRequiredError" &&
              error.message.includes("AADSTS7000215"),
              "a wrong secret is the SDK's own error with AADSTS7000215");
        const read =
            /^invalid_client: Error\(s\): 7000215 .* ID: [0-9a-f-]{36} - Trace ID: [0-9a-f-]{36}$/s;
        check(read.test(error.message),
              "it has read error, error_codes, correlation_id and trace_id");
    }
}

// One connection, commands without a pause, until the token has been renewed three times.
async function rotations() {
    const errors = [];
    const provider = EntraIdCredentialsProviderFactory.createForDefaultAzureCredential({
        credential: credential(env.AZURE_CLIENT_SECRET),
        scopes: REDIS_SCOPE_DEFAULT,
        tokenManagerConfig: { expirationRefreshRatio: 0.5 },
        onReAuthenticationError: (error) => errors.push(`re-authentication: ${error.message}`),
    });
    const client = createClient({
        url: `rediss://${env.AZREDIS_ENDPOINT}`,
        credentialsProvider: provider,
        socket: { reconnectStrategy: false },
    });
    client.on("error", (error) => errors.push(`client: ${error.message}`));
    const before = await counters();
    await client.connect();
    const id = await client.sendCommand(["CLIENT", "ID"]);
    const end = Date.now() + DEADLINE_MS;
    let done = 0, rounds = 0, wrong = 0, sameId = true;
    while (done < ROTATIONS && errors.length === 0 && Date.now() < end) {
        await client.set("peer", String(rounds));
        if ((await client.get("peer")) !== String(rounds)) wrong++;
        rounds++;
        const now = (await counters()).reauths_accepted - before.reauths_accepted;
        if (now === done) continue;
        done = now;
        sameId &&= (await client.sendCommand(["CLIENT", "ID"])) === id;
        check(sameId, `@redis/entraid rotation ${done}: accepted by the server, same CLIENT ID`);
    }
    const after = await counters();
    const auths = after.auths.slice(before.auths.length);
    check(done === ROTATIONS, `${ROTATIONS} rotations`);
    check(errors.length === 0, `no error${errors.length ? `: ${errors[0]}` : ""}`);
    check(wrong === 0 && rounds > ROTATIONS, `${rounds} SET and GET without a wrong answer`);
    check(after.connections_opened - before.connections_opened === 1, "one connection throughout");
    check(after.connections_expired === before.connections_expired, "no connection expired");
    check(auths.every((a) => a.accepted && a.user === env.EMULATOR_OID), "each AUTH was accepted");
    check(auths.slice(1).every((a) => a.seconds_left > 1 && a.seconds_left < 11),
          `renewed with ${auths.slice(1).map((a) => a.seconds_left).join(", ")} s left`);
    client.destroy();
}

// A client that does not renew is closed when its token expires.
async function expiry() {
    const token = await (await fetch(`${env.EMULATOR_ADMIN}/token`)).json();
    const before = await counters();
    const client = createClient({
        url: `rediss://${env.AZREDIS_ENDPOINT}`,
        username: token.oid,
        password: token.access_token,
        socket: { reconnectStrategy: false },
    });
    const closed = new Promise((resolve) => {
        client.on("error", () => resolve(true));
        client.on("end", () => resolve(true));
        setTimeout(resolve, 20_000, false).unref();
    });
    await client.connect();
    check((await client.ping()) === "PONG", "@redis/client with a bare token");
    check(await closed, "without renewal the connection is closed");
    const after = await counters();
    const expired = after.connections_expired - before.connections_expired;
    check(expired === 1, "because the token expired");
}

try {
    await tokenOfTheSdk();
    await wrongSecret();
    await rotations();
    await expiry();
} catch (error) {
    check(false, `unexpected: ${error.stack}`);
}
console.log(`1..${lines}`);
process.exit(failures ? 1 : 0);
