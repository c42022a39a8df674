// Holds what the clients receive against OpenAI's API description (../openai/extract.json).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import Ajv2020 from "ajv/dist/2020.js";

const extract = JSON.parse(readFileSync(new URL("../openai/extract.json", import.meta.url)));
// OpenAI also sends vectors as base64, as its SDK asks for.
const embedding = extract.$defs.Embedding.properties;
embedding.embedding = { anyOf: [embedding.embedding, { type: "string" }] };

const ajv = new Ajv2020({ strict: false, validateFormats: false });
ajv.addSchema(extract, "openai");

// path: what comes back whole and as an event; the events of a response say what they are
const documented = {
  "/v1/chat/completions": ["CreateChatCompletionResponse", "CreateChatCompletionStreamResponse"],
  "/v1/embeddings": ["CreateEmbeddingResponse"],
  "/v1/responses": ["Response"],
  "/v1/models": ["ListModelsResponse"],
};
const responseEvents = Object.fromEntries(
  Object.entries(extract.$defs)
    .filter(([name]) => /^Response.*Event$/.test(name))
    .map(([name, schema]) => [schema.properties.type.enum[0], name]),
);

const complaints = [];

function check(name, value) {
  const valid = ajv.getSchema(`openai#/$defs/${name}`);
  if (!valid) complaints.push(`nothing of OpenAI's is called ${name}: ${JSON.stringify(value).slice(0, 300)}`);
  else if (!valid(value)) complaints.push(`no ${name}: ${ajv.errorsText(valid.errors).slice(0, 500)} in ${JSON.stringify(value).slice(0, 500)}`);
}

function checkText(path, { ok, headers }, text) {
  const [whole, event] = documented[path] ?? [];
  if (!ok) return check("ErrorResponse", JSON.parse(text));
  if (!headers.get("content-type").startsWith("text/event-stream")) return whole && check(whole, JSON.parse(text));
  for (const [, data] of text.matchAll(/^data: (.*)\n/gm)) {
    if (data === "[DONE]") continue;
    const value = JSON.parse(data);
    check(value.error ? "ErrorResponse" : (event ?? responseEvents[value.type] ?? `event ${value.type}`), value);
  }
}

/** `fetch` as the clients know it; what they have read to its end is checked. */
export async function checkedFetch(input, init) {
  const response = await fetch(input, init);
  const path = new URL(input.url ?? input).pathname;
  const decoder = new TextDecoder();
  let text = "";
  const tap = new TransformStream({
    transform(piece, controller) {
      text += decoder.decode(piece, { stream: true });
      controller.enqueue(piece);
    },
    flush() {
      try {
        checkText(path, response, text);
      } catch (error) {
        complaints.push(`${path}: ${error}`);
      }
    },
  });
  return new Response(response.body?.pipeThrough(tap), response);
}

/** Fails if anything that was received since the last call is not as OpenAI documents it. */
export function everythingWasAsDocumented() {
  assert.deepEqual(complaints.splice(0), []);
}
