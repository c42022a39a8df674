// The Vercel AI SDK through its openai-compatible provider.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateObject, generateText, Output, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";
import { checkedFetch, everythingWasAsDocumented } from "./documented.mjs";
import { ask, startGateway } from "./gateway.mjs";

let gateway;
let model;

before(async () => {
  gateway = await startGateway();
  const provider = createOpenAICompatible({ name: "edgellm", baseURL: gateway.baseURL, fetch: checkedFetch, includeUsage: true, supportsStructuredOutputs: true });
  model = provider("kiosk");
});

after(async () => {
  assert.equal(await gateway?.stop(), 0);
});

afterEach(everythingWasAsDocumented);

const [{ content: system }, { content: question }] = ask("How much is the Brindle Oat Bar?");
const asked = () => ({ model, system, prompt: question, temperature: 0, maxOutputTokens: 300, maxRetries: 0 });
const Place = z.object({ aisle: z.number().int().min(1).max(20), shelf: z.enum(["top", "bottom"]) });
const tools = () => ({
  open_map: tool({
    description: "Shows an aisle",
    inputSchema: z.object({ aisle: z.number().int().min(1).max(20) }),
    execute: async ({ aisle }) => `aisle ${aisle} is shown`,
  }),
});

test("text is generated", async () => {
  const { text, finishReason, usage } = await generateText(asked());
  assert.match(text, /2\.49/);
  assert.equal(finishReason, "stop");
  assert.equal(usage.totalTokens, usage.inputTokens + usage.outputTokens);
});

test("text is streamed", async () => {
  const { textStream, text, usage } = streamText({ ...asked(), onError: ({ error }) => assert.fail(error) });
  let pieces = "";
  for await (const piece of textStream) pieces += piece;
  assert.equal(pieces, await text);
  assert.match(pieces, /2\.49/);
  assert.ok((await usage).outputTokens > 0);
});

test("an object is generated", async () => {
  const { object } = await generateObject({ ...asked(), schema: Place });
  Place.parse(object);
});

test("an object is streamed", async () => {
  const { partialObjectStream, object } = streamObject({ ...asked(), schema: Place, onError: ({ error }) => assert.fail(error) });
  for await (const _ of partialObjectStream);
  Place.parse(await object);
});

test("text with an object as its output is generated", async () => {
  const { output } = await generateText({ ...asked(), output: Output.object({ schema: Place }) });
  Place.parse(output);
});

test("a tool is called, and the answer goes on from its result", async () => {
  const { steps } = await generateText({ ...asked(), tools: tools(), toolChoice: "required", stopWhen: stepCountIs(2) });
  assert.equal(steps.length, 2);
  const [call] = steps[0].toolCalls;
  assert.equal(call.toolName, "open_map");
  assert.equal(steps[0].toolResults[0].output, `aisle ${call.input.aisle} is shown`);
});

test("a named tool is called in a stream", async () => {
  const { fullStream, toolCalls } = streamText({
    ...asked(),
    tools: tools(),
    toolChoice: { type: "tool", toolName: "open_map" },
    onError: ({ error }) => assert.fail(error),
  });
  const kinds = new Set();
  for await (const part of fullStream) kinds.add(part.type);
  const [call] = await toolCalls;
  assert.ok(Number.isInteger(call.input.aisle));
  for (const kind of ["tool-input-start", "tool-input-delta", "tool-call", "tool-result"]) assert.ok(kinds.has(kind), kind);
});

test("errors are its own, with our words", async () => {
  await assert.rejects(generateText({ ...asked(), temperature: 9 }), (error) => {
    assert.ok(APICallError.isInstance(error));
    assert.equal(error.statusCode, 400);
    assert.match(error.message, /temperature/);
    return true;
  });
});
