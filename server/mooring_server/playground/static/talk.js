// The conversation of both columns: the user's turns are shared, the answers are each column's own.

import { Answer } from "./answer.js";

export const SIDES = ["left", "right"];

export class Talk {
  constructor({ system = "", session = newSession() } = {}) {
    this.system = system;
    this.session = session;
    this.turns = []; // {user, left: Answer, right: Answer}
  }

  get last() {
    return this.turns.at(-1) ?? null;
  }

  get running() {
    return this.last !== null && SIDES.some((side) => this.last[side].running);
  }

  add(user, profiles) {
    const turn = { user };
    for (const side of SIDES) turn[side] = new Answer(profiles[side]);
    this.turns.push(turn);
    return turn;
  }

  // What one column sends for a turn: of the turns before, those that it has an answer to.
  messages(side, turn) {
    const before = this.turns.slice(0, this.turns.indexOf(turn)).filter((earlier) => earlier[side].text);
    return [
      ...(this.system ? [{ role: "system", content: this.system }] : []),
      ...before.flatMap((earlier) => [
        { role: "user", content: earlier.user },
        { role: "assistant", content: earlier[side].text },
      ]),
      { role: "user", content: turn.user },
    ];
  }

  // The body of the request for a column's answer. The default profile may be one that cannot be asked for by name: then
  // no session is named either, because an experiment would deal one that asks for no profile to an arm, and count it.
  request(side, turn, served, sampling) {
    const { name, selectable } = served.profiles.find((profile) => profile.name === turn[side].profile);
    return {
      model: served.model,
      messages: this.messages(side, turn),
      ...sampling,
      ...(selectable ? { session_id: `${this.session}-${side}` } : {}),
      stream_options: { include_usage: true, continuous_usage_stats: true },
      vllm_xargs: { mooring_tokens: 1, ...(selectable ? { mooring_profile: name } : {}) },
    };
  }
}

// Not crypto.randomUUID, which a page served by plain HTTP from another machine does not have.
function newSession() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return "playground-" + [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
