// The page: asks the server each second, and shows what it says.

import { ask, infer, takeToken } from "./asking.mjs";
import { Chart, dataField, inputIn, made } from "./fields.mjs";
import { Recorder } from "./recorder.mjs";
import { duration, rates, size } from "./shaping.mjs";
import { Workbench } from "./workbench.mjs";

const EVERY = 1000; // milliseconds
const FRAME = 8; // milliseconds of work, after which the page may draw
const CHARTS = [
  ["requests", "requests a second", (number) => number.toFixed(number < 10 ? 1 : 0)],
  ["queued", "waiting", (number) => String(number)],
  ["p99", "p99", (number) => `${number.toFixed(number < 10 ? 1 : 0)} ms`],
  ["batch", "in one batch", (number) => (number ? number.toFixed(1) : "–")],
];

const TOTALS = [
  ["ready", "models ready", (number) => String(number)],
  ["requests", "requests a second", (number) => number.toFixed(number < 10 ? 1 : 0)],
  ["queued", "waiting", (number) => String(number)],
  ["workers", "workers", (number) => String(number)],
  ["memory", "memory", size],
];

const byId = (id) => document.getElementById(id);
const cards = new Map();
const totals = new Map();
const seeing = new IntersectionObserver((entries) => {
  for (const entry of entries) cards.get(entry.target.dataset.model)?.see(entry.isIntersecting);
}, { rootMargin: "200px" });
takeToken();
const recorder = new Recorder();
const workbench = new Workbench((name) => recorder.draw(name));

class Card {
  constructor(model) {
    this.element = byId("model").content.firstElementChild.cloneNode(true);
    this.last = null;
    this.seen = true; // until it is known
    this.element.dataset.model = model.name;
    this.charts = CHARTS.map(([key, title, spell]) => [key, new Chart(title, spell, this.of(".charts"))]);
    this.of(".name").textContent = model.name;
    this.of(".version").textContent = `version ${model.version}`;
    this.of(".platform").textContent = model.platform;
    this.of("details").addEventListener("toggle", () => this.offer(), { once: true });
    this.of(".try").addEventListener("submit", (event) => this.run(event, model.name));
  }

  of(selector) {
    return this.element.querySelector(selector);
  }

  show(model, now) {
    const badge = this.of(".badge"), text = model.ready ? "ready" : model.failure ? "failed" : "loading";
    if (badge.textContent !== text) {
      badge.textContent = text;
      badge.className = `badge ${model.ready ? "ready" : "waiting"}`;
      this.element.classList.toggle("out", !model.ready);
      this.of(".failure").textContent = model.failure ?? "";
    }
    this.inputs = model.inputs;
    if (!model.stats) return;
    const last = this.last;
    this.last = { now, stats: model.stats, workers: model.workers };
    if (last) {
      this.rates = rates(last.stats, model.stats, (now - last.now) / 1000);
      for (const [key, chart] of this.charts) chart.add(this.rates[key]);
    }
    if (this.seen) this.draw(last);
  }

  /** Whether it is on the screen: only then is it drawn. */
  see(seen) {
    this.seen = seen;
    if (seen && this.last) this.draw(null);
  }

  draw(before) {
    for (const [, chart] of this.charts) chart.draw();
    this.list(this.last.workers, before);
  }

  list(workers, before) {
    const rows = workers.map((worker) => {
      const row = document.createElement("tr");
      const old = before?.workers.find((one) => one.pid === worker.pid);
      const used = old && worker.cpu !== null ? (worker.cpu - old.cpu) / ((this.last.now - before.now) / 1000) : 0;
      const runs = worker.command ? `${worker.command} for ${duration(worker.seconds)}` : "nothing";
      for (const text of [worker.pid, size(worker.memory), `${Math.round(used * 100)} %`, runs]) made("td", text, row);
      return row;
    });
    this.of(".workers tbody").replaceChildren(...rows);
  }

  /** Makes the form once somebody wants it: a browser reads every form of a page, again and again. */
  offer() {
    const declared = this.inputs.length ? this.inputs : [{ name: "x", datatype: "FP64", shape: [1] }];
    for (const input of declared) this.of(".inputs").append(dataField(input, (asked) => recorder.draw(asked)));
  }

  async run(event, name) {
    event.preventDefault();
    const answer = this.of(".answer");
    answer.className = "answer";
    answer.textContent = "…";
    try {
      const inputs = [...this.element.querySelectorAll("fieldset")].map(inputIn);
      const begun = performance.now();
      const found = await infer(name, inputs);
      const took = (performance.now() - begun).toFixed(1);
      const outputs = found.outputs.map((one) => `${one.name}: ${one.datatype} [${one.shape}]\n${JSON.stringify(one.data)}`);
      answer.textContent = [...outputs, `${took} ms`].join("\n");
    } catch (error) {
      answer.className = "answer wrong";
      answer.textContent = error.message;
    }
  }
}

function showClients(clients) {
  const place = byId("clients");
  if (!clients.length) {
    place.innerHTML = '<p class="none">none is connected</p>';
    return;
  }
  const table = document.createElement("table");
  table.innerHTML = "<thead><tr><th>client</th><th>has</th><th>for</th><th>memory</th><th>runs</th><th></th></tr></thead><tbody></tbody>";
  for (const client of clients) {
    const row = made("tr", "", table.tBodies[0]);
    const has = client.pid !== null ? `process ${client.pid}` : client.has_process ? "a worker" : "a share of a model";
    const runs = client.command ? `${client.command} for ${duration(client.busy)}` : "";
    for (const text of [client.id.slice(0, 8), has, duration(client.seconds), size(client.memory), runs]) made("td", text, row);
    const actions = made("td", "", row);
    for (const [text, path, method] of [["interrupt", `workers/${client.id}/interrupt`, "POST"], ["end", `workers/${client.id}`, "DELETE"]]) {
      const button = made("button", text, actions);
      button.setAttribute("aria-label", `${text} ${client.id.slice(0, 8)}`);
      button.addEventListener("click", () => ask(path, { method }).catch((error) => say(error.message)));
    }
  }
  place.replaceChildren(table);
}

function showDaemon(daemon) {
  byId("daemon").hidden = !daemon;
  if (!daemon) return;
  byId("daemon-is").textContent = `process ${daemon.pid}, soma ${daemon.soma}, up ${duration(daemon.seconds)}, ${size(daemon.memory)}`;
  const rows = daemon.workers.map((worker) => {
    const row = document.createElement("tr");
    const runs = worker.command === null ? "" : `${worker.command} ${worker.node_id ?? ""}`;
    for (const text of [worker.pid, worker.session ?? "", worker.clients, duration(worker.seconds), size(worker.memory), runs]) made("td", text, row);
    return row;
  });
  byId("daemon-workers").tBodies[0].replaceChildren(...rows);
}

/** All models together. */
function showTotals(models) {
  const place = byId("totals"), sum = (numbers) => numbers.reduce((all, one) => all + one, 0);
  place.hidden = !models.length;
  if (!totals.size) for (const [key, title, spell] of TOTALS) totals.set(key, new Chart(title, spell, place));
  const workers = models.flatMap((model) => model.workers ?? []);
  const found = {
    ready: models.filter((model) => model.ready).length,
    requests: sum(models.map((model) => cards.get(model.name).rates?.requests ?? 0)),
    queued: sum(models.map((model) => model.stats?.queued ?? 0)),
    workers: workers.length,
    memory: sum(workers.map((worker) => worker.memory ?? 0)),
  };
  for (const [key, chart] of totals) chart.add(found[key]).draw();
}

function say(text, reached = false) {
  byId("server").textContent = text;
  byId("server").classList.toggle("reached", reached);
}

/** Lets the page draw, if this has worked for a while. */
async function breathe(since) {
  if (performance.now() - since < FRAME) return since;
  await new Promise((resolve) => setTimeout(resolve));
  return performance.now();
}

async function show(status) {
  const now = performance.now();
  byId("login").hidden = true;
  say(`version ${status.version}, process ${status.pid}, up ${duration(status.seconds)}`, true);
  recorder.offer(status.models.filter((model) => model.ready).map((model) => model.name));
  workbench.show(status.clients, now);
  showDaemon(status.daemon);
  const place = byId("models");
  let since = performance.now();
  for (const model of status.models) {
    if (!cards.has(model.name)) {
      const card = new Card(model);
      cards.set(model.name, card);
      place.querySelector(".none")?.remove();
      place.append(card.element);
      seeing.observe(card.element);
    }
    cards.get(model.name).show(model, now);
    since = await breathe(since);
  }
  for (const [name, card] of cards) {
    if (!status.models.some((model) => model.name === name)) {
      seeing.unobserve(card.element);
      card.element.remove();
      cards.delete(name);
    }
  }
  showTotals(status.models);
  if (!byId("clients").contains(document.activeElement)) showClients(status.clients);
}

async function watch() {
  try {
    await show(await ask("status"));
  } catch (error) {
    say(error.message);
  }
  setTimeout(watch, document.hidden ? 10 * EVERY : EVERY);
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", byId("token").value);
  byId("token").value = "";
  ask("status").then(show, (error) => say(error.message));
});

watch();
