// The card that asks for an API key, and the button that forgets it.

import { byId } from "./dom.js";
import { whyRefused } from "./server.js";
import { session } from "./session.js";

// What a header can carry; a browser would not send anything else.
const KEY = /^[\x21-\x7e]+$/;

export class Login {
  #card = byId("login");
  #field = byId("login-key");
  #problem = byId("login-problem");
  #button = byId("login-button");
  #opened; // is called when the server has taken a key

  constructor(opened) {
    this.#opened = opened;
    byId("login-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#try(this.#field.value.trim());
    });
    byId("logout").addEventListener("click", () => {
      session.close();
      // So that nothing that the key could see is left in this tab.
      location.reload();
    });
    byId("logout").hidden = session.key === undefined;
  }

  /** Asks for a key, or does not. `problem` is what the server said to the key before. */
  show(wanted, problem) {
    byId("logout").hidden = session.key === undefined;
    if (problem) this.#problem.textContent = problem;
    if (wanted !== this.#card.hidden) return;
    this.#card.hidden = !wanted;
    if (wanted) this.#field.focus();
  }

  async #try(key) {
    if (this.#button.disabled) return;
    this.#button.disabled = true;
    this.#problem.textContent = "";
    const problem = KEY.test(key) ? await whyRefused(key) : "That is no API key: it has letters or spaces that no key has.";
    this.#button.disabled = false;
    if (problem) {
      this.#problem.textContent = problem;
      this.#field.select();
      return;
    }
    this.#field.value = "";
    session.open(key);
    this.show(false);
    this.#opened();
  }
}
