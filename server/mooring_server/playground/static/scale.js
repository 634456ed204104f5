// The colours of tokens: five steps, each with a tint and an underline, so that no step is told by colour alone.
//
//     lift    0 = untouched, 1 = lifted by as much as lies between role-play and the default Assistant
//     drift   0 = the default Assistant, 1 = the mean role-play, at the monitored layer

import { mean } from "./answer.js";
import { lift, profileOf, rounded } from "./numbers.js";

export const STEPS = [0, 0.25, 0.5, 0.75];

export class Scale {
  constructor(kind, served) {
    this.kind = kind; // "lift", "drift" or "none"
    this.served = served;
    const capped = new Set(served.profiles.flatMap((profile) => Object.keys(profile.layers)));
    const gaps = [...capped].map((layer) => gapAt(served.axis, layer));
    this.unit = kind === "lift" ? (mean(gaps) ?? 1) : 1; // an axis without means is measured in its own units
  }

  // Of the piece of an answer: {step, words}; step is null where nothing was measured.
  of(answer, piece) {
    const readings = answer.readingsOf(piece);
    const profile = profileOf(this.served, answer.profile);
    const lifts = mean(readings.map((reading) => lift(reading, profile)));
    const drifts = mean(readings.map((reading) => this.drift(reading, profile)));
    const value = this.kind === "lift" ? Math.abs(lifts) / this.unit : drifts;
    const known = readings.length > 0 && this.kind !== "none" && value !== null;
    return { step: known ? stepOf(value) : null, words: wordsFor(piece, readings, lifts, drifts) };
  }

  // Where a step begins and ends, in words for the legend.
  label(step) {
    if (step === 0) return this.kind === "lift" ? "not lifted" : "0 or less";
    const [from, to] = [STEPS[step - 1] * this.unit, step < 4 ? STEPS[step] * this.unit : null];
    return to === null ? `over ${rounded(from, 1)}` : `to ${rounded(to, 1)}`;
  }

  drift(reading, profile) {
    const { axis } = this.served;
    const layer = axis.monitored_layer;
    const gap = profile?.axis === axis.digest ? gapAt(axis, layer) : null;
    return gap === null ? null : (axis.layers[layer].default_mean - reading.projection[layer]) / gap;
  }
}

export function stepOf(value) {
  return STEPS.filter((from) => value > from).length;
}

function gapAt(axis, layer) {
  const { default_mean: high = null, role_mean: low = null } = axis.layers[layer] ?? {};
  return high === null || low === null ? null : high - low;
}

function wordsFor(piece, readings, lifts, drifts) {
  const many = piece.to - piece.from > 1;
  const which = many ? `tokens ${piece.from} to ${piece.to - 1}` : `token ${piece.from}`;
  if (!readings.length) return `${which}: not measured`;
  const lines = [`${which}: lifted by ${rounded(lifts)}${many ? " on average" : ""}`];
  if (drifts !== null) lines.push(`drift ${rounded(drifts)}`);
  return lines.join(", ");
}
