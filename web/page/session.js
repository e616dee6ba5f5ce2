// Who is signed in, where the server names an issuer of OpenID Connect: authorization code with PKCE, by a library.
//
// Never stores a token: tokens are in this page's memory, and what a redirect leaves in session storage is the proof of one
// question. Invariant: `token()` gives a token that holds, or throws; where there is no issuer it gives `null`.

const LIBRARY = "/oidc-client-ts.min.js";

/** What the page wants to know: who it is, by name. */
const SCOPE = "openid email profile";

/** Longest wait for the issuer, seconds. */
const ISSUER_SECONDS = 20;

/** A token is renewed this long before its end, ms, or in the last tenth of its life. */
const MARGIN_MS = 30_000;

/** A token younger than this that the server refuses is refused for what it says; another would be no better, ms. */
const FRESH_MS = 10_000;

/** How long a tab that comes back from the issuer waits for the one that sent it, ms. */
const HAND_OVER_MS = 1_500;

/** Mark of a question that another tab waits for. */
const AGAIN = "again";

/** In session storage while this tab is signed out on purpose: it must not sign in by itself. */
const SIGNED_OUT = "giemsa.signed-out";

const ENDED = "Your session has ended. What is on this page stays, and it goes on when you have signed in again.";

/** Why there is no token; `hint` says what can be done, `isAway` that the server did not answer. */
export class SignInError extends Error {
  constructor(message, { hint = "", isAway = false } = {}) {
    super(message);
    this.name = "SignInError";
    this.hint = hint;
    this.isAway = isAway;
  }
}

const home = () => `${location.origin}/`;

/** The library, a script of the old kind: it becomes a global name. */
function library() {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = LIBRARY;
    script.onload = () => resolve(globalThis.oidc);
    script.onerror = () => reject(new SignInError(
      "This program was built without what it signs people in with.",
      { hint: "Whoever runs it: run “make assets” once (it needs npm) and build again." },
    ));
    document.head.append(script);
  });
}

/** What the issuer said went wrong, in its words. */
function wordsOf(error) {
  return error.error ? [error.error, error.error_description].filter(Boolean).join(": ") : error.message;
}

/**
 * Where signing out ends the issuer's session as well, or `null`. No token is in the address, which browsers keep. Cognito
 * has names of its own for it.
 */
export function endOfSession({ issuer, authorization_endpoint: authorize, end_session_endpoint: end }, clientId, back) {
  const isCognito = /^https:\/\/cognito-idp\.[a-z0-9-]+\.amazonaws\.com(\.cn)?\//.test(issuer);
  if (!isCognito && !end) return null;
  const url = new URL(end ?? new URL("/logout", authorize));
  url.searchParams.set("client_id", clientId);
  url.searchParams.set(isCognito ? "logout_uri" : "post_logout_redirect_uri", back);
  return url.href;
}

/** The session of this page. `change` is dispatched when it ends or goes on, `signed-out` when another tab signs out. */
class Session extends EventTarget {
  #client = null;
  #channel = null;
  /** `{id, refresh, access, scope, profile, since, until}`, times in ms since 1970. */
  #tokens = null;
  /** A renewal on its way. */
  #renewing = null;
  /** The questions that tabs were opened for. */
  #asked = new Set();

  /** Why there is no token although somebody is signed in; `null` while there is one. */
  problem = null;

  /** Whether an issuer is asked who somebody is. */
  get isNeeded() { return this.#client !== null; }

  /**
   * Finds out who is there: `open` (anybody may ask), `signed-in`, `signed-out`, `leaving` (the page goes to the issuer), or
   * `handed-over` (another tab goes on). Throws a `SignInError`.
   */
  async begin() {
    if (!this.#client) {
      const answer = await fetch("/sign-in").catch(() => null);
      if (!answer?.ok) throw new SignInError("The server does not answer.", { isAway: true });
      const { issuer, client_id: clientId } = await answer.json();
      if (!issuer) return "open";
      await this.#prepare(issuer, clientId);
    }
    const answer = new URLSearchParams(location.search);
    if (location.pathname === "/" && answer.has("state") && (answer.has("code") || answer.has("error"))) return this.#comeBack(answer);
    if (sessionStorage.getItem(SIGNED_OUT)) return "signed-out";
    return this.signIn();
  }

  async #prepare(issuer, clientId) {
    const { OidcClient, WebStorageStateStore } = await library();
    this.#client = new OidcClient({
      authority: issuer,
      client_id: clientId,
      redirect_uri: home(),
      response_type: "code",
      scope: SCOPE,
      requestTimeoutInSeconds: ISSUER_SECONDS,
      stateStore: new WebStorageStateStore({ store: sessionStorage }),
    });
    this.#channel = new BroadcastChannel("giemsa.session");
    this.#channel.onmessage = ({ data }) => this.#hear(data);
  }

  /** Leads to the issuer, and from there back to what is shown now. */
  async signIn() {
    sessionStorage.removeItem(SIGNED_OUT);
    const to = location.pathname + location.search + location.hash;
    const { url } = await this.#question({ state: { to } });
    location.replace(url);
    return "leaving";
  }

  async #question(more) {
    try {
      return await this.#client.createSigninRequest({ nonce: crypto.randomUUID(), ...more });
    } catch (error) {
      throw new SignInError(`The issuer of identities, ${this.#client.settings.authority}, does not answer: ${wordsOf(error)}`);
    }
  }

  async #comeBack(answer) {
    const address = location.href;
    // A code is good for one use, and belongs into no history.
    history.replaceState(null, "", "/");
    if (answer.get("state").endsWith(`;${AGAIN}`)) return (await this.#handOver(address)) ? "handed-over" : this.signIn();
    let response;
    try {
      response = await this.#client.processSigninResponse(address);
      this.#take(response);
    } catch (error) {
      throw new SignInError(`Signing in failed: ${wordsOf(error)}`);
    }
    history.replaceState(null, "", response.userState.to);
    return "signed-in";
  }

  #take({ id_token: id, refresh_token: refresh, access_token: access, scope, profile }) {
    if (!id) throw new Error("the issuer gave no ID token");
    const since = Date.now();
    // By the issuer's own clock, which this machine's need not agree with.
    const until = since + 1000 * (profile.exp - profile.iat);
    this.#tokens = { id, refresh: refresh ?? this.#tokens?.refresh, access, scope, profile, since, until };
    this.#say(null);
  }

  #say(problem) {
    if (this.problem === problem) return;
    this.problem = problem;
    this.dispatchEvent(new Event("change"));
  }

  /** A token for the server, renewed if need be; `null` without an issuer. Throws a `SignInError` once the session ended. */
  async token() {
    if (!this.#client) return null;
    if (!this.#holds()) await this.#renew();
    return this.#tokens.id;
  }

  /** Whether there is a better token than `token`, which the server has refused. */
  async isReplaced(token) {
    if (this.#tokens?.id === token) {
      if (Date.now() - this.#tokens.since < FRESH_MS) return false;
      await this.#renew();
    }
    return true;
  }

  #holds() {
    if (!this.#tokens) return false;
    const { since, until } = this.#tokens;
    return Date.now() < until - Math.min(MARGIN_MS, (until - since) / 10);
  }

  #renew() {
    this.#renewing ??= this.#refresh().finally(() => { this.#renewing = null; });
    return this.#renewing;
  }

  async #refresh() {
    const before = this.#tokens;
    if (!before?.refresh) throw this.#end();
    const { id, refresh, scope, profile } = before;
    let response;
    try {
      response = await this.#client.useRefreshToken({
        state: { id_token: id, refresh_token: refresh, scope, profile },
        timeoutInSeconds: ISSUER_SECONDS,
      });
    } catch (error) {
      // Who refuses has an answer; an issuer that is away is asked again with the next request.
      if (!error.error) throw new SignInError(`The issuer of identities does not answer: ${wordsOf(error)}`);
      throw this.#end();
    }
    // Somebody has signed out meanwhile.
    if (this.#tokens !== before) throw new SignInError(ENDED);
    if (response.id_token === id) throw this.#end();
    this.#take(response);
  }

  #end() {
    this.#say(this.problem ?? ENDED);
    return new SignInError(this.problem);
  }

  /** Opens a tab in which somebody signs in again, while this page stays as it is. To be called from a click. */
  async signInAgain() {
    // At once: a tab may be opened only while the click is handled.
    const tab = open("about:blank", "_blank");
    if (!tab) return this.#say("The browser has blocked the tab for signing in. Allow this page to open one, and try again.");
    try {
      const { url, state } = await this.#question({ url_state: AGAIN });
      this.#asked.add(state.id);
      tab.location.replace(url);
    } catch (error) {
      tab.close();
      this.#say(error.message);
    }
    return undefined;
  }

  /** Gives what the issuer answered to the tab that asked; `false` if it is gone. */
  #handOver(address) {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), HAND_OVER_MS);
      this.#channel.addEventListener("message", ({ data }) => {
        if (data.kind !== "taken" || data.address !== address) return;
        clearTimeout(timer);
        resolve(true);
      });
      this.#channel.postMessage({ kind: "answer", address });
    });
  }

  #hear({ kind, address }) {
    if (kind === "signed-out" && this.#tokens) {
      this.#forget();
      this.dispatchEvent(new Event("signed-out"));
    }
    if (kind !== "answer") return;
    const [id] = (new URL(address).searchParams.get("state") ?? "").split(";");
    if (!this.#asked.delete(id)) return;
    this.#channel.postMessage({ kind: "taken", address });
    this.#goOn(address);
  }

  async #goOn(address) {
    try {
      const response = await this.#client.processSigninResponse(address);
      const { sub, name, email } = this.#tokens.profile;
      if (response.profile.sub === sub) return this.#take(response);
      // What is on the page is somebody's own: verdicts, notes, uploads.
      this.#say(`Somebody else has signed in. Sign in as ${name ?? email ?? sub} to go on here, or reload this page to start anew.`);
    } catch (error) {
      this.#say(`Signing in failed: ${wordsOf(error)}. Try again: what is on this page stays.`);
    }
    return undefined;
  }

  #forget() {
    this.#tokens = null;
    sessionStorage.setItem(SIGNED_OUT, "1");
  }

  /** Forgets who is signed in, here, in other tabs and at the issuer, where the page goes. */
  async signOut() {
    const tokens = this.#tokens;
    this.#forget();
    this.#channel.postMessage({ kind: "signed-out" });
    let url = null;
    try {
      const metadata = await this.#client.metadataService.getMetadata();
      const { authority, client_id: clientId } = this.#client.settings;
      url = endOfSession({ ...metadata, issuer: authority }, clientId, home());
      if (metadata.revocation_endpoint && tokens?.refresh) await this.#client.revokeToken(tokens.refresh, "refresh_token");
    } catch (error) {
      // Nothing is left here either way; the token that was not taken back ends by itself.
      console.warn("sign-out at the issuer:", error);
    }
    location.replace(url ?? "/");
  }
}

export const session = new Session();
