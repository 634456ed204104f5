// The turns as they are said: the user's words over the columns, each answer's pieces coloured by what was measured.

import { el } from "./dom.js";
import { drift, lifted, percent, rounded } from "./numbers.js";
import { SIDES } from "./talk.js";

export class Transcript {
  constructor(root, scroller, retry) {
    Object.assign(this, { root, scroller, retry });
    this.views = new Map(); // answer -> its view
  }

  clear() {
    this.views.clear();
    this.root.replaceChildren();
  }

  draw(talk, served, scale, goesOn) {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    const atEnd = scrollHeight - scrollTop - clientHeight < 80;
    const grown = talk.turns.length > this.root.children.length;
    for (const [place, turn] of talk.turns.entries()) {
      const item = this.root.children[place] ?? this.root.appendChild(turnElement(turn, place));
      for (const side of SIDES) {
        this.viewOf(turn[side], side, item, () => this.retry(side, turn)).draw(
          served,
          scale,
          goesOn && turn === talk.last,
        );
      }
    }
    this.follow(grown, atEnd);
  }

  // Keep the newest in sight, unless the reader has scrolled away from the end.
  follow(grown, atEnd) {
    const scrollsItself = getComputedStyle(this.scroller).overflowY === "auto";
    if (scrollsItself && (grown || atEnd)) this.scroller.scrollTop = this.scroller.scrollHeight;
    else if (!scrollsItself && grown) this.root.lastElementChild.scrollIntoView({ block: "start" });
  }

  viewOf(answer, side, item, retry) {
    if (!this.views.has(answer)) {
      const view = new AnswerView(answer, side, retry);
      this.views.set(answer, view);
      item.querySelector(`.answer.${side}`).replaceWith(view.root);
    }
    return this.views.get(answer);
  }
}

function turnElement(turn, place) {
  return el(
    "li",
    { class: "turn" },
    el("h3", { class: "unseen" }, `Turn ${place + 1}`),
    el("p", { class: "user" }, turn.user),
    el("div", { class: "answers" }, ...SIDES.map((side) => el("article", { class: `answer ${side}` }))),
  );
}

class AnswerView {
  constructor(answer, side, retry) {
    this.answer = answer;
    this.scale = null;
    this.spans = [];
    this.settled = 0; // pieces before this one have all their readings
    this.text = el("p", { class: "text" });
    this.thinking = el("p", {});
    this.thought = el("details", { class: "thinking", hidden: true }, el("summary", {}, "Thinking"), this.thinking);
    this.error = el("p", { class: "error" });
    this.again = el("button", { type: "button", onclick: retry }, "Try again");
    this.failure = el("div", { class: "failure", hidden: true }, this.error, this.again);
    this.foot = el("p", { class: "foot" });
    const name = el("h4", {}, el("i", { class: `dot ${side}` }), answer.profile);
    const label = `${side === "left" ? "Left" : "Right"}: ${answer.profile}`;
    const parts = [name, this.thought, this.text, this.failure, this.foot];
    this.root = el("article", { class: `answer ${side}`, "aria-label": label }, ...parts);
  }

  draw(served, scale, mayRetry) {
    const { answer } = this;
    const state = [scale, mayRetry, answer.state];
    if (this.state?.every((value, i) => value === state[i])) return;
    this.state = state;
    this.root.dataset.status = answer.status;
    this.thought.hidden = !answer.thinking;
    this.thinking.textContent = answer.thinking;
    for (const piece of answer.pieces.slice(this.spans.length)) this.say(piece);
    this.colour(scale);
    this.failure.hidden = answer.status !== "failed";
    this.again.hidden = !mayRetry;
    this.error.textContent = answer.error ? told(answer.error) : "";
    this.foot.textContent = footOf(answer, served);
  }

  say(piece) {
    this.spans.push(this.text.appendChild(el("span", {}, piece.text)));
  }

  colour(scale) {
    const { answer } = this;
    if (scale !== this.scale) this.settled = 0;
    this.scale = scale;
    for (let place = this.settled; place < this.spans.length; place++) {
      const piece = answer.pieces[place];
      const { step, words } = scale.of(answer, piece);
      this.spans[place].className = step === null ? "token" : `token step-${step}`;
      this.spans[place].title = words;
      if (place === this.settled && answer.readingsOf(piece).length === piece.to - piece.from) this.settled++;
    }
  }
}

function told({ message, status }) {
  return status ? `${status}: ${message}` : message;
}

function footOf(answer, served) {
  if (answer.status === "waiting") return "waiting …";
  if (answer.status === "failed" && !answer.readings.size) return "";
  const parts = [`${answer.generated} tokens`];
  if (answer.status === "stopped") parts.push("stopped");
  if (answer.finish === "length") parts.push("cut at the limit of tokens");
  if (answer.readings.size || answer.summary) {
    parts.push(`lifted ${percent(lifted(answer))}`, `drift ${rounded(drift(answer, served))}`);
  } else if (!answer.running) parts.push("not measured");
  const { summary } = answer;
  if (summary && !summary.complete) parts.push("some readings did not come in time");
  if (answer.truncated) parts.push(`only its first ${answer.readings.size} tokens one by one`);
  if (summary?.monitored_after_cap) parts.push("measured after a cap");
  if (summary && summary.profile !== answer.profile) parts.push(`ran under ${summary.profile}`);
  return parts.join(" · ");
}
