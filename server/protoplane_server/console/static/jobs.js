// The panel of jobs: what is queued, worked on and done, with previews as they come.

import { button, el } from "./dom.js";
import { elsewhere } from "./discovery.js";
import { isOver, JobBoard, SERVICE, stageOf } from "./job_board.js";
import { failure } from "./replies.js";
import { onApiKey } from "./settings.js";
import { ago, count, round, seconds } from "./text.js";

const SHOWN = 60;
const BADGES = { SUCCEEDED: "joined", FAILED: "left", CANCELLED: "left", RUNNING: "busy", QUEUED: "" };

/** The panel. */
export function jobsPanel(app) {
  const { announce, discovery } = app;
  const served = app.serves(SERVICE);
  const board = new JobBoard(served);
  const cards = new Map();
  let loadModels = async () => {};
  const filter = el("input", {
    type: "search", id: "job-filter", placeholder: "Filter by prompt, id or state", "aria-label": "Filter jobs",
    input: () => draw(),
  });
  const summary = el("p", { class: "summary", role: "status" });
  const problem = el("p", { class: "problem", role: "alert", hidden: true });
  const note = el("p", { class: "note", hidden: served });
  const list = el("div", { class: "cards jobs" });
  const submitting = served ? submitForm() : null;
  const node = el("div", {}, note, submitting, problem, el("div", { class: "bar wrap" }, filter, summary), list);
  let frame = 0;

  function submitForm() {
    const prompt = el("input", { type: "text", id: "job-prompt", required: true, autocomplete: "off", placeholder: "a red fox" });
    const model = el("select", { id: "job-model" }, el("option", { value: "" }, "the first there is"));
    const steps = el("input", { type: "number", id: "job-steps", min: "1", class: "short", placeholder: "default" });
    const said = el("div", {});
    async function submit(event) {
      event.preventDefault();
      said.replaceChildren();
      try {
        const { accepted } = await board.call("Generate", {
          prompt: prompt.value, model: model.value, ...(steps.value && { steps: Number(steps.value) }),
        });
        announce(`Job ${accepted.jobId} is accepted`);
        board.stop();
        board.start();
      } catch (error) {
        said.append(failure(error));
      }
    }
    loadModels = async () => {
      try {
        const { models = [] } = await board.call("ListModels", {});
        const chosen = model.value;
        model.replaceChildren(el("option", { value: "" }, "the first there is"),
          ...models.map(({ name }) => el("option", { value: name }, name)));
        model.value = chosen;
      } catch { /* The list of jobs says what is wrong. */ }
    };
    return el("form", { class: "bar wrap panel", submit, "aria-label": "New job" },
      el("label", { class: "wide", for: "job-prompt" }, "New job ", prompt),
      el("label", { for: "job-model" }, "by ", model),
      el("label", { for: "job-steps" }, "steps ", steps),
      el("button", { type: "submit", class: "main" }, "Submit"),
      el("a", { href: `#methods/${SERVICE}/Generate` }, "All of its fields"), said);
  }

  function draw() {
    frame = 0;
    const wanted = filter.value.trim().toLowerCase();
    const found = [...board.jobs.values()]
      .filter((job) => !wanted || [job.id, job.prompt ?? "", job.state, job.model ?? ""].some((each) => each.toLowerCase().includes(wanted)))
      .sort((one, other) => rank(one) - rank(other) || time(other) - time(one))
      .slice(0, SHOWN);
    for (const id of cards.keys()) if (!board.jobs.has(id)) cards.delete(id);
    const nodes = found.map((job) => {
      let card = cards.get(job.id);
      if (!card) cards.set(job.id, (card = jobCard(job.id)));
      card.draw(job);
      return card.node;
    });
    if (nodes.length !== list.children.length || nodes.some((each, index) => list.children[index] !== each)) {
      list.replaceChildren(...nodes);
    }
    if (!nodes.length) list.append(el("p", { class: "empty" }, wanted ? "No job matches." : "There are no jobs."));
    problem.hidden = !board.error;
    problem.textContent = board.error?.message ?? "";
    const { status } = board;
    summary.textContent = status
      ? `${status.queued ?? 0} queued, ${status.running ?? 0} running, ${status.finished ?? 0} finished; ${count(status.workers ?? 0, "worker")}`
      : count(board.jobs.size, "job");
  }

  const rank = (job) => (job.state === "RUNNING" ? 0 : job.state === "QUEUED" ? 1 : 2);
  const time = (job) => Date.parse(job.finishedAt ?? job.startedAt ?? job.acceptedAt ?? 0) || 0;

  function jobCard(id) {
    const image = el("img", { alt: "", width: "112", height: "112", hidden: true });
    const blank = el("span", { class: "blank", "aria-hidden": "true" });
    const title = el("h3", {});
    const badge = el("span", { class: "badge" });
    const name = el("code", {}, id);
    const bar = el("progress", { max: "100", hidden: true, "aria-label": `progress of ${id}` });
    const words = el("p", { class: "dim" });
    const why = el("p", { class: "problem", hidden: true });
    const cancel = served ? button("Cancel", async () => {
      cancel.disabled = true;
      try {
        await board.call("Cancel", { id });
        announce(`Job ${id} is being cancelled`);
      } catch (error) {
        why.textContent = error.message;
        why.hidden = false;
        cancel.disabled = false;
      }
    }, { class: "quiet", "aria-label": `Cancel ${id}` }) : null;
    const open = el("a", { target: "_blank", rel: "noopener", hidden: true }, "Open the image");
    const article = el("article", { class: "card job", "data-job": id, "aria-label": id },
      el("div", { class: "picture" }, blank, image),
      el("div", { class: "about" }, title, el("p", { class: "tags" }, badge, name),
        bar, words, why, el("div", { class: "actions" }, cancel, open)));
    let source = "";
    let asked = false;

    function picture(address, what) {
      if (address === source) return;
      source = address;
      image.src = address;
      image.alt = what;
      image.hidden = false;
      blank.hidden = true;
    }

    function show(job) {
      title.textContent = job.prompt || id;
      title.title = job.prompt ?? "";
      name.hidden = !job.prompt;
      badge.textContent = job.cancelling && !isOver(job) ? "cancelling" : job.state.toLowerCase();
      badge.className = `badge ${BADGES[job.state] ?? ""}`;
      const { progress } = job;
      bar.hidden = !progress;
      if (progress) bar.value = progress.percent ?? 0;
      words.textContent = progress
        ? [stageOf(progress), progress.steps ? `step ${progress.step ?? 0} of ${progress.steps}` : "",
          progress.secondsLeft === undefined ? "" : `${seconds(progress.secondsLeft)} left`].filter(Boolean).join(" · ")
        : [job.model, took(job), job.finishedAt ? ago(job.finishedAt) : "", job.attempt > 1 ? `attempt ${job.attempt}` : ""]
          .filter(Boolean).join(" · ");
      why.hidden = !job.failure;
      if (job.failure) why.textContent = `${job.failure.code}: ${job.failure.message}`;
      if (cancel) cancel.hidden = isOver(job);
      if (job.preview && !asked) picture(job.preview, `Preview of ${job.prompt || id}`);
      if (job.state === "SUCCEEDED" && job.result && !asked) {
        asked = true;
        board.image(id).then((address) => {
          if (!address) return;
          picture(address, `Image of ${job.prompt || id}, ${job.result.width} by ${job.result.height}`);
          open.href = address;
          open.download = `${id}.${job.result.mediaType.split("/")[1]}`;
          open.textContent = "Save the image";
          open.hidden = false;
        }, () => { asked = false; });
      }
    }
    return { node: article, draw: show };
  }

  function took(job) {
    if (!job.startedAt || !job.finishedAt) return "";
    const spent = (Date.parse(job.finishedAt) - Date.parse(job.startedAt)) / 1000;
    return spent >= 0 ? `${round(spent)} s` : "";
  }

  function tell() {
    if (served) return;
    const there = elsewhere(discovery, SERVICE);
    note.replaceChildren("This component keeps no jobs itself; what is here comes from the events that jobs publish, for the last hour. ",
      ...(there.length ? ["The whole list is at ", ...there.flatMap((each, index) => [index ? ", " : "",
        el("a", { href: `${each.console}#jobs`, target: "_blank", rel: "noopener" }, each.name)]), "."]
        : ["Nobody here serves ", el("code", {}, SERVICE), "."]));
  }

  board.addEventListener("change", () => { if (!frame) frame = requestAnimationFrame(draw); });
  discovery.addEventListener("change", tell);
  onApiKey(() => { if (board.stream) loadModels(); });
  return {
    name: "jobs",
    label: "Jobs",
    node,
    filter,
    show() { tell(); board.start(); loadModels(); draw(); },
    hide() { board.stop(); },
  };
}
