// One credential of @azure/identity, in the environment it finds: prints {"token": ..., "expires": ...} or
// {"error": ..., "name": ...}. With the option "renew" it asks twice, and "first" is the first token. A process of
// its own for each, as the library keeps tokens for all its instances.
//   node identity.mjs CREDENTIAL [OPTIONS AS JSON] [SCOPE]
import { createHash, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import * as azure from "@azure/identity";
import { ConfidentialClientApplication } from "@azure/msal-node";

const [name, json = "{}", scope = "https://redis.azure.com/.default"] = process.argv.slice(2);
const options = { disableInstanceDiscovery: true, retryOptions: { maxRetries: 1 }, ...JSON.parse(json) };
const env = process.env;

let prompts = 0;

// The person who is shown the code: a request to the emulator's admin endpoint.
async function person({ userCode }) {
    prompts++;
    await fetch(`${env.EMULATOR_ADMIN}/device?user_code=${userCode}&action=${options.action ?? "approve"}`,
                { method: "POST" });
}

// What @azure/identity stands on. It signs by PS256 when it is told the SHA-256 print, which this version of
// @azure/identity does not do.
function msal({ x5c }) {
    const pem = readFileSync(env.AZURE_CLIENT_CERTIFICATE_PATH, "utf8");
    const application = new ConfidentialClientApplication({
        auth: {
            clientId: env.AZURE_CLIENT_ID,
            authority: env.AZURE_AUTHORITY_HOST + env.AZURE_TENANT_ID,
            knownAuthorities: [new URL(env.AZURE_AUTHORITY_HOST).host],
            clientCertificate: {
                thumbprintSha256: createHash("sha256").update(new X509Certificate(pem).raw).digest("hex"),
                privateKey: pem,
                ...(x5c ? { x5c: pem } : {}),
            },
        },
    });
    const getToken = async () => {
        const { accessToken, expiresOn } = await application.acquireTokenByClientCredential({ scopes: [scope] });
        return { token: accessToken, expiresOnTimestamp: expiresOn.getTime() };
    };
    return { getToken };
}

function credential() {
    switch (name) {
    case "secret":
        return new azure.ClientSecretCredential(env.AZURE_TENANT_ID, env.AZURE_CLIENT_ID, env.AZURE_CLIENT_SECRET,
                                                { authorityHost: env.AZURE_AUTHORITY_HOST, ...options });
    case "workload": return new azure.WorkloadIdentityCredential(options);
    case "managed": return new azure.ManagedIdentityCredential(options);
    case "default": return new azure.DefaultAzureCredential(options);
    case "certificate":
        return new azure.ClientCertificateCredential(env.AZURE_TENANT_ID, env.AZURE_CLIENT_ID,
                                                     env.AZURE_CLIENT_CERTIFICATE_PATH, options);
    case "msal": return msal(options);
    case "device":
        return new azure.DeviceCodeCredential({ tenantId: env.AZURE_TENANT_ID, clientId: env.AZURE_CLIENT_ID,
                                                userPromptCallback: person, ...options });
    case "exchange": { // a managed identity's token for the application's secret
        const managed = new azure.ManagedIdentityCredential({ clientId: env.EMULATOR_USER_CLIENT_ID });
        const assertion = async () => (await managed.getToken("api://AzureADTokenExchange/.default")).token;
        return new azure.ClientAssertionCredential(env.AZURE_TENANT_ID, env.AZURE_CLIENT_ID, assertion, options);
    }
    default: throw new Error(`no credential ${name}`);
    }
}

try {
    const one = credential();
    const token = await one.getToken(scope);
    const renewed = options.renew ? await one.getToken(scope) : undefined; // the first one has less than five minutes
    console.log(JSON.stringify({ token: token.token, expires: token.expiresOnTimestamp, prompts,
                                 ...(renewed ? { token: renewed.token, first: token.token } : {}) }));
} catch (error) {
    console.log(JSON.stringify({ error: error.message, name: error.name }));
}
