// The page: asks the server each second, and shows what it says.

import { ask, infer, takeToken } from "./asking.mjs";
import { Chart, dataField, inputIn, made } from "./fields.mjs";
import { Recorder } from "./recorder.mjs";
import { duration, rates, size } from "./shaping.mjs";
import { Workbench } from "./workbench.mjs";

const EVERY = 1000; // milliseconds
const CHARTS = [
  ["requests", "requests a second", (number) => number.toFixed(number < 10 ? 1 : 0)],
  ["queued", "waiting", (number) => String(number)],
  ["p99", "p99", (number) => `${number.toFixed(number < 10 ? 1 : 0)} ms`],
  ["batch", "in one batch", (number) => (number ? number.toFixed(1) : "–")],
];

const byId = (id) => document.getElementById(id);
const cards = new Map();
takeToken();
const recorder = new Recorder();
const workbench = new Workbench((name) => recorder.draw(name));

class Card {
  constructor(model) {
    this.element = byId("model").content.firstElementChild.cloneNode(true);
    this.samples = [];
    this.cpu = new Map();
    this.charts = CHARTS.map(([key, title, spell]) => [key, new Chart(title, spell, this.of(".charts"))]);
    this.of(".name").textContent = model.name;
    this.of(".version").textContent = `version ${model.version}`;
    this.of(".platform").textContent = model.platform;
    this.of(".try").addEventListener("submit", (event) => this.run(event, model.name));
  }

  of(selector) {
    return this.element.querySelector(selector);
  }

  show(model, now) {
    const badge = this.of(".badge");
    badge.textContent = model.ready ? "ready" : model.failure ? "failed" : "loading";
    badge.className = `badge ${model.ready ? "ready" : "waiting"}`;
    this.element.classList.toggle("out", !model.ready);
    this.of(".failure").textContent = model.failure ?? "";
    if (!this.of("fieldset")) this.offer(model.inputs);
    if (!model.stats) return;
    const last = this.samples.at(-1);
    this.samples = [...this.samples.slice(-1), { now, stats: model.stats }];
    if (last) this.draw(rates(last.stats, model.stats, (now - last.now) / 1000));
    this.list(model.workers, now);
  }

  draw(found) {
    for (const [key, chart] of this.charts) chart.add(found[key]);
  }

  list(workers, now) {
    const rows = workers.map((worker) => {
      const row = document.createElement("tr");
      const before = this.cpu.get(worker.pid);
      const used = before && worker.cpu !== null ? (worker.cpu - before.cpu) / ((now - before.now) / 1000) : 0;
      this.cpu.set(worker.pid, { now, cpu: worker.cpu ?? 0 });
      const runs = worker.command ? `${worker.command} for ${duration(worker.seconds)}` : "nothing";
      for (const text of [worker.pid, size(worker.memory), `${Math.round(used * 100)} %`, runs]) made("td", text, row);
      return row;
    });
    this.of(".workers tbody").replaceChildren(...rows);
  }

  offer(inputs) {
    const declared = inputs.length ? inputs : [{ name: "x", datatype: "FP64", shape: [1] }];
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

const say = (text) => { byId("server").textContent = text; };

function show(status) {
  const now = performance.now();
  byId("login").hidden = true;
  say(`version ${status.version}, process ${status.pid}, up ${duration(status.seconds)}`);
  recorder.offer(status.models.filter((model) => model.ready).map((model) => model.name));
  workbench.show(status.clients, now);
  showDaemon(status.daemon);
  const place = byId("models");
  for (const model of status.models) {
    if (!cards.has(model.name)) {
      const card = new Card(model);
      cards.set(model.name, card);
      place.querySelector(".none")?.remove();
      place.append(card.element);
    }
    cards.get(model.name).show(model, now);
  }
  for (const [name, card] of cards) {
    if (!status.models.some((model) => model.name === name)) {
      card.element.remove();
      cards.delete(name);
    }
  }
  if (!byId("clients").contains(document.activeElement)) showClients(status.clients);
}

async function watch() {
  try {
    show(await ask("status"));
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
