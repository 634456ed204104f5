// The page: what it holds, what its controls do, and when it is drawn anew.

import { ApiError, chat, key, reason, served as fetchServed } from "./api.js";
import { Answer } from "./answer.js";
import { Chart } from "./charts.js";
import { ask, askForKey, notice } from "./dialogs.js";
import { $, el } from "./dom.js";
import { examplesFor } from "./examples.js";
import { FileError, fromFile, MOST_BYTES, readServed, toFile } from "./file.js";
import { Head } from "./heads.js";
import { drift, firstCapped, percent, lifted, perToken, perTurn, references, rounded } from "./numbers.js";
import { Scale } from "./scale.js";
import { drawTokens, Numbers } from "./tables.js";
import { SIDES, Talk } from "./talk.js";
import { Transcript } from "./transcript.js";

const BREATH = 600; // milliseconds between the turns of an example

let live = null; // what this server serves
let shown = null; // what the conversation on the page ran on: `live`, or what an imported file says
let talk = new Talk();
let scale = null;
let playing = null; // the example that is being played
const profiles = {};
const running = new Map(); // answer -> its AbortController

const heads = Object.fromEntries(SIDES.map((side) => [side, new Head(side, (name) => choose(side, name))]));
const transcript = new Transcript($("turns"), $("scroll"), retry);
const numbersTable = new Numbers($("numbers"));
const turnChart = new Chart($("chart-turns"), $("at-turn"), { first: 1, least: 6, points: true });
const tokenChart = new Chart($("chart-tokens"), $("at-token"), { first: 0, least: 24, points: false });

// Beginning

async function start() {
  notice(null);
  try {
    live = readServed(await fetchServed(), "the server's answer");
  } catch (error) {
    if (error.status === 401) return wantKey(start);
    return notice(`The server could not be asked what it serves. ${reason(error)}`, start);
  }
  $("key").hidden = !key.get();
  if (!talk.turns.length) begin();
  else render();
}

// An empty conversation on this server.
function begin({ system = "" } = {}) {
  stop();
  show(new Talk({ system }), live);
  $("system").value = system;
}

function show(newTalk, newServed, chosen = profiles) {
  talk = newTalk;
  shown = newServed;
  transcript.clear();
  const names = shown.profiles
    .filter((profile) => profile.selectable || profile.default)
    .map((profile) => profile.name);
  const other = names.includes("off") && shown.default !== "off" ? "off" : names.find((name) => name !== shown.default);
  profiles.left = names.includes(chosen.left) ? chosen.left : shown.default;
  profiles.right = names.includes(chosen.right) ? chosen.right : (other ?? shown.default);
  for (const side of SIDES) heads[side].offer(shown, profiles[side]);
  offer($("layer"), Object.keys(shown.axis.layers), String(shown.axis.monitored_layer), layerName);
  offerTurns();
  const { model, axis } = shown;
  $("served").textContent =
    `${model} · drift at layer ${axis.monitored_layer} of ${axis.model_layers} · axis ${axis.digest.slice(0, 12)}`;
  offerExamples();
  recolour();
}

function layerName(layer) {
  return Number(layer) === shown.axis.monitored_layer ? `${layer} (monitored)` : layer;
}

function offerTurns() {
  const places = talk.turns.map((_, place) => String(place));
  offer($("turn"), ["", ...places], "", (place) => (place === "" ? "latest" : Number(place) + 1));
}

function choose(side, name) {
  profiles[side] = name;
  render();
}

function recolour() {
  scale = new Scale($("colour").value, shown);
  const steps = scale.kind === "none" ? [] : [0, 1, 2, 3, 4];
  $("steps").replaceChildren(
    ...steps.map((step) => el("li", {}, el("i", { class: `token step-${step}` }, "ab"), scale.label(step))),
  );
  render();
}

// Asking

async function send(user) {
  const turn = talk.add(user, profiles);
  offerTurns();
  await Promise.all(SIDES.map((side) => run(side, turn)));
  return SIDES.every((side) => turn[side].status === "done");
}

async function run(side, turn) {
  const answer = turn[side];
  const controller = new AbortController();
  running.set(answer, controller);
  render();
  try {
    for await (const frame of chat(talk.request(side, turn, live, sampling()), controller.signal)) {
      answer.take(frame);
      render();
    }
    answer.status = "done";
  } catch (error) {
    fail(answer, controller, error);
  } finally {
    running.delete(answer);
    announce(turn);
    render();
  }
}

function fail(answer, controller, error) {
  if (controller.signal.aborted) {
    answer.status = "stopped";
    return;
  }
  if (!(error instanceof ApiError)) console.error(error);
  answer.status = "failed";
  const message = error instanceof ApiError ? error.message : `The page failed: ${error.message}`;
  answer.error = { message, status: error.status ?? 0 };
  if (error.status === 401) wantKey();
}

function retry(side, turn) {
  turn[side] = new Answer(profiles[side]);
  run(side, turn);
}

function stop() {
  playing = null;
  for (const controller of running.values()) controller.abort();
}

function sampling() {
  return { temperature: Number($("temperature").value), max_tokens: Number($("max-tokens").value) };
}

// An invalid setting is shown, in its sheet that may be closed.
function settingsValid() {
  const wrong = ["temperature", "max-tokens"].find((id) => !$(id).checkValidity());
  if (wrong) $(wrong).closest("details").open = true;
  return !wrong || $(wrong).reportValidity();
}

// For those who do not see it: what has become of a turn's answers, once each has ended.
function announce(turn) {
  const ended = SIDES.filter((side) => !turn[side].running);
  $("status").textContent = ended.map((side) => `${side}, ${turn[side].profile}: ${outcome(turn[side])}`).join(". ");
}

function outcome(answer) {
  if (answer.status === "failed") return `failed. ${answer.error.message}`;
  const what = answer.status === "done" ? "answered" : "stopped";
  return `${what}, drift ${rounded(drift(answer, shown))}, lifted ${percent(lifted(answer))}`;
}

// Examples

function offerExamples() {
  const examples = live ? examplesFor(live) : [];
  $("cards").replaceChildren(
    ...examples.map((example) =>
      el(
        "button",
        { type: "button", class: "card", onclick: () => play(example) },
        el("strong", {}, example.name),
        el("span", {}, example.about),
      ),
    ),
  );
  offer(
    $("example"),
    ["", ...examples.map((_, place) => String(place))],
    "",
    (place) => examples[place]?.name ?? "Play an example …",
  );
}

async function play(example) {
  if (!(await mayReplace())) return;
  begin(example);
  playing = example;
  for (const [place, user] of example.turns.entries()) {
    if (place) await new Promise((resolve) => setTimeout(resolve, BREATH));
    if (playing !== example || !(await send(user))) break;
  }
  if (playing === example) playing = null;
  render();
}

// Files

function save() {
  const text = JSON.stringify(toFile(talk, shown, profiles, sampling()), null, 1);
  const link = el("a", {
    href: URL.createObjectURL(new Blob([text], { type: "application/json" })),
    download: `mooring-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.json`,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function load(file) {
  notice(null);
  try {
    if (file.size > MOST_BYTES) throw new FileError(`The file is larger than ${MOST_BYTES / 1024 / 1024} MiB.`);
    const loaded = fromFile(await file.text());
    if (!(await mayReplace())) return;
    stop();
    show(loaded.talk, same(loaded.served, live) ? live : loaded.served, loaded.profiles);
    $("system").value = talk.system;
    $("temperature").value = loaded.sampling.temperature;
    $("max-tokens").value = loaded.sampling.max_tokens;
    render();
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    notice(`${file.name} was not imported. ${error.message}`);
  }
}

function same(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}

// The key, and what would be lost

async function wantKey(then = () => {}) {
  if ($("key-dialog").open) return;
  $("key").hidden = false;
  const given = await askForKey();
  if (given && live) then();
  else if (given) start();
  else if (!live) notice("This server wants an API key before it says what it serves.", () => wantKey(), "Enter a key");
}

async function mayReplace() {
  return !talk.turns.length || ask($("replace-dialog"));
}

// Drawing

let drawing = false;

// Once a frame, however many answers' frames have come.
function render() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (shown) draw();
  });
}

function draw() {
  const layer = Number($("layer").value);
  const names = SIDES.map((side) => profiles[side]);
  const lines = references(shown, profiles, layer);
  $("empty").hidden = talk.turns.length > 0;
  transcript.draw(talk, shown, scale, shown === live);
  for (const side of SIDES) heads[side].draw(talk.last?.[side] ?? null, shown, profiles[side]);
  const turns = perTurn(talk, layer);
  turnChart.draw([turns.turn, turns.left, turns.right], lines, names);
  turnChart.describe(`Projection per turn at layer ${layer}`);
  const turn = $("turn").value === "" ? talk.last : talk.turns[Number($("turn").value)];
  const tokens = perToken(turn, layer);
  tokenChart.draw([tokens.token, tokens.left, tokens.right], lines, names);
  tokenChart.describe(`Projection per token at layer ${layer}`);
  numbersTable.draw(talk, shown, layer);
  if ($("token-details").open) drawTokens($("token-table"), turn, shown, layer);
  drawUncapped(layer, lines);
  drawControls();
}

// Where drift is read is mostly before the first cap, so the charts begin without a floor: say so, and where there is one.
function drawUncapped(layer, lines) {
  const capped = firstCapped(shown, profiles);
  const [words, button] = $("uncapped").children;
  $("uncapped").hidden = capped === null || lines.some((line) => line.kind !== "mean");
  words.textContent = `No floor at layer ${layer}: neither profile caps it.`;
  button.textContent = `Show layer ${capped}`;
  button.value = capped;
}

function drawControls() {
  const busy = talk.running || playing !== null;
  const foreign = shown !== live;
  const left = document.activeElement;
  $("stop").hidden = !busy;
  $("send").hidden = busy;
  if (left === $("send") && busy) $("stop").focus();
  if (left === $("stop") && !busy) $("message").focus();
  $("send").disabled = foreign;
  $("example").disabled = busy;
  $("export").disabled = !talk.turns.length;
  $("system").disabled = talk.turns.length > 0;
  for (const side of SIDES) heads[side].select.disabled = foreign;
  $("hint").textContent = foreign
    ? "From another server: it can be read here, not continued. New starts one."
    : "Enter sends, Shift+Enter breaks the line";
}

function offer(select, values, chosen, name) {
  select.replaceChildren(...values.map((value) => el("option", { value }, String(name(value)))));
  select.value = chosen;
}

// Controls

$("heads").append(...SIDES.map((side) => heads[side].root));
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const user = $("message").value.trim();
  if (!user || !live || shown !== live || talk.running || playing || !settingsValid()) return;
  if (!talk.turns.length) talk.system = $("system").value.trim();
  $("message").value = "";
  send(user);
});
$("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});
$("stop").addEventListener("click", () => {
  stop();
  render();
});
$("new").addEventListener("click", async () => {
  if (!live || !(await mayReplace())) return;
  begin({ system: shown === live ? $("system").value : "" });
  $("message").focus();
});
$("example").addEventListener("change", () => {
  const example = examplesFor(live)[Number($("example").value)];
  $("example").value = "";
  if (example) play(example);
});
$("export").addEventListener("click", save);
$("import").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = "";
  if (file) load(file);
});
$("key").addEventListener("click", () => wantKey(start));
$("theme").addEventListener("click", () => window.toggleTheme());
$("colour").addEventListener("change", recolour);
for (const id of ["layer", "turn"]) $(id).addEventListener("change", render);
$("token-details").addEventListener("toggle", render);
$("uncapped")
  .querySelector("button")
  .addEventListener("click", (event) => {
    $("layer").value = event.currentTarget.value;
    $("layer").focus(); // the button goes
    render();
  });

start();
