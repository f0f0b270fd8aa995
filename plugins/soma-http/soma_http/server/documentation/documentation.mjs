// What the server answers to, from its OpenAPI document: read here, and from nowhere else.

const root = new URL("..", location.href);
const byId = (id) => document.getElementById(id);

function made(tag, text, parent) {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}

function withSchema(schema, parent) {
  const pre = made("pre", "", parent);
  // Names of messages become links to them.
  for (const part of JSON.stringify(schema, null, 1).split(/("#\/components\/schemas\/\w+")/)) {
    const name = part.match(/^"#\/components\/schemas\/(\w+)"$/)?.[1];
    if (name) made("a", name, pre).href = `#${name}`;
    else pre.append(part);
  }
}

function operation(path, method, found) {
  const details = document.createElement("details");
  const summary = made("summary", "", details);
  made("b", method.toUpperCase(), summary);
  summary.append(`${path} – ${found.summary ?? ""}`);
  const list = made("dl", "", details);
  for (const one of found.parameters ?? []) {
    made("dt", `${one.name} (${one.in}${one.required ? "" : ", optional"})`, list);
    if (one.description) made("dd", one.description, list);
  }
  for (const [type, { schema }] of Object.entries(found.requestBody?.content ?? {})) {
    made("dt", `body, ${type}`, list);
    withSchema(schema, made("dd", "", list));
  }
  for (const [status, answer] of Object.entries(found.responses)) {
    made("dt", `${status === "default" ? "any other status" : `status ${status}`}: ${answer.description}`, list);
    for (const { schema } of Object.values(answer.content ?? {})) if (schema) withSchema(schema, made("dd", "", list));
  }
  const body = found.requestBody ? " --json @request.json" : method === "post" ? " -X POST" : "";
  made("pre", `curl${body} -H "Authorization: Bearer $TOKEN" ${root.href}${path.slice(1)}`, details);
  return details;
}

function show(found) {
  byId("login").hidden = true;
  byId("title").textContent = found.info.title;
  byId("said").textContent = `version ${found.info.version}; the document itself is openapi.json`;
  const operations = [];
  for (const [path, item] of Object.entries(found.paths)) {
    for (const [method, one] of Object.entries(item)) {
      if (method === "parameters") continue;
      const parameters = [...(item.parameters ?? []), ...(one.parameters ?? [])];
      operations.push(operation(path, method, { ...one, parameters }));
    }
  }
  byId("operations").replaceChildren(...operations);
  byId("schemas").replaceChildren(...Object.entries(found.components.schemas).map(([name, schema]) => {
    const details = document.createElement("details");
    details.id = name;
    made("summary", `${name} – ${schema.description ?? ""}`, details);
    withSchema(schema, details);
    return details;
  }));
}

async function read() {
  const token = sessionStorage.getItem("token");
  const answer = await fetch(new URL("openapi.json", root), token ? { headers: { Authorization: `Bearer ${token}` } } : {});
  if (answer.status === 401) {
    byId("login").hidden = false;
    byId("said").textContent = "a token is wanted";
    return;
  }
  show(await answer.json());
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", byId("token").value);
  read();
});
addEventListener("hashchange", () => { const found = byId(location.hash.slice(1)); if (found) found.open = true; });
read();
