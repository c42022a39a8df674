// OpenAI's Node SDK asks a real embedding model, which ./test.sh converts.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { embedder, startGateway } from "./gateway.mjs";

let gateway;
let client;
let model;

before(async () => {
  gateway = await startGateway("--model", embedder);
  client = new OpenAI({ baseURL: gateway.baseURL, apiKey: "unused", maxRetries: 0, timeout: 60_000 });
  [{ id: model }] = (await client.models.list()).data;
});

after(async () => {
  assert.equal(await gateway?.stop(), 0);
});

const embed = (input, parameters = {}) => client.embeddings.create({ model, input, ...parameters });
const product = (left, right) => left.reduce((sum, x, i) => sum + x * right[i], 0);

test("the SDK's own encoding and floats are the same numbers", async () => {
  const input = ["Where is the coffee?", "You find coffee in aisle 12.", "The moon is far away."];
  const byDefault = await embed(input);
  const floats = await embed(input, { encoding_format: "float" });
  for (const [index, { embedding }] of floats.data.entries()) {
    assert.equal(embedding.length, 384);
    assert.ok(Math.abs(product(embedding, embedding) - 1) < 1e-5);
    assert.deepEqual(Float32Array.from(byDefault.data[index].embedding), Float32Array.from(embedding));
  }
  const [question, answer, other] = floats.data.map((entry) => entry.embedding);
  assert.ok(product(question, answer) > product(question, other) + 0.3);
  assert.equal(floats.usage.total_tokens, floats.usage.prompt_tokens);
});

test("fewer dimensions and base64 as it is", async () => {
  const { data } = await embed("hello", { dimensions: 8, encoding_format: "base64" });
  assert.equal(Buffer.from(data[0].embedding, "base64").length, 8 * 4);
});

test("the SDK raises its own errors", async () => {
  await assert.rejects(embed(["a", ""]), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "input[1]");
    return true;
  });
});
