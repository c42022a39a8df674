// OpenAI's Node SDK against the real server.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { ask, startGateway, waitUntil } from "./gateway.mjs";

let gateway;
let client;

before(async () => {
  gateway = await startGateway();
  client = new OpenAI({ baseURL: gateway.baseURL, apiKey: "unused", maxRetries: 0, timeout: 60_000 });
});

after(async () => {
  assert.equal(await gateway?.stop(), 0);
});

const complete = (question, parameters = {}) =>
  client.chat.completions.create({ model: "kiosk", messages: ask(question), temperature: 0, ...parameters });

async function plain(question) {
  const { choices } = await complete(question);
  return choices[0].message.content;
}

async function streamed(question) {
  let text = "";
  let finish = null;
  for await (const chunk of await complete(question, { stream: true })) {
    text += chunk.choices[0].delta.content ?? "";
    finish = chunk.choices[0].finish_reason;
  }
  assert.equal(finish, "stop");
  return text;
}

test("a question gets an answer with the price", async () => {
  const completion = await complete("How much is the Brindle Oat Bar?");
  assert.match(completion.choices[0].message.content, /2\.49/);
  assert.equal(completion.choices[0].finish_reason, "stop");
  assert.equal(completion.usage.total_tokens, completion.usage.prompt_tokens + completion.usage.completion_tokens);
});

test("a stream says what the plain answer says", async () => {
  const question = "Where is the Velmont Ground Coffee?";
  assert.equal(await streamed(question), await plain(question));
});

test("the SDK's own stream helper assembles the answer", async () => {
  const stream = client.chat.completions.stream({ model: "kiosk", messages: ask("Where is the Brindle Oat Bar?"), temperature: 0 });
  const completion = await stream.finalChatCompletion();
  assert.equal(completion.choices[0].message.content, await plain("Where is the Brindle Oat Bar?"));
});

test("sixteen streams at once are all whole", async () => {
  const products = ["Brindle Oat Bar", "Quarry Sparkling Water", "Velmont Ground Coffee", "Osprey Sun Lotion"];
  const questions = ["How much is", "Where is", "Do you have", "How many are left of"].flatMap((start) =>
    products.map((product) => `${start} the ${product}?`),
  );
  const alone = [];
  for (const question of questions) alone.push(await plain(question));
  assert.deepEqual(await Promise.all(questions.map(streamed)), alone);
});

test("an aborted stream frees its place", async () => {
  const cancelledBefore = await gateway.metric("edgellm_requests_cancelled_total");
  const stream = await complete("Where is the coffee?", { stream: true, max_tokens: 1000, ignore_eos: true });
  for await (const _ of stream) break;
  stream.controller.abort();
  await waitUntil(async () => (await gateway.metric("edgellm_requests_cancelled_total")) === cancelledBefore + 1, "the request is counted as cancelled");
  await waitUntil(async () => (await gateway.metric("edgellm_requests_running")) === 0, "no request runs");
});

test("the models are listed", async () => {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.deepEqual(ids, ["kiosk"]);
  assert.equal((await client.models.retrieve("kiosk")).id, "kiosk");
});

test("the SDK raises its own errors", async () => {
  await assert.rejects(complete("Hello", { model: "gpt-nonesuch" }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
  await assert.rejects(complete("Hello", { n: 2 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.deepEqual([error.code, error.param, error.type], ["unsupported_parameter", "n", "invalid_request_error"]);
    return true;
  });
  await assert.rejects(complete("where is it? ".repeat(20_000), { stream: true }), { status: 400, code: "context_length_exceeded" });
});
