// The sessions of the server's history that drifted furthest, as a table.

import { key, reason, sessions } from "./api.js";
import { askForKey, notice } from "./dialogs.js";
import { $, el, figure } from "./dom.js";
import { percent, rounded } from "./numbers.js";

const COLUMNS = ["Session", "Highest drift", "Mean", "Last", "Lifted", "Turns", "Profile", "Arm", "Model", "Last turn"];

const rows = el("tbody", {});
let next = null; // cursor of the next page

async function load(cursor = null) {
  notice(null);
  try {
    show(await sessions(cursor));
  } catch (error) {
    if (error.status === 401) return wantKey(cursor);
    notice(`The sessions could not be listed. ${reason(error)}`, () => load(cursor));
  }
}

async function wantKey(cursor = null) {
  $("key").hidden = false;
  if (await askForKey()) load(cursor);
  else if (!rows.children.length) notice("This server wants an API key.", () => wantKey(), "Enter a key");
}

function show(page) {
  const none = el("tr", {}, el("td", { colspan: COLUMNS.length }, "No session has a drift yet."));
  rows.append(...page.sessions.map(row));
  if (!rows.children.length) rows.append(none);
  next = page.next;
  $("more").hidden = next === null;
  $("key").hidden = !key.get();
}

function row(session) {
  const { profile, arm, model, turns, max_drift, mean_drift, last_drift, lifted_share, last_at } = session;
  const at = new Date(1000 * last_at);
  const drifts = [max_drift, mean_drift, last_drift].map((value) => figure(value, rounded(value)));
  const counts = [figure(lifted_share, percent(lifted_share)), figure(turns, String(turns))];
  const last = el("time", { datetime: at.toISOString() }, at.toLocaleString());
  const cells = [...drifts, ...counts, profile, arm, model, last];
  return el("tr", {}, el("th", { scope: "row" }, session.session), ...cells.map((cell) => el("td", {}, cell)));
}

const head = el("thead", {}, el("tr", {}, ...COLUMNS.map((name) => el("th", { scope: "col" }, name))));
const caption = el("caption", { class: "unseen" }, "Sessions, the highest drift first");
$("sessions").append(caption, head, rows);
$("more").addEventListener("click", () => load(next));
$("key").addEventListener("click", () => {
  rows.replaceChildren();
  wantKey();
});
$("theme").addEventListener("click", () => window.toggleTheme());

load();
