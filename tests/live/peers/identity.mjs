// One credential of @azure/identity, in the environment it finds: prints {"token": ..., "expires": ...} or
// {"error": ..., "name": ...}. A process of its own for each, as the library keeps tokens for all its instances.
//   node identity.mjs CREDENTIAL [OPTIONS AS JSON] [SCOPE]
import * as azure from "@azure/identity";

const [name, json = "{}", scope = "https://redis.azure.com/.default"] = process.argv.slice(2);
const options = { disableInstanceDiscovery: true, retryOptions: { maxRetries: 1 }, ...JSON.parse(json) };
const env = process.env;

function credential() {
    switch (name) {
    case "secret":
        return new azure.ClientSecretCredential(env.AZURE_TENANT_ID, env.AZURE_CLIENT_ID, env.AZURE_CLIENT_SECRET,
                                                { authorityHost: env.AZURE_AUTHORITY_HOST, ...options });
    case "workload": return new azure.WorkloadIdentityCredential(options);
    case "managed": return new azure.ManagedIdentityCredential(options);
    case "default": return new azure.DefaultAzureCredential(options);
    case "exchange": { // a managed identity's token for the application's secret
        const managed = new azure.ManagedIdentityCredential({ clientId: env.EMULATOR_USER_CLIENT_ID });
        const assertion = async () => (await managed.getToken("api://AzureADTokenExchange/.default")).token;
        return new azure.ClientAssertionCredential(env.AZURE_TENANT_ID, env.AZURE_CLIENT_ID, assertion, options);
    }
    default: throw new Error(`no credential ${name}`);
    }
}

try {
    const token = await credential().getToken(scope);
    console.log(JSON.stringify({ token: token.token, expires: token.expiresOnTimestamp }));
} catch (error) {
    console.log(JSON.stringify({ error: error.message, name: error.name }));
}
