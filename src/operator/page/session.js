// The API key of whoever looks at this page, where the server has keys. It is kept for this tab and goes with it; the
// server gets it in a header, never in a URL.

// With the path, because boxes behind one proxy have one origin.
const PLACE = `edgellm-key ${location.pathname}`;

class Session {
  /**
   * The answers 401 and 403, by path. What was refused once is not asked for every two seconds: nobody may be there to
   * log in, and the server logs and counts every refusal.
   */
  refusals = new Map();
  #key = read();

  get key() {
    return this.#key;
  }

  /** Goes on with this key. */
  open(key) {
    this.#key = key;
    this.refusals.clear();
    write(key);
  }

  /** Goes on without a key. The refusals stay: what a key was refused, nobody gets without one. */
  close() {
    this.#key = undefined;
    write(undefined);
  }
}

// A browser may forbid storage; then a reload forgets the key.
function read() {
  try {
    return sessionStorage.getItem(PLACE) ?? undefined;
  } catch {
    return undefined;
  }
}

function write(key) {
  try {
    if (key === undefined) sessionStorage.removeItem(PLACE);
    else sessionStorage.setItem(PLACE, key);
  } catch {
    // As above.
  }
}

export const session = new Session();

/** The headers that say who asks. */
export function credentials(key) {
  return key === undefined ? {} : { authorization: `Bearer ${key}` };
}
