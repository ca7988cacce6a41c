/*
 * errors.h - part of emulator.c: the errors of Entra's token endpoint, as it words them.
 */
#define SLOW_DOWN (-70016) /* error slow_down; its code is that of a pending one */

static const struct sts_error { long code; unsigned status; const char *error, *text; } ERRORS[] = {
    {900144, 400, "invalid_request",
     "The request body must contain the following parameter: '%s'."},
    {900023, 400, "invalid_request",
     "Specified tenant identifier '%s' is neither a valid DNS name, nor a valid external domain."},
    {50059, 400, "invalid_request", "No tenant-identifying information found in either the request or implied by any "
                                    "provided credentials."},
    {90002, 400, "invalid_request",
     "Tenant '%s' not found. Check to make sure you have the correct tenant ID and are signing "
     "into the correct cloud."},
    {9002313, 400, "invalid_request", "Invalid request. Request is malformed or invalid."},
    {70003, 400, "unsupported_grant_type", "The app requested an unsupported grant type '%s'."},
    {70000, 400, "invalid_grant", "Provided grant is invalid or malformed."},
    {70016, 400, "authorization_pending",
     "OAuth 2.0 device flow error. Authorization is pending. Continue polling."},
    {SLOW_DOWN, 400, "slow_down", "OAuth 2.0 device flow error. Polling is too fast. Slow down."},
    {70017, 400, "authorization_declined",
     "OAuth 2.0 device flow error. The end user denied the authorization request."},
    {70018, 400, "bad_verification_code", "Invalid verification code."},
    {70019, 400, "expired_token", "Verification code expired. Have the user retry the sign-in."},
    {70020, 400, "expired_token", "The provided value for the input parameter 'device_code' is not valid. This device "
                                  "code has expired."},
    {54005, 400, "invalid_grant", "OAuth2 Authorization code was already redeemed, please retry with a new valid code "
                                  "or use an existing refresh token."},
    {70043, 400, "invalid_grant", "The refresh token has expired or is invalid due to sign-in frequency checks by "
                                  "conditional access."},
    {700082, 400, "invalid_grant", "The refresh token has expired due to inactivity."},
    {50173, 400, "invalid_grant", "The provided grant has expired due to it being revoked, a fresh auth token is "
                                  "needed. The user might have changed or reset their password."},
    {7000218, 401, "invalid_client",
     "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."},
    {700025, 401, "invalid_client",
     "Client is public so neither 'client_assertion' nor 'client_secret' should be presented."},
    {9001023, 400, "invalid_request", "The grant type is not supported over the /common or /consumers endpoints. "
                                      "Please use the /organizations or tenant-specific endpoint."},
    {28000, 400, "invalid_scope", "Provided value for the input parameter scope is not valid because it contains more "
                                  "than one resource. Scope %s is not valid."},
    {1002012, 400, "invalid_scope",
     "The provided value for scope %s is not valid. Client credential flows must have a scope value with /.default "
     "suffixed to the resource identifier (application ID URI)."},
    {650057, 400, "invalid_resource",
     "Invalid resource. The client has requested access to a resource which is not listed in the requested permissions "
     "in the client's application registration. Resource value from request: %s."},
    {65001, 400, "invalid_grant", "The user or administrator has not consented to use the application. Send an "
                                  "interactive authorization request for this user and resource."},
    {70011, 400, "invalid_scope",
     "The provided request must include a 'scope' input parameter. The provided value for the "
     "input parameter 'scope' is not valid. The scope %s is not valid."},
    {700016, 400, "unauthorized_client",
     "Application with identifier '%s' was not found in the directory. This can happen if the "
     "application has not been installed by the administrator of the tenant."},
    {7000215, 401, "invalid_client",
     "Invalid client secret provided. Ensure the secret being sent in the request is the client "
     "secret value, not the client secret ID, for a secret added to app '%s'."},
    {7000216, 401, "invalid_client",
     "'client_assertion', 'client_secret' or 'request' is required for the '%s' grant type."},
    {7000222, 401, "invalid_client", "The provided client secret keys for app '%s' are expired."},
    {700021, 401, "invalid_client", "Client assertion application identifier doesn't match 'client_id' parameter."},
    {700023, 401, "invalid_client", "Client assertion audience claim does not match Realm issuer."},
    {700024, 401, "invalid_client", "Client assertion is not within its valid time range. %s."},
    {700027, 401, "invalid_client", "Client assertion contains an invalid signature. %s"},
    {700030, 401, "invalid_client", "Invalid certificate - subject name in certificate is not authorized."},
    {50012, 401, "invalid_client", "Authentication failed. %s"},
    {5002738, 400, "invalid_request",
     "Invalid JWT token. '%s' is not a supported signature algorithm. Supported signing algorithms are: "
     "'RS256, PS256'."},
    {50027, 400, "invalid_request", "JWT token is invalid or malformed. %s"},
    {50013, 401, "invalid_client", "Assertion failed signature validation. %s"},
    {700211, 401, "invalid_client",
     "No matching federated identity record found for presented assertion issuer '%s'. Check your federated "
     "identity credential Subject, Audience and Issuer against the presented assertion."},
    {700212, 401, "invalid_client",
     "No matching federated identity record found for presented assertion audience '%s'. Check your federated "
     "identity credential Subject, Audience and Issuer against the presented assertion."},
    {700213, 401, "invalid_client",
     "No matching federated identity record found for presented assertion subject '%s'. Check your federated "
     "identity credential Subject, Audience and Issuer against the presented assertion."},
    {7002137, 401, "invalid_client",
     "No matching federated identity record found for presented assertion subject '%s'. The subject matches with "
     "case-insensitive comparison, but not with case-sensitive comparison."},
    {7002138, 401, "invalid_client",
     "No matching federated identity record found for presented assertion issuer '%s'. The issuer matches with "
     "case-insensitive comparison, but not with case-sensitive comparison."},
    {7000112, 400, "unauthorized_client", "Application '%s' is disabled."},
    {500011, 400, "invalid_resource",
     "The resource principal named %s was not found in the tenant."},
    {90033, 503, "temporarily_unavailable", "A transient error has occurred. Please try again."},
    {90055, 429, "temporarily_unavailable", "The server is terminating the request because of too "
                                            "many requests. Please wait and try again."},
    {50196, 400, "invalid_request", "The server terminated an operation because it encountered a "
                                    "client request loop. Please contact your app vendor."},
    {70001, 400, "unauthorized_client", "Application with identifier '%s' was not found in the directory."},
    {700011, 400, "unauthorized_client", "Application with identifier '%s' was not found in the directory."},
    {50049, 400, "invalid_instance", "Unknown or invalid instance '%s'."},
    {50128, 400, "invalid_request", "Invalid domain name. No tenant-identifying information found in either the "
                                    "request or implied by any provided credentials."},
    {50194, 400, "invalid_request",
     "Application '%s' is not configured as a multi-tenant application. Usage of the /common endpoint is not supported "
     "for such apps created after '10/15/2018'. Use a tenant-specific endpoint or configure the application to be "
     "multi-tenant."},
    {90038, 400, "invalid_request", "Tenant '%s' request is being redirected to the National Cloud."},
    {900382, 400, "invalid_client", "Confidential Client is not supported in Cross Cloud request."},
    {100007, 400, "invalid_request", "AAD Regional ONLY supports auth either for MSIs OR for requests from MSAL using "
                                     "SN+I for 1P apps or 3P apps in Microsoft infrastructure tenants."},
    {90014, 400, "invalid_request", "The required field '%s' is missing from the credential."},
    {901002, 400, "invalid_request", "The 'resource' request parameter isn't supported."},
    {50001, 400, "invalid_resource", "The resource principal named %s was not found in the tenant."},
    {28002, 400, "invalid_scope", "Provided value for the input parameter scope '%s' isn't valid when requesting an "
                                  "access token. Specify a valid scope."},
    {700022, 400, "invalid_scope", "The provided value for the input parameter scope isn't valid because it contains "
                                   "more than one resource."},
    {650052, 400, "invalid_client",
     "The app needs access to a service ('" SCOPE_GUID "') that your organization has not subscribed to or enabled. "
     "Contact your IT Admin to review the configuration of your service subscriptions."},
    {50048, 400, "invalid_client", "Subject mismatches Issuer claim in the client assertion."},
    {70021, 400, "invalid_client", "No matching federated identity record found for presented assertion."},
    {500133, 400, "invalid_grant", "Assertion is not within its valid time range. Ensure that the access token is not "
                                   "expired before using it for user assertion, or request a new token."},
    {700229, 401, "invalid_client",
     "Entra ID tokens issued by issuer '%s' may not be used for federated identity credential flows: only app-only "
     "tokens may be."},
    {50105, 400, "invalid_grant",
     "Your administrator has configured the application %s to block users unless they are specifically granted "
     "('assigned') access to the application."},
    {50034, 400, "invalid_grant", "The user account %s does not exist in the directory."},
    {50053, 400, "invalid_grant", "The account is locked, you've tried to sign in too many times with an incorrect "
                                  "user ID or password."},
    {50126, 400, "invalid_grant", "Error validating credentials due to invalid username or password."},
    {50074, 400, "interaction_required", "Strong Authentication is required."},
    {50076, 400, "interaction_required",
     "Due to a configuration change made by your administrator, or because you moved to a new location, you must use "
     "multi-factor authentication to access '" SCOPE_GUID "'."},
    {50079, 400, "interaction_required",
     "Due to a configuration change made by your administrator, or because you moved to a new location, you must "
     "enroll in multi-factor authentication to access '" SCOPE_GUID "'."},
    {53000, 400, "interaction_required", "Your device is required to be managed to access this resource."},
    {53003, 400, "invalid_grant", "Access has been blocked by Conditional Access policies. The access policy does not "
                                  "allow token issuance."},
    {530032, 400, "invalid_grant", "Access has been blocked by security policy on the tenant."},
    {530035, 400, "invalid_grant", "Access has been blocked by security defaults."},
    {50033, 503, "temporarily_unavailable", "A transient error occurred. Please try again."},
    {90006, 503, "temporarily_unavailable", "External server retryable error."},
    {90012, 503, "temporarily_unavailable", "The request has timed out."},
    {90024, 503, "temporarily_unavailable", "Request budget exceeded. A transient error has occurred."},
    {90090, 503, "temporarily_unavailable", "Getting data from the directory failed. Please try again."},
    {0, 400, "invalid_request", "An error that the emulator was asked for."},
};

/* For an error that a person has to do something about: what. */
static const char *sts_suberror(long code) {
    return code == 65001 ? "consent_required" : code == 50076 || code == 50079 ? "basic_action"
         : code == 53003 ? "message_only" : code == 700082 || code == 70043 ? "token_expired" : NULL;
}

/* An error as Entra words it. `detail` stands for the %s of the text. */
static enum MHD_Result sts_error(struct MHD_Connection *h, long code, const char *detail, unsigned status,
                                 const char *retry_after) {
    const struct sts_error *e = ERRORS;
    char when[32], trace[37], correlation[37], uri[96], retry[16], *description, *text;
    const char *hole, *asked = MHD_lookup_connection_value(h, MHD_HEADER_KIND, "client-request-id");
    time_t now = entra_time();
    struct tm tm;
    json_t *body;
    enum MHD_Result r;
    while (e->code && e->code != code) e++;
    code = labs(code);
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%SZ", gmtime_r(&now, &tm));
    random_guid(trace);
    random_guid(correlation);
    if (asked && strlen(asked) == 36) memcpy(correlation, asked, 37); /* Entra takes the client's */
    snprintf(uri, sizeof uri, "%serror?code=%ld", g.authority_url, code);
    hole = strstr(e->text, "%s");
    text = hole ? format_text("%.*s%.600s%s", (int)(hole - e->text), e->text, detail, hole + 2)
                : format_text("%s", e->text);
    description = format_text("AADSTS%ld: %s\r\nTrace ID: %s\r\nCorrelation ID: %s\r\n"
                              "Timestamp: %s",
                              code, text, trace, correlation, when);
    body = json_pack("{ss so s[I] ss ss ss ss}", "error", e->error, "error_description",
                     json_bytes(description, strlen(description)), "error_codes", (json_int_t)code,
                     "timestamp", when, "trace_id", trace, "correlation_id", correlation, "error_uri", uri);
    if (sts_suberror(code)) json_object_set_new(body, "suberror", json_string(sts_suberror(code)));
    free(text);
    free(description);
    description = must(json_dumps(body, JSON_COMPACT));
    pthread_mutex_lock(&g.lock);
    g.token_errors++;
    pthread_mutex_unlock(&g.lock);
    snprintf(retry, sizeof retry, "%.15s", retry_after ? retry_after : "");
    say("token refused: AADSTS%ld, HTTP %u", code, status ? status : e->status);
    r = reply_text(h, status ? status : e->status, "application/json; charset=utf-8", description,
                   retry_after ? "Retry-After" : NULL, retry);
    json_decref(body);
    free(description);
    return r;
}
