// A conversation as a JSON file, to keep or to share: both columns' texts, every token's numbers, and what was served.
//
// A file may come from anywhere, so it is read field by field: what is not named here is dropped, what is wrong is
// refused with its place. Texts stay texts.

import { Answer } from "./answer.js";
import { SIDES, Talk } from "./talk.js";

export const FORMAT = "mooring-playground";
export const VERSION = 1;
export const MOST_BYTES = 32 * 1024 * 1024;
const MOST_TOKENS = 100_000; // of an answer

export class FileError extends Error {}

export function toFile(talk, served, profiles, sampling) {
  return {
    format: FORMAT,
    version: VERSION,
    saved: new Date().toISOString(),
    served,
    profiles,
    sampling,
    system: talk.system,
    session: talk.session,
    turns: talk.turns.map((turn) => ({
      user: turn.user,
      ...Object.fromEntries(SIDES.map((side) => [side, answerToFile(turn[side])])),
    })),
  };
}

function answerToFile(answer) {
  const tokens = [...answer.readings].map(([index, reading]) => ({ index, ...reading }));
  const { profile, status, finish, error, thinking, text, pieces, generated, summary, truncated } = answer;
  return { profile, status, finish, error, thinking, text, pieces, generated, mooring: summary, tokens, truncated };
}

// {talk, served, profiles, sampling} of a file's text.
export function fromFile(text) {
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new FileError("The file is not JSON.");
  }
  if (data?.format !== FORMAT)
    throw new FileError(`The file is not an export of this page: its format is not "${FORMAT}".`);
  if (data.version !== VERSION)
    throw new FileError(`The file has version ${data.version}; this page reads version ${VERSION}.`);
  const served = readServed(data.served, "served");
  const talk = new Talk({ system: string(data.system, "system") }); // a session of its own: the file may be shared
  talk.turns = list(data.turns, "turns").map((turn, number) => readTurn(turn, `turns[${number}]`));
  return { talk, served, profiles: both(data.profiles, "profiles", string), sampling: readSampling(data.sampling) };
}

// What the page draws by, from a file or from the server.
export function readServed(data, place) {
  const { axis } = record(data, place);
  return {
    model: string(data.model, `${place}.model`),
    default: string(data.default, `${place}.default`),
    axis: {
      digest: string(record(axis, `${place}.axis`).digest, `${place}.axis.digest`),
      model: string(axis.model, `${place}.axis.model`),
      model_layers: number(axis.model_layers, `${place}.axis.model_layers`),
      monitored_layer: number(axis.monitored_layer, `${place}.axis.monitored_layer`),
      layers: byLayer(axis.layers, `${place}.axis.layers`, (means, at) =>
        numbers(means, at, "default_mean", "role_mean"),
      ),
    },
    profiles: list(data.profiles, `${place}.profiles`).map((profile, i) =>
      readProfile(profile, `${place}.profiles[${i}]`),
    ),
  };
}

function readProfile(data, place) {
  return {
    name: string(record(data, place).name, `${place}.name`),
    default: data.default === true,
    selectable: data.selectable === true,
    axis: string(data.axis, `${place}.axis`),
    layers: byLayer(data.layers, `${place}.layers`, (remap, at) =>
      numbers(remap, at, "scale", "shift", "floor", "ceiling"),
    ),
  };
}

function readSampling(data) {
  const { temperature, max_tokens } = record(data, "sampling");
  return {
    temperature: number(temperature, "sampling.temperature"),
    max_tokens: number(max_tokens, "sampling.max_tokens"),
  };
}

function readTurn(data, place) {
  return { user: string(record(data, place).user, `${place}.user`), ...both(data, place, readAnswer) };
}

function readAnswer(data, place) {
  const answer = new Answer(string(record(data, place).profile, `${place}.profile`));
  const ended = ["done", "stopped", "failed"].includes(data.status);
  answer.status = ended ? data.status : "stopped"; // it was saved while it ran
  answer.error = data.error && {
    message: string(data.error.message, `${place}.error.message`),
    status: number(data.error.status ?? 0, `${place}.error.status`),
  };
  answer.thinking = string(data.thinking, `${place}.thinking`);
  answer.finish = data.finish && string(data.finish, `${place}.finish`);
  answer.generated = count(data.generated, `${place}.generated`);
  answer.pieces = list(data.pieces, `${place}.pieces`).map((piece, i) => readPiece(piece, `${place}.pieces[${i}]`));
  for (const [i, { from, to }] of answer.pieces.entries()) {
    const end = answer.pieces[i - 1]?.to ?? 0;
    if (from < end || to < from) throw new FileError(`${place}.pieces[${i}] does not follow the piece before it`);
  }
  answer.covered = answer.pieces.at(-1)?.to ?? 0;
  for (const [i, token] of list(data.tokens, `${place}.tokens`).entries()) {
    const at = `${place}.tokens[${i}]`;
    const [projection, lift] = ["projection", "lift"].map((name) =>
      byLayer(record(token, at)[name], `${at}.${name}`, number),
    );
    answer.readings.set(count(token.index, `${at}.index`), { projection, lift });
  }
  answer.truncated = data.truncated === true;
  answer.summary = data.mooring === null ? null : readSummary(data.mooring, `${place}.mooring`);
  return answer;
}

function readPiece(data, place) {
  const text = string(record(data, place).text, `${place}.text`);
  return { text, from: count(data.from, `${place}.from`), to: count(data.to, `${place}.to`) };
}

function readSummary(data, place) {
  return {
    profile: string(record(data, place).profile, `${place}.profile`),
    ...numbers(
      data,
      place,
      "turn",
      "projection",
      "drift",
      "monitored_layer",
      "lifted_share",
      "mean_lift",
      "measured_tokens",
    ),
    complete: data.complete === true,
    monitored_after_cap: data.monitored_after_cap === true,
    layers: byLayer(data.layers, `${place}.layers`, (layer, at) =>
      numbers(layer, at, "projection", "lift", "lifted_share"),
    ),
  };
}

// Kinds of values

function record(value, place) {
  if (value === null || typeof value !== "object" || Array.isArray(value))
    throw new FileError(`${place} is not an object`);
  return value;
}

function list(value, place) {
  if (!Array.isArray(value)) throw new FileError(`${place} is not a list`);
  return value;
}

function string(value, place) {
  if (typeof value !== "string") throw new FileError(`${place} is not text`);
  return value;
}

function number(value, place) {
  if (!Number.isFinite(value)) throw new FileError(`${place} is not a number`);
  return value;
}

function count(value, place) {
  if (!Number.isInteger(value) || value < 0 || value > MOST_TOKENS)
    throw new FileError(`${place} is not a token's number`);
  return value;
}

// The named members of a record, each a number or null.
function numbers(value, place, ...names) {
  const read = (name) => [
    name,
    (record(value, place)[name] ?? null) === null ? null : number(value[name], `${place}.${name}`),
  ];
  return Object.fromEntries(names.map(read));
}

function byLayer(value, place, read) {
  const entries = Object.entries(record(value, place));
  return Object.fromEntries(
    entries.map(([layer, told]) => [number(Number(layer), place), read(told, `${place}.${layer}`)]),
  );
}

function both(value, place, read) {
  return Object.fromEntries(SIDES.map((side) => [side, read(record(value, place)[side], `${place}.${side}`)]));
}
