// The top of each column: which profile it runs under, and the reading of its latest answer.

import { el, figure } from "./dom.js";
import { drift, lifted, meanLift, percent, profileOf, rounded } from "./numbers.js";

export class Head {
  constructor(side, changed) {
    const name = side === "left" ? "Left" : "Right";
    this.select = el("select", { id: `profile-${side}`, onchange: () => changed(this.select.value) });
    this.about = el("p", { class: "about" });
    this.needle = el("i", {});
    this.gauge = el(
      "div",
      { class: "gauge", role: "img" },
      el("span", {}, "Assistant"),
      el("span", {}, "role-play"),
      this.needle,
    );
    this.values = Object.fromEntries(
      ["drift", "projection", "lifted", "mean-lift"].map((key) => [key, el("dd", { "data-name": key })]),
    );
    const label = el(
      "label",
      { for: this.select.id },
      el("i", { class: `dot ${side}` }),
      `${name}`,
      el("span", { class: "unseen" }, " profile"),
    );
    const pair = (title, key) => el("div", {}, el("dt", {}, title), this.values[key]);
    this.root = el(
      "section",
      { class: `head ${side}`, "aria-label": `${name} column` },
      el("div", { class: "pick" }, label, this.select),
      this.about,
      el(
        "dl",
        {},
        pair("Drift", "drift"),
        pair("Projection", "projection"),
        pair("Lifted", "lifted"),
        pair("Mean lift", "mean-lift"),
      ),
      this.gauge,
    );
  }

  // The profiles to choose from: those that may be asked for, and the default.
  offer(served, chosen) {
    const offered = served.profiles.filter((profile) => profile.selectable || profile.default);
    this.select.replaceChildren(
      ...offered.map(({ name, default: isDefault }) =>
        el("option", { value: name }, isDefault ? `${name} (default)` : name),
      ),
    );
    this.select.value = chosen;
  }

  draw(answer, served, chosen) {
    this.select.value = chosen;
    this.about.textContent = aboutProfile(profileOf(served, chosen));
    const drifted = answer ? drift(answer, served) : null;
    const projection = answer?.projection(served.axis.monitored_layer) ?? null;
    const share = answer ? lifted(answer) : null;
    const lifts = answer ? meanLift(answer, served) : null;
    this.write("drift", drifted, rounded(drifted));
    this.write("projection", projection, rounded(projection));
    this.write("lifted", share, percent(share));
    this.write("mean-lift", lifts, rounded(lifts));
    this.point(drifted);
  }

  write(key, value, written) {
    this.values[key].replaceChildren(figure(value, written));
  }

  // The gauge runs from -0.25 to 1.5; what lies beyond stands at its end.
  point(value) {
    const place = Math.min(Math.max((value + 0.25) / 1.75, 0), 1);
    this.needle.hidden = value === null;
    this.needle.style.setProperty("left", `${100 * place}%`);
    const where =
      value === null
        ? "no reading yet"
        : `${rounded(value)}, where 0 is the default Assistant and 1 the mean role-play`;
    this.gauge.setAttribute("aria-label", `Drift of the latest answer: ${where}`);
  }
}

function aboutProfile(profile) {
  const layers = Object.keys(profile?.layers ?? {});
  if (!layers.length) return "measured, never touched";
  if (layers.length === 1) return `capped after layer ${layers[0]}`;
  const unbroken = layers.at(-1) - layers[0] === layers.length - 1;
  return `capped after layers ${unbroken ? `${layers[0]} to ${layers.at(-1)}` : layers.join(", ")}`;
}
