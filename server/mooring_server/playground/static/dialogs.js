// What the page asks and tells outside the conversation: modal dialogs, and the notice under the top bar.

import { $ } from "./dom.js";

// Resolves to whether the dialog's form was submitted.
export function ask(dialog) {
  if (dialog.open) return Promise.resolve(false);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }),
  );
}

// With `again`, what its button does; without, the button closes it. No text: no notice.
export function notice(text, again = null) {
  $("notice").hidden = text === null;
  $("notice").querySelector("p").textContent = text ?? "";
  const button = $("notice").querySelector("button");
  button.textContent = again ? "Try again" : "Close";
  button.onclick = again ?? (() => notice(null));
}

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close("yes");
  });
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close(""));
}
