// A stream of events that is there whenever the page is looked at: it comes back by itself, at the
// place where it was.

import { ask, wasStopped } from "./calls.js";
import { onApiKey } from "./settings.js";
import { readEvents } from "./sse.js";

const SILENCE_MS = 45_000;
const HIDDEN_MS = 20_000;
const LONGEST_MS = 15_000;

/**
 * Follow a stream.
 *
 * @param path Its path, or a function that gives it for each new connection.
 * @param onEvent Called with each event that has data.
 * @param onState Called with `connecting`, `live`, `waiting` (to try again), `away` (nobody looks),
 *   `refused` (another API key is needed) or `failed`; and the error, if there is one.
 * @param after Id or place after which the first connection begins; the stream's beginning without.
 * @returns `{close, lastId}`.
 */
export function follow(path, { onEvent, onState = () => {}, after = "" }) {
  let lastId = after;
  let pauseMs = 500;
  let least = 500;
  let abort = null;
  let timer = 0;
  let away = 0;
  let closed = false;
  let refused = false;

  async function connect() {
    clearTimeout(timer);
    if (closed || abort) return;
    const mine = (abort = new AbortController());
    onState("connecting");
    let error = null;
    let watchdog = 0;
    const heard = () => {
      clearTimeout(watchdog);
      // A live stream is never silent for so long: the connection is dead and does not know it.
      watchdog = setTimeout(() => mine.abort(), SILENCE_MS);
    };
    try {
      const headers = { accept: "text/event-stream", ...(lastId && { "last-event-id": lastId }) };
      const where = typeof path === "function" ? path() : path;
      const response = await ask(where, { headers, signal: mine.signal });
      onState("live");
      heard();
      for await (const event of readEvents(response.body, heard)) {
        if (closed || mine.signal.aborted) break;
        if (event.id !== undefined) lastId = event.id;
        if (event.retry) least = event.retry;
        pauseMs = Math.max(500, least / 2);
        if (event.data !== undefined) onEvent(event);
      }
    } catch (caught) {
      if (!wasStopped(caught)) error = caught;
    }
    clearTimeout(watchdog);
    if (abort !== mine) return;
    abort = null;
    if (closed) return;
    if (error && error.status === 401) { refused = true; return onState("refused", error); }
    if (error && error.status >= 400 && error.status < 500 && error.status !== 429) {
      return onState("failed", error);
    }
    onState("waiting", error);
    timer = setTimeout(connect, pauseMs * (0.75 + Math.random() / 2));
    pauseMs = Math.min(pauseMs * 2, LONGEST_MS);
  }

  function looked() {
    clearTimeout(away);
    if (!document.hidden) return void (!abort && !refused && connect());
    // A browser has six connections for all tabs of an origin; one that nobody looks at gives its up.
    away = setTimeout(leave, HIDDEN_MS);
  }

  function leave() {
    const mine = abort;
    abort = null;
    clearTimeout(timer);
    mine?.abort();
    if (!closed) onState("away");
  }

  const keyed = () => { refused = false; leave(); connect(); };
  const online = () => { if (!abort && !refused) connect(); };
  document.addEventListener("visibilitychange", looked);
  window.addEventListener("online", online);
  const forgetKey = onApiKey(keyed);
  connect();
  return {
    get lastId() { return lastId; },
    close() {
      closed = true;
      clearTimeout(timer);
      clearTimeout(away);
      document.removeEventListener("visibilitychange", looked);
      window.removeEventListener("online", online);
      forgetKey();
      abort?.abort();
      abort = null;
    },
  };
}
