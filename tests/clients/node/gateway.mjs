// Starts the real binary with the shipped model on a free port, and stops it again.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const binary = process.env.EDGELLM_BINARY ?? `${root}target/release/edgellm`;

export const embedder = process.env.EDGELLM_EMBEDDING_MODEL ?? `${root}target/tools/all-MiniLM-L6-v2.gguf`;

const store = `You are the assistant of Harbour Corner Shop. Answer in one short sentence with facts from the list.
Products:
- Brindle Oat Bar: $2.49, aisle 7, 31 in stock
- Quarry Sparkling Water: $1.15, aisle 3, 120 in stock
- Velmont Ground Coffee: $8.90, aisle 12, 14 in stock`;

/** The messages of one customer's question. */
export const ask = (question) => [
  { role: "system", content: store },
  { role: "user", content: question },
];

async function freePort() {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  await once(probe, "close");
  return port;
}

/** Polls until `condition()` holds; fails with `what` after the deadline. */
export async function waitUntil(condition, what, seconds = 30) {
  const deadline = Date.now() + seconds * 1000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`not within ${seconds} s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export async function startGateway(...more) {
  const url = `http://127.0.0.1:${await freePort()}`;
  const server = spawn(binary, ["serve", "--config", `${root}config/edgellm.toml`, "--listen", url.slice("http://".length), ...more], {
    cwd: root,
    // What else runs on the machine is not what tests are about.
    env: { ...process.env, EDGELLM__GOVERNOR__ENABLED: "false" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const exited = once(server, "exit");
  let log = "";
  for (const output of [server.stdout, server.stderr]) output.on("data", (text) => (log += text));

  const ready = () => {
    if (server.exitCode !== null) throw new Error(`the server ended at start-up:\n${log}`);
    return fetch(`${url}/ready`).then((response) => response.ok, () => false);
  };
  try {
    await waitUntil(ready, "the server is ready", 60);
  } catch (error) {
    server.kill("SIGKILL");
    throw error;
  }

  return {
    baseURL: `${url}/v1`,
    /** The sum of one metric over its labels. */
    async metric(name) {
      const text = await (await fetch(`${url}/metrics`)).text();
      const samples = text.split("\n").filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`));
      return samples.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
    },
    /** Asks the server to end and returns its exit code. */
    async stop() {
      server.kill("SIGTERM");
      const [code] = await exited;
      return code;
    },
  };
}
