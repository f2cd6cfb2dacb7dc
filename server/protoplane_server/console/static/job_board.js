// What is known of jobs: from the component that keeps them, where it is served here, and from the
// events that they publish, wherever their component is.

import { callStream, callUnary } from "./calls.js";
import { follow } from "./follow.js";

export const SERVICE = "protoplane.jobs.v1.JobsService";

const MAX_JOBS = 200;
const MAX_IMAGES = 60;
const MAX_IMAGE_BYTES = 4_000_000;
const LIST_MS = 3000;
const HISTORY_S = 3600;
const ENDED = new Set(["SUCCEEDED", "FAILED", "CANCELLED"]);
const IMAGE = /^image\/(png|jpeg|webp|gif)$/;

/** `JOB_STATE_RUNNING` as `RUNNING`. */
const bare = (value) => (value ?? "").replace(/^JOB_(STATE|STAGE)_/, "");

/** Jobs by id. Dispatches `change`, with the id as `detail`, or none for all. */
export class JobBoard extends EventTarget {
  /** @param served Whether the component that keeps them is this one. */
  constructor(served) {
    super();
    this.served = served;
    this.jobs = new Map();
    this.status = null;
    this.error = null;
    this.images = new Map();
    this.lastId = "";
    this.stream = null;
    this.timer = 0;
    this.early = 0;
  }

  /** Follow them, until `stop`. */
  start() {
    if (this.stream) return;
    const since = Date.now() / 1000 - HISTORY_S;
    this.stream = follow(() => `/events/jobs/**${this.lastId ? "" : `?after=${since}`}`, {
      after: this.lastId,
      onEvent: (event) => this.#take(event),
    });
    if (this.served) {
      this.#list();
      this.timer = setInterval(() => { if (!document.hidden) this.#list(); }, LIST_MS);
    }
  }

  stop() {
    this.lastId = this.stream?.lastId ?? this.lastId;
    this.stream?.close();
    this.stream = null;
    clearInterval(this.timer);
  }

  /** Ask a method of the jobs' component. */
  call(method, message, options = {}) {
    return callUnary(`/${SERVICE}/${method}`, JSON.stringify(message), options);
  }

  /** Address of a finished job's image, or null. It is fetched once, and the oldest are let go. */
  async image(id) {
    const known = this.images.get(id);
    if (known) return known;
    const result = this.jobs.get(id)?.result;
    if (!this.served || !result || !IMAGE.test(result.mediaType) || Number(result.size) > MAX_IMAGE_BYTES) return null;
    const parts = [];
    for await (const { data } of callStream(`/${SERVICE}/ReadResult`, JSON.stringify({ id }))) {
      if (data) parts.push(Uint8Array.from(atob(data), (each) => each.charCodeAt(0)));
    }
    const url = URL.createObjectURL(new Blob(parts, { type: result.mediaType }));
    this.images.set(id, url);
    if (this.images.size > MAX_IMAGES) {
      const [oldest, address] = this.images.entries().next().value;
      URL.revokeObjectURL(address);
      this.images.delete(oldest);
    }
    return url;
  }

  #soon() {
    this.early ||= setTimeout(() => {
      this.early = 0;
      if (this.stream) this.#list();
    }, 250);
  }

  async #list() {
    try {
      const options = { signal: AbortSignal.timeout(10_000) };
      const [{ jobs = [] }, status] = await Promise.all([
        this.call("ListJobs", { pageSize: 100 }, options), this.call("Status", {}, options),
      ]);
      this.status = status;
      this.error = null;
      for (const job of jobs.reverse()) this.#listed(job);
    } catch (error) {
      this.error = error;
    }
    this.#trim();
    this.#changed();
  }

  #listed(job) {
    const known = this.#job(job.id);
    const state = bare(job.state) || "QUEUED";
    // The list may be older than what the events have told.
    if (ENDED.has(known.state) && !ENDED.has(state)) return;
    Object.assign(known, {
      state, prompt: job.request?.prompt, model: job.request?.model, acceptedAt: job.acceptedAt,
      startedAt: job.startedAt, finishedAt: job.finishedAt, worker: job.worker, attempt: job.attempt,
      result: job.result, failure: job.failure, cancelling: job.cancelRequested,
    });
    if (state === "RUNNING" && job.progress && !(known.progress?.percent > job.progress.percent)) {
      known.progress = job.progress;
    }
    if (state !== "RUNNING") known.progress = null;
  }

  #take(event) {
    const kind = event.type.split(".").pop();
    if (event.type === "gap" || !kind.startsWith("Job")) return;
    const said = JSON.parse(event.data);
    const job = this.#job(said.jobId);
    if (kind === "JobStarted") {
      Object.assign(job, { state: "RUNNING", attempt: said.attempt, worker: said.worker, startedAt: said.at });
    } else if (kind === "JobProgress" && !ENDED.has(job.state)) {
      Object.assign(job, { state: "RUNNING", progress: said.progress });
    } else if (kind === "JobPreview" && IMAGE.test(said.mediaType)) {
      job.preview = `data:${said.mediaType};base64,${said.image}`;
    } else if (kind === "JobFinished") {
      job.state = said.complete ? "SUCCEEDED" : said.error ? "FAILED" : "CANCELLED";
      job.finishedAt = said.at;
      job.progress = null;
      job.result = said.complete?.result ?? job.result;
      job.failure = said.error?.failure;
    }
    this.#trim();
    this.#changed(said.jobId);
    // So that the numbers of the whole queue are as new.
    if (this.served && (kind === "JobStarted" || kind === "JobFinished")) this.#soon();
  }

  #job(id) {
    let job = this.jobs.get(id);
    if (!job) {
      job = { id, state: "QUEUED" };
      this.jobs.set(id, job);
    }
    return job;
  }

  #trim() {
    for (const [id, { state }] of this.jobs) {
      if (this.jobs.size <= MAX_JOBS) break;
      if (ENDED.has(state)) this.jobs.delete(id);
    }
    while (this.jobs.size > 2 * MAX_JOBS) this.jobs.delete(this.jobs.keys().next().value);
  }

  #changed(id) {
    this.dispatchEvent(new CustomEvent("change", { detail: id }));
  }
}

/** What a stage is called. */
export const stageOf = (progress) => bare(progress?.stage).toLowerCase().replaceAll("_", " ");

/** Whether a job is over. */
export const isOver = (job) => ENDED.has(job.state);
