// What the page asks and tells outside the conversation: modal dialogs, and the notice under the top bar.

import { key } from "./api.js";
import { $ } from "./dom.js";

// Both pages may have to ask for it.
document.body.insertAdjacentHTML(
  "beforeend",
  `<dialog id="key-dialog" aria-labelledby="key-title">
    <form>
      <h2 id="key-title">API key</h2>
      <p>This server wants a key. It stays in this tab and is sent to this server only.</p>
      <label>Key <input id="key-input" type="password" autocomplete="off" spellcheck="false"></label>
      <div class="buttons">
        <button type="button" data-close>Cancel</button>
        <button type="submit" class="primary">Use key</button>
      </div>
    </form>
  </dialog>`,
);

// Resolves to whether the dialog's form was submitted.
export function ask(dialog) {
  if (dialog.open) return Promise.resolve(false);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }),
  );
}

// Resolves to whether a key was given.
export async function askForKey() {
  if (!(await ask($("key-dialog")))) return false;
  key.set($("key-input").value.trim());
  $("key-input").value = "";
  return true;
}

// With `again`, what its button does, and how that is called; without, the button closes it. No text: no notice.
export function notice(text, again = null, called = "Try again") {
  $("notice").hidden = text === null;
  $("notice").querySelector("p").textContent = text ?? "";
  const button = $("notice").querySelector("button");
  button.textContent = again ? called : "Close";
  button.onclick = again ?? (() => notice(null));
}

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close("yes");
  });
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close(""));
}
