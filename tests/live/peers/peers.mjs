// Microsoft's and Redis's own clients against the emulator: what they accept, ours may rely on.
// Run by run.sh, which sets the environment that the emulator's --env-file gives, with tokens of
// about twelve seconds. Prints "ok N - text" lines; exit status 1 if one is "not ok".
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { promisify } from "node:util";
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

// The environment of a program that runs in that place, as the emulator's settings file for it says.
function environmentOf(place) {
    const here = { ...env };
    for (const line of readFileSync(`${env.EMULATOR_ENV_FILE}${place && `.${place}`}`, "utf8").split("\n")) {
        for (const name of line.startsWith("unset ") ? line.slice(6).split(" ") : []) delete here[name];
        const set = /^export (\w+)='(.*)'$/.exec(line);
        if (set) here[set[1]] = set[2];
    }
    return here;
}

// What identity.mjs has to say when it runs there.
async function asked(place, ...args) {
    const { stdout } = await promisify(execFile)(process.execPath, ["identity.mjs", ...args],
                                                { env: environmentOf(place), timeout: 60_000 });
    return JSON.parse(stdout);
}

// Credential and options get a token in that place, of that identity, and Redis lets it in.
async function letsIn(text, oid, place, credentialName, options = {}) {
    const answer = await asked(place, credentialName, JSON.stringify(options));
    const claims = answer.token ? JSON.parse(Buffer.from(answer.token.split(".")[1], "base64url")) : {};
    const left = (answer.expires - Date.now()) / 1000;
    let user = answer.error;
    if (claims.oid === oid && left > 0 && left < 14) {
        const client = createClient({ url: `rediss://${env.AZREDIS_ENDPOINT}`, username: oid, password: answer.token,
                                      socket: { reconnectStrategy: false } });
        client.on("error", (error) => { user = error.message; });
        await client.connect();
        user = await client.sendCommand(["ACL", "WHOAMI"]);
        client.destroy();
    }
    check(user === oid, `@azure/identity: ${text}${user === oid ? "" : ` # ${user}, ${left.toFixed(1)} s left`}`);
    return answer;
}

async function refused(text, words, place, credentialName, options = {}, scope = undefined) {
    const answer = await asked(place, credentialName, JSON.stringify(options), ...(scope ? [scope] : []));
    const told = answer.error?.includes(words);
    check(told, `@azure/identity: ${text}${told ? "" : ` # ${answer.error}`}`);
}

async function identities() {
    const oid = (name) => env[`EMULATOR_OID_${name}`];
    const user2 = env.EMULATOR_USER2_RESOURCE_ID;
    await letsIn("workload identity", oid("WORKLOAD"), "workload", "workload");
    await letsIn("IMDS, system-assigned", oid("IMDS"), "imds", "managed");
    await letsIn("IMDS, by client id", oid("USER"), "imds", "managed", { clientId: env.EMULATOR_USER_CLIENT_ID });
    await letsIn("IMDS, by object id", oid("USER2"), "imds", "managed", { objectId: oid("USER2") });
    await letsIn("IMDS, by a resource id with a blank", oid("USER2"), "imds", "managed", { resourceId: user2 });
    await letsIn("App Service, system-assigned", oid("APPSERVICE"), "appservice", "managed");
    await letsIn("App Service, by client id", oid("USER"), "appservice", "managed",
                 { clientId: env.EMULATOR_USER_CLIENT_ID });
    await letsIn("App Service, by object id", oid("USER2"), "appservice", "managed", { objectId: oid("USER2") });
    await letsIn("App Service, by resource id", oid("USER2"), "appservice", "managed", { resourceId: user2 });
    await letsIn("Cloud Shell", oid("CLOUDSHELL"), "cloudshell", "managed");
    await letsIn("Azure ML", oid("ML"), "ml", "managed", { clientId: environmentOf("ml").DEFAULT_IDENTITY_CLIENT_ID });
    if (env.PEERS_ARC) await letsIn("Azure Arc", oid("ARC"), "arc", "managed");
    else console.log("# Azure Arc left out: its directory /var/opt/azcmagent/tokens cannot be written to here");
    await letsIn("a managed identity for an application's secret", oid("EXCHANGE"), "exchange", "exchange");
    await letsIn("a certificate", oid("CERTIFICATE"), "certificate", "certificate");
    await letsIn("a certificate with its chain", oid("CERTIFICATE"), "certificate", "certificate",
                 { sendCertificateChain: true });
    await letsIn("a certificate's subject name", oid("SUBJECT"), "subject", "certificate",
                 { sendCertificateChain: true });
    await refused("a certificate's subject name without the chain", "AADSTS700027", "subject", "certificate");
    await letsIn("a certificate, PS256", oid("CERTIFICATE"), "certificate", "msal");
    await letsIn("a certificate, PS256 with the chain", oid("SUBJECT"), "subject", "msal", { x5c: true });
    await letsIn("default chain, a certificate", oid("CERTIFICATE"), "certificate", "default");
    await letsIn("default chain, a certificate's subject name", oid("SUBJECT"), "subject", "default");
    const device = await letsIn("device code, then its refresh token", oid("DEVICE"), "device", "device",
                                { renew: true });
    check(device.prompts === 1 && device.first && device.first !== device.token,
          "and the person was asked once for two tokens");
    await refused("device code, declined", "authorization_declined", "device", "device", { action: "decline" });
    await letsIn("default chain, a secret", oid("ENVIRONMENT"), "", "default");
    await letsIn("default chain, a pod", oid("WORKLOAD"), "workload", "default");
    await letsIn("default chain, a virtual machine", oid("IMDS"), "imds", "default");
    await letsIn("default chain, AZURE_CLIENT_ID names the identity", oid("USER"), "imds-user", "default");
    await letsIn("default chain, App Service", oid("APPSERVICE"), "appservice", "default");
    const proxy = new URL(env.EMULATOR_PROXY);
    const before = (await counters()).proxy_tunnels;
    await letsIn("through the proxy", oid("ENVIRONMENT"), "", "secret",
                 { proxyOptions: { host: `http://${proxy.hostname}`, port: Number(proxy.port) } });
    check((await counters()).proxy_tunnels > before, "and the proxy has seen it");
    await refused("IMDS, an unknown identity", "Identity not found", "imds", "managed", { clientId: env.EMULATOR_OID });
    await refused("a federated token of another subject", "AADSTS700213", "workload", "workload",
                  { tokenFilePath: env.PEERS_STRANGER });
}

try {
    await identities();
    await tokenOfTheSdk();
    await wrongSecret();
    await rotations();
    await expiry();
} catch (error) {
    check(false, `unexpected: ${error.stack}`);
}
console.log(`1..${lines}`);
process.exit(failures ? 1 : 0);
