// Checks dashboards against Grafana's types: node check_dashboards.mjs FILE...
// Each file becomes a TypeScript constant, which the compiler compares key by key. Exit 1 and its messages if one is wrong.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const scratch = mkdtempSync(join(here, "node_modules", ".check-"));
try {
  const sources = process.argv.slice(2).map((file) => {
    const source = join(scratch, `${basename(file, ".json")}.ts`);
    const dashboard = JSON.stringify(JSON.parse(readFileSync(file, "utf8")), null, 1);
    writeFileSync(source, `import type { EdgellmDashboard } from "../../grafana_types";\nexport const dashboard: EdgellmDashboard = ${dashboard};\n`);
    return source;
  });
  const options = ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler", "--target", "es2022"];
  execFileSync(join(here, "node_modules/.bin/tsc"), [...options, ...sources], { stdio: ["ignore", "inherit", "inherit"] });
} catch (error) {
  if (error.status === undefined) throw error;
  process.exitCode = 1;
} finally {
  rmSync(scratch, { recursive: true });
}
