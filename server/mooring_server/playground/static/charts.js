// Two lines over turns or tokens, left solid and right dashed, against means and floors. Drawn by uPlot (vendor/uplot).

import { el } from "./dom.js";
import { rounded } from "./numbers.js";
import { SIDES } from "./talk.js";

const FONT = '11px Inter, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
const LABEL = 14; // pixels between two labels
const GUTTER = 82; // pixels to the right of the plot, where the lines' labels stand

export class Chart {
  // `least` is the number of places on the x axis to begin with, `first` the number of the first.
  constructor(root, readout, { first, least, points }) {
    Object.assign(this, { root, readout, first, least, points });
    root.chart = this; // for whoever reads the page by program
    this.data = [[], [], []];
    this.lines = [];
    this.names = ["", ""]; // of the columns' profiles
    addEventListener("themechange", () => this.build());
    new ResizeObserver(() => this.resize()).observe(root);
  }

  draw(data, lines, names) {
    Object.assign(this, { data, lines, names });
    if (this.plot) this.plot.setData(data);
    else this.build();
    this.tell(null);
  }

  build() {
    this.plot?.destroy();
    this.plot = null;
    if (this.root.clientWidth) this.plot = new uPlot(this.options(), this.data, this.root);
  }

  resize() {
    if (!this.plot) this.build();
    else this.plot.setSize(this.size());
  }

  size() {
    return { width: this.root.clientWidth, height: this.root.clientHeight };
  }

  options() {
    const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
    this.color = color;
    const axis = {
      stroke: color("muted"),
      font: FONT,
      grid: { stroke: color("grid"), width: 1 },
      ticks: { show: false },
    };
    return {
      ...this.size(),
      padding: [8, GUTTER, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 9 } },
      scales: { x: { time: false, range: () => this.places() }, y: { range: () => this.span() } },
      axes: [
        { ...axis, size: 28, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000], space: 32 },
        {
          ...axis,
          size: (plot, labels) => 16 + 7 * Math.max(2, ...(labels ?? []).map((label) => label.length)),
          space: 28,
        },
      ],
      series: [{}, this.series("left", [], color), this.series("right", [7, 4], color)],
      hooks: {
        drawClear: [(plot) => this.drawLines(plot)],
        draw: [(plot) => this.drawLabels(plot)],
        setCursor: [(plot) => this.tell(plot.cursor.idx)],
      },
    };
  }

  series(side, dash, color) {
    return {
      stroke: color(side),
      width: 2,
      dash,
      spanGaps: true,
      points: {
        show: this.points,
        size: 8,
        width: 2,
        stroke: color(side),
        fill: side === "left" ? color(side) : color("panel"),
      },
    };
  }

  places() {
    const end = this.first + Math.max(this.data[0].length, this.least) - 1;
    return this.points ? [this.first - 0.5, end + 0.5] : [this.first, end];
  }

  span() {
    const known = [...this.data[1], ...this.data[2], ...this.lines.map((line) => line.value)].filter(Number.isFinite);
    if (!known.length) return [0, 1];
    let [low, high] = [known[0], known[0]];
    for (const value of known) [low, high] = [Math.min(low, value), Math.max(high, value)];
    const room = Math.max(0.08 * (high - low), 1e-3 * Math.max(Math.abs(low), Math.abs(high)), 1e-6);
    return [low - room, high + room];
  }

  drawLines(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    for (const line of this.lines) {
      const y = Math.round(plot.valToPos(line.value, "y", true));
      ctx.strokeStyle = this.color(line.kind === "mean" ? "muted" : line.kind);
      ctx.lineWidth = devicePixelRatio;
      ctx.globalAlpha = line.kind === "mean" ? 0.9 : 0.7;
      ctx.setLineDash((line.kind === "mean" ? [2, 3] : [9, 3, 2, 3]).map((length) => length * devicePixelRatio));
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
    }
    ctx.restore();
  }

  // Right of the plot, each at its line, moved apart where lines are close.
  drawLabels(plot) {
    const { ctx, bbox } = plot;
    const pixel = devicePixelRatio;
    ctx.save();
    ctx.font = FONT.replace("11px", `${11 * pixel}px`);
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    let free = -Infinity;
    for (const line of [...this.lines].sort((a, b) => b.value - a.value)) {
      const y = Math.max(plot.valToPos(line.value, "y", true), free);
      free = y + LABEL * pixel;
      ctx.fillStyle = this.color(line.kind === "mean" ? "muted" : line.kind);
      ctx.fillText(`${line.name} ${rounded(line.value)}`, bbox.left + bbox.width + 6 * pixel, y);
    }
    ctx.restore();
  }

  // Under the chart: the place under the pointer, else the last.
  tell(place) {
    const at = place ?? this.data[0].length - 1;
    const value = (side, i) => [el("i", { class: `dot ${side}` }), `${this.names[i]} ${rounded(this.data[1 + i][at])}`];
    const parts = at < 0 ? [] : [this.place(at), ...SIDES.flatMap(value)];
    this.readout.replaceChildren(...parts.map((part) => (typeof part === "string" ? el("span", {}, part) : part)));
  }

  place(at) {
    return `${this.points ? "Turn" : "Token"} ${this.data[0][at]}`;
  }

  words(at) {
    const values = SIDES.map((side, i) => `${side} (${this.names[i]}) ${rounded(this.data[1 + i][at])}`);
    return `${this.place(at)}: ${values.join(", ")}`;
  }

  describe(title) {
    const now = this.data[0].length ? `Latest: ${this.words(this.data[0].length - 1)}.` : "No numbers yet.";
    this.root.setAttribute("aria-label", `${title}. ${now} All numbers are in the tables.`);
  }
}
