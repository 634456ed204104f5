// The openai SDK for node against a server of Mooring's: prints what it got as one JSON document.
// Its input is {base, messages, most}: where the server is, what to say, and how many tokens an answer may have.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const { base, messages, most } = JSON.parse(readFileSync(0, "utf8"));
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: "none", maxRetries: 0 });
const chat = { model: "demo", messages, temperature: 0, max_tokens: most };
const response = { model: "demo", input: messages, temperature: 0, max_output_tokens: most };

async function plain() {
  const { data, response: raw } = await client.chat.completions.create(chat).withResponse();
  return { text: data.choices[0].message.content, told: data.mooring, header: raw.headers.get("x-mooring-profile") };
}

async function streamed() {
  const chunks = [];
  for await (const chunk of await client.chat.completions.create({ ...chat, stream: true })) chunks.push(chunk);
  return {
    text: chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""),
    told: chunks.at(-1).mooring,
    choices: chunks.map((chunk) => chunk.choices.length),
    objects: chunks.filter((chunk) => chunk.mooring).length,
  };
}

async function helped() {
  const whole = await client.chat.completions.stream(chat).finalChatCompletion();
  return { text: whole.choices[0].message.content, told: whole.mooring };
}

async function responded() {
  const whole = await client.responses.create(response);
  return { text: whole.output_text, told: whole.mooring };
}

async function respondedInEvents() {
  const events = [];
  for await (const event of await client.responses.create({ ...response, stream: true })) events.push(event);
  const { output, mooring } = events.at(-1).response;
  return { text: output[0].content[0].text, told: mooring, last: events.at(-1).type };
}

async function respondedWithHelp() {
  const whole = await client.responses.stream(response).finalResponse();
  return { text: whole.output_text, told: whole.mooring };
}

async function uncapped() {
  const whole = await client.chat.completions.create({ ...chat, model: "demo:off" });
  return { text: whole.choices[0].message.content, told: whole.mooring };
}

async function refused() {
  const headers = { "X-Mooring-Profile": "nope" };
  try {
    return { status: (await client.chat.completions.create(chat, { headers }).withResponse()).response.status };
  } catch (error) {
    return { status: error.status, message: error.message };
  }
}

const ways = { plain, streamed, helped, responded, respondedInEvents, respondedWithHelp, uncapped, refused };
const heard = {};
for (const [name, ask] of Object.entries(ways)) heard[name] = await ask();
console.log(JSON.stringify(heard));
