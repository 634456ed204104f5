// The numbers of the charts as tables. Each is a <data> element, whose value is the number as the server gave it.

import { el, figure } from "./dom.js";
import { drift, lift, lifted, meanLift, percent, profileOf, rounded } from "./numbers.js";
import { SIDES } from "./talk.js";

// The numbers of every turn. Only rows that have changed are made anew.
export class Numbers {
  constructor(table) {
    this.table = table;
    this.rows = new Map(); // answer -> {state, row}
  }

  draw(talk, served, layer) {
    const columns = ["Turn", "Column", `Projection, layer ${layer}`, "Drift", "Lifted", "Mean lift", "Tokens"];
    const answers = talk.turns.flatMap((turn, place) => SIDES.map((side) => ({ answer: turn[side], side, place })));
    const known = new Map(
      answers.map(({ answer, side, place }) => [answer, this.row(answer, side, place, served, layer)]),
    );
    const unchanged = answers.length && [...known].every(([answer, made]) => this.rows.get(answer) === made);
    if (unchanged && known.size === this.rows.size) return;
    this.rows = known;
    const rows = [...known.values()].map(({ row }) => row);
    this.table.replaceChildren(
      el("caption", { class: "unseen" }, "Each turn's numbers, column by column"),
      headOf(columns),
      el("tbody", {}, ...(rows.length ? rows : [el("tr", {}, el("td", { colspan: columns.length }, "No turns yet."))])),
    );
  }

  row(answer, side, place, served, layer) {
    const state = `${layer} ${answer.state}`;
    const known = this.rows.get(answer);
    return known?.state === state ? known : { state, row: numbersRow(answer, side, place, served, layer) };
  }
}

function headOf(columns) {
  return el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", { scope: "col" }, name))));
}

function numbersRow(answer, side, place, served, layer) {
  const cell = (name, value, write) => el("td", { "data-name": name }, figure(value, write(value)));
  const cells = [
    cell("projection", answer.projection(layer), rounded),
    cell("drift", drift(answer, served), rounded),
    cell("lifted", lifted(answer), percent),
    cell("mean-lift", meanLift(answer, served), rounded),
    cell("tokens", answer.summary?.measured_tokens ?? answer.readings.size, String),
  ];
  const turn = side === SIDES[0] ? [el("th", { scope: "rowgroup", rowspan: SIDES.length }, String(place + 1))] : [];
  return el("tr", { "data-turn": place + 1, "data-side": side }, ...turn, columnCell(side, answer), ...cells);
}

function columnCell(side, answer) {
  const spoken = el("span", { class: "unseen" }, `${side}: `);
  return el("th", { scope: "row", class: "name" }, el("i", { class: `dot ${side}` }), spoken, answer.profile);
}

// The tokens of one turn, once both its answers have ended: it is long, and made anew as a whole.
export function drawTokens(table, turn, served, layer) {
  const columns = ["Token", ...SIDES.flatMap((side) => [side === "left" ? "Left" : "Right", "Projection", "Lift"])];
  const ended = turn && !SIDES.some((side) => turn[side].running);
  const state = ended ? `${layer} ${SIDES.map((side) => turn[side].state)}` : "";
  if (drawn.get(table)?.turn === turn && drawn.get(table).state === state) return;
  drawn.set(table, { turn, state });
  table.replaceChildren(
    el("caption", { class: "unseen" }, `Tokens of one turn, projections at layer ${layer}`),
    headOf(columns),
    el(
      "tbody",
      {},
      ...(ended
        ? tokenRows(turn, served, layer)
        : [el("tr", {}, el("td", { colspan: columns.length }, "No ended turn."))]),
    ),
  );
}

const drawn = new WeakMap(); // table -> what it shows

function tokenRows(turn, served, layer) {
  const texts = Object.fromEntries(SIDES.map((side) => [side, textByToken(turn[side])]));
  const count = Math.max(...SIDES.map((side) => turn[side].covered));
  return Array.from({ length: count }, (_, index) => {
    const cells = SIDES.flatMap((side) => tokenCells(turn[side], texts[side], index, served, layer));
    return el("tr", {}, el("th", { scope: "row" }, String(index)), ...cells);
  });
}

// Token's index -> its text; of several that came in one piece, the first has it all.
function textByToken(answer) {
  return new Map(answer.pieces.map((piece) => [piece.from, piece.text]));
}

function tokenCells(answer, texts, index, served, layer) {
  const reading = answer.readings.get(index);
  const projection = reading?.projection[layer];
  const lifts = reading && lift(reading, profileOf(served, answer.profile));
  return [
    el("td", { class: "text" }, texts.get(index) ?? ""),
    el("td", {}, figure(projection, rounded(projection))),
    el("td", {}, figure(lifts, rounded(lifts))),
  ];
}
