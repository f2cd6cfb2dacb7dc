// Calls as lines of JSON on the standard input, each answered with a line on the standard output.
import { createInterface } from "node:readline";

export async function answerLines(perform) {
  for await (const line of createInterface({ input: process.stdin })) {
    process.stdout.write(`${JSON.stringify(await perform(JSON.parse(line)))}\n`);
  }
  process.exit(0);
}
