// OpenAI's Node SDK against the real server.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { checkedFetch, everythingWasAsDocumented } from "./documented.mjs";
import { ask, startGateway, waitUntil } from "./gateway.mjs";

let gateway;
let client;

before(async () => {
  gateway = await startGateway();
  client = new OpenAI({ baseURL: gateway.baseURL, apiKey: "unused", maxRetries: 0, timeout: 60_000, fetch: checkedFetch });
});

afterEach(everythingWasAsDocumented);

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
  await assert.rejects(complete("Hello", { audio: { voice: "alloy", format: "wav" } }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.deepEqual([error.code, error.param, error.type], ["unsupported_parameter", "audio", "invalid_request_error"]);
    return true;
  });
  await assert.rejects(complete("where is it? ".repeat(20_000), { stream: true }), { status: 400, code: "context_length_exceeded" });
});

const Product = z.object({
  name: z.string().max(20),
  unit: z.enum(["piece", "kilogram"]),
  aisles: z.array(z.number().int().min(1).max(20)).max(2),
  discount: z.number().int().min(0).max(9).nullable(),
});
const Aisle = z.object({ aisle: z.number().int().min(1).max(20) });

test("n choices, logprobs and usage", async () => {
  const { choices, usage } = await complete("Hello", { n: 2, temperature: 1.5, max_tokens: 5, ignore_eos: true, logprobs: true, top_logprobs: 2 });
  assert.deepEqual(choices.map((choice) => choice.index), [0, 1]);
  for (const choice of choices) assert.equal(choice.logprobs.content.length, 5);
  assert.equal(usage.completion_tokens, 10);
});

test("a zod schema is parsed", async () => {
  const completion = await client.chat.completions.parse({
    model: "kiosk",
    messages: ask("How much is the Brindle Oat Bar?"),
    temperature: 0,
    max_tokens: 400,
    response_format: zodResponseFormat(Product, "product"),
  });
  Product.parse(completion.choices[0].message.parsed);
});

test("a streamed zod schema is parsed", async () => {
  const stream = client.chat.completions.stream({
    model: "kiosk",
    messages: ask("How much is the Brindle Oat Bar?"),
    temperature: 0,
    max_tokens: 400,
    response_format: zodResponseFormat(Product, "product"),
  });
  let deltas = 0;
  stream.on("content.delta", () => (deltas += 1));
  const completion = await stream.finalChatCompletion();
  Product.parse(completion.choices[0].message.parsed);
  assert.ok(deltas > 1);
});

test("a zod function is parsed", async () => {
  const completion = await client.chat.completions.parse({
    model: "kiosk",
    messages: ask("Where is the Brindle Oat Bar?"),
    temperature: 0,
    max_tokens: 300,
    tools: [zodFunction({ name: "open_map", parameters: Aisle })],
    tool_choice: { type: "function", function: { name: "open_map" } },
  });
  const [call] = completion.choices[0].message.tool_calls;
  Aisle.parse(call.function.parsed_arguments);
});

for (const stream of [false, true]) {
  test(`the tools helper calls and goes on${stream ? ", streamed" : ""}`, async () => {
    const opened = [];
    const runner = client.chat.completions.runTools(
      {
        model: "kiosk",
        messages: ask("Where is the Brindle Oat Bar?"),
        temperature: 0,
        max_tokens: 300,
        stream,
        tools: [
          {
            type: "function",
            function: {
              name: "open_map",
              description: "Shows an aisle",
              strict: true,
              parameters: { type: "object", properties: { aisle: { type: "integer", minimum: 1, maximum: 20 } }, required: ["aisle"], additionalProperties: false },
              parse: JSON.parse,
              function: ({ aisle }) => opened.push(aisle) && "shown",
            },
          },
        ],
        tool_choice: "required",
        parallel_tool_calls: false,
      },
      { maxChatCompletions: 2 },
    );
    await runner.done();
    assert.equal(opened.length, 2);
    for (const aisle of opened) assert.ok(Number.isInteger(aisle) && aisle >= 1 && aisle <= 20);
    assert.ok(runner.messages.some((message) => message.role === "tool" && message.content === "shown"));
  });
}

test("a response, its stream and its next turn", async () => {
  const asked = { model: "kiosk", instructions: ask("")[0].content, input: "How much is the Brindle Oat Bar?", temperature: 0 };
  const response = await client.responses.create(asked);
  assert.match(response.output_text, /2\.49/);
  const stream = client.responses.stream(asked);
  let text = "";
  stream.on("response.output_text.delta", (event) => (text += event.delta));
  assert.equal((await stream.finalResponse()).output_text, text);
  assert.equal(text, response.output_text);
  const next = await client.responses.create({ ...asked, input: "Where is it?", previous_response_id: response.id });
  assert.ok(next.output_text);
});

test("a response of a zod schema is parsed", async () => {
  const response = await client.responses.parse({
    model: "kiosk",
    input: "Where is the Brindle Oat Bar? Answer in JSON.",
    temperature: 0,
    max_output_tokens: 300,
    text: { format: zodTextFormat(Aisle, "place") },
  });
  Aisle.parse(response.output_parsed);
});
