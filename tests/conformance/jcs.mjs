// JCS (RFC 8785) as its section 3.2 says it, in the language that it is written for; nothing of the project is used.
// Each line of standard input is a JSON string that holds a JSON text; each line of the output is the SHA-256 of its JCS form.
import { createHash } from "node:crypto";
import { createInterface } from "node:readline";

function jcs(value) {
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return "[" + value.map(jcs).join(",") + "]";
  const members = Object.keys(value).sort().map((name) => JSON.stringify(name) + ":" + jcs(value[name]));
  return "{" + members.join(",") + "}";
}

for await (const line of createInterface({ input: process.stdin })) {
  const text = jcs(JSON.parse(JSON.parse(line)));
  console.log(createHash("sha256").update(text, "utf8").digest("hex"));
}
