// The command line that makes the same call.

import { address } from "./calls.js";

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A curl command. The API key is not in it: the shell is to have it in PROTOPLANE_KEY. */
export function curlCommand(method, text, { withKey, timeoutS }) {
  const streams = method.kind === "server_stream";
  const parts = [`curl -sS${streams ? "N" : ""} ${quoted(address(method.path).href)}`];
  parts.push("-H 'content-type: application/json'");
  if (streams) parts.push("-H 'accept: text/event-stream'");
  if (withKey) parts.push('-H "authorization: Bearer $PROTOPLANE_KEY"');
  if (timeoutS) parts.push(`-H 'connect-timeout-ms: ${Math.ceil(timeoutS * 1000)}'`);
  parts.push(`-d ${quoted(text)}`);
  return parts.join(" \\\n  ");
}
