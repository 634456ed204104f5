// The server's endpoints that the page uses. Everything goes to the server the page came from, by relative address.

import { DONE, events } from "./sse.js";

const ROOT = new URL("../", import.meta.url); // this file is <root>/playground/api.js
const KEY = "mooring.key";

export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

// The API key lives as long as the browser's tab and is sent to this server alone.
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

// What is served: {model, axis, profiles, default}.
export async function served() {
  const [models, axis, profiles] = await Promise.all(
    ["v1/models", "v1/mooring/axis", "v1/mooring/profiles"].map(async (path) => (await ask(path)).json()),
  );
  return { model: models.data[0].id, axis, profiles: profiles.profiles, default: profiles.default };
}

// A page of the sessions in the server's history, those that drifted furthest first: {sessions, next}.
export async function sessions(cursor = null) {
  const query = new URLSearchParams({ order: "drift", limit: 50, ...(cursor ? { cursor } : {}) });
  return (await ask(`v1/mooring/sessions?${query}`)).json();
}

// Yields the frames of one streamed chat completion.
export async function* chat(request, signal) {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...request, stream: true }),
    signal,
  });
  let whole = false;
  try {
    for await (const data of events(response.body)) {
      if (data === DONE) whole = true;
      else yield frameOf(data);
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ApiError("The connection was lost in the middle of the answer.");
  }
  if (!whole) throw new ApiError("The server ended the stream before the answer was complete.");
}

function frameOf(data) {
  let frame;
  try {
    frame = JSON.parse(data);
  } catch {
    throw new ApiError("The server sent a frame that is not JSON.");
  }
  if (frame.error) throw new ApiError(String(frame.error.message ?? "The server reported an error."), frame.error.code);
  return frame;
}

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key.get()) headers.set("Authorization", `Bearer ${key.get()}`);
  let response;
  try {
    response = await fetch(new URL(path, ROOT), { ...options, headers, credentials: "same-origin" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw new ApiError(await reasonOf(response), response.status);
  return response;
}

export function reason(error) {
  return error.status ? `It answered ${error.status}: ${error.message}` : error.message;
}

async function reasonOf(response) {
  const text = await response.text().catch(() => "");
  let said = text.slice(0, 300);
  try {
    const { error, detail } = JSON.parse(text);
    said = error?.message ?? (typeof error === "string" ? error : undefined) ?? JSON.stringify(detail) ?? said;
  } catch {
    // Not JSON: a proxy's page, say. Its first words are all there is.
  }
  return said || response.statusText || "The server gave no reason.";
}
