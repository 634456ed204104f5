// What the page asks and tells outside the conversation: modal dialogs, and the notice under the top bar.

import { key } from "./api.js";
import { $, el } from "./dom.js";

// Both pages may have to ask for it.
document.body.append(
  el("dialog", { id: "key-dialog", "aria-labelledby": "key-title" },
    el("form", {},
      el("h2", { id: "key-title" }, "API key"),
      el("p", {}, "This server wants a key. It stays in this tab and is sent to this server only."),
      el("label", {}, "Key ", el("input", { id: "key-input", type: "password", autocomplete: "off", spellcheck: "false" })),
      el("div", { class: "buttons" },
        el("button", { type: "button", "data-close": true }, "Cancel"),
        el("button", { type: "submit", class: "primary" }, "Use key"),
      ),
    ),
  ),
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
