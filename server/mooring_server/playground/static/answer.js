// One column's answer to one turn: its text in pieces, and what was measured of each token.
//
// How text and tokens are matched. A frame may carry the text of no token, of one, or of several, and the numbers of a
// token come later than its text: a token is measured only when it is run through the model to make the next one. So
// the two are matched by the token's index alone. Every frame says how many tokens have been generated so far
// (`usage.completion_tokens`, asked for by `continuous_usage_stats`), and a piece of text covers the tokens from where
// the last piece ended up to that count. Text that was held back (half a character, say) so belongs to the piece in
// which it comes out. Readings name their tokens by the same index. The last sampled token, mostly the end of the
// answer, is never run and has no reading.

export class Answer {
  constructor(profile) {
    this.profile = profile;
    this.status = "waiting"; // then "streaming", and in the end "done", "stopped" or "failed"
    this.error = null; // {message, status} of a failed one
    this.thinking = "";
    this.pieces = []; // {text, from, to}: it covers the tokens from <= index < to
    this.readings = new Map(); // token's index -> {projection: {layer: p}, lift: {layer: l}}
    this.summary = null; // the reply's own `mooring` object, without its tokens
    this.finish = null; // why it ended, in the server's word
    this.generated = 0; // tokens
    this.covered = 0; // tokens whose text has come
    this.truncated = false; // whether the server tells the numbers of its first tokens only
  }

  get text() {
    return this.pieces.map((piece) => piece.text).join("");
  }

  // Changes with whatever is drawn of it.
  get state() {
    return [this.status, this.pieces.length, this.readings.size, this.thinking.length, this.summary !== null].join();
  }

  get running() {
    return this.status === "waiting" || this.status === "streaming";
  }

  take(frame) {
    this.status = "streaming";
    this.generated = frame.usage?.completion_tokens ?? this.generated;
    const { delta = {}, finish_reason: finish = null } = frame.choices?.[0] ?? {};
    this.finish ??= finish;
    const thought = delta.reasoning ?? delta.reasoning_content;
    if (thought) {
      this.thinking += thought;
      this.covered = this.generated;
    }
    if (delta.content) {
      this.pieces.push({ text: delta.content, from: this.covered, to: this.generated });
      this.covered = this.generated;
    }
    if (frame.mooring) this.measured(frame.mooring);
  }

  measured({ tokens, ...summary }) {
    for (const [place, index] of (tokens?.index ?? []).entries()) {
      this.readings.set(index, { projection: at(tokens.projection, place), lift: at(tokens.lift, place) });
    }
    this.truncated ||= tokens?.truncated === true;
    if ("profile" in summary) this.summary = summary;
  }

  // The readings of a piece's tokens; fewer than its tokens where some have not come, or never will.
  readingsOf(piece) {
    const found = [];
    for (let index = piece.from; index < piece.to; index++) {
      if (this.readings.has(index)) found.push({ index, ...this.readings.get(index) });
    }
    return found;
  }

  // Mean projection at a layer: the reply's own number once it has come, until then the mean of the tokens so far.
  projection(layer) {
    if (this.summary) {
      const monitored = layer === this.summary.monitored_layer;
      return (monitored ? this.summary.projection : this.summary.layers?.[layer]?.projection) ?? null;
    }
    return mean([...this.readings.values()].map((reading) => reading.projection[layer]));
  }
}

export function mean(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

function at(byLayer, place) {
  return Object.fromEntries(Object.entries(byLayer).map(([layer, values]) => [layer, values[place]]));
}
