// From answers to what is drawn and written: the chart and the table take their numbers from here, so they agree.

import { mean } from "./answer.js";
import { SIDES } from "./talk.js";

const MISSING = "–";

export function rounded(value, digits = 2) {
  if (value === null || value === undefined) return MISSING;
  const written = value.toFixed(digits);
  return Number(written) === 0 ? written.replace("-", "") : written.replace("-", "−");
}

export function percent(share) {
  return share === null || share === undefined ? MISSING : `${Math.round(100 * share)} %`;
}

// Turn by turn and column by column: a turn without a reading is null, which the chart leaves out.
export function perTurn(talk, layer) {
  return {
    turn: talk.turns.map((_, number) => number + 1),
    ...Object.fromEntries(SIDES.map((side) => [side, talk.turns.map((turn) => turn[side].projection(layer))])),
  };
}

// Token by token of one turn.
export function perToken(turn, layer) {
  const token = Array.from(
    { length: turn ? Math.max(...SIDES.map((side) => turn[side].covered)) : 0 },
    (_, index) => index,
  );
  const of = (answer) => token.map((index) => answer.readings.get(index)?.projection[layer] ?? null);
  return { token, left: turn ? of(turn.left) : [], right: turn ? of(turn.right) : [] };
}

// Lines to draw a layer's projections against: where there are none, none.
export function references(served, profiles, layer) {
  const means = served.axis.layers[layer] ?? {};
  const lines = [
    { name: "default", value: means.default_mean, kind: "mean" },
    { name: "role", value: means.role_mean, kind: "mean" },
  ];
  for (const side of SIDES) {
    const remap = profileOf(served, profiles[side])?.layers[layer];
    lines.push({ name: "floor", value: remap?.floor, kind: side });
    lines.push({ name: "ceiling", value: remap?.ceiling, kind: side });
  }
  return lines.filter((line) => Number.isFinite(line.value));
}

// The first layer at which one of the chosen profiles has a floor or a ceiling; null where there is none.
export function firstCapped(served, profiles) {
  const remaps = SIDES.flatMap((side) => Object.entries(profileOf(served, profiles[side])?.layers ?? {}));
  const capped = remaps.filter(([, { floor, ceiling }]) => Number.isFinite(floor) || Number.isFinite(ceiling));
  return capped.length ? Math.min(...capped.map(([layer]) => Number(layer))) : null;
}

// 0 = the default Assistant, 1 = the mean role-play: the reply's own number, or while it streams that of its tokens.
export function drift(answer, served) {
  if (answer.summary) return answer.summary.drift ?? null;
  const { axis } = served;
  if (profileOf(served, answer.profile)?.axis !== axis.digest) return null;
  const { default_mean: high = null, role_mean: low = null } = axis.layers[axis.monitored_layer] ?? {};
  const projection = answer.projection(axis.monitored_layer);
  return high === null || low === null || projection === null ? null : (high - projection) / (high - low);
}

// A token's lift: the mean over the layers that its profile acts on, as the reply's own mean lift is made.
export function lift(reading, profile) {
  return mean(Object.keys(profile?.layers ?? {}).map((layer) => reading.lift[layer])) ?? 0;
}

export function lifted(answer) {
  if (answer.summary) return answer.summary.lifted_share ?? null;
  return mean([...answer.readings.values()].map(({ lift: byLayer }) => Number(Object.values(byLayer).some(Boolean))));
}

export function meanLift(answer, served) {
  if (answer.summary) return answer.summary.mean_lift ?? null;
  const profile = profileOf(served, answer.profile);
  return mean([...answer.readings.values()].map((reading) => lift(reading, profile)));
}

export function profileOf(served, name) {
  return served.profiles.find((profile) => profile.name === name);
}
