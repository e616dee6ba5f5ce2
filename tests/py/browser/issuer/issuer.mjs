// An issuer of OpenID Connect on a free port of this machine, for the browser tests; the software is others', certified.
//
// Its sign-in takes any name with any password. Argument: the folder with `node_modules`. It prints its own address, is told
// by `POST /test/<setting>/<value>` what a test wants, and lives until its standard input ends. Invariant: only the page of
// that test, a public client with PKCE, gets tokens, and every account is known by the name that was typed.

import { once } from "node:events";
import { createServer } from "node:http";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder] = process.argv.slice(2);
// Loaded while whoever started this goes on.
const software = import(pathToFileURL(join(folder, "node_modules/oidc-provider/lib/index.js")));

/** `page`: origin of the client; `lifetime` of tokens, seconds; `refresh`: whether there are refresh tokens. */
const settings = { page: null, lifetime: "3600", refresh: "no" };

const server = createServer();
server.listen(0, "127.0.0.1");
await once(server, "listening");
const address = `http://127.0.0.1:${server.address().port}`;

const lifetime = () => Number(settings.lifetime);
const nameOf = (id) => `${id} of the lab`;

async function issuer(page) {
  const { Provider } = await software;
  const provider = new Provider(address, {
    clients: [{
      client_id: "giemsa",
      token_endpoint_auth_method: "none",
      grant_types: ["authorization_code", "refresh_token"],
      redirect_uris: [`${page}/`],
      post_logout_redirect_uris: [`${page}/`],
    }],
    clientBasedCORS: (_, origin) => origin === page,
    pkce: { required: () => true },
    // As with most issuers, names are in the ID token.
    conformIdTokenClaims: false,
    claims: { openid: ["sub"], profile: ["name"], email: ["email"] },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, name: nameOf(id), email: `${id}@lab.example` }) }),
    issueRefreshToken: () => settings.refresh === "yes",
    ttl: { AccessToken: lifetime, IdToken: lifetime, Grant: 3600, Interaction: 3600, RefreshToken: 3600, Session: 3600 },
    features: { devInteractions: { enabled: true }, revocation: { enabled: true } },
    cookies: { keys: ["of these tests"] },
    // Nobody is asked whether the page may know the name.
    async loadExistingGrant(context) {
      const { client, session } = context.oidc;
      const known = session.grantIdFor(client.clientId);
      if (known) return provider.Grant.find(known);
      const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
      grant.addOIDCScope("openid email profile");
      await grant.save();
      return grant;
    },
  });
  return provider.callback();
}

let answer = null;
server.on("request", async (request, response) => {
  const [, test, setting, value] = request.url.split("/");
  if (test !== "test") return answer(request, response);
  settings[setting] = decodeURIComponent(value);
  if (setting === "page") answer = await issuer(settings.page);
  return response.writeHead(204).end();
});

console.log(address);
process.stdin.resume().on("end", () => process.exit());
